//! Packets from programs.

use std::time::{Duration, Instant};

use super::{Counter, Output, Router};
use crate::flow::{FlowId, Service, State};
use crate::packet::{Checksums, IpPacket, Protocol, Transport, Unreachable, reset, unreachable};
use crate::verdict::Verdict;

/// How long the socket tables and /proc may take before the flow is refused.
const IDENTIFY_DEADLINE: Duration = Duration::from_secs(5);
/// A datagram flow that has been idle for so long gives its place up where there is none left.
const EVICTABLE: Duration = Duration::from_secs(5);
/// Timers looked at for that; the earliest belong to the flows that were idle first.
const EVICTION_LOOKS: usize = 64;
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
                flow.last_active = now;
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
            if segment.opens() && self.parked_sequence(id) == Some(segment.sequence) {
                return self.count(Counter::Retransmit);
            }
            // A program that gives up resets what it began, or says nothing: then another SYN is another socket's, maybe another
            // program's. Nothing else can come before the SYN-ACK.
            self.say(Output::Cut(id));
            self.finish(id, "abandoned", now);
            if segment.opens() {
                self.on_new(packet, now);
            }
            return;
        }
        self.park(id, packet.bytes());
    }

    /// Ends one datagram flow that has been idle for a while: nobody says goodbye there, and a full table refuses everybody.
    fn evict(&mut self, now: Instant) {
        let is_idle = |id: &FlowId| {
            let flow = self.table.flow(*id)?;
            let over = matches!(flow.state, State::Open | State::Refused) && flow.last_active + EVICTABLE <= now;
            over.then_some(*id)
        };
        let idle = self.timers.iter().take(EVICTION_LOOKS).find_map(|(_, id)| is_idle(id));
        if let Some(id) = idle {
            self.say(Output::Cut(id));
            self.finish(id, "evicted", now);
        }
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
            self.reject(packet);
            return self.say(Output::Older);
        }
        let tuple = packet.tuple();
        let dns = tuple.remote.port() == DNS_PORT && tuple.protocol.has_ports();
        let service = if dns { Service::Dns } else { Service::Relay };
        let room = self.pending < self.config.max_pending;
        if room && self.table.len() >= self.config.max_flows {
            self.evict(now);
        }
        let Some(id) = room.then(|| self.table.open(tuple, service, now)).flatten() else {
            self.count(Counter::FlowsOut);
            return self.reject(packet);
        };
        self.pending += 1;
        self.park(id, packet.bytes());
        self.arm(id, now + IDENTIFY_DEADLINE);
        self.say(Output::Identify(id));
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
