//! Programs that ask whether their peer is still there (SO_KEEPALIVE, RFC 9293 §3.8.4): the probe goes on to the peer.
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
/// A probe is a header and its options.
const LONGEST: usize = 120;

/// A probe that waits for the peer's answer.
pub(super) struct Probe {
    packet: Kept,
    since: Instant,
    distance: Duration,
    next: Instant,
}

impl Shard {
    /// Asks the peer what the program asks us; false where the packet is no such probe, or may be answered at once.
    pub(super) fn passes_probe_on(&mut self, id: FlowId, packet: &IpPacket<'_>, now: Instant) -> bool {
        let slot = id.index();
        if packet.bytes().len() > LONGEST || !self.stack.asks(slot, packet) {
            return false;
        }
        let Some(Lane::Tcp(lane)) = self.lanes.lane_mut(slot) else { return false };
        let Upstream::Open(stream) = &lane.upstream else { return false };
        // The resolver's end of a stream is always there, and knows no such probe.
        if lane.broken.is_some() || stream.was_heard(LATELY) || stream.ask().is_err() {
            return false;
        }
        let next = now + SOON;
        let packet = Kept::new(packet.bytes(), Arrival::Whole);
        lane.probe = Some(Box::new(Probe { packet, since: now, distance: SOON, next }));
        self.later.insert((next, slot));
        true
    }

    /// Answers the program's probe once the peer has answered ours.
    pub(super) fn look_for_answer(&mut self, slot: usize, now: Instant) {
        let Some(Lane::Tcp(lane)) = self.lanes.lane_mut(slot) else { return };
        let (Some(probe), Upstream::Open(stream)) = (&mut lane.probe, &lane.upstream) else { return };
        if now < probe.next {
            return;
        }
        let waited = now.saturating_duration_since(probe.since);
        let heard = stream.was_heard(waited + LATELY);
        if !heard && waited < LATE {
            probe.distance *= 2;
            probe.next = now + probe.distance;
            self.later.insert((probe.next, slot));
            return;
        }
        if let Some(probe) = lane.probe.take().filter(|_| heard) {
            self.stack.input(slot, &probe.packet, &mut Sink(&self.tun), now);
        }
    }
}
