//! The program of a process that is gone, from what the kernel noted of it while it made a socket.
//!
//! Theory of operation. A portrait names files by their filesystems; a mount of ours has them under a path, and the file there must be that very
//! one. The line upwards is asked of the parent while that is there; whose parent is gone has none, as if it lived on. So are cgroups where
//! there are several hierarchies of them: the portrait tells whether they are the parent's.
//!
//! Keeps one rule: such a process is told as it would have been while it was there, or not at all. Where one fact that could have made it
//! another program is not to be had any more, it is nobody's: a script that may have been open elsewhere, the label of a snap, a mounted image.
//! Nothing here is remembered for others.

use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;

use super::identity;
use super::maker::TICK;
use super::process::{FileId, Process};
use super::search::Processes;
use super::tags;
use super::text;
use crate::process::{Exe, Identity, Portrait, Socket};

impl Processes {
    /// The program of the process of this number that a portrait is of, which made `socket`. None where it is not gone, or not certain.
    #[must_use]
    pub fn find_ended(&self, pid: u32, portrait: &Portrait, socket: &Socket) -> Option<Arc<Identity>> {
        let start_ticks = portrait.started / TICK;
        if portrait.uid != socket.uid || portrait.cmdline.last() != Some(&0) || self.is_there(pid, start_ticks) {
            return None;
        }
        let around = self.surroundings();
        // Before its line is read: then its number is not another's by now.
        let of_parent = || Process::glance(around.proc_root, portrait.parent).map(|parent| parent.cgroup());
        let of_parent = if portrait.is_with_parent { of_parent() } else { None };
        let ancestors: Vec<_> =
            identity::ancestors(portrait.parent, start_ticks, &around).into_iter().map(|(_, above)| above).collect();
        let of_parent = of_parent.filter(|_| ancestors.first().is_some_and(|parent| parent.pid == portrait.parent));
        let cgroup = portrait.cgroup.clone().or(of_parent)?;
        let (path, FileId { device, inode }) = around.mounts.path(&portrait.exe)?;
        let cwd = around.mounts.path_by_name(portrait.cwd.as_ref()?)?;
        let exe = Exe { path, device, inode, path_is_ours: true };
        let cmdline = text::cmdline(&portrait.cmdline);
        let is_open = |path: &Path| portrait.script.is_some_and(|script| around.mounts.is_at(path, script));
        let tags = tags::of_ended(&exe, &cmdline, &cwd, &cgroup, is_open)?;
        let user = around.users.user(socket.uid);
        Some(Arc::new(Identity {
            exe: Some(exe),
            pid: Some(pid),
            start_ticks,
            uid: Some(socket.uid),
            is_admin: user.is_admin,
            has_session: around.users.has_session(socket.uid, &user.name),
            cmdline,
            cwd: Some(cwd),
            home: user.home,
            cgroup,
            tags,
            ancestors,
            confidence: socket.confidence,
        }))
    }

