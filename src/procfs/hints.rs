//! Where sockets were seen: what makes the next search short.
//!
//! Keeps one rule: everything here is bounded, and a hint is checked against /proc by whoever takes it, unless it was read there after what
//! is asked about had been sent.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::cache::{HotList, Recent};
use super::descriptors::MOST_PASSED;
use super::identity::Snapshot;
use super::process::{FileId, Process};
use crate::process::{Confidence, Identity};

/// A socket that nobody held is not searched again for this long.
const MISS_PAUSE: Duration = Duration::from_millis(100);

/// A process that was looked through in vain as far as may be is not looked through again for this long: some 3 % of a core.
const MANY_PAUSE: Duration = Duration::from_millis(10);

/// A process that has the socket open, and at which descriptor.
pub(super) type Holder = (Arc<Process>, u32);

/// A process, the user of its socket, and how sure the socket table is.
type HolderKey = (u32, u64, u32, Confidence);

pub(super) type IdentityKey = (u32, u64, Option<FileId>, u32, Confidence);

#[derive(Debug)]
pub(super) struct Hints {
    pub(super) hot: HotList,
    pub(super) cookies: Recent<u64, (Weak<Process>, u32)>,
    /// Sockets that a search for another one passed, by inode, and a time that the search began after.
    passed: Recent<u64, (Weak<Process>, u32, Instant)>,
    /// Inodes of sockets that several programs held: these are never answered quickly, by one holder alone.
    pub(super) ambiguous: Recent<u64, ()>,
    /// Sockets, by cookie, that one program alone held when everybody was looked at.
    pub(super) only: Recent<u64, Arc<Identity>>,
    pub(super) identities: Recent<IdentityKey, (Snapshot, Instant, Arc<Identity>)>,
    /// When a holder was looked at last, and what was found.
    pub(super) looked: Recent<HolderKey, (Instant, Arc<Identity>)>,
    /// The same by PID alone.
    pub(super) seen: Recent<u32, (Instant, Arc<Identity>)>,
    missed: Recent<u64, Instant>,
    /// Processes that held a socket and were no program any more, by PID and start.
    ending: Recent<(u32, u64), Instant>,
    /// Processes that were looked through in vain as far as may be, by PID and start.
    many: Recent<(u32, u64), Instant>,
    pub(super) walked: Recent<u32, Instant>,
}

impl Default for Hints {
    fn default() -> Self {
        Self {
            hot: HotList::default(),
            cookies: Recent::new(4096),
            // One walk may fill half of it and loses nothing of that.
            passed: Recent::new(2 * MOST_PASSED),
            ambiguous: Recent::new(4096),
            only: Recent::new(4096),
            identities: Recent::new(1024),
            looked: Recent::new(256),
            seen: Recent::new(256),
            missed: Recent::new(1024),
            ending: Recent::new(64),
            many: Recent::new(64),
            walked: Recent::new(256),
        }
    }
}

impl Hints {
    /// The process that was seen with this very socket before.
    pub(super) fn seen_with(&mut self, cookie: u64) -> Option<Holder> {
        let (process, fd) = self.cookies.find(&cookie)?;
        let holder = process.upgrade().map(|process| (process, *fd));
        if holder.is_none() {
            self.cookies.remove(&cookie);
        }
        holder
    }

    /// Notes the sockets that a look passed which began at `looked` or later.
    pub(super) fn note_passed(&mut self, process: &Arc<Process>, passed: Vec<(u64, u32)>, looked: Instant) {
        for (inode, fd) in passed {
            self.passed.insert(inode, (Arc::downgrade(process), fd, looked));
        }
    }

    /// Where a socket was passed, and when at the earliest. Told once: whoever finds it there remembers it by its cookie.
    pub(super) fn take_passed(&mut self, inode: u64) -> Option<(Holder, Instant)> {
        let (process, fd, looked) = self.passed.remove(&inode)?;
        Some(((process.upgrade()?, fd), looked))
    }

    /// Remembers a search that gave no program, and who held the socket and is none any more.
    pub(super) fn note_missed(&mut self, inode: u64, ending: &[Holder], now: Instant) {
        self.missed.insert(inode, now);
        for (process, _) in ending {
            self.ending.insert((process.pid, process.start_ticks), now);
        }
    }

    /// Whether this socket was searched in vain just now.
    pub(super) fn was_missed(&mut self, inode: u64, now: Instant) -> bool {
        self.missed.find(&inode).is_some_and(|at| is_recent(*at, now, MISS_PAUSE))
    }

    pub(super) fn note_many(&mut self, process: &Process, now: Instant) {
        self.many.insert((process.pid, process.start_ticks), now);
    }

    /// Whether this process had too many descriptors to be looked through just now.
    pub(super) fn has_many(&mut self, process: &Process, now: Instant) -> bool {
        self.many.find(&(process.pid, process.start_ticks)).is_some_and(|at| is_recent(*at, now, MANY_PAUSE))
    }

    /// Whether this process is ending: that takes a while where it has thousands of sockets, and a search for each of them is in vain.
    pub(super) fn is_ending(&mut self, process: &Process, now: Instant) -> bool {
        self.ending.find(&(process.pid, process.start_ticks)).is_some_and(|at| is_recent(*at, now, MISS_PAUSE))
    }
}

fn is_recent(at: Instant, now: Instant, pause: Duration) -> bool {
    now.saturating_duration_since(at) < pause
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn us() -> Arc<Process> {
        Arc::new(Process::open(Path::new("/proc"), std::process::id()).expect("we run"))
    }

    #[test]
    fn passed_socket_is_told_once_and_only_while_its_process_is_known() {
        let mut hints = Hints::default();
        let process = us();
        let now = Instant::now();
        hints.note_passed(&process, vec![(7, 3), (8, 4)], now);
        assert_eq!(hints.take_passed(7).map(|((_, fd), looked)| (fd, looked)), Some((3, now)));
        assert!(hints.take_passed(7).is_none());
        drop(process);
        assert!(hints.take_passed(8).is_none());
    }

    #[test]
    fn one_walk_of_the_greatest_length_is_remembered_whole() {
        let mut hints = Hints::default();
        let process = us();
        let most = u64::try_from(MOST_PASSED).expect("small");
        hints.note_passed(&process, (0..most).map(|inode| (inode, 1)).collect(), Instant::now());
        assert!((0..most).all(|inode| hints.take_passed(inode).is_some()));
    }

    #[test]
    fn miss_holds_for_a_moment_and_for_the_process_that_had_the_socket() {
        let mut hints = Hints::default();
        let (process, now) = (us(), Instant::now());
        assert!(!hints.was_missed(7, now) && !hints.is_ending(&process, now));
        hints.note_missed(7, &[(Arc::clone(&process), 3)], now);
        assert!(hints.was_missed(7, now) && hints.is_ending(&process, now));
        let later = now + MISS_PAUSE;
        assert!(!hints.was_missed(7, later) && !hints.is_ending(&process, later));
        assert!(!hints.was_missed(8, now));
    }
}
