//! Datagram flows whose program has closed its socket: nobody says so, so the kernel is asked, once, soon after a flow was opened, and
//! whenever it says itself that no socket took a datagram. Most datagram flows are one question and one answer; without this each would
//! keep its upstream socket until it has been idle for minutes, or for as long as its peer goes on sending, which would never hear of it.
//!
//! Keeps one rule: a flow ends by it only when its socket is gone, and unasked for only when nothing has moved for a while.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::raw::WAITED_FOR;
use super::{Message, Shard};
use crate::flow::{FlowId, State};
use crate::packet::FiveTuple;
use crate::router::Input;

/// So long after it was opened a flow is looked at.
const LOOK_AFTER: Duration = Duration::from_millis(250);
/// So long nothing may have moved: what a closed socket sent last has left the TUN by then.
const QUIET: Duration = Duration::from_millis(100);
/// Flows looked at in a row.
const TURN: usize = 64;
/// Words of the kernel, in so long, that are looked into: one costs some ten microseconds. Anybody who may send as this host can forge
/// them; without one a flow ends when it has been idle.
const WORDS: usize = 50;
const WORDS_TIME: Duration = Duration::from_millis(100);

/// Flows to be looked at, the oldest first. Bounded by the flows that open within a quarter of a second.
#[derive(Default)]
pub(super) struct Fresh(VecDeque<(Instant, FlowId)>);

impl Fresh {
    pub(super) fn add(&mut self, id: FlowId, now: Instant) {
        self.0.push_back((now + LOOK_AFTER, id));
    }

    /// When the first is to be looked at.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.front().map(|(at, _)| *at)
    }

    fn due(&mut self, now: Instant) -> Option<FlowId> {
        self.0.pop_front_if(|(at, _)| *at <= now).map(|(_, id)| id)
    }
}

/// Words of the kernel that were looked into lately.
#[derive(Default)]
pub(super) struct Words {
    since: Option<Instant>,
    count: usize,
}

impl Words {
    /// Whether one more may be looked into.
    fn takes_one(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= WORDS_TIME) {
            *self = Self { since: Some(now), count: 0 };
        }
        self.count += 1;
        self.count <= WORDS
    }
}

impl Shard {
    /// No socket of this host took a datagram of this flow. Such a word has no ports, so it may come by another queue than the flow;
    /// `is_first`: nobody else has heard it.
    pub(super) fn on_unwanted(&mut self, tuple: &FiveTuple, is_first: bool, now: Instant) {
        // Flows of others have no socket here, and who sends such words from behind this host shall cost no search.
        if !self.is_own(tuple.local.ip()) || is_first && !self.datagrams.words.takes_one(now) {
            return;
        }
        match self.router.find(tuple).or_else(|| self.hearer(tuple.local)) {
            // Who sent by a raw socket waits for answers without one of the flow's.
            Some(id) if self.lanes.lane(id.index()).is_some() && !self.lanes.is_raw(id) => {
                self.end_if_gone(id, now);
                self.obey(None, now);
            }
            Some(_) => {}
            None if is_first => self.others.send_others(self.index, || Message::Unwanted(*tuple)),
            None => {}
        }
    }

    pub(super) fn end_closed(&mut self, now: Instant) {
        for _ in 0..TURN {
            let Some(id) = self.datagrams.fresh.due(now) else { return };
            let Some(flow) = self.router.flow(id) else { continue };
            let (is_raw, open) = (self.lanes.is_raw(id), flow.state() == State::Open);
            let silence = if is_raw { WAITED_FOR } else { QUIET };
            let (tuple, quiet) = (flow.tuple, open && flow.last_active + silence <= now);
            if is_raw && open && !quiet {
                self.datagrams.fresh.add(id, now);
                continue;
            }
            let (cookie, link) = (self.lanes.cookie(id.index()), self.lanes.link(id).map(|header| header.link));
            // Where there was none, none is gone: what comes from behind this host by an address of its own has its socket elsewhere.
            let had_socket = cookie.is_some() || is_raw;
            if quiet && had_socket && self.is_own(tuple.local.ip()) && self.attributor.is_closed(&tuple, link, cookie) {
                self.cut(id, now);
                self.input(Input::Ended { flow: id, outcome: "closed" }, now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::faults::tests::shards;
    use super::*;
    use crate::flow::{Amounts, Service, Table};
    use crate::packet::Protocol;

    #[test]
    fn words_of_the_kernel_cost_the_loops_no_more_than_so_many_in_a_time() {
        for [local, remote] in [["10.9.0.2:4000", "203.0.113.10:9"], ["[fd09::2]:4000", "[2001:db8::10]:9"]] {
            let [local, remote] = [local, remote].map(|end| end.parse().expect("an address"));
            let (tuple, now) = (FiveTuple { protocol: Protocol::UDP, local, remote }, Instant::now());
            let (mut loops, _) = shards(2);
            let heard = |loops: &mut [(Shard, _)], at| {
                (0..10 * WORDS).for_each(|_| loops[0].0.on_unwanted(&tuple, true, at));
                std::iter::from_fn(|| loops[1].0.inbox.try_recv().ok()).count()
            };
            assert_eq!(heard(&mut loops, now), WORDS);
            assert_eq!(heard(&mut loops, now + WORDS_TIME / 2), 0);
            assert_eq!(heard(&mut loops, now + WORDS_TIME), WORDS, "and again");
            loops[1].0.on_unwanted(&tuple, true, now);
            assert_eq!(std::iter::from_fn(|| loops[0].0.inbox.try_recv().ok()).count(), 1, "each loop hears its own");
        }
    }

    #[test]
    fn flows_are_looked_at_once_in_the_order_of_their_opening() {
        let now = Instant::now();
        let mut table = Table::new(Amounts { flows: 8, pending: 8, parked: 1 }, 1);
        let ip = std::net::Ipv4Addr::LOCALHOST.into();
        let ids = [1, 2].map(|port| {
            let tuple = FiveTuple::new(Protocol::UDP, (ip, port), (ip, 9));
            table.open(tuple, Service::Relay, now).expect("room")
        });
        let mut fresh = Fresh::default();
        fresh.add(ids[0], now);
        fresh.add(ids[1], now + LOOK_AFTER);
        assert_eq!(fresh.due(now), None);
        assert_eq!(fresh.due(now + LOOK_AFTER), Some(ids[0]));
        assert_eq!(fresh.due(now + LOOK_AFTER), None);
        assert_eq!(fresh.due(now + 2 * LOOK_AFTER), Some(ids[1]));
        assert_eq!(fresh.next(), None);
    }
}
