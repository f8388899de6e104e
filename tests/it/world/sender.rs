//! What programs send: opening packets, segments of no flow, garbage.

use std::net::{IpAddr, SocketAddr};

use etherparse::PacketBuilder;
use portreeve::packet::{FiveTuple, Protocol, echo_request, udp_datagram};

use super::dice::Dice;

/// Where programs want to go: Internet, LAN, this host by its stand-in, many hosts at once, nowhere.
const V4: [&str; 6] = ["203.0.113.10", "198.51.100.7", "192.168.1.1", "169.254.17.1", "224.0.0.251", "0.0.0.17"];
const V6: [&str; 6] = ["2001:db8::10", "2001:db8:1::7", "fd00:1::1", "fd17::1", "ff02::fb", "::17"];
const PORTS: [u16; 5] = [443, 443, 80, 53, 5353];

/// One packet, of this flow if one is named; now and then it is damaged, or was never one.
pub(super) fn packet(dice: &mut Dice, of: Option<FiveTuple>) -> Vec<u8> {
    if dice.chance(3) {
        return garbage(dice);
    }
    let mut bytes = match of {
        Some(tuple) => next(dice, tuple),
        None => first(dice),
    };
    if dice.chance(5) {
        let at = dice.index(bytes.len());
        if let Some(byte) = bytes.get_mut(at) {
            *byte = dice.byte();
        }
    }
    if dice.chance(2) {
        bytes.truncate(dice.index(bytes.len()));
    }
    bytes
}

fn garbage(dice: &mut Dice) -> Vec<u8> {
    let len = dice.index(200);
    let mut bytes: Vec<u8> = (0..len).map(|_| dice.byte()).collect();
    if let Some(first) = bytes.first_mut() {
        *first = [0x45, 0x60, 0x4f][usize::from(*first) % 3];
    }
    bytes
}

/// A packet with ends of the sender's choice.
fn first(dice: &mut Dice) -> Vec<u8> {
    let is_v6 = dice.chance(50);
    let (from, to): (IpAddr, IpAddr) = if is_v6 {
        ("fd00::2".parse().expect("an address"), dice.pick(&V6).expect("one").parse().expect("an address"))
    } else {
        ("10.9.0.2".parse().expect("an address"), dice.pick(&V4).expect("one").parse().expect("an address"))
    };
    // Few ports, so that flows meet their own remains.
    let (from, to) = (SocketAddr::new(from, dice.port(20)), SocketAddr::new(to, dice.pick(&PORTS).expect("a port")));
    let protocol = match dice.below(10) {
        0..=4 => Protocol::TCP,
        5..=8 => Protocol::UDP,
        _ => Protocol::ICMP,
    };
    next(dice, FiveTuple { protocol, local: from, remote: to })
}

/// A packet of a flow.
fn next(dice: &mut Dice, FiveTuple { protocol, local: from, remote: to }: FiveTuple) -> Vec<u8> {
    let mut bytes = Vec::new();
    match protocol {
        Protocol::TCP => return segment(dice, from, to),
        Protocol::UDP => {
            let len = if dice.chance(3) { 60_000 } else { [0, 20, 200, 1400][dice.index(4)] };
            udp_datagram(from, to, 64, &vec![7; len], &mut bytes);
        }
        _ => echo_request(from.ip(), to.ip(), from.port(), 1, &[], &mut bytes),
    }
    bytes
}

fn segment(dice: &mut Dice, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let builder = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64),
        (_, _) => return Vec::new(),
    };
    let tcp = builder.tcp(from.port(), to.port(), 1000, 64_240);
    let tcp = match dice.below(10) {
        0..=5 => tcp.syn(),
        6 => tcp.ack(1),
        7 => tcp.rst(),
        8 => tcp.ack(1).fin(),
        _ => tcp.ack(1).psh(),
    };
    let mut bytes = Vec::new();
    tcp.write(&mut bytes, &[]).expect("writing to memory");
    bytes
}
