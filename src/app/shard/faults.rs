//! A fault of our own ends one flow, not all of them.
//!
//! Keeps one rule: whatever panics while it works on a flow, that flow is ended at both ends and the loop goes on. What the flow
//! had with other threads is lost with it; what it shared with other flows is whole between two of their steps.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use super::{PACKET_MAX, Shard};
use crate::flow::FlowId;
use crate::packet::{Checksums, IpPacket, Kept, LinkHeader, VNET_HEADER_LEN};
use crate::router::{Counter, Input};

impl Shard {
    /// Takes one packet from the TUN.
    pub(super) fn take_packet(&mut self, bytes: &mut [u8], now: Instant) {
        let bare = LinkHeader::restore(bytes, |number| self.bare_links.link(number));
        let bytes = &*bytes;
        self.for_packet(bytes.get(VNET_HEADER_LEN..).unwrap_or(&[]), now, |shard| shard.on_packet(bytes, bare, now));
    }

    /// Takes one that had to wait.
    pub(super) fn take_kept(&mut self, kept: &Kept, now: Instant) {
        self.for_packet(kept, now, |shard| shard.on_kept(kept, now));
    }

    fn for_packet(&mut self, packet: &[u8], now: Instant, step: impl FnOnce(&mut Self)) {
        if self.survives(step) {
            return;
        }
        let tuple = |shard: &Self| shard.router.find(&IpPacket::parse(packet, Checksums::Unfinished).ok()?.tuple());
        self.survives(|shard| {
            if let Some(id) = tuple(shard) {
                shard.end_faulty(id, now);
            }
        });
    }

    /// Does what epoll said about the flow in this slot.
    pub(super) fn take_event(&mut self, slot: usize, event: &mio::event::Event, now: Instant) {
        self.for_flow_in(slot, now, |shard| shard.on_event(slot, event, now));
    }

    /// Moves what can be moved for the flow in this slot.
    pub(super) fn take_turn_of(&mut self, slot: usize, now: Instant) {
        self.for_flow_in(slot, now, |shard| shard.pump(slot, now));
    }

    /// Sends what is held of all flows.
    pub(super) fn send_all_held(&mut self, now: Instant) {
        while let Some(slot) = self.held.first() {
            self.for_flow_in(slot, now, |shard| shard.send_held(slot, now));
            if self.held.first() == Some(slot) {
                // Whose flow is gone.
                return self.held.clear();
            }
        }
    }

    /// Asks who owns the flows that this batch began.
    pub(super) fn identify_new(&mut self, now: Instant) {
        if self.unidentified.is_empty() {
            return self.turn.end();
        }
        let mut unidentified = std::mem::take(&mut self.unidentified);
        let sent = Instant::now();
        for id in unidentified.drain(..) {
            let step = |shard: &mut Self| {
                shard.identify(id, sent, now);
                shard.obey(None, now);
            };
            if !self.survives(step) {
                self.survives(|shard| shard.end_faulty(id, now));
            }
        }
        // What was said meanwhile began flows of its own, which are as old.
        unidentified.append(&mut self.unidentified);
        self.unidentified = unidentified;
        if self.unidentified.is_empty() {
            self.turn.end();
        }
    }

    fn for_flow_in(&mut self, slot: usize, now: Instant, step: impl FnOnce(&mut Self)) {
        let id = self.lanes.lane(slot).map(super::Lane::id);
        if !self.survives(step)
            && let Some(id) = id
        {
            self.survives(|shard| shard.end_faulty(id, now));
        }
    }

    /// Runs a step; false when it panicked. The panic's own message is on stderr already.
    fn survives(&mut self, step: impl FnOnce(&mut Self)) -> bool {
        let survived = catch_unwind(AssertUnwindSafe(|| step(self))).is_ok();
        if !survived {
            self.router.count(Counter::Fault);
            tracing::error!("a fault of Portreeve's own; the flow at hand is ended");
            // What a step holds for the time of its work: the link of its packet, the buffer that it reads into.
            self.came_by = None;
            if self.buffer.is_empty() {
                self.buffer = vec![0; PACKET_MAX].into_boxed_slice();
            }
        }
        survived
    }

