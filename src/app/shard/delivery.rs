//! Packets of open flows, each to what carries its flow on.

use std::time::Instant;

use super::lanes::Lane;
use super::{Shard, Sink};
use crate::flow::FlowId;
use crate::packet::{IpPacket, Kept, Transport};
use crate::router::Input;

impl Shard {
    pub(super) fn deliver(&mut self, id: FlowId, packet: &IpPacket<'_>, now: Instant) {
        match self.lanes.lane(id.index()) {
            Some(Lane::Tcp(_)) => {
                if matches!(packet.transport(), Transport::Tcp(segment) if segment.opens()) {
                    // The same ports again: the flow before may be over, and only a pump has yet to find out.
                    self.pump(id.index(), now);
                    if self.router.flow(id).is_none() {
                        return self.router.handle(Input::Packet(packet), now);
                    }
                }
                if self.passes_probe_on(id, packet, now) {
                    return;
                }
                self.mark(id.index());
                if self.holds(id, packet) {
                    return;
                }
                self.send_held(id.index(), now);
                self.stack.input(id.index(), packet.bytes(), &mut Sink(&self.tun), now);
            }
            Some(Lane::Udp(_) | Lane::Echo(_) | Lane::Dns(_) | Lane::Link(_)) => {
                if self.came_the_same_way(id, packet) && self.is_still_held(id, Some(packet), true, now) {
                    return self.send_datagram(id, packet, now);
                }
                self.abandon(id, now);
                self.handle_anew(packet, now);
            }
            Some(Lane::Express(lane)) => self.send_express(*lane, packet, now),
            None => {}
        }
    }

    /// The packet in hand, whose flow was not its own.
    pub(super) fn handle_anew(&mut self, packet: &IpPacket<'_>, now: Instant) {
        let input = if self.came_by.is_some() { Input::Linked(packet) } else { Input::Packet(packet) };
        self.router.handle(input, now);
    }

    /// Ends a flow whose socket has gone.
    pub(super) fn abandon(&mut self, id: FlowId, now: Instant) {
        self.cut(id, now);
        self.router.handle(Input::Ended { flow: id, outcome: "abandoned" }, now);
    }

    /// Parked packets of a flow that is open now.
    pub(super) fn release(&mut self, id: FlowId, packets: &[Kept], now: Instant) {
        if let Some(Lane::Express(_)) = self.lanes.lane(id.index()) {
            // Their first packet has gone, and no other came.
            return;
        }
        let is_tcp = matches!(self.lanes.lane(id.index()), Some(Lane::Tcp(_)));
        let last = self.most_telling(id, packets).and_then(|packet| packet.parse().ok());
        if !is_tcp && !self.is_still_held(id, last.as_ref(), false, now) {
            let (link, is_raw) = (self.lanes.link(id), self.lanes.is_raw(id));
            self.turn.takes_waiting(self.lanes.holder(id).map_or(0, |holder| holder.sent_after));
            self.abandon(id, now);
            // What came last is another socket's, of which nothing else may come. Who sent it by a raw one cannot be said so late.
            match (last.filter(|_| !is_raw), link) {
                (Some(last), Some(header)) => self.on_linked(header.for_kept(&last), &last, now),
                (Some(last), None) => self.router.handle(Input::Packet(&last), now),
                (None, _) => {}
            }
            return;
        }
        for packet in packets {
            let Ok(packet) = packet.parse() else { continue };
            if is_tcp {
                self.accept_tcp(id, &packet, now);
            } else {
                self.send_datagram(id, &packet, now);
            }
        }
    }
}
