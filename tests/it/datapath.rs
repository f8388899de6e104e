//! A packet of an open flow costs no memory: from its bytes through the router to the local end of its connection, and back.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use etherparse::PacketBuilder;
use portreeve::flow::{FlowId, Owner};
use portreeve::names::Asker;
use portreeve::packet::{Checksums, IpPacket, Transport, VNET_HEADER_LEN, udp_datagram};
use portreeve::process::{Confidence, Exe, Identity};
use portreeve::profile::{File, Kind, Layer, Level, Policy, Setup};
use portreeve::router::{Config, Input, Output, Router, Rules};
use portreeve::stack::{Opening, PacketSink, Passed, Stack};
use portreeve::verdict::Epoch;

use super::counting::allocations;

const OPEN: &str =
    "name = \"f\"\nmode = \"blacklist\"\n[scope]\ninternet = true\nlan = true\nlocalhost = true\n[flags]\npeer_to_peer = true\n";
/// Packets before the count begins, and counted ones.
const WARM_UP: usize = 200;
const COUNTED: usize = 2000;
/// Bytes of each segment, and of the answer to it.
const PAYLOAD: usize = 1000;

/// Counts what the stack writes and keeps the sequence number of the last packet.
#[derive(Default)]
struct Caught {
    packets: usize,
    sequence: u32,
}

impl PacketSink for Caught {
    fn write(&mut self, packet: &[u8]) {
        self.packets += 1;
        let packet = packet.get(VNET_HEADER_LEN..).expect("a header");
        let packet = IpPacket::parse(packet, Checksums::Unfinished).expect("the stack writes whole packets");
        if let Transport::Tcp(segment) = packet.transport() {
            self.sequence = segment.sequence;
        }
    }
}

fn ends(v6: bool) -> (SocketAddr, SocketAddr) {
    let (local, remote) = if v6 { ("[fd00::2]:40000", "[2001:db8::10]:443") } else { ("10.9.0.2:40000", "203.0.113.10:443") };
    (local.parse().expect("an address"), remote.parse().expect("an address"))
}

