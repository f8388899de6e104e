//! What becomes of upstream sockets, and idleness.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{Counter, Output, Router};
use crate::flow::{Flow, FlowId, Service, State};
use crate::packet::{
    Checksums, ErrorMessage, FiveTuple, IpPacket, Protocol, Unreachable, echo_request, error_message, reset, udp_datagram,
    unreachable,
};
use crate::verdict::Check;

/// Why an upstream socket failed, as far as the program must be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A reset or an ICMP port-unreachable came back.
    Refused,
    Unreachable(Unreachable),
    /// This ICMP error came back, from this host on the way.
    Message {
        message: ErrorMessage,
        from: Option<IpAddr>,
    },
    /// Nobody answered: nothing is sent, the program's own clock runs out as it would without us.
    TimedOut,
    /// The peer reset an open connection.
    Reset,
    /// This host ran out of ports, descriptors or memory.
    Exhausted,
}

impl Failure {
    fn outcome(self) -> &'static str {
        match self {
            Self::Refused => "refused by peer",
            Self::Unreachable(Unreachable::Prohibited) => "prohibited on the way",
            Self::Unreachable(_) | Self::Message { .. } => "unreachable",
            Self::TimedOut => "timed out",
            Self::Reset => "reset by peer",
            Self::Exhausted => "out of ports or descriptors",
        }
    }
}

/// A datagram flow that only one side has used, and one that both have (RFC 4787 §4.3 asks for two minutes or more).
const IDLE_ONE_WAY: Duration = Duration::from_secs(30);
const IDLE_BOTH_WAYS: Duration = Duration::from_secs(180);
/// A question is answered in seconds or never.
const IDLE_DNS: Duration = Duration::from_secs(10);
const IDLE_REFUSED: Duration = Duration::from_secs(10);
/// The kernel tells the end of such a flow; this is for what it could not tell.
const EXPRESS_LOOK: Duration = Duration::from_secs(600);
/// Where there was no room there may be some soon, and what belonged to nobody may be somebody's: the port of a socket that closed behind its
/// last datagram is the next one's.
const IDLE_PASSING: Duration = Duration::from_secs(1);

impl Router {
    pub(super) fn on_opened(&mut self, id: FlowId, now: Instant) {
        let Some(flow) = self.table.flow_mut(id) else { return };
        if flow.state() != State::Opening {
            return;
        }
        flow.last_active = now;
        let ends_by_itself = flow.tuple.protocol == Protocol::TCP && !flow.service.ends_unseen();
        let packets = self.table.unpark(id);
        self.table.set_state(id, State::Open);
        self.stop_waiting(id);
        self.say(Output::Release { flow: id, packets });
        self.say(Output::Told(id));
        if !ends_by_itself {
            self.arm_idle(id, now);
        }
    }

    pub(super) fn on_express(&mut self, id: FlowId, now: Instant) {
        if let Some(flow) = self.table.flow_mut(id) {
            flow.service = Service::Express;
        }
        self.on_opened(id, now);
    }

    pub(super) fn on_failed(&mut self, id: FlowId, failure: Failure, now: Instant) {
        let Some(flow) = self.table.flow(id) else { return };
        let (tuple, state) = (flow.tuple, flow.state());
        match state {
            State::Opening => {
                if failure == Failure::Exhausted {
                    self.count(Counter::Exhausted);
                }
                self.answer_first(id, failure);
                self.finish(id, failure.outcome(), now);
            }
            // A datagram flow outlives an error: the program may go on, as it may without us.
            State::Open if tuple.protocol != Protocol::TCP => {
                let reply = error_about(&tuple, failure);
                self.outputs.extend(reply.map(Output::Reply));
            }
            State::Open => self.finish(id, failure.outcome(), now),
            State::Identifying | State::Asking | State::Refused => {}
        }
    }

