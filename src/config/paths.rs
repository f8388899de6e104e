//! Where things are: pure, from what [`Places`] says of the environment.

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Run-time files of a machine-wide router: socket, undo file.
pub const RUN_DIR: &str = "/run/portreeve";

/// The file name of a machine-wide router's control socket.
pub const SOCKET_NAME: &str = "portreeve.sock";

/// The configuration of this machine.
pub const CONFIG_FILE: &str = "/etc/portreeve/portreeve.toml";

/// Names another configuration file.
pub const CONFIG_ENV: &str = "PORTREEVE_CONFIG";

/// What of the environment decides where a user's own files are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    pub uid: u32,
    pub xdg_runtime_dir: Option<PathBuf>,
    pub config_override: Option<PathBuf>,
}

impl Places {
    /// Reads the environment of this process.
    #[must_use]
    pub fn of_this_process() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        // XDG Base Directory Specification: absolute, and the user's own. After `su` it is still that of the user before.
        let is_own = |dir: &PathBuf| dir.is_absolute() && fs::metadata(dir).is_ok_and(|meta| meta.uid() == uid);
        Self {
            uid,
            xdg_runtime_dir: env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(is_own),
            config_override: env::var_os(CONFIG_ENV).filter(|path| !path.is_empty()).map(PathBuf::from),
        }
    }

    /// The configuration file. A file that the user named must exist; the default one may be missing.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.config_override.clone().unwrap_or_else(|| PathBuf::from(CONFIG_FILE))
    }

    /// The folder of this user's `exec` sockets. The fallback lies in a folder that everybody may write to; whoever uses it
    /// checks its owner.
    #[must_use]
    pub fn exec_dir(&self) -> PathBuf {
        match &self.xdg_runtime_dir {
            Some(dir) => dir.join("portreeve"),
            None => PathBuf::from(format!("/tmp/portreeve-{}", self.uid)),
        }
    }

    /// The control socket of the `exec` with this PID. Another with the same one, in another PID namespace, is its `twin`.
    #[must_use]
    pub fn exec_socket(&self, pid: u32, twin: u32) -> PathBuf {
        let twin = if twin == 0 { String::new() } else { format!("-{twin}") };
        self.exec_dir().join(format!("exec-{pid}{twin}.sock"))
    }
}

/// The control socket of a machine-wide router.
#[must_use]
pub fn up_socket() -> PathBuf {
    Path::new(RUN_DIR).join(SOCKET_NAME)
}

/// The folder of a machine-wide router's run-time files: that of its control socket.
#[must_use]
pub fn run_dir(socket: Option<&Path>) -> PathBuf {
    let folder = socket.and_then(Path::parent).filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new(RUN_DIR)).to_owned()
}

/// The PID in the file name of an `exec` socket; None for any other file.
#[must_use]
pub fn exec_pid(socket: &Path) -> Option<u32> {
    let numbers = socket.file_name()?.to_str()?.strip_prefix("exec-")?.strip_suffix(".sock")?;
    let (pid, twin) = numbers.split_once('-').unwrap_or((numbers, "0"));
    twin.parse::<u32>().ok().and(pid.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(uid: u32) -> Places {
        Places { uid, ..Places::default() }
    }

    #[test]
    fn exec_sockets_lie_in_the_runtime_dir_or_in_a_folder_per_user() {
        let placed = Places { xdg_runtime_dir: Some("/run/user/1000".into()), ..places(1000) };
        assert_eq!(placed.exec_socket(42, 0), PathBuf::from("/run/user/1000/portreeve/exec-42.sock"));
        assert_eq!(places(1000).exec_socket(42, 0), PathBuf::from("/tmp/portreeve-1000/exec-42.sock"));
        assert_eq!(places(1000).exec_socket(42, 3), PathBuf::from("/tmp/portreeve-1000/exec-42-3.sock"));
    }

    #[test]
    fn a_pid_is_read_from_an_exec_socket_only() {
        assert_eq!(exec_pid(Path::new("/x/exec-42.sock")), Some(42));
        assert_eq!(exec_pid(Path::new("/x/exec-42-3.sock")), Some(42));
        for other in
            ["/x/exec-.sock", "/x/exec-4", "/x/portreeve.sock", "/x/exec--4.sock", "/x/exec-4-.sock", "/x/exec-4-x.sock", "/"]
        {
            assert_eq!(exec_pid(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn a_named_configuration_file_wins() {
        assert_eq!(places(0).config_file(), PathBuf::from(CONFIG_FILE));
        let named = Places { config_override: Some("x.toml".into()), ..places(0) };
        assert_eq!(named.config_file(), PathBuf::from("x.toml"));
    }
}
