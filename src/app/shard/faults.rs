//! A fault of our own ends one flow, not all of them.
//!
//! Keeps one rule: whatever panics while it works on a flow, that flow is ended at both ends and the loop goes on. What the flow
//! had with other threads is lost with it; what it shared with other flows is whole between two of their steps.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use super::{PACKET_MAX, Shard};
use crate::flow::FlowId;
use crate::packet::{Checksums, IpPacket, Kept, VNET_HEADER_LEN};
use crate::router::{Counter, Input};

impl Shard {
    /// Takes one packet from the TUN.
    pub(super) fn take_packet(&mut self, bytes: &[u8], now: Instant) {
        self.for_packet(bytes.get(VNET_HEADER_LEN..).unwrap_or(&[]), now, |shard| shard.on_packet(bytes, now));
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
            return;
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
        // What was said meanwhile began flows of its own.
        unidentified.append(&mut self.unidentified);
        self.unidentified = unidentified;
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
            // A step that reads takes the buffer out for the time of its work.
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
