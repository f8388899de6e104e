//! What other threads say to the packet loops, and what these tell them.
//!
//! Keeps one rule: nobody waits for the loop without a bound.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use mio::Waker;

use super::Shard;
use crate::app::core::unix_ms;
use crate::flow::{FlowId, Numbers, Record};
use crate::packet::FiveTuple;
use crate::process::Identity;
use crate::router::{Input, PromptKey, Rules};
use crate::verdict::Answer;

/// What other threads send to the loop; wake it afterwards.
pub(in crate::app) enum Message {
    Identified {
        flow: FlowId,
        identities: Vec<Arc<Identity>>,
        /// The socket was closed meanwhile; they are who made it.
        is_closed: bool,
        /// The cookies of all that may have sent it, where these are several.
        senders: Box<[u64]>,
    },
    /// The answer to a DNS datagram of this flow.
    Answered {
        flow: FlowId,
        payload: Vec<u8>,
    },
    Prompt {
        id: u64,
        answer: Answer,
    },
    /// A person's answer that another shard was given.
    Learned {
        key: PromptKey,
        answer: Answer,
    },
    /// No socket of this host took a datagram of this flow.
    Unwanted(FiveTuple),
    /// A packet whose fragments came together elsewhere: this shard's, if it has the flow, else that of the next one.
    Whole(Stray),
    Snapshot(SyncSender<Snapshot>),
    Addresses(Vec<IpAddr>),
    /// The rules changed.
    Rules,
    /// End; what programs have said before is carried on for so long.
    Stop(Duration),
}

/// The loop's state, for `status` and `flows`.
#[derive(Clone, Debug, Default)]
pub(in crate::app) struct Snapshot {
    pub(in crate::app) records: Vec<Record>,
    pub(in crate::app) open: usize,
    pub(in crate::app) pending: usize,
    pub(in crate::app) counters: std::collections::BTreeMap<String, u64>,
    /// Loops that did not answer, whose part is missing here.
    pub(in crate::app) silent: usize,
}

/// A whole packet that looks for its flow.
pub(in crate::app) struct Stray {
    pub(super) packet: Vec<u8>,
    /// The shard that put it together, and that opens a flow for it where nobody has one.
    pub(super) from: usize,
    pub(super) has_travelled: bool,
}

/// How others reach one loop.
#[derive(Clone)]
pub(super) struct Handle {
    pub(super) inbox: SyncSender<Message>,
    pub(super) waker: Arc<Waker>,
    /// Grows with each of its turns.
    pub(super) turns: Arc<AtomicU32>,
}

/// How long the loops may take to tell their state.
const QUICK: Duration = Duration::from_secs(2);
/// Between two looks at the time.
const CLOCK: Duration = Duration::from_secs(1);
/// Between two looks for a place in an inbox that is full.
const PAUSE: Duration = Duration::from_millis(5);
/// Messages taken in one turn: whoever sends more does not keep the loop from its packets, nor from its end.
const A_TURN: usize = 256;

impl Handle {
    fn send(&self, message: Message) -> bool {
        let sent = self.inbox.try_send(message).is_ok();
        sent && self.waker.wake().is_ok()
    }

    /// False where there is no place for the word yet.
    fn stop(&self, grace: Duration) -> bool {
        let is_full = matches!(self.inbox.try_send(Message::Stop(grace)), Err(TrySendError::Full(_)));
        // A loop that cannot be woken has ended.
        let _ = self.waker.wake();
        !is_full
    }
}

/// How others reach the loops of all shards.
#[derive(Clone)]
pub(in crate::app) struct Handles {
    all: Arc<[Handle]>,
    stopping: Arc<AtomicBool>,
}

impl Handles {
    pub(super) fn new(handles: Vec<Handle>) -> Self {
        Self { all: handles.into(), stopping: Arc::default() }
    }

    /// The way to no loop at all.
    #[cfg(test)]
    pub(in crate::app) fn none() -> Self {
        Self::new(Vec::new())
    }

