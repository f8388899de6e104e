//! Whole packets cut up in every way that a program's kernel, or somebody with a raw socket, may cut them.

use std::net::SocketAddr;

use super::super::{Checksums, IpPacket, Transport, udp_datagram};
use super::*;

/// A datagram of so many bytes, and the length of its IP header.
fn datagram(v6: bool, len: usize) -> (Vec<u8>, usize) {
    let (from, to): (SocketAddr, SocketAddr) = if v6 {
        ("[2001:db8::1]:7".parse().expect("an address"), "[2001:db8::2]:9".parse().expect("an address"))
    } else {
        ("192.0.2.1:7".parse().expect("an address"), "192.0.2.2:9".parse().expect("an address"))
    };
    let data: Vec<u8> = (0..=255).cycle().take(len).collect();
    let mut packet = Vec::new();
    udp_datagram(from, to, 64, &data, &mut packet);
    (packet, if v6 { 40 } else { 20 })
}

/// The fragment that holds these bytes of the packet's payload.
fn fragment(packet: &[u8], header: usize, begin: usize, end: usize, more: bool, ident: u8) -> Vec<u8> {
    let data = &packet[header..][begin..end];
    let mut out = packet[..header].to_vec();
    let place = u16::try_from(begin).expect("small");
    if header == 20 {
        out.extend_from_slice(data);
        let mut ip = Ipv4Packet::new_unchecked(&mut out);
        ip.set_total_len(u16::try_from(20 + data.len()).expect("small"));
        ip.set_ident(ident.into());
        ip.set_dont_frag(false);
        ip.set_more_frags(more);
        ip.set_frag_offset(place);
        ip.fill_checksum();
    } else {
        out[6] = 44;
        let [high, low] = (place | u16::from(more)).to_be_bytes();
        out.extend_from_slice(&[17, 0, high, low, 0, 0, 0, ident]);
        out.extend_from_slice(data);
        Ipv6Packet::new_unchecked(&mut out).set_payload_len(u16::try_from(8 + data.len()).expect("small"));
    }
    out
}

/// A machine, its clock and what it lost.
struct Bench {
    machine: Reassembly,
    now: Instant,
    lost: Vec<Lost>,
}

impl Bench {
    fn new() -> Self {
        Self { machine: Reassembly::default(), now: Instant::now(), lost: Vec::new() }
    }

    fn take(&mut self, fragment: &[u8]) -> Option<Vec<u8>> {
        assert_eq!(IpPacket::parse(fragment, Checksums::Finished).map(|_| ()), Err(super::super::Malformed::Fragment));
        self.machine.take(fragment, self.now, &mut |why| self.lost.push(why))
    }
}

fn assert_is(packet: &[u8], wanted: &[u8]) {
    let [got, wanted] = [packet, wanted].map(|bytes| IpPacket::parse(bytes, Checksums::Finished).expect("a packet"));
    let (Transport::Udp(data), Transport::Udp(original)) = (got.transport(), wanted.transport()) else { panic!("datagrams") };
    assert!(got.tuple() == wanted.tuple() && data == original);
}

#[test]
fn fragments_in_any_order_make_the_packet_in_both_families() {
    for v6 in [false, true] {
        let (packet, header) = datagram(v6, 4000);
        let cuts = [(0, 1480), (1480, 2960), (2960, 4008)];
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]] {
            let mut bench = Bench::new();
            let mut made = order.iter().map(|n| bench.take(&fragment(&packet, header, cuts[*n].0, cuts[*n].1, *n != 2, 1)));
            assert!(made.next().is_some_and(|none| none.is_none()) && made.next().is_some_and(|none| none.is_none()));
            assert_is(&made.next().flatten().expect("a whole packet"), &packet);
            drop(made);
            assert!(bench.machine.contexts.is_empty() && bench.lost.is_empty());
        }
    }
}

#[test]
fn the_largest_datagram_of_each_family_comes_through() {
    for (v6, len) in [(false, 65_507), (true, 65_527)] {
        let (packet, header) = datagram(v6, len);
        let mut bench = Bench::new();
        let payload = packet.len() - header;
        let ends: Vec<usize> = (1448..payload).step_by(1448).chain([payload]).collect();
        let made: Vec<_> = ends
            .iter()
            .map(|end| bench.take(&fragment(&packet, header, (end - 1) / 1448 * 1448, *end, *end != payload, 1)))
            .collect();
        assert_is(made.last().and_then(Option::as_ref).expect("a whole packet"), &packet);
    }
}

#[test]
fn an_atomic_fragment_is_a_packet_of_its_own() {
    let (packet, header) = datagram(true, 100);
    let mut bench = Bench::new();
    assert!(bench.take(&fragment(&packet, header, 0, 56, true, 1)).is_none());
    let made = bench.take(&fragment(&packet, header, 0, 108, false, 1)).expect("a whole packet");
    assert_is(&made, &packet);
    assert_eq!((bench.machine.contexts.len(), bench.lost.len()), (1, 0));
}

#[test]
fn extension_headers_in_front_of_the_fragment_header_stay() {
    let (packet, header) = datagram(true, 100);
    let mut bench = Bench::new();
    let made: Vec<_> = [(0, 56, true), (56, 108, false)]
        .map(|(begin, end, more)| {
            let mut piece = fragment(&packet, header, begin, end, more, 1);
            piece[6] = 60;
            piece.splice(40..40, [44, 0, 1, 4, 0, 0, 0, 0]);
            let length = u16::try_from(piece.len() - 40).expect("small");
            Ipv6Packet::new_unchecked(&mut piece).set_payload_len(length);
            bench.take(&piece)
        })
        .into();
    assert_is(made[1].as_ref().expect("a whole packet"), &packet);
}

