//! Which running Portreeve a verb speaks to.
//!
//! The socket that was named; else the machine's; else the one `exec` of this user that is alive. A folder of `exec` sockets
//! that is not ours is not looked at: in `/tmp` anybody could have made it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::{Exit, out};
use crate::config::paths::{self, Places};
use crate::control::Client;

/// What a verb looks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Named by flag or environment.
    named: Option<PathBuf>,
    machine: PathBuf,
    /// The folder of `exec` sockets, for verbs that make sense there.
    exec_dir: Option<PathBuf>,
    uid: u32,
}

impl Wanted {
    /// Any running Portreeve.
    pub(super) fn any(named: Option<PathBuf>) -> Self {
        let places = Places::of_this_process();
        Self { named, machine: paths::up_socket(), exec_dir: Some(places.exec_dir()), uid: places.uid }
    }

    /// The machine's, never that of an `exec` that was not named.
    pub(super) fn machine(named: Option<PathBuf>) -> Self {
        Self { exec_dir: None, ..Self::any(named) }
    }

    /// The path to speak to. When nothing is there, it is the one where something should be.
    pub(super) fn path(&self) -> Result<PathBuf, Several> {
        if let Some(named) = &self.named {
            return Ok(named.clone());
        }
        if fs::symlink_metadata(&self.machine).is_ok() {
            return Ok(self.machine.clone());
        }
        let mut alive = self.exec_dir.as_deref().map(|dir| alive(dir, self.uid)).unwrap_or_default();
        match alive.pop() {
            None => Ok(self.machine.clone()),
            Some(only) if alive.is_empty() => Ok(only),
            Some(last) => {
                alive.push(last);
                Err(Several(alive))
            }
        }
    }

    /// Connects, or says why not.
    pub(super) fn connect(&self) -> Result<Client, Exit> {
        let path = self.path().map_err(|several| several.complain())?;
        Client::connect(&path).map_err(|error| out::fail(&error))
    }
}

/// Several `exec`s are alive, and none was named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Several(Vec<PathBuf>);

impl Several {
    pub(super) fn complain(&self) -> Exit {
        let list: String = self.0.iter().map(|path| format!("\n  --socket {}", path.display())).collect();
        out::complain(&format!("several commands run behind Portreeve; name one:{list}"), Exit::Usage)
    }
}

/// The sockets in `dir` where somebody listens, oldest PID first.
fn alive(dir: &Path, uid: u32) -> Vec<PathBuf> {
    let ours = fs::symlink_metadata(dir).is_ok_and(|meta| meta.is_dir() && meta.uid() == uid);
    let Some(entries) = ours.then(|| fs::read_dir(dir).ok()).flatten() else { return Vec::new() };
    let mut found: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter_map(|path| Some((paths::exec_pid(&path)?, path)))
        .filter(|(_, path)| UnixStream::connect(path).is_ok())
        .collect();
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn wanted(dir: &Path) -> Wanted {
        let uid = rustix::process::geteuid().as_raw();
        Wanted { named: None, machine: dir.join("portreeve.sock"), exec_dir: Some(dir.to_path_buf()), uid }
    }

    fn listen(dir: &Path, name: &str) -> UnixListener {
        UnixListener::bind(dir.join(name)).expect("the folder is ours")
    }

    #[test]
    fn what_was_named_wins_and_then_the_machines() {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let _machine = listen(dir.path(), "portreeve.sock");
        let _exec = listen(dir.path(), "exec-7.sock");
        let named = Wanted { named: Some("/named".into()), ..wanted(dir.path()) };
        assert_eq!(named.path(), Ok("/named".into()));
        assert_eq!(wanted(dir.path()).path(), Ok(dir.path().join("portreeve.sock")));
    }

    #[test]
    fn the_only_exec_that_lives_is_found_and_dead_ones_are_not() {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let _alive = listen(dir.path(), "exec-8.sock");
        drop(listen(dir.path(), "exec-7.sock"));
        let _other = listen(dir.path(), "other.sock");
        assert_eq!(wanted(dir.path()).path(), Ok(dir.path().join("exec-8.sock")));
    }

    #[test]
    fn several_execs_are_named_and_none_is_chosen() {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let _both = (listen(dir.path(), "exec-10.sock"), listen(dir.path(), "exec-9.sock"));
        let several = wanted(dir.path()).path().expect_err("two live");
        assert_eq!(several, Several(vec![dir.path().join("exec-9.sock"), dir.path().join("exec-10.sock")]));
        assert_eq!(several.complain(), Exit::Usage);
    }

    #[test]
    fn nothing_alive_means_the_machines_path() {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        assert_eq!(wanted(dir.path()).path(), Ok(dir.path().join("portreeve.sock")));
        let machine_only = Wanted { exec_dir: None, ..wanted(dir.path()) };
        let _exec = listen(dir.path(), "exec-8.sock");
        assert_eq!(machine_only.path(), Ok(dir.path().join("portreeve.sock")), "`down` never ends an exec by itself");
    }

    #[test]
    fn a_folder_of_another_user_or_a_link_is_not_looked_at() {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let _exec = listen(dir.path(), "exec-8.sock");
        let uid = rustix::process::geteuid().as_raw();
        assert_eq!(alive(dir.path(), uid).len(), 1);
        assert_eq!(alive(dir.path(), uid + 1), Vec::<PathBuf>::new());
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).expect("the folder is ours");
        assert_eq!(alive(&link, uid), Vec::<PathBuf>::new());
    }
}