fn segment(v6: bool, sequence: u32, ack: Option<u32>, data: &[u8]) -> Vec<u8> {
    let (local, remote) = ends(v6);
    let builder = match (local.ip(), remote.ip()) {
        (std::net::IpAddr::V4(from), std::net::IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
        (std::net::IpAddr::V6(from), std::net::IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64),
        (_, _) => panic!("one family"),
    }
    .tcp(local.port(), remote.port(), sequence, 64_240);
    let builder = match ack {
        Some(ack) => builder.ack(ack),
        None => builder.syn(),
    };
    let mut bytes = Vec::new();
    builder.write(&mut bytes, data).expect("writing to memory");
    bytes
}

fn router(now: Instant) -> Router {
    let file = File { kind: Kind::Profile(Layer::Fallback), path: PathBuf::from("fallback.toml"), text: OPEN.to_owned() };
    let policy = Arc::new(Policy::compile(&[file], Setup::default()).expect("a valid profile"));
    Router::new(Config::new((now, 0), 1), Rules { policy, level: Level::Dynamic, epoch: Epoch(1) })
}

fn take(router: &mut Router, bytes: &[u8], now: Instant) -> Option<FlowId> {
    let packet = IpPacket::parse(bytes, Checksums::Finished).expect("a whole packet");
    router.handle(Input::Packet(&packet), now);
    let mut delivered = None;
    while let Some(output) = router.poll_output() {
        if let Output::Deliver(id) | Output::Identify(id) = output {
            delivered = Some(id);
        }
    }
    delivered
}

/// Opens the flow that this packet begins.
fn open(router: &mut Router, opener: &[u8], now: Instant) -> FlowId {
    let flow = take(router, opener, now).expect("a flow begins");
    let exe = Exe { path: PathBuf::from("/usr/bin/curl"), device: 1, inode: 1, path_is_ours: true };
    let unknown = Identity::tagged("test:program", Some(1000));
    let identity = Arc::new(Identity { exe: Some(exe), tags: Vec::new(), confidence: Confidence::Exact, ..unknown });
    let subject = router.rules().policy.subject(identity, &|_| true);
    let owner = Owner { subject, asker: Asker::Program { device: 1, inode: 1, uid: 1000 }, names: Vec::new() };
    router.handle(Input::Identified { flow, owners: vec![owner] }, now);
    router.handle(Input::Opened(flow), now);
    while router.poll_output().is_some() {}
    flow
}

#[test]
fn a_datagram_of_an_open_flow_allocates_nothing() {
    for v6 in [false, true] {
        let (now, mut datagram) = (Instant::now(), Vec::new());
        let (local, remote) = ends(v6);
        udp_datagram(local, remote, 64, &[7; PAYLOAD], &mut datagram);
        let mut router = router(now);
        let flow = open(&mut router, &datagram, now);
        let mut carry = |count: usize| {
            for _ in 0..count {
                assert_eq!(take(&mut router, &datagram, now), Some(flow));
                router.account(flow, 1000, 1000, now);
                assert!(router.poll_timeout().is_some());
            }
        };
        carry(WARM_UP);
        assert_eq!(allocations(|| carry(COUNTED)), 0);
    }
}

#[test]
fn a_segment_of_an_open_connection_and_its_answer_allocate_nothing() {
    for v6 in [false, true] {
        let now = Instant::now();
        let (mut router, mut stack, mut caught) = (router(now), Stack::new(7, now), Caught::default());
        let syn = segment(v6, 1000, None, &[]);
        let flow = open(&mut router, &syn, now);
        let packet = IpPacket::parse(&syn, Checksums::Finished).expect("a whole packet");
        let opening = Opening { syn: &syn, max_segment: Some(1460), has_timestamps: false };
        stack.accept(flow.index(), &packet.tuple(), opening, &mut caught, now).expect("memory for two rings");
        let first = caught.sequence.wrapping_add(1);
        let piece = u32::try_from(PAYLOAD).expect("a small piece");
        let number = |from: u32, pieces: usize| from + u32::try_from(pieces).expect("few pieces") * piece;
        // Each segment acknowledges the answer to the one before.
        let segments: Vec<Vec<u8>> = (0..WARM_UP + COUNTED)
            .map(|turn| segment(v6, number(1001, turn), Some(number(first, turn)), &[7; PAYLOAD]))
            .collect();
        let mut carry = |segments: &[Vec<u8>]| {
            for (turn, bytes) in segments.iter().enumerate() {
                let now = now + std::time::Duration::from_micros(50 * u64::try_from(turn).expect("few turns"));
                assert_eq!(take(&mut router, bytes, now), Some(flow));
                // Every other one goes through without a stop.
                let packet = IpPacket::parse(bytes, Checksums::Finished).expect("a whole packet");
                let passed = match turn % 2 {
                    0 => stack.pass(flow.index(), std::iter::once(packet), |pieces| pieces.iter().map(|piece| piece.len()).sum()),
                    _ => Passed::default(),
                };
                if passed.packets == 0 {
                    stack.input(flow.index(), bytes, &mut caught, now);
                }
                let answer = |socket: &mut smoltcp::socket::tcp::Socket<'static>| {
                    let mut got = usize::try_from(passed.bytes).expect("a small piece");
                    // Twice where the ring begins again.
                    while socket.can_recv() {
                        got += socket.recv(|data| (data.len(), data.len())).expect("an open connection");
                    }
                    assert_eq!((got, socket.send_slice(&[9; PAYLOAD])), (PAYLOAD, Ok(PAYLOAD)));
                };
                stack.with_socket(flow.index(), answer).expect("a connection");
                router.account(flow, 1000, 1000, now);
                stack.flush(flow.index(), &mut caught, now);
            }
        };
        carry(&segments[..WARM_UP]);
        assert_eq!(allocations(|| carry(&segments[WARM_UP..])), 0);
        assert!(caught.packets >= segments.len(), "every segment was answered");
    }
}
