//! Sockets on their way to the attribution threads.
//!
//! Keeps one rule: each cgroup of each user has its turn, and within it each host that is called: beside a scan, a program that was
//! never seen before is searched for soon.

use std::net::IpAddr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use super::raw::{RawSenders, Sent};
use super::senders::Whose;
use super::turns::Turns;
use crate::app::shared::locked;
use crate::bpf::Sender;
use crate::flow::FlowId;
use crate::packet::FiveTuple;
use crate::process::Socket;

/// A socket whose holder must be searched for.
#[derive(Debug)]
pub(in crate::app) struct Job {
    pub(super) flow: FlowId,
    pub(super) of: Origin,
    pub(super) tuple: FiveTuple,
    /// The link that the program named.
    pub(super) link: Option<u32>,
}

/// What a flow comes from, as far as the socket tables say.
#[derive(Debug)]
pub(super) enum Origin {
    /// The socket at its end.
    Socket(Socket),
    /// That one, or one of those that can send the like.
    Either(Socket, Whose, Sent),
    /// One that is closed.
    Closed(Sender),
    /// One of those of its port.
    Port(Socket, Whose),
    /// One of those that can send the like.
    Raw(RawSenders, Sent),
}

impl Origin {
    fn group(&self) -> Group {
        match self {
            Self::Socket(socket) | Self::Either(socket, ..) | Self::Port(socket, _) => (socket.uid, socket.cgroup_id),
            Self::Closed(sender) => (sender.uid, None),
            Self::Raw(senders, _) => (senders.uid(), None),
        }
    }
}

/// Who asks, as far as the socket table says.
type Group = (u32, Option<u64>);

/// Where jobs are handed in.
#[derive(Clone)]
pub(in crate::app) struct Jobs {
    queues: Arc<Mutex<Turns<Group, IpAddr, Job>>>,
    /// One word for each job that waits: wakes the thread, and its end is the thread's.
    tokens: SyncSender<()>,
}

/// Where the attribution threads take them out.
#[derive(Clone)]
pub(in crate::app) struct JobQueue {
    queues: Arc<Mutex<Turns<Group, IpAddr, Job>>>,
    tokens: Arc<Mutex<Receiver<()>>>,
}

/// A queue of at most so many jobs.
pub(in crate::app) fn job_queue(capacity: usize) -> (Jobs, JobQueue) {
    let queues = Arc::new(Mutex::new(Turns::new(capacity)));
    let (sender, receiver) = sync_channel(capacity);
    (Jobs { queues: Arc::clone(&queues), tokens: sender }, JobQueue { queues, tokens: Arc::new(Mutex::new(receiver)) })
}

impl Jobs {
    /// False when there is no place for a job of this user and cgroup.
    pub(super) fn push(&self, job: Job) -> bool {
        let group = job.of.group();
        locked(&self.queues).push(group, job.tuple.remote.ip(), job) && self.tokens.try_send(()).is_ok()
    }
}

impl JobQueue {
    /// Whether nobody waits for a search to begin.
    pub(in crate::app) fn is_empty(&self) -> bool {
        locked(&self.queues).is_empty()
    }

    /// Waits for the next job; None when nobody can hand in one any more.
    pub(super) fn next(&self) -> Option<Job> {
        loop {
            // Whoever is next waits for this one to have heard.
            locked(&self.tokens).recv().ok()?;
            if let Some(job) = locked(&self.queues).pop(|_| true) {
                return Some(job);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Amounts, Service, Table};
    use crate::packet::Protocol;
    use crate::process::Confidence;
    use std::time::Instant;

    const SCANNED: &str = "192.0.2.1:9";

    fn job(uid: u32, cgroup: u64, remote: &str, inode: u64) -> Job {
        let mut table = Table::new(Amounts { flows: 1, pending: 1, parked: 1 }, 1);
        let end: std::net::SocketAddr = remote.parse().expect("an address");
        let tuple = FiveTuple { protocol: Protocol::TCP, local: end, remote: end };
        let flow = table.open(tuple, Service::Relay, Instant::now()).expect("there is room");
        let socket =
            Socket { inode, uid, cookie: inode, cgroup_id: Some(cgroup), mark: 0, link: 0, confidence: Confidence::Exact };
        Job { flow, of: Origin::Socket(socket), tuple, link: None }
    }

    fn pushed(jobs: &Jobs, uid: u32, cgroup: u64, count: u64) -> usize {
        (0..count).filter(|inode| jobs.push(job(uid, cgroup, SCANNED, *inode))).count()
    }

    #[test]
    fn cgroups_and_users_have_places_of_their_own() {
        let (jobs, _queue) = job_queue(64);
        assert_eq!(pushed(&jobs, 1000, 1, 1000), 16);
        assert_eq!(pushed(&jobs, 1000, 2, 1000), 16, "another cgroup of the same user");
        assert_eq!(pushed(&jobs, 0, 1, 1000), 16, "another user");
        assert!(!jobs.push(job(1000, 1, SCANNED, 1)), "the first one is refused, not its neighbours");
        assert!(jobs.push(job(5, 5, SCANNED, 1)));
    }

    #[test]
    fn queue_ends_when_nobody_can_hand_in_and_what_waits_is_served_before() {
        let (jobs, queue) = job_queue(8);
        let other = jobs.clone();
        assert!(jobs.push(job(0, 1, SCANNED, 1)));
        drop(jobs);
        assert!(other.push(job(0, 1, SCANNED, 2)));
        drop(other);
        let inode = |job: Job| match job.of {
            Origin::Socket(socket) => Some(socket.inode),
            Origin::Either(..) | Origin::Port(..) | Origin::Closed(_) | Origin::Raw(..) => None,
        };
        assert_eq!([(); 3].map(|()| queue.next().and_then(inode)), [Some(1), Some(2), None]);
    }
}