    /// Whether the process of this number and start runs a program still.
    fn is_there(&self, pid: u32, start_ticks: u64) -> bool {
        let Some((process, _)) = Process::open_with_stat(&self.options().proc_root, pid) else { return false };
        process.start_ticks == start_ticks && !matches!(process.file("exe"), Err(Errno::SRCH | Errno::NOENT))
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;
    use crate::process::Confidence;
    use crate::procfs::Options;
    use crate::procfs::mounts::place_of;

    fn socket() -> Socket {
        let uid = rustix::process::geteuid().as_raw();
        Socket { inode: 0, uid, cookie: 7, cgroup_id: None, mark: 0, link: 0, confidence: Confidence::Likely }
    }

    /// A child, and what the kernel would note of it.
    fn child(program: &str, argument: &str) -> (Child, Portrait) {
        let dir = std::env::current_dir().expect("there").canonicalize().expect("there");
        let child = Command::new(program).arg(argument).stdin(Stdio::piped()).spawn().expect("it runs");
        let start = Process::open(Path::new("/proc"), child.id()).expect("it runs").start_ticks;
        let portrait = Portrait {
            exe: place_of(&Path::new(program).canonicalize().expect("there")),
            cwd: Some(place_of(&dir)),
            root: (0, 0),
            script: None,
            uid: socket().uid,
            parent: std::process::id(),
            is_with_parent: true,
            cgroup: None,
            started: start * TICK,
            cmdline: format!("{program}\0{argument}\0").into_bytes(),
        };
        (child, portrait)
    }

    fn end((mut child, portrait): (Child, Portrait)) -> (u32, Portrait) {
        child.kill().expect("ours to kill");
        child.wait().expect("ours to reap");
        (child.id(), portrait)
    }

    fn find(pid: u32, portrait: &Portrait) -> Option<Arc<Identity>> {
        Processes::new(Options::default()).find_ended(pid, portrait, &socket())
    }

    #[test]
    fn program_that_has_ended_is_told_as_while_it_was_there() {
        let (child, portrait) = child("/usr/bin/cat", "-");
        let pid = child.id();
        let process = Process::open(Path::new("/proc"), pid).expect("it runs");
        while process.file("exe").ok() == Process::open(Path::new("/proc"), std::process::id()).and_then(|us| us.file("exe").ok())
        {
            std::thread::yield_now();
        }
        assert_eq!(find(pid, &portrait), None, "it is there");
        let processes = Processes::new(Options::default());
        let live = processes
            .find_maker(pid, u64::MAX, &socket(), std::time::Instant::now(), crate::procfs::Effort::Read)
            .expect("it runs");
        let (pid, portrait) = end((child, portrait));
        assert_eq!(find(pid, &portrait).as_deref(), Some(&*live));
    }

    #[test]
    fn what_is_not_certain_of_a_program_that_has_ended_makes_it_nobody() {
        let (pid, portrait) = end(child("/usr/bin/cat", "-"));
        let without = |change: fn(&mut Portrait)| {
            let mut portrait = portrait.clone();
            change(&mut portrait);
            find(pid, &portrait)
        };
        assert!(without(|_| {}).is_some());
        assert_eq!(without(|portrait| portrait.is_with_parent = false), None, "its cgroups are not known");
        let of_portrait = without(|portrait| (portrait.is_with_parent, portrait.cgroup) = (false, Some("/x.service".to_owned())));
        assert_eq!(of_portrait.map(|identity| identity.cgroup.clone()).as_deref(), Some("/x.service"));
        assert_eq!(without(|portrait| portrait.cmdline.clear()), None, "nor its arguments");
        assert_eq!(without(|portrait| portrait.cmdline.push(b'x')), None, "which it has overwritten");
        assert_eq!(without(|portrait| portrait.uid += 1), None, "it had another user's rights");
        assert_eq!(without(|portrait| portrait.parent = u32::MAX), None, "its parent is gone, and with it their cgroups");
        assert_eq!(without(|portrait| portrait.started = 0), None, "its parent is younger");
        let orphan = without(|portrait| (portrait.parent, portrait.cgroup) = (u32::MAX, Some(String::new())));
        assert!(orphan.is_some_and(|orphan| orphan.ancestors.is_empty() && orphan.exe.is_some()));
        assert_eq!(without(|portrait| portrait.exe.inode += 1), None, "its file is gone");
        assert_eq!(without(|portrait| portrait.cwd = None), None);
        assert_eq!(without(|portrait| portrait.cwd.as_mut().expect("known").device += 1), None, "it is elsewhere");
    }

    #[test]
    fn interpreter_is_nobody_where_it_may_have_had_a_script_open() {
        let script = tempfile::NamedTempFile::new().expect("a file");
        let named = script.path().to_str().expect("plain");
        let (pid, portrait) = end(child("/usr/bin/bash", named));
        assert_eq!(find(pid, &portrait), None);
        let place = place_of(&script.path().canonicalize().expect("there"));
        let noted = Portrait { script: Some((place.device, place.inode)), ..portrait.clone() };
        let tags = find(pid, &noted).map(|identity| identity.tags.clone());
        assert_eq!(tags.map(|tags| tags.iter().any(|tag| tag.0 == format!("script:{named}"))), Some(true), "it had it open");
        let another = Portrait { script: Some((place.device, place.inode + 1)), ..portrait };
        assert_eq!(find(pid, &another), None);
        let (pid, portrait) = end(child("/usr/bin/bash", "-i"));
        assert!(find(pid, &portrait).is_some());
        let (pid, portrait) = end(child("/usr/bin/tail", named));
        assert!(find(pid, &portrait).is_some(), "it is no interpreter");
    }
}
