//! What others can ask of the thread that keeps older flows.
//!
//! Keeps one rule: the packet loop never waits here.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::super::shared::locked;
use crate::control::OlderFlow;
use crate::flow::Record;
use crate::packet::FiveTuple;

/// Segments and changes on their way.
const JOBS: usize = 256;
/// Refused flows that `status` still lists.
const REFUSED: usize = 50;
/// Flows that `status` lists at most; `flows` has them all.
const LISTED: usize = 200;
/// How long a change of rules is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the thread is asked to do.
pub(super) enum Job {
    /// A segment of an unknown TCP flow came into the TUN.
    Stray(FiveTuple),
    /// The rules changed; how many flows that ended is told, if somebody wants to know.
    Rules(Option<SyncSender<u64>>),
}

/// What the thread shows.
#[derive(Default)]
pub(super) struct Board {
    pub(super) records: Vec<Record>,
    pub(super) open: Vec<OlderFlow>,
    refused: VecDeque<OlderFlow>,
    pub(super) notes: Vec<String>,
    /// The kernel cannot end connections: the packet loop resets what it does not know.
    pub(super) resets: bool,
}

impl Board {
    pub(super) fn refused(&mut self, flow: OlderFlow) {
        if self.refused.len() >= REFUSED {
            self.refused.pop_front();
        }
        self.refused.push_back(flow);
    }
}

/// The way to the thread.
#[derive(Clone)]
pub(in crate::app) struct Handle {
    jobs: SyncSender<Job>,
    board: Arc<Mutex<Board>>,
    /// Flows from these addresses went through a TUN, so they are none of those that go beside it.
    device: Arc<[IpAddr]>,
}

impl Handle {
    pub(super) fn new(board: Arc<Mutex<Board>>, device: Arc<[IpAddr]>) -> (Self, Receiver<Job>) {
        let (jobs, receiver) = sync_channel(JOBS);
        (Self { jobs, board, device }, receiver)
    }

    /// Hands a segment of an unknown flow over. True: nothing is to be answered; the flow goes on beside the TUN, or is ended.
    pub(in crate::app) fn take(&self, tuple: FiveTuple) -> bool {
        !self.device.contains(&tuple.local.ip()) && !locked(&self.board).resets && self.jobs.try_send(Job::Stray(tuple)).is_ok()
    }

    /// The rules changed.
    pub(in crate::app) fn judge_again(&self) {
        // Where the channel is full the thread has another turn before it, and looks at the rules in each.
        let _ = self.jobs.try_send(Job::Rules(None));
    }

    /// The rules changed; gives the number of flows that this ended.
    pub(in crate::app) fn judged_again(&self) -> u64 {
        let (sender, receiver) = sync_channel(1);
        let sent = self.jobs.send(Job::Rules(Some(sender))).is_ok();
        if sent { receiver.recv_timeout(PATIENCE).unwrap_or(0) } else { 0 }
    }

    /// The open flows, for `flows`.
    pub(in crate::app) fn records(&self) -> Vec<Record> {
        locked(&self.board).records.clone()
    }

    /// The open flows and those that were refused last, for `status`.
    pub(in crate::app) fn list(&self) -> Vec<OlderFlow> {
        let board = locked(&self.board);
        board.open.iter().take(LISTED - REFUSED).chain(&board.refused).cloned().collect()
    }

    pub(in crate::app) fn notes(&self) -> Vec<String> {
        locked(&self.board).notes.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Direction, Protocol};

    fn tuple(local: &str) -> FiveTuple {
        let remote = "203.0.113.10:443".parse().expect("an address");
        FiveTuple { protocol: Protocol::TCP, local: local.parse().expect("an address"), remote }
    }

    fn handle() -> (Handle, Receiver<Job>) {
        Handle::new(Arc::default(), Arc::new(["198.18.0.1".parse().expect("an address")]))
    }

    #[test]
    fn a_segment_is_taken_unless_it_came_from_the_tuns_own_address() {
        let (handle, jobs) = handle();
        assert!(handle.take(tuple("10.9.0.2:40000")));
        assert!(!handle.take(tuple("198.18.0.1:40000")));
        assert_eq!(jobs.try_iter().count(), 1);
    }

    #[test]
    fn nothing_is_taken_where_the_kernel_cannot_end_connections_or_nobody_keeps_up() {
        let (handle, jobs) = handle();
        assert_eq!((0..1000).filter(|_| handle.take(tuple("10.9.0.2:40000"))).count(), JOBS);
        assert_eq!(jobs.try_iter().count(), JOBS);
        locked(&handle.board).resets = true;
        assert!(!handle.take(tuple("10.9.0.2:40000")));
    }

    #[test]
    fn the_list_is_bounded_and_keeps_the_last_refusals() {
        let line = |pid| OlderFlow {
            exe: None,
            pid: Some(pid),
            direction: Direction::Outbound,
            proto: "tcp".to_owned(),
            src: String::new(),
            dst: String::new(),
            verdict: "block".to_owned(),
            open: false,
        };
        let (handle, _jobs) = handle();
        {
            let mut board = locked(&handle.board);
            board.open = (0..1000).map(line).collect();
            (1000..2000).for_each(|pid| board.refused(line(pid)));
        }
        let list = handle.list();
        assert_eq!((list.len(), list.last().and_then(|last| last.pid)), (LISTED, Some(1999)));
    }
}