    pub(super) fn on_timeout(&mut self, now: Instant) {
        while let Some((at, id)) = self.timers.first().copied() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            let Some(flow) = self.table.flow_mut(id) else { continue };
            flow.deadline = None;
            let state = flow.state();
            let service = flow.service;
            let ends_unseen = service.ends_unseen() && flow.tuple.protocol == Protocol::TCP;
            match state {
                State::Identifying | State::Asking => self.on_deadline(id, now),
                State::Opening => {}
                State::Open | State::Refused if self.idle_deadline(id).is_some_and(|at| at > now) => self.arm_idle(id, now),
                // Answers come past us, so silence says nothing.
                State::Open if ends_unseen => {
                    let silent = if service == Service::Express { EXPRESS_LOOK } else { IDLE_ONE_WAY };
                    self.arm(id, now + silent);
                    self.say(Output::IsThere(id));
                }
                State::Open => {
                    self.say(Output::Cut(id));
                    self.finish(id, "idle", now);
                }
                State::Refused => self.forget(id),
            }
        }
    }

    /// Sets the flow's one timer.
    pub(super) fn arm(&mut self, id: FlowId, at: Instant) {
        self.disarm(id);
        if let Some(flow) = self.table.flow_mut(id) {
            flow.deadline = Some(at);
            self.timers.insert((at, id));
        }
    }

    pub(super) fn disarm(&mut self, id: FlowId) {
        if let Some(at) = self.table.flow_mut(id).and_then(|flow| flow.deadline.take()) {
            self.timers.remove(&(at, id));
        }
    }

    pub(super) fn arm_idle(&mut self, id: FlowId, now: Instant) {
        if let Some(at) = self.idle_deadline(id) {
            self.arm(id, at.max(now));
        }
    }

    fn idle_deadline(&self, id: FlowId) -> Option<Instant> {
        let flow = self.table.flow(id)?;
        let idle = match (flow.state(), flow.service) {
            (State::Refused, _) if is_passing(flow) => IDLE_PASSING,
            (State::Refused, _) => IDLE_REFUSED,
            (_, Service::Dns) => IDLE_DNS,
            (_, Service::Express) => EXPRESS_LOOK,
            (_, Service::Relay | Service::Link) if flow.bytes_down > 0 => IDLE_BOTH_WAYS,
            (_, Service::Relay | Service::Link) => IDLE_ONE_WAY,
        };
        Some(flow.last_active + idle)
    }
}

/// Whether a refusal is worth another look soon: there was no room, or the owner was not found.
pub(super) fn is_passing(flow: &Flow) -> bool {
    let check = flow.decision.as_ref().map(|decision| decision.reason.check);
    flow.owners.is_empty() || matches!(check, Some(Check::Limit | Check::Identity))
}

/// The packet that tells the sender of `packet` what happened upstream; None where silence is the truth.
#[must_use]
pub fn answer_to(packet: &IpPacket<'_>, failure: Failure) -> Option<Vec<u8>> {
    let mut reply = Vec::new();
    let (tcp, udp) = (packet.tuple().protocol == Protocol::TCP, packet.tuple().protocol == Protocol::UDP);
    match failure {
        Failure::Refused | Failure::Reset if tcp => reset(packet, &mut reply),
        Failure::Refused | Failure::Reset => unreachable(packet, Unreachable::Port, &mut reply),
        // What comes from another host is a message; this one's own routes speak here.
        Failure::Unreachable(Unreachable::Network) if udp => unreachable(packet, Unreachable::Nowhere, &mut reply),
        Failure::Unreachable(why) => unreachable(packet, why, &mut reply),
        Failure::Message { message, from } => {
            error_message(packet, from.unwrap_or(packet.tuple().remote.ip()), message, &mut reply);
        }
        // EADDRNOTAVAIL and its like cannot be told; of what can, no address blames the network as a whole.
        Failure::Exhausted => unreachable(packet, Unreachable::Host, &mut reply),
        Failure::TimedOut => {}
    }
    (!reply.is_empty()).then_some(reply)
}

/// As [`answer_to`], for an error that comes back after the packet has gone: the kernel finds the socket by the quoted ports.
fn error_about(tuple: &FiveTuple, failure: Failure) -> Option<Vec<u8>> {
    let mut quoted = Vec::new();
    if tuple.protocol == Protocol::UDP {
        udp_datagram(tuple.local, tuple.remote, 64, &[], &mut quoted);
    } else {
        echo_request(tuple.local.ip(), tuple.remote.ip(), tuple.local.port(), 0, &[], &mut quoted);
    }
    answer_to(&IpPacket::parse(&quoted, Checksums::Unfinished).ok()?, failure)
}