    fn end_faulty(&mut self, id: FlowId, now: Instant) {
        self.cut(id, now);
        self.input(Input::Ended { flow: id, outcome: "ended by a fault" }, now);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::sync::Arc;

    use super::super::{Attributor, Handles, Parts, job_queue};
    use super::*;
    use crate::app::shared::Shared;
    use crate::egress::Dialer;
    use crate::packet::{FRAME_HEADER_LEN, LED, LinkHeader, udp_datagram};
    use crate::procfs::{Options, Processes};
    use crate::profile::{Level, Policy, Setup};
    use crate::router::Config;
    use crate::tun::Queue;

    fn shard() -> (Shard, UnixDatagram) {
        let (shard, _, tun) = shard_with_handles();
        (shard, tun)
    }

    /// A loop that nobody runs, the way to it, and the other end of what it takes for its TUN.
    pub(in super::super) fn shard_with_handles() -> (Shard, Handles, UnixDatagram) {
        let (mut loops, handles) = shards(1);
        let (shard, tun) = loops.pop().expect("one");
        (shard, handles, tun)
    }

    /// The same of several.
    pub(in super::super) fn shards(count: usize) -> (Vec<(Shard, UnixDatagram)>, Handles) {
        let pairs = (0..count).map(|_| UnixDatagram::pair().expect("two sockets"));
        let (ours, theirs): (Vec<_>, Vec<_>) = pairs.unzip();
        let processes = Arc::new(Processes::new(Options::default()));
        let policy = Policy::compile(&[], Setup::default()).expect("an empty set");
        let shared = Arc::new(Shared::new(Arc::new(policy), Level::Dynamic, processes.clone(), None));
        let parts = Parts {
            takes_over: false,
            config: Config::new((Instant::now(), 0), 1),
            express: None,
            dialer: Dialer::default(),
            attributor: Arc::new(Attributor::for_test(processes)),
            jobs: job_queue(8).0,
            dns: tokio::sync::mpsc::channel(1).0,
            streams: tokio::sync::mpsc::channel(1).0,
            own_addresses: Vec::new(),
            device_addresses: Arc::default(),
            bare_links: Arc::default(),
            older: None,
        };
        let queues = ours.into_iter().map(|end| Queue::adopt(end.into()).expect("a queue")).collect();
        let (shards, handles) = Shard::several(queues, &parts, &shared).expect("loops");
        (shards.into_iter().zip(theirs).collect(), handles)
    }

    fn datagram(port: u16) -> Vec<u8> {
        let mut bytes = vec![0; VNET_HEADER_LEN];
        udp_datagram(([10, 9, 0, 2], port).into(), ([203, 0, 113, 10], 9).into(), 64, b"x", &mut bytes);
        bytes
    }

    fn flow(shard: &Shard, bytes: &[u8]) -> Option<FlowId> {
        let packet = IpPacket::parse(bytes.get(VNET_HEADER_LEN..)?, Checksums::Unfinished).expect("well-formed");
        shard.router.find(&packet.tuple())
    }

    #[test]
    fn a_fault_ends_the_flow_at_hand_and_no_other() {
        let ((mut shard, _tun), now) = (shard(), Instant::now());
        let [one, other] = [1, 2].map(datagram);
        for bytes in [&one, &other] {
            shard.take_packet(&mut bytes.clone(), now);
        }
        assert!(flow(&shard, &one).is_some() && flow(&shard, &other).is_some());
        shard.for_packet(&one[VNET_HEADER_LEN..], now, |_| panic!("a fault"));
        assert!(flow(&shard, &one).is_none() && flow(&shard, &other).is_some());
        assert_eq!(shard.router.counters().value(Counter::Fault), 1);
    }

    #[test]
    fn what_comes_behind_a_fault_is_not_taken_for_a_packet_by_a_link() {
        let ((mut shard, _tun), now) = (shard(), Instant::now());
        let frame = [&[0; VNET_HEADER_LEN][..], &[0; 6], &LED, &[0, 0, 2], &[8, 0], &datagram(1)[VNET_HEADER_LEN..]].concat();
        assert!(frame.len() > VNET_HEADER_LEN + FRAME_HEADER_LEN);
        let (header, packet) = LinkHeader::split(&frame).expect("a frame");
        shard.for_packet(packet, now, |shard| {
            shard.came_by = Some(header);
            panic!("a fault");
        });
        shard.take_packet(&mut datagram(2), now);
        shard.identify_new(now);
        let id = flow(&shard, &datagram(2)).expect("refused, and remembered");
        assert_eq!(shard.lanes.link(id), None);
    }
}
