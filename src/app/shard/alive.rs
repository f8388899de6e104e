//! Programs that ask whether their peer is still there (SO_KEEPALIVE, RFC 9293 §3.8.4): the question goes on to the peer.
//!
//! Keeps one rule: we answer for a peer that was heard from, and for no other. What stays without an answer the program counts itself, by
//! its own limits; neither side of us has one.

use std::time::{Duration, Instant};

use super::lanes::{Lane, Upstream};
use super::{Shard, Sink};
use crate::flow::FlowId;
use crate::packet::{Arrival, IpPacket, Kept};

/// Whoever was heard from so lately is there; the kernel asks no sooner (`TCP_KEEPIDLE` counts in seconds, tcp(7)).
const LATELY: Duration = Duration::from_secs(1);
/// When the peer's answer is first looked for; then at twice the distance each time.
const SOON: Duration = Duration::from_millis(10);
/// No round trip takes longer. The program asks again by itself.
const LATE: Duration = Duration::from_secs(5);
/// A question is a header and its options.
const LONGEST: usize = 120;

/// A question that waits for the peer's answer.
pub(super) struct Question {
    packet: Kept,
    since: Instant,
    distance: Duration,
    next: Instant,
}

impl Shard {
    /// Asks the peer what the program asks us; false where the packet is no such question, or may be answered at once.
    pub(super) fn passes_question_on(&mut self, id: FlowId, packet: &IpPacket<'_>, now: Instant) -> bool {
        let slot = id.index();
        if packet.bytes().len() > LONGEST || !self.stack.asks(slot, packet) {
            return false;
        }
        let Some(Lane::Tcp(lane)) = self.lanes.lane_mut(slot) else { return false };
        let Upstream::Open(stream) = &lane.upstream else { return false };
        // The resolver's end of a stream is always there, and knows no such question.
        if lane.broken.is_some() || stream.was_heard(LATELY) || stream.ask().is_err() {
            return false;
        }
        let next = now + SOON;
        let packet = Kept::new(packet.bytes(), Arrival::Whole);
        lane.question = Some(Box::new(Question { packet, since: now, distance: SOON, next }));
        self.later.insert((next, slot));
        true
    }

    /// Answers the program's question once the peer has answered ours.
    pub(super) fn look_for_answer(&mut self, slot: usize, now: Instant) {
        let Some(Lane::Tcp(lane)) = self.lanes.lane_mut(slot) else { return };
        let (Some(question), Upstream::Open(stream)) = (&mut lane.question, &lane.upstream) else { return };
        if now < question.next {
            return;
        }
        let waited = now.saturating_duration_since(question.since);
        let heard = stream.was_heard(waited + LATELY);
        if !heard && waited < LATE {
            question.distance *= 2;
            question.next = now + question.distance;
            self.later.insert((question.next, slot));
            return;
        }
        if let Some(question) = lane.question.take().filter(|_| heard) {
            self.stack.input(slot, &question.packet, &mut Sink(&self.tun), now);
        }
    }
}
