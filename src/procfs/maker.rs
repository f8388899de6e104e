//! The process behind a socket that is closed, by its PID: nothing of /proc leads from the socket to it any more.
//!
//! Keeps one rule: a process that may be another one than that which made the socket is not it: one that began later, one of another user.
//! Whether it has executed another program since is not to be seen here.

use std::sync::Arc;
use std::time::Instant;

use super::process::Process;
use super::search::Processes;
use crate::process::{Identity, Socket};

/// `USER_HZ`, in which the kernel tells times on every architecture (include/asm-generic/param.h): a tick in nanoseconds.
const TICK: u64 = 10_000_000;

impl Processes {
    /// The program of the process that made `socket`, at `made` nanoseconds since boot; None where that is not certain, or it is gone.
    ///
    /// What was asked about had been sent by the time of `sent`, as with [`Self::find_quick`].
    #[must_use]
    pub fn find_maker(&self, pid: u32, made: u64, socket: &Socket, sent: Instant) -> Option<Arc<Identity>> {
        let process = Process::open(&self.options().proc_root, pid)?;
        let is_older = process.start_ticks.saturating_mul(TICK) <= made;
        // The owner of a process that is not dumpable is root: who its socket's user was cannot be told.
        if !is_older || process.owner() != Some(socket.uid) || !self.is_inside(&process) {
            return None;
        }
        self.identify(&process, socket, sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Confidence;
    use crate::procfs::Options;

    fn socket(uid: u32) -> Socket {
        Socket { inode: 0, uid, cookie: 7, cgroup_id: None, mark: 0, confidence: Confidence::Likely }
    }

    #[test]
    fn maker_is_the_process_of_that_user_that_ran_when_the_socket_was_made() {
        let (processes, uid) = (Processes::new(Options::default()), rustix::process::geteuid().as_raw());
        let find = |pid: u32, made, uid| processes.find_maker(pid, made, &socket(uid), Instant::now());
        let ours = find(std::process::id(), u64::MAX, uid).expect("we run");
        assert_eq!((ours.pid, ours.confidence), (Some(std::process::id()), Confidence::Likely));
        assert_eq!(find(std::process::id(), 0, uid), None, "it began later");
        assert_eq!(find(std::process::id(), u64::MAX, uid + 1), None, "another user made it");
        assert_eq!(find(u32::MAX, u64::MAX, uid), None, "it is gone");
        assert_eq!(find(2, u64::MAX, 0).filter(|identity| identity.cmdline.is_empty()), None, "the kernel is no program");
    }

    #[test]
    fn process_outside_an_enclosure_made_nothing_inside() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep runs");
        // Of its own network namespace there is none: it is told apart by the line of parents.
        let options = Options { enclosure: Some(u32::MAX), ..Options::default() };
        let uid = rustix::process::geteuid().as_raw();
        let found = Processes::new(options).find_maker(child.id(), u64::MAX, &socket(uid), Instant::now());
        child.kill().expect("ours to kill");
        child.wait().expect("ours to reap");
        assert_eq!(found, None);
    }
}
