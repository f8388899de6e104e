//! The process that made a socket, by its PID: nothing of /proc leads to it from one that is closed, and only a long search from one that is
//! open.
//!
//! Keeps one rule: a process that may be another one than that which made the socket is not it: one that began later, one of another user.
//! Whether it has executed another program since, or begun one, is not to be seen here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::descriptors::{SocketLink, Walk};
use super::process::Process;
use super::quick::QUICK_LINKS;
use super::search::{Effort, Processes};
use crate::process::{Identity, Socket};

/// `USER_HZ`, in which the kernel tells times on every architecture (include/asm-generic/param.h): a tick in nanoseconds.
pub(super) const TICK: u64 = 10_000_000;
/// A process that has ended is known for so long.
const SEEN: Duration = Duration::from_secs(2);

impl Processes {
    /// The program of the process that made `socket`, at `made` nanoseconds since boot; None where that is not certain, or it is gone.
    ///
    /// What was asked about had been sent by the time of `sent`, as with [`Self::find_quick`].
    #[must_use]
    pub fn find_maker(&self, pid: u32, made: u64, socket: &Socket, sent: Instant, effort: Effort<'_>) -> Option<Arc<Identity>> {
        let (process, _) = self.maker(pid, made)?;
        // The owner of a process that is not dumpable is root: who its socket's user was cannot be told.
        if process.owner() != Some(socket.uid) {
            return None;
        }
        self.identify(&process, socket, sent, effort)
    }

    /// The program of the process that made `socket`, at `made`, where it holds it and its parents and children do not. None also where
    /// a search through them would be long.
    #[must_use]
    pub fn find_at_maker(&self, pid: u32, made: u64, socket: &Socket, sent: Instant) -> Option<Arc<Identity>> {
        if socket.inode == 0 || self.hints().ambiguous.find(&socket.inode).is_some() {
            return None;
        }
        let (process, parent) = self.maker(pid, made)?;
        let (link, mut walk) = (SocketLink::new(socket.inode), Walk::short(QUICK_LINKS));
        let fd = process.search(&link, &mut walk)?;
        for relative in self.relatives(&process, Some(parent)) {
            let holds = self.inside(relative).is_some_and(|relative| relative.search(&link, &mut walk).is_some());
            if holds || walk.budget == 0 {
                return None;
            }
        }
        let holder = (Arc::new(process), fd);
        let identity = self.identify_holder(&holder, socket, sent, Effort::Read)?;
        self.remember(&holder.0, socket, fd);
        Some(identity)
    }

    /// The program of a process that may have ended since, if it was looked at after `since`, and just now: before its number is another's.
    #[must_use]
    pub fn seen_lately(&self, pid: u32, uid: u32, since: Instant) -> Option<Arc<Identity>> {
        let (looked, identity) = self.hints().seen.find(&pid).cloned()?;
        (looked > since && looked.elapsed() < SEEN && identity.uid == Some(uid)).then_some(identity)
    }

    /// With the number of its parent.
    pub(super) fn maker(&self, pid: u32, made: u64) -> Option<(Process, u32)> {
        let (process, stat) = Process::open_with_stat(&self.options().proc_root, pid)?;
        let is_older = process.start_ticks.saturating_mul(TICK) <= made;
        (is_older && self.is_inside(&process)).then_some((process, stat.parent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Confidence;
    use crate::procfs::Options;

    fn socket(uid: u32) -> Socket {
        Socket { inode: 0, uid, cookie: 7, cgroup_id: None, mark: 0, link: 0, confidence: Confidence::Likely }
    }

    #[test]
    fn maker_is_the_process_of_that_user_that_ran_when_the_socket_was_made() {
        let (processes, uid) = (Processes::new(Options::default()), rustix::process::geteuid().as_raw());
        let find = |pid: u32, made, uid| processes.find_maker(pid, made, &socket(uid), Instant::now(), Effort::Read);
        let ours = find(std::process::id(), u64::MAX, uid).expect("we run");
        assert_eq!((ours.pid, ours.confidence), (Some(std::process::id()), Confidence::Likely));
        assert_eq!(find(std::process::id(), 0, uid), None, "it began later");
        assert_eq!(find(std::process::id(), u64::MAX, uid + 1), None, "another user made it");
        assert_eq!(find(u32::MAX, u64::MAX, uid), None, "it is gone");
        assert_eq!(find(2, u64::MAX, 0).filter(|identity| identity.cmdline.is_empty()), None, "the kernel is no program");
    }

    #[test]
    fn maker_is_the_holder_while_it_holds_the_socket_and_no_child_does() {
        let made = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback");
        let fd = std::os::fd::AsRawFd::as_raw_fd(&made);
        let stat = rustix::fs::fstat(&made).expect("open");
        let (uid, us) = (rustix::process::geteuid().as_raw(), std::process::id());
        let open = Socket { inode: stat.st_ino, ..socket(uid) };
        let find = |pid: u32, at, socket: &Socket| {
            let processes = Processes::new(Options::default());
            processes.find_at_maker(pid, at, socket, Instant::now()).and_then(|found| found.pid)
        };
        assert_eq!(find(us, u64::MAX, &open), Some(us), "descriptor {fd}");
        assert_eq!(find(us, 0, &open), None, "it began later");
        assert_eq!(find(us, u64::MAX, &socket(uid)), None, "it is closed");
        assert_eq!(find(us, u64::MAX, &Socket { inode: 1, ..open }), None, "it does not hold it");
        let copy = std::os::fd::OwnedFd::from(made.try_clone().expect("room"));
        // The kernel lists the children of a process's first thread alone; the child asks for its parent's.
        let mut child = std::process::Command::new("sleep").arg("60").stdin(copy).spawn().expect("sleep runs");
        let of_child = find(child.id(), u64::MAX, &open);
        child.kill().expect("ours to kill");
        child.wait().expect("ours to reap");
        assert_eq!(of_child, None, "its parent holds it, too");
    }

    #[test]
    fn process_that_was_looked_at_is_known_for_its_user_and_since_a_time_before() {
        let (processes, uid) = (Processes::new(Options::default()), rustix::process::geteuid().as_raw());
        let (us, before) = (std::process::id(), Instant::now());
        assert_eq!(processes.seen_lately(us, uid, before), None, "it was not");
        processes.find_maker(us, u64::MAX, &socket(uid), before, Effort::Read).expect("we run");
        let seen = |uid, since| processes.seen_lately(us, uid, since).and_then(|seen| seen.pid);
        assert_eq!(seen(uid, before), Some(us));
        assert_eq!((seen(uid + 1, before), seen(uid, Instant::now())), (None, None), "it may be another program since");
    }

    #[test]
    fn process_outside_an_enclosure_made_nothing_inside() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep runs");
        // Of its own network namespace there is none: it is told apart by the line of parents.
        let options = Options { enclosure: Some(u32::MAX), ..Options::default() };
        let uid = rustix::process::geteuid().as_raw();
        let found = Processes::new(options).find_maker(child.id(), u64::MAX, &socket(uid), Instant::now(), Effort::Read);
        child.kill().expect("ours to kill");
        child.wait().expect("ours to reap");
        assert_eq!(found, None);
    }
}