    /// Sends to the shard of a flow. False when its loop is gone or cannot keep up; what was sent is then lost.
    pub(in crate::app) fn send(&self, flow: FlowId, message: Message) -> bool {
        self.send_to_giver(flow.serial(), message)
    }

    /// Answers a prompt; as [`Handles::send`].
    pub(in crate::app) fn answer(&self, id: u64, answer: Answer) -> bool {
        self.send_to_giver(id, Message::Prompt { id, answer })
    }

    fn send_to_giver(&self, number: u64, message: Message) -> bool {
        self.all.get(Numbers::giver(number, self.all.len())).is_some_and(|handle| handle.send(message))
    }

    /// Sends to every shard; false unless all of them took it.
    pub(in crate::app) fn send_all(&self, message: impl Fn() -> Message) -> bool {
        self.all.iter().filter(|handle| !handle.send(message())).count() == 0
    }

    /// Sends to every shard but one.
    pub(super) fn send_others(&self, index: usize, message: impl Fn() -> Message) {
        for (_, handle) in self.all.iter().enumerate().filter(|(other, _)| *other != index) {
            // A loop that cannot keep up asks again itself.
            handle.send(message());
        }
    }

    /// Whether there is one shard only.
    pub(super) fn are_alone(&self) -> bool {
        self.all.len() <= 1
    }

    /// Sends to the shard behind `index` in the ring of all; false where it cannot keep up.
    pub(super) fn send_next(&self, index: usize, message: Message) -> bool {
        let next = (index + 1) % self.all.len().max(1);
        self.all.get(next).is_some_and(|handle| handle.send(message))
    }

