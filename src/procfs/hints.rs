//! Where sockets were seen: what makes the next search short.
//!
//! Keeps one rule: everything here is bounded, and a hint is checked against /proc by whoever takes it.

use std::sync::{Arc, Weak};
use std::time::Instant;

use super::cache::{HotList, Recent};
use super::descriptors::MOST_PASSED;
use super::identity::Snapshot;
use super::process::{FileId, Process};
use crate::process::{Confidence, Identity};

/// A process that has the socket open, and at which descriptor.
pub(super) type Holder = (Arc<Process>, u32);

pub(super) type IdentityKey = (u32, u64, Option<FileId>, u32, Confidence);

#[derive(Debug)]
pub(super) struct Hints {
    pub(super) hot: HotList,
    pub(super) cookies: Recent<u64, (Weak<Process>, u32)>,
    /// Sockets that a search for another one passed, by inode.
    passed: Recent<u64, (Weak<Process>, u32)>,
    /// Inodes of sockets that several programs held: these are never answered quickly, by one holder alone.
    pub(super) ambiguous: Recent<u64, ()>,
    pub(super) identities: Recent<IdentityKey, (Snapshot, Instant, Arc<Identity>)>,
    pub(super) missed: Recent<u64, Instant>,
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
            identities: Recent::new(1024),
            missed: Recent::new(1024),
            walked: Recent::new(256),
        }
    }
}

impl Hints {
    pub(super) fn note_passed(&mut self, process: &Arc<Process>, passed: Vec<(u64, u32)>) {
        for (inode, fd) in passed {
            self.passed.insert(inode, (Arc::downgrade(process), fd));
        }
    }

    /// Where a socket was passed. Told once: whoever finds it there remembers it by its cookie.
    pub(super) fn take_passed(&mut self, inode: u64) -> Option<Holder> {
        let holder = self.passed.find(&inode).and_then(|(process, fd)| Some((process.upgrade()?, *fd)));
        self.passed.remove(&inode);
        holder
    }
}
