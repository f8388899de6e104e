//! Packets from programs.

use std::time::{Duration, Instant};

use smoltcp::wire::TcpControl;

use super::upstream::is_passing;
use super::{Counter, Output, Router};
use crate::flow::{Bound, FlowId, Service, State};
use crate::packet::{Checksums, IpPacket, Protocol, Transport, Unreachable, reset, unreachable};
use crate::verdict::Verdict;

/// How long the socket tables and /proc may take before the flow is refused.
const IDENTIFY_DEADLINE: Duration = Duration::from_secs(5);
/// The port of DNS over UDP and TCP.
const DNS_PORT: u16 = 53;

impl Router {
    pub(super) fn on_packet(&mut self, packet: &IpPacket<'_>, way: Service, now: Instant) {
        match packet.transport() {
            Transport::Icmp | Transport::Unwanted(_) => return self.count(Counter::Chatter),
            Transport::Other => return self.refuse_protocol(packet),
            Transport::Tcp(_) | Transport::Udp(_) | Transport::Echo(_) => {}
        }
        match self.table.find(&packet.tuple()) {
            Some(id) => self.on_known(id, packet, way, now),
            None => self.on_new(packet, way, now),
        }
    }

    fn on_known(&mut self, id: FlowId, packet: &IpPacket<'_>, way: Service, now: Instant) {
        let epoch = self.rules.epoch;
        let Some(flow) = self.table.flow_mut(id) else { return };
        match flow.state() {
            State::Open => {
                let permitted = flow.service == Service::Dns || flow.permit.is_some_and(|p| p.epoch() == epoch);
                flow.last_active = now;
                if permitted {
                    self.say(Output::Deliver(id));
                }
            }
            State::Refused => {
                let drop = flow.decision.as_ref().is_some_and(|d| d.verdict == Verdict::Drop);
                if !is_passing(flow) {
                    flow.last_active = now;
                }
                self.count(Counter::RefusedAgain);
                let reply = if drop { None } else { rejection(packet) };
                self.say(Output::RefusedAgain { flow: id, reply: reply.unwrap_or_default() });
            }
            State::Identifying | State::Asking | State::Opening => self.on_pending(id, packet, way, now),
        }
    }

    fn on_pending(&mut self, id: FlowId, packet: &IpPacket<'_>, way: Service, now: Instant) {
        if let Transport::Tcp(segment) = packet.transport() {
            if segment.opens() && self.parked_sequence(id) != Some(segment.sequence) {
                // A program that gives up may say nothing: then another SYN is another socket's, maybe another program's.
                self.say(Output::Cut(id));
                self.finish(id, "abandoned", now);
                return self.on_new(packet, way, now);
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
        self.park(id, packet, now);
    }

    /// The sequence number of the SYN that waits.
    fn parked_sequence(&self, id: FlowId) -> Option<u32> {
        let syn = IpPacket::parse(self.table.flow(id)?.parked().first()?, Checksums::Unfinished).ok()?;
        let Transport::Tcp(segment) = syn.transport() else { return None };
        Some(segment.sequence)
    }

    fn on_new(&mut self, packet: &IpPacket<'_>, way: Service, now: Instant) {
        if let Transport::Tcp(segment) = packet.transport()
            && !segment.opens()
            && way != Service::Link
        {
            self.count(Counter::OlderFlow);
            if segment.control == TcpControl::Rst {
                return;
            }
            let mut answer = Vec::new();
            reset(packet, &mut answer);
            return self.say(Output::Older { tuple: packet.tuple(), answer });
        }
        let tuple = packet.tuple();
        let dns = tuple.remote.port() == DNS_PORT && tuple.protocol.has_ports();
        if dns && way == Service::Link && tuple.protocol == Protocol::TCP {
            // The resolver's end of the stream is at the TUN, which its program does not hear.
            self.count(Counter::Blocked);
            return self.reject(packet);
        }
        // A flow whose first packet is lost here could neither be answered nor opened.
        if !self.table.nobody_may_take(Bound::Parked, packet.bytes().len()) {
            self.crowded(Bound::Parked, now);
            return self.reject(packet);
        }
        let service = if dns { Service::Dns } else { way };
        let Some(id) = self.make_room(now).then(|| self.table.open(tuple, service, now)).flatten() else {
            return self.reject(packet);
        };
        self.park(id, packet, now);
        self.arm(id, now + IDENTIFY_DEADLINE);
        self.say(Output::Identify(id));
    }

    fn park(&mut self, id: FlowId, packet: &IpPacket<'_>, now: Instant) {
        if let Err(whose) = self.table.park(id, packet.bytes(), packet.arrival()) {
            self.parked_out(id, whose, now);
        }
    }

    /// Tells the program at once: a reset for TCP, "administratively prohibited" for the rest.
    fn reject(&mut self, packet: &IpPacket<'_>) {
        self.outputs.extend(rejection(packet).map(Output::Reply));
    }

    /// The same for a flow's first packet, which is not in hand any more.
    pub(super) fn reject_first(&mut self, id: FlowId, packet: &IpPacket<'_>) {
        self.outputs.extend(rejection(packet).map(|reply| Output::ReplyTo { flow: id, reply }));
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

fn rejection(packet: &IpPacket<'_>) -> Option<Vec<u8>> {
    let mut reply = Vec::new();
    if matches!(packet.transport(), Transport::Tcp(_)) {
        reset(packet, &mut reply);
    } else {
        unreachable(packet, Unreachable::Prohibited, &mut reply);
    }
    (!reply.is_empty()).then_some(reply)
}