    /// Ends all loops; waits until then for a place in every inbox, as this message must not be lost. None is told later for another one's
    /// inbox that is full.
    pub(in crate::app) fn stop(&self, grace: Duration, until: Instant) {
        self.stopping.store(true, Ordering::Relaxed);
        let mut untold: Vec<&Handle> = self.all.iter().collect();
        loop {
            untold.retain(|handle| !handle.stop(grace));
            if untold.is_empty() || Instant::now() > until {
                return;
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Whether the loops have been told to end: what they would still be told is of no use to them.
    pub(in crate::app) fn are_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// How often each loop has turned.
    pub(in crate::app) fn turns(&self) -> impl ExactSizeIterator<Item = u32> {
        self.all.iter().map(|handle| handle.turns.load(Ordering::Relaxed))
    }

    /// Makes one loop turn, should it only have nothing to do.
    pub(in crate::app) fn wake(&self, index: usize) {
        // A loop that cannot be woken does not turn, which is what somebody wants to know.
        let _ = self.all.get(index).map(|handle| handle.waker.wake());
    }

    /// The state of the loops that answer, together.
    pub(in crate::app) fn snapshot(&self) -> Snapshot {
        let (sender, receiver) = sync_channel(self.all.len());
        let asked = self.all.iter().filter(|handle| handle.send(Message::Snapshot(sender.clone()))).count();
        let until = Instant::now() + QUICK;
        let next = |_| receiver.recv_timeout(until.saturating_duration_since(Instant::now())).ok();
        let answers: Vec<Snapshot> = (0..asked).map_while(next).collect();
        let silent = self.all.len() - answers.len();
        let all = answers.into_iter().fold(Snapshot::default(), Snapshot::with);
        Snapshot { silent, ..all }
    }

    /// How many there are.
    pub(in crate::app) fn count(&self) -> usize {
        self.all.len()
    }
}

impl Snapshot {
    fn with(mut self, other: Self) -> Self {
        self.records.extend(other.records);
        self.open += other.open;
        self.pending += other.pending;
        for (name, count) in other.counters {
            *self.counters.entry(name).or_default() += count;
        }
        self
    }
}

impl Shard {
    /// Takes what other threads said, up to a turn's worth.
    pub(super) fn drain_inbox(&mut self, now: Instant) {
        self.inbox_waits = false;
        for _ in 0..A_TURN {
            let Ok(message) = self.inbox.try_recv() else { return };
            match message {
                Message::Identified { flow, identities, is_closed, senders } => {
                    self.lanes.note_senders(flow, senders);
                    self.on_identities(flow, &identities, is_closed, now);
                }
                Message::Answered { flow, payload } => self.answer_dns(flow, &payload, now),
                Message::Prompt { id, answer } => self.input(Input::Answered { prompt: id, answer }, now),
                Message::Learned { key, answer } => self.input(Input::Learned { key, answer }, now),
                Message::Unwanted(tuple) => self.on_unwanted(&tuple, false, now),
                Message::Whole(stray) => self.on_stray(stray, now),
                Message::Snapshot(to) => {
                    // Whoever asked may have given up.
                    let _ = to.try_send(self.snapshot(now));
                }
                Message::Addresses(own) => {
                    self.own_addresses.clone_from(&own);
                    self.input(Input::Addresses(own), now);
                    self.end_all_stranded(now);
                    self.refresh_express(now);
                }
                Message::Rules => self.take_rules(now),
                Message::Stop(grace) => self.stop_at = Some(now + grace),
            }
        }
        self.inbox_waits = true;
    }

    /// Tells the router the time, which somebody may set, and which our clock stands still behind while the machine sleeps.
    pub(super) fn take_clock(&mut self, now: Instant) {
        if now.saturating_duration_since(self.clock_seen) >= CLOCK {
            self.clock_seen = now;
            self.input(Input::Clock(unix_ms()), now);
        }
    }

    fn snapshot(&self, now: Instant) -> Snapshot {
        let (open, pending) = self.router.population();
        Snapshot { records: self.router.records(now), open, pending, counters: self.router.counters().named(), silent: 0 }
    }

    /// Takes other rules up, if there are any; one atomic load.
    pub(super) fn take_rules(&mut self, now: Instant) {
        if !self.shared.rules_changed(self.router.rules().epoch) {
            return;
        }
        let rules = Rules::clone(&self.shared.rules());
        let shared = self.shared.clone();
        self.input(Input::Rules { rules, subject: &|identity| shared.subject(identity) }, now);
    }
}

#[cfg(test)]
mod tests {
    use super::super::faults::tests::shard_with_handles;
    use super::*;

    fn word() -> Message {
        Message::Addresses(vec![[10, 9, 0, 2].into()])
    }

    #[test]
    fn a_turn_takes_a_part_of_a_full_inbox_and_the_loop_does_not_sleep_on_the_rest() {
        let (mut shard, handles, _tun) = shard_with_handles();
        let now = Instant::now();
        let sent = (0..).take_while(|_| handles.send_all(word)).count();
        assert!(sent > 2 * A_TURN);
        shard.drain_inbox(now);
        assert!(shard.inbox_waits);
        let took = (0..).take_while(|_| handles.send_all(word)).count();
        assert_eq!(took, A_TURN, "no more than a turn's worth was taken");
        while shard.inbox_waits {
            shard.drain_inbox(now);
        }
        assert!(shard.inbox.try_recv().is_err(), "everything was taken in the end");
    }

    #[test]
    fn loop_behind_one_whose_inbox_is_full_is_told_to_end_before_that_has_a_place() {
        let [(mut full, busy, _tun), (mut free, quick, _other)] = [(); 2].map(|()| shard_with_handles());
        while busy.send_all(word) {}
        let handles = Handles::new(busy.all.iter().chain(&*quick.all).cloned().collect());
        let until = Instant::now() + Duration::from_secs(60);
        std::thread::scope(|scope| {
            scope.spawn(|| handles.stop(Duration::ZERO, until));
            while free.stop_at.is_none() {
                free.drain_inbox(Instant::now());
            }
            assert!(full.stop_at.is_none() && Instant::now() < until);
            while full.stop_at.is_none() {
                full.drain_inbox(Instant::now());
            }
        });
    }
}
