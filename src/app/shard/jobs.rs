//! Sockets on their way to the attribution thread.
//!
//! Keeps one rule: whoever asks for much waits behind whoever asks for little. Each cgroup of each user has a queue of its own, they
//! take turns, and none may have more places than the others leave free, so that a full house is full of the one who filled it.

use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use crate::app::shared::locked;
use crate::flow::FlowId;
use crate::process::Socket;

/// A socket whose holder must be searched for.
#[derive(Debug)]
pub(in crate::app) struct Job {
    pub(super) flow: FlowId,
    pub(super) socket: Socket,
}

/// Where jobs are handed in.
#[derive(Clone)]
pub(in crate::app) struct Jobs {
    queues: Arc<Mutex<Queues>>,
    /// One word for each job that waits: wakes the thread, and its end is the thread's.
    tokens: SyncSender<()>,
}

/// Where the attribution thread takes them out.
pub(in crate::app) struct JobQueue {
    queues: Arc<Mutex<Queues>>,
    tokens: Receiver<()>,
}

/// A queue of at most so many jobs.
pub(in crate::app) fn job_queue(capacity: usize) -> (Jobs, JobQueue) {
    let queues = Arc::new(Mutex::new(Queues::new(capacity)));
    let (sender, receiver) = sync_channel(capacity);
    (Jobs { queues: Arc::clone(&queues), tokens: sender }, JobQueue { queues, tokens: receiver })
}

impl Jobs {
    /// False when there is no place for a job of this user and cgroup.
    pub(super) fn push(&self, job: Job) -> bool {
        locked(&self.queues).push(job) && self.tokens.try_send(()).is_ok()
    }
}

impl JobQueue {
    /// Waits for the next job; None when nobody can hand in one any more.
    pub(super) fn next(&self) -> Option<Job> {
        loop {
            self.tokens.recv().ok()?;
            if let Some(job) = locked(&self.queues).pop() {
                return Some(job);
            }
        }
    }
}

/// Who asks, as far as the socket table says.
type Group = (u32, Option<u64>);

#[derive(Debug)]
struct Queues {
    capacity: usize,
    waiting: usize,
    by_group: HashMap<Group, VecDeque<Job>>,
    /// Groups with a job, the next one first.
    turns: VecDeque<Group>,
}

impl Queues {
    fn new(capacity: usize) -> Self {
        Self { capacity, waiting: 0, by_group: HashMap::new(), turns: VecDeque::new() }
    }

    fn push(&mut self, job: Job) -> bool {
        let group = (job.socket.uid, job.socket.cgroup_id);
        let own = self.by_group.get(&group).map_or(0, VecDeque::len);
        // As with the router's bounds (flow::accounts): one alone gets half, and the rest is for those who come later.
        if own >= self.capacity.saturating_sub(self.waiting) {
            return false;
        }
        if own == 0 {
            self.turns.push_back(group);
        }
        self.by_group.entry(group).or_default().push_back(job);
        self.waiting += 1;
        true
    }

    fn pop(&mut self) -> Option<Job> {
        let group = self.turns.pop_front()?;
        let queue = self.by_group.get_mut(&group)?;
        let job = queue.pop_front()?;
        self.waiting -= 1;
        if queue.is_empty() {
            self.by_group.remove(&group);
        } else {
            self.turns.push_back(group);
        }
        Some(job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Amounts, Service, Table};
    use crate::packet::{FiveTuple, Protocol};
    use crate::process::Confidence;
    use std::time::Instant;

    fn job(uid: u32, cgroup: u64, inode: u64) -> Job {
        let mut table = Table::new(Amounts { flows: 1, pending: 1, parked: 1 }, 1);
        let end = "192.0.2.1:9".parse().expect("an address");
        let tuple = FiveTuple { protocol: Protocol::TCP, local: end, remote: end };
        let flow = table.open(tuple, Service::Relay, Instant::now()).expect("there is room");
        Job { flow, socket: Socket { inode, uid, cookie: inode, cgroup_id: Some(cgroup), confidence: Confidence::Exact } }
    }

    fn pushed(jobs: &Jobs, uid: u32, cgroup: u64, count: u64) -> usize {
        (0..count).filter(|inode| jobs.push(job(uid, cgroup, *inode))).count()
    }

    #[test]
    fn flood_of_one_group_gets_half_of_the_places_and_the_next_one_half_of_the_rest() {
        let (jobs, _queue) = job_queue(64);
        assert_eq!(pushed(&jobs, 1000, 1, 1000), 32);
        assert_eq!(pushed(&jobs, 1000, 2, 1000), 16, "another cgroup of the same user");
        assert_eq!(pushed(&jobs, 0, 1, 1000), 8, "another user");
        assert!(!jobs.push(job(1000, 1, 1)), "the first one is refused, not its neighbours");
        assert!(jobs.push(job(5, 5, 1)));
    }

    #[test]
    fn one_job_of_another_group_is_next_whatever_waits_before_it() {
        let (jobs, queue) = job_queue(64);
        pushed(&jobs, 1000, 1, 30);
        assert!(jobs.push(job(0, 7, 99)));
        let order: Vec<u64> = (0..4).filter_map(|_| queue.next()).map(|job| job.socket.inode).collect();
        assert_eq!(order, [0, 99, 1, 2]);
    }

    #[test]
    fn each_group_is_served_in_the_order_of_its_jobs_and_places_come_back() {
        let (jobs, queue) = job_queue(4);
        for round in 0..100 {
            assert!(jobs.push(job(0, 1, round)) && jobs.push(job(0, 1, round + 1000)), "{round}");
            assert!(!jobs.push(job(0, 1, 1)), "half of four");
            assert_eq!(queue.next().map(|job| job.socket.inode), Some(round));
            assert_eq!(queue.next().map(|job| job.socket.inode), Some(round + 1000));
        }
        let queues = locked(&jobs.queues);
        assert!(queues.by_group.is_empty() && queues.turns.is_empty(), "nothing is kept of groups that have gone");
    }

    #[test]
    fn queue_ends_when_nobody_can_hand_in_and_what_waits_is_served_before() {
        let (jobs, queue) = job_queue(4);
        let other = jobs.clone();
        assert!(jobs.push(job(0, 1, 1)));
        drop(jobs);
        assert!(other.push(job(0, 1, 2)));
        drop(other);
        assert_eq!([(); 3].map(|()| queue.next().map(|job| job.socket.inode)), [Some(1), Some(2), None]);
    }
}
