//! Packets from programs.

use std::time::{Duration, Instant};

use smoltcp::wire::TcpControl;

use super::{Counter, Output, Router};
use crate::flow::{Flow, FlowId, Service, State};
use crate::packet::{Checksums, FiveTuple, IpPacket, Protocol, Transport, Unreachable, reset, unreachable};
use crate::verdict::Verdict;

/// How long the socket tables and /proc may take before the flow is refused.
const IDENTIFY_DEADLINE: Duration = Duration::from_secs(5);
/// A datagram flow that has been idle for so long gives its place up where there is none left.
const EVICTABLE: Duration = Duration::from_secs(5);
/// Timers looked through for such a flow. Those of refused flows are short, so they come first.
const MAX_SEARCH: usize = 64;
/// The port of DNS over UDP and TCP.
const DNS_PORT: u16 = 53;

impl Router {
    pub(super) fn on_packet(&mut self, packet: &IpPacket<'_>, now: Instant) {
        match packet.transport() {
            Transport::Icmp { .. } => return self.count(Counter::Chatter),
            Transport::Other => return self.refuse_protocol(packet),
            Transport::Tcp(_) | Transport::Udp(_) | Transport::Echo(_) => {}
        }
        match self.table.find(&packet.tuple()) {
            Some(id) => self.on_known(id, packet, now),
            None => self.on_new(packet, now),
        }
    }

    fn on_known(&mut self, id: FlowId, packet: &IpPacket<'_>, now: Instant) {
        let epoch = self.rules.epoch;
        let Some(flow) = self.table.flow_mut(id) else { return };
        match flow.state {
            State::Open => {
                let permitted = flow.service == Service::Dns || flow.permit.is_some_and(|p| p.epoch() == epoch);
                flow.last_active = now;
                if permitted {
                    self.say(Output::Deliver(id));
                }
            }
            State::Refused => {
                let drop = flow.decision.as_ref().is_some_and(|d| d.verdict == Verdict::Drop);
                // Where nobody was found in time, the question is worth asking again soon.
                if !flow.owners.is_empty() {
                    flow.last_active = now;
                }
                self.count(Counter::RefusedAgain);
                if !drop {
                    self.reject(packet);
                }
            }
            State::Identifying | State::Asking | State::Opening => self.on_pending(id, packet, now),
        }
    }

    fn on_pending(&mut self, id: FlowId, packet: &IpPacket<'_>, now: Instant) {
        if let Transport::Tcp(segment) = packet.transport() {
            if segment.opens() && self.parked_sequence(id) != Some(segment.sequence) {
                // A program that gives up may say nothing: then another SYN is another socket's, maybe another program's.
                self.say(Output::Cut(id));
                self.finish(id, "abandoned", now);
                return self.on_new(packet, now);
            }
            // A program that gives up may also reset what it began; what else comes before the SYN-ACK is not of this flow.
            if segment.control == TcpControl::Rst {
                self.say(Output::Cut(id));
                self.finish(id, "abandoned", now);
            } else {
                self.count(Counter::Retransmit);
            }
            return;
        }
        self.park(id, packet.bytes());
    }

    /// The sequence number of the SYN that waits.
    fn parked_sequence(&self, id: FlowId) -> Option<u32> {
        let syn = IpPacket::parse(self.table.flow(id)?.parked.first()?, Checksums::Unfinished).ok()?;
        let Transport::Tcp(segment) = syn.transport() else { return None };
        Some(segment.sequence)
    }

    fn on_new(&mut self, packet: &IpPacket<'_>, now: Instant) {
        if let Transport::Tcp(segment) = packet.transport()
            && !segment.opens()
        {
            self.count(Counter::OlderFlow);
            if segment.control == TcpControl::Rst {
                return;
            }
            self.reject(packet);
            return self.say(Output::Older);
        }
        // A flow whose first packet is lost here could neither be answered nor opened.
        if self.parked + packet.bytes().len() > self.config.max_parked {
            self.count(Counter::ParkedOut);
            return self.reject(packet);
        }
        let tuple = packet.tuple();
        let dns = tuple.remote.port() == DNS_PORT && tuple.protocol.has_ports();
        let service = if dns { Service::Dns } else { Service::Relay };
        let room = self.pending < self.config.max_pending;
        let Some(id) = room.then(|| self.open_flow(tuple, service, now)).flatten() else {
            self.count(Counter::FlowsOut);
            return self.reject(packet);
        };
        self.pending += 1;
        self.park(id, packet.bytes());
        self.arm(id, now + IDENTIFY_DEADLINE);
        self.say(Output::Identify(id));
    }

    /// A place in the table; where it is full, that of a flow that was refused and is only remembered.
    fn open_flow(&mut self, tuple: FiveTuple, service: Service, now: Instant) -> Option<FlowId> {
        if self.table.is_full() {
            self.evict(now);
        }
        self.table.open(tuple, service, now)
    }

    /// Makes room: a refused flow goes first, then a datagram flow that has been idle.
    fn evict(&mut self, now: Instant) {
        let candidates = || self.timers.iter().take(MAX_SEARCH).filter_map(|(_, id)| self.table.flow(*id));
        let refused = candidates().find(|flow| flow.state == State::Refused).map(|flow| flow.id);
        if let Some(id) = refused {
            return self.forget(id);
        }
        // Open flows with a timer are datagram flows.
        let is_idle = |flow: &&Flow| flow.state == State::Open && flow.last_active + EVICTABLE <= now;
        if let Some(id) = candidates().find(is_idle).map(|flow| flow.id) {
            self.say(Output::Cut(id));
            self.finish(id, "evicted", now);
        }
    }

    fn park(&mut self, id: FlowId, bytes: &[u8]) {
        let room = self.parked + bytes.len() <= self.config.max_parked;
        let Some(flow) = self.table.flow_mut(id) else { return };
        if room && flow.parked.push(bytes) {
            self.parked += bytes.len();
        } else {
            self.count(Counter::ParkedOut);
        }
    }

    /// Tells the program at once: a reset for TCP, "administratively prohibited" for the rest.
    pub(super) fn reject(&mut self, packet: &IpPacket<'_>) {
        let mut reply = Vec::new();
        if matches!(packet.transport(), Transport::Tcp(_)) {
            reset(packet, &mut reply);
        } else {
            unreachable(packet, Unreachable::Prohibited, &mut reply);
        }
        if !reply.is_empty() {
            self.say(Output::Reply(reply));
        }
    }

    fn refuse_protocol(&mut self, packet: &IpPacket<'_>) {
        if packet.tuple().protocol == Protocol::IGMP {
            return self.count(Counter::Chatter);
        }
        self.count(Counter::OtherProtocol);
        let mut reply = Vec::new();
        unreachable(packet, Unreachable::Protocol, &mut reply);
        if !reply.is_empty() {
            self.say(Output::Reply(reply));
        }
    }
}
