//! The attribution threads: who holds the sockets of flows that the loops cannot attribute at once.
//!
//! Keeps one rule: a search that fails, or finds ourselves, finds nobody.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::identify::{Attributor, unattributed};
use super::jobs::{Job, JobQueue, Origin};
use super::senders::Whose;
use super::{Handles, Message};
use crate::packet::{FiveTuple, Protocol};
use crate::process::{Identity, Socket, Tag};
use crate::procfs::Processes;

/// What was found out of a flow.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    identities: Vec<Arc<Identity>>,
    /// As in [`Message::Identified`].
    is_closed: bool,
    senders: Box<[u64]>,
}

impl Found {
    fn of(identities: Vec<Arc<Identity>>) -> Self {
        Self { identities, is_closed: false, senders: [].into() }
    }
}

impl Attributor {
    /// An attribution thread: searches until the loops are gone, and counts what is `done`.
    pub(in crate::app) fn serve(&self, jobs: &JobQueue, shards: &Handles, done: &AtomicU32) {
        let mut told = false;
        while let Some(job) = jobs.next() {
            if shards.are_stopping() {
                return;
            }
            let flow = job.flow;
            let Found { identities, is_closed, senders } = or_nobody(|| self.find(job));
            done.fetch_add(1, Ordering::Relaxed);
            if !shards.send(flow, Message::Identified { flow, identities, is_closed, senders })
                && !std::mem::replace(&mut told, true)
            {
                // The flow's own deadline refuses it.
                tracing::warn!("attributions are lost: the packet loop does not keep up");
            }
        }
    }

    /// Who may have sent a flow.
    fn find(&self, Job { flow: _, of, tuple, link }: Job) -> Found {
        let found = match of {
            Origin::Socket(socket) => self.find_holders(&tuple, socket, link),
            Origin::Port(socket, whose) => self.find_at_port(&tuple, &socket, whose, link),
            Origin::Either(socket, whose, sent) => {
                let owners = match whose {
                    Whose::Found => self.find_holders(&tuple, socket, link),
                    Whose::Last(_) | Whose::Any => self.find_at_port(&tuple, &socket, Whose::Any, link),
                };
                let raw = self.search_raw(&tuple, sent);
                let senders = owners.senders;
                Found { senders, ..Found::of(Processes::one_of(owners.identities.into_iter().chain(raw))) }
            }
            Origin::Closed(sender) => Found { is_closed: true, ..Found::of(vec![self.maker_of(&sender)]) },
            Origin::Raw(_, sent) => Found::of(self.search_raw(&tuple, sent)),
        };
        let is_ours = found.identities.iter().any(|identity| self.is_us(identity));
        if is_ours { Found::of(vec![unattributed(None)]) } else { found }
    }

    fn find_at_port(&self, tuple: &FiveTuple, socket: &Socket, whose: Whose, link: Option<u32>) -> Found {
        let (sockets, closer) = self.senders_of(tuple, socket, whose);
        let senders = sockets.iter().map(|socket| socket.cookie).chain(closer.as_ref().map(|closer| closer.0)).collect();
        let found = match (&*sockets, closer) {
            ([only], None) => self.find_holders(tuple, *only, link),
            (several, closer) => Found::of(self.holders_of_all(several, closer)),
        };
        Found { senders, ..found }
    }

    fn find_holders(&self, tuple: &FiveTuple, mut socket: Socket, link: Option<u32>) -> Found {
        if tuple.protocol == Protocol::TCP && !self.is_there(tuple, link) {
            // Closed before it was connected; a search would be through all programs, and in vain.
            socket.inode = 0;
        }
        let (mut identities, is_closed) = self.search(tuple, &socket);
        if identities.iter().all(|identity| identity.pid.is_none()) && self.is_kernels(tuple, &socket, link) {
            identities = vec![Arc::new(Identity::tagged(Tag::KERNEL, Some(socket.uid)))];
        }
        Found { is_closed, ..Found::of(identities) }
    }

    /// Whether a socket that no process holds is the kernel's own (tunnels, network file systems): it is still there, so no process has left it.
    fn is_kernels(&self, tuple: &FiveTuple, socket: &Socket, link: Option<u32>) -> bool {
        let is_same = |now: Socket| (now.cookie, now.inode) == (socket.cookie, socket.inode);
        if self.closed.as_ref().is_some_and(|notes| notes.was_made(socket.cookie)) {
            return false;
        }
        let is_there = || socket.cookie != 0 && self.socket(tuple, link).is_some_and(is_same);
        is_there() && self.processes.is_kernels(socket) && is_there()
    }

    /// Who may have sent a flow, and whether the socket is closed by now and tells only who made it.
    fn search(&self, tuple: &FiveTuple, socket: &Socket) -> (Vec<Arc<Identity>>, bool) {
        if let Some(maker) = self.maker_of_closed(socket) {
            return (vec![maker], true);
        }
        // Another search may have found the program meanwhile.
        let found = self.holders(socket);
        let is_nobodys = found.iter().all(|identity| identity.pid.is_none());
        let maker = if is_nobodys { self.maker_of_closing(tuple, socket) } else { None };
        maker.map_or((found, false), |maker| (vec![maker], true))
    }
}

/// What a search finds. One that panics finds nobody, which is refused by default; the panic's own message is on stderr already.
fn or_nobody(search: impl FnOnce() -> Found) -> Found {
    // What searches share is whole between two of their steps.
    catch_unwind(AssertUnwindSafe(search)).unwrap_or_else(|_| {
        tracing::error!("a fault of Portreeve's own in the search for a flow's program; the flow is nobody's");
        Found::of(vec![unattributed(None)])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_that_panics_finds_nobody_and_the_next_one_is_made() {
        let Found { identities, is_closed, senders } = or_nobody(|| panic!("a fault"));
        assert!(!is_closed && identities.len() == 1 && senders.is_empty());
        assert!(identities.iter().all(|one| one.pid.is_none() && one.tags.iter().any(|tag| tag.0 == Tag::UNATTRIBUTED)));
        let curl = Arc::new(Identity { pid: Some(7), ..Identity::tagged("", Some(1000)) });
        assert_eq!(or_nobody(|| Found::of(vec![curl.clone()])), Found::of(vec![curl]));
    }
}
