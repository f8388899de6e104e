//! What must hold whatever happens.

use std::collections::BTreeMap;
use std::net::IpAddr;

use etherparse::{NetSlice, SlicedPacket};
use portreeve::flow::{Direction, Flow, FlowId, Program, Service, State};
use portreeve::packet::{Checksums, IpPacket};
use portreeve::router::{Config, Router};
use portreeve::verdict::{Answer, Case, Permit, Target, Verdict, decide};

use super::story::Socket;

/// The flow that an output speaks of.
pub(super) fn alive(router: &Router, id: FlowId) -> &Flow {
    router.flow(id).unwrap_or_else(|| panic!("{id:?} has ended"))
}

/// A flow may leave: its permit is of this epoch, and no owner is refused by the rules in force, as a decision taken here says.
pub(super) fn may_leave(router: &Router, flow: &Flow, permit: Permit, translated: IpAddr) {
    let rules = router.rules();
    assert_eq!(permit.epoch(), rules.epoch, "a permit of another epoch: {:?} {}", flow.state(), flow.tuple);
    assert_eq!(flow.permit, Some(permit));
    assert!(!flow.owners.is_empty(), "nobody owns it: {:?} {}", flow.state(), flow.tuple);
    for owner in &flow.owners {
        let protocol = flow.tuple.protocol;
        let target = Target::Flow {
            direction: Direction::Outbound,
            protocol,
            remote: translated,
            port: protocol.has_ports().then_some(flow.tuple.remote.port()),
            names: &owner.names,
            peer_is_this_host: translated.is_loopback(),
        };
        // The kindest answer that a person could have given; it lifts a question and no refusal.
        let case = Case { subject: &owner.subject, level: rules.level, target, answer: Some(Answer::Allow) };
        let decision = decide(&rules.policy, &case);
        assert_eq!(decision.verdict, Verdict::Accept, "{} refuses {}", decision.reason, flow.tuple);
    }
}

/// Packets pass only to a socket that stands, by a permit of this epoch.
pub(super) fn may_pass(router: &Router, sockets: &BTreeMap<FlowId, Socket>, id: FlowId, bytes: &[u8]) {
    let flow = alive(router, id);
    assert_eq!(flow.state(), State::Open);
    assert!(sockets.contains_key(&id), "no socket: {:?} {}", flow.state(), flow.tuple);
    let packet = IpPacket::parse(bytes, Checksums::Unfinished).expect("it was parsed before");
    assert_eq!(packet.tuple(), flow.tuple, "a packet of another flow");
    match flow.service {
        Service::Dns => assert_eq!(flow.permit, None, "the resolver needs no permit"),
        Service::Relay | Service::Link | Service::Express => {
            assert_eq!(flow.permit.map(|permit| permit.epoch()), Some(router.rules().epoch), "{:?} {}", flow.state(), flow.tuple);
        }
    }
}

/// An answer is a whole packet from the one host that was asked to the one that asked.
pub(super) fn is_sound_reply(bytes: &[u8]) {
    let sliced = SlicedPacket::from_ip(bytes).expect("a reply is a whole packet");
    let (from, to): (IpAddr, IpAddr) = match sliced.net.expect("an IP header") {
        NetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        NetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        NetSlice::Arp(_) => panic!("no IP"),
    };
    assert!(!from.is_multicast() && !to.is_multicast() && !to.is_unspecified(), "{from} > {to}");
    let packet = IpPacket::parse(bytes, Checksums::Finished);
    assert!(packet.is_ok(), "{packet:?}");
}

/// Nothing outgrows its bound, and the counts agree with what can be seen.
pub(super) fn is_bounded(router: &Router, config: &Config, live: &[FlowId]) {
    let flows: Vec<&Flow> = live.iter().filter_map(|id| router.flow(*id)).collect();
    let open = flows.iter().filter(|flow| flow.state() == State::Open).count();
    let pending = flows.iter().filter(|flow| flow.is_pending()).count();
    assert_eq!(router.population(), (open, pending));
    assert!(flows.len() <= config.max_flows && pending <= config.max_pending);
    let parked: usize = flows.iter().map(|flow| flow.parked().bytes()).sum();
    assert!(parked <= config.max_parked, "{parked} bytes are parked");
    shares_are_kept(&flows, config);
    for flow in flows {
        let waits = flow.is_pending();
        assert!(waits || flow.parked().bytes() == 0, "packets wait in a flow that does not: {:?} {}", flow.state(), flow.tuple);
        assert_eq!(
            flow.parked().first().is_some(),
            waits,
            "a flow waits without its first packet: {:?} {}",
            flow.state(),
            flow.tuple
        );
        assert!(
            flow.state() != State::Identifying || flow.deadline.is_some(),
            "it would wait for ever: {:?} {}",
            flow.state(),
            flow.tuple
        );
        assert!(
            flow.state() != State::Asking || flow.deadline.is_some(),
            "it would wait for ever: {:?} {}",
            flow.state(),
            flow.tuple
        );
    }
}

/// No program holds more than it could be given while it leaves something free: half of the waiting places and of the parked bytes,
/// three quarters of all flows. The last flow that it was given may be one too many for what came after.
fn shares_are_kept(flows: &[&Flow], config: &Config) {
    let mut held: BTreeMap<Option<Program>, (usize, usize, usize)> = BTreeMap::new();
    for flow in flows.iter().filter(|flow| flow.state() != State::Refused) {
        let (all, pending, parked) = held.entry(flow.owners.first().map(Program::of)).or_default();
        *all += 1;
        *pending += usize::from(flow.is_pending());
        *parked += flow.parked().bytes();
    }
    for (program, (all, pending, parked)) in held {
        assert!(4 * all <= 3 * (config.max_flows + 1) || program.is_none(), "{program:?} holds {all} flows");
        assert!(2 * pending <= config.max_pending + 1, "{pending} flows of {program:?} wait");
        assert!(2 * parked <= config.max_parked + 64 * 1024, "{program:?} has {parked} bytes parked");
    }
}