#[test]
fn an_overlap_ends_the_packet_and_what_still_comes_of_it() {
    for v6 in [false, true] {
        let (packet, header) = datagram(v6, 100);
        for (begin, end) in [(0, 56), (40, 64), (8, 16)] {
            let mut bench = Bench::new();
            bench.take(&fragment(&packet, header, 0, 48, true, 1));
            let mut other = packet.clone();
            other[header + 12] ^= 1;
            assert!(bench.take(&fragment(&other, header, begin, end, true, 1)).is_none());
            assert_eq!(bench.lost, [Lost::Overlap], "{begin} {end}");
            assert!(bench.take(&fragment(&packet, header, 48, 108, false, 1)).is_none());
            assert!(bench.take(&fragment(&packet, header, 0, 48, true, 1)).is_none());
            assert_eq!(bench.lost, [Lost::Overlap]);
            assert!(bench.take(&fragment(&packet, header, 0, 48, true, 2)).is_none());
            assert!(bench.take(&fragment(&packet, header, 48, 108, false, 2)).is_some(), "another packet is another matter");
        }
    }
}

#[test]
fn the_same_fragment_twice_changes_nothing() {
    let (packet, header) = datagram(false, 100);
    let mut bench = Bench::new();
    assert!(bench.take(&fragment(&packet, header, 0, 48, true, 1)).is_none());
    assert!(bench.take(&fragment(&packet, header, 0, 48, true, 1)).is_none());
    assert!(bench.take(&fragment(&packet, header, 48, 108, false, 1)).is_some());
    assert!(bench.lost.is_empty());
}

#[test]
fn a_tiny_first_fragment_hides_nothing() {
    let (packet, header) = datagram(false, 100);
    let mut bench = Bench::new();
    assert!(bench.take(&fragment(&packet, header, 0, 8, true, 1)).is_none());
    assert_is(&bench.take(&fragment(&packet, header, 8, 108, false, 1)).expect("a whole packet"), &packet);
}

#[test]
fn a_packet_longer_than_any_may_be_is_lost() {
    for v6 in [false, true] {
        let (packet, header) = datagram(v6, 65_000);
        let mut bench = Bench::new();
        let mut last = fragment(&packet, header, 0, 1000, false, 1);
        let place: u16 = 65_528;
        if v6 {
            last[42..44].copy_from_slice(&place.to_be_bytes());
        } else {
            let mut ip = Ipv4Packet::new_unchecked(&mut last);
            ip.set_frag_offset(place);
            ip.fill_checksum();
        }
        assert!(bench.take(&last).is_none());
        assert_eq!(bench.lost, [Lost::TooLarge]);
    }
}

#[test]
fn two_ends_or_a_piece_behind_the_end_or_a_crooked_length_are_no_packet() {
    let (packet, header) = datagram(false, 200);
    for [one, other] in [[(8, 40, false), (48, 64, true)], [(48, 64, true), (8, 40, false)], [(8, 40, false), (48, 60, false)]] {
        let mut bench = Bench::new();
        for (begin, end, more) in [one, other] {
            assert!(bench.take(&fragment(&packet, header, begin, end, more, 1)).is_none());
        }
        assert_eq!(bench.lost, [Lost::Malformed]);
    }
    let mut bench = Bench::new();
    assert!(bench.take(&fragment(&packet, header, 0, 50, true, 1)).is_none());
    assert_eq!(bench.lost, [Lost::Malformed]);
}

#[test]
fn what_does_not_come_in_time_is_lost() {
    let (packet, header) = datagram(true, 100);
    let mut bench = Bench::new();
    bench.take(&fragment(&packet, header, 48, 108, false, 1));
    bench.now += PATIENCE;
    assert!(bench.take(&fragment(&packet, header, 0, 48, true, 1)).is_none());
    assert_eq!(bench.lost, [Lost::Expired]);
}

#[test]
fn the_oldest_packet_goes_when_there_are_too_many_or_too_large_ones() {
    let (packet, header) = datagram(false, 60_000);
    for (pieces, begin, end) in [(65, 0, 8), (200, 59_000, 59_200)] {
        let mut bench = Bench::new();
        for ident in 0..pieces {
            bench.now += Duration::from_millis(1);
            assert!(bench.take(&fragment(&packet, header, begin, end, true, ident)).is_none());
            let bytes: usize = bench.machine.contexts.iter().map(|context| context.data.capacity()).sum();
            assert!(bytes <= MAX_BYTES && bench.machine.contexts.len() <= MAX_CONTEXTS);
        }
        assert!(!bench.lost.is_empty() && bench.lost.iter().all(|why| *why == Lost::Evicted));
    }
}

#[test]
fn many_gaps_are_no_packet() {
    let (packet, header) = datagram(false, 60_000);
    let mut bench = Bench::new();
    for n in 0..=MAX_GAPS {
        assert!(bench.take(&fragment(&packet, header, n * 16, n * 16 + 8, true, 1)).is_none());
    }
    assert_eq!(bench.lost, [Lost::Malformed]);
}

#[test]
fn any_bytes_at_all_are_no_fault() {
    let (packet, header) = datagram(true, 100);
    let whole = fragment(&packet, header, 0, 48, true, 1);
    let mut machine = Reassembly::default();
    let now = Instant::now();
    for len in 0..whole.len() {
        assert!(machine.take(&whole[..len], now, &mut |_| ()).is_none());
    }
    for byte in 0..whole.len() {
        let mut bent = whole.clone();
        bent[byte] ^= 0xff;
        let _ = machine.take(&bent, now, &mut |_| ());
    }
}
