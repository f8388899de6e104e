use std::net::SocketAddr;

use etherparse::PacketBuilder;
use proptest::prelude::*;

use super::*;
use crate::packet::{ErrorMessage, Unreachable, echo_reply, echo_request, error_message, reset, udp_datagram, unreachable};

fn ends(v6: bool) -> (SocketAddr, SocketAddr) {
    if v6 {
        ("[fd00::1]:4000".parse().expect("literal"), "[2001:db8::10]:53".parse().expect("literal"))
    } else {
        ("10.9.0.2:4000".parse().expect("literal"), "203.0.113.10:53".parse().expect("literal"))
    }
}

#[test]
fn a_datagram_is_read_back_in_both_families() {
    for v6 in [false, true] {
        let (from, to) = ends(v6);
        let mut bytes = Vec::new();
        udp_datagram(from, to, 64, b"hello", &mut bytes);
        let packet = IpPacket::parse(&bytes, Checksums::Finished).expect("well-formed");
        assert_eq!(packet.tuple(), FiveTuple { protocol: Protocol::UDP, local: from, remote: to });
        assert_eq!(packet.transport(), Transport::Udp(b"hello"));
        assert_eq!(packet.marks().hop_limit, 64);
    }
}

#[test]
fn the_largest_datagram_of_each_family_is_built_and_a_larger_one_is_not() {
    for (v6, largest) in [(false, 65_507), (true, 65_527)] {
        let (from, to) = ends(v6);
        let mut bytes = Vec::new();
        udp_datagram(from, to, 64, &vec![7; largest], &mut bytes);
        let packet = IpPacket::parse(&bytes, Checksums::Finished).expect("well-formed");
        assert!(matches!(packet.transport(), Transport::Udp(data) if data.len() == largest));
        bytes.clear();
        udp_datagram(from, to, 64, &vec![7; largest + 1], &mut bytes);
        assert!(bytes.is_empty());
    }
}

#[test]
fn a_changed_byte_is_a_bad_checksum_unless_the_device_finishes_it() {
    for v6 in [false, true] {
        let (from, to) = ends(v6);
        let mut bytes = Vec::new();
        udp_datagram(from, to, 64, b"hello", &mut bytes);
        *bytes.last_mut().expect("not empty") ^= 1;
        assert_eq!(IpPacket::parse(&bytes, Checksums::Finished).map(|p| p.marks().hop_limit), Err(Malformed::Checksum));
        assert!(IpPacket::parse(&bytes, Checksums::Unfinished).is_ok());
    }
}

#[test]
fn an_echo_reply_is_icmp_but_no_request_and_keeps_its_marks() {
    for v6 in [false, true] {
        let (from, to) = ends(v6);
        let mut bytes = b"before".to_vec();
        let marks = Marks { hop_limit: 60, traffic_class: 0xb9, dont_fragment: true };
        echo_reply(from.ip(), to.ip(), marks, 7, 1, b"x", &mut bytes);
        let packet = IpPacket::parse(&bytes[6..], Checksums::Finished).expect("well-formed");
        assert!(packet.transport() == Transport::Icmp);
        assert_eq!(packet.marks(), marks);
    }
}

#[test]
fn every_truncation_is_refused() {
    for v6 in [false, true] {
        let (from, to) = ends(v6);
        let mut bytes = Vec::new();
        udp_datagram(from, to, 64, b"hello", &mut bytes);
        for length in 0..bytes.len() {
            assert!(IpPacket::parse(&bytes[..length], Checksums::Unfinished).is_err(), "{length} bytes");
        }
    }
}

#[test]
fn port_zero_and_impossible_addresses_are_refused() {
    let cases = [
        ("10.9.0.2:0", "203.0.113.10:53", Malformed::PortZero),
        ("10.9.0.2:9", "203.0.113.10:0", Malformed::PortZero),
        ("224.0.0.1:9", "203.0.113.10:53", Malformed::Address),
        ("0.0.0.0:9", "203.0.113.10:53", Malformed::Address),
        ("10.9.0.2:9", "0.0.0.0:53", Malformed::Address),
        ("10.9.0.2:9", "127.0.0.1:53", Malformed::Address),
        ("10.9.0.2:9", "127.9.9.9:53", Malformed::Address),
        ("[fd00::1]:0", "[2001:db8::10]:53", Malformed::PortZero),
        ("[ff02::1]:9", "[2001:db8::10]:53", Malformed::Address),
        ("[::]:9", "[2001:db8::10]:53", Malformed::Address),
        ("[::1]:9", "[2001:db8::10]:53", Malformed::Address),
        ("[fd00::1]:9", "[::1]:53", Malformed::Address),
        ("[fd00::1]:9", "[::]:53", Malformed::Address),
        ("[fd00::1]:9", "[::ffff:127.0.0.1]:53", Malformed::Address),
        ("[fd00::1]:9", "[::ffff:203.0.113.10]:53", Malformed::Address),
    ];
    for (from, to, why) in cases {
        let mut bytes = Vec::new();
        udp_datagram(from.parse().expect("literal"), to.parse().expect("literal"), 64, b"x", &mut bytes);
        assert_eq!(IpPacket::parse(&bytes, Checksums::Unfinished).map(|p| p.marks().hop_limit), Err(why), "{from} {to}");
    }
}

fn echo(from: &str, to: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    echo_request(from.parse().expect("an address"), to.parse().expect("an address"), 7, 1, &[], &mut bytes);
    bytes
}

#[test]
fn nobody_can_be_answered_who_has_no_address() {
    let bytes = echo("::", "2001:db8::10");
    assert_eq!(IpPacket::parse(&bytes, Checksums::Finished).map(|p| p.marks().hop_limit), Err(Malformed::Address));
    let solicitation = PacketBuilder::ipv6([0; 16], [0xff; 16], 255).icmpv6(etherparse::Icmpv6Type::Unknown {
        type_u8: 135,
        code_u8: 0,
        bytes5to8: [0; 4],
    });
    let mut bytes = Vec::new();
    solicitation.write(&mut bytes, &[0; 16]).expect("writing to memory");
    let packet = IpPacket::parse(&bytes, Checksums::Finished).expect("duplicate address detection comes from there");
    assert_eq!(packet.transport(), Transport::Icmp);
}

#[test]
fn one_familys_icmp_inside_the_others_header_is_no_echo() {
    for (from, to, at, other) in [("10.9.0.2", "203.0.113.10", 9, 58), ("fd00::1", "2001:db8::10", 6, 1)] {
        let mut bytes = echo(from, to);
        *bytes.get_mut(at).expect("a header") = other;
        if at == 9 {
            Ipv4Packet::new_unchecked(&mut bytes[..]).fill_checksum();
        }
        let packet = IpPacket::parse(&bytes, Checksums::Unfinished).expect("well-formed");
        assert_eq!((packet.transport(), packet.tuple().protocol), (Transport::Other, Protocol(other)));
    }
}

#[test]
fn a_fragment_is_refused_wherever_it_stands() {
    let (from, to) = ends(false);
    for (flags, is_fragment) in [(0x2000_u16, true), (0x0001, true), (0x4000, false)] {
        let mut bytes = Vec::new();
        udp_datagram(from, to, 64, b"hello", &mut bytes);
        bytes[6..8].copy_from_slice(&flags.to_be_bytes());
        Ipv4Packet::new_unchecked(&mut bytes[..]).fill_checksum();
        let found = IpPacket::parse(&bytes, Checksums::Finished).err();
        assert_eq!(found, is_fragment.then_some(Malformed::Fragment), "{flags:#x}");
    }
    let (from, to) = ends(true);
    let mut bytes = Vec::new();
    udp_datagram(from, to, 64, b"hello", &mut bytes);
    bytes[6] = 44;
    assert_eq!(IpPacket::parse(&bytes, Checksums::Finished).err(), Some(Malformed::Fragment));
}

#[test]
fn segments_that_no_sane_sender_makes_are_refused() {
    for v6 in [false, true] {
        for (flags, is_refused) in
            [(0x02_u8, false), (0x03, true), (0x06, true), (0x07, true), (0x05, true), (0x10, false), (0x04, false), (0xff, true)]
        {
            let mut bytes = Vec::new();
            let (from, to) = ends(v6);
            let built = match (from.ip(), to.ip()) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    PacketBuilder::ipv4(from.octets(), to.octets(), 64).tcp(1, 2, 3, 4).write(&mut bytes, &[])
                }
                (IpAddr::V6(from), IpAddr::V6(to)) => {
                    PacketBuilder::ipv6(from.octets(), to.octets(), 64).tcp(1, 2, 3, 4).write(&mut bytes, &[])
                }
                (_, _) => panic!("one family"),
            };
            built.expect("writing to memory");
            let at = if v6 { 40 } else { 20 } + 13;
            bytes[at] = flags;
            let found = IpPacket::parse(&bytes, Checksums::Unfinished).err();
            assert_eq!(found, is_refused.then_some(Malformed::Flags), "{flags:#x}");
        }
    }
}

/// A well-formed packet of some kind, to be damaged.
fn sound(kind: u8, v6: bool) -> Vec<u8> {
    let (from, to) = ends(v6);
    let mut bytes = Vec::new();
    match kind {
        0 => udp_datagram(from, to, 64, &[7; 60], &mut bytes),
        1 => return echo(&from.ip().to_string(), &to.ip().to_string()),
        2 => {
            let marks = Marks { hop_limit: 64, traffic_class: 0, dont_fragment: true };
            echo_reply(from.ip(), to.ip(), marks, 7, 1, &[7; 60], &mut bytes);
        }
        _ => {
            let options = [
                etherparse::TcpOptionElement::MaximumSegmentSize(1460),
                etherparse::TcpOptionElement::Timestamp(1, 2),
                etherparse::TcpOptionElement::WindowScale(7),
            ];
            let built = match (from.ip(), to.ip()) {
                (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64)
                    .tcp(1, 2, 3, 4)
                    .syn()
                    .options(&options)
                    .expect("they fit")
                    .write(&mut bytes, &[7; 60]),
                (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64)
                    .tcp(1, 2, 3, 4)
                    .syn()
                    .options(&options)
                    .expect("they fit")
                    .write(&mut bytes, &[7; 60]),
                (_, _) => panic!("one family"),
            };
            built.expect("writing to memory");
        }
    }
    bytes
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), v6: bool) {
        if let Some(first) = bytes.first_mut() {
            *first = if v6 { 0x60 } else { 0x45 };
        }
        let _ = IpPacket::parse(&bytes, Checksums::Unfinished);
        let _ = IpPacket::parse(&bytes, Checksums::Finished);
    }

    #[test]
    fn a_damaged_packet_never_panics_nor_do_its_answers(
        kind in 0_u8..4,
        v6: bool,
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
        length in any::<proptest::sample::Index>(),
        is_cut: bool,
    ) {
        let mut bytes = sound(kind, v6);
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let bytes = if is_cut { &bytes[..length.index(bytes.len())] } else { &bytes[..] };
        for checksums in [Checksums::Unfinished, Checksums::Finished] {
            let Ok(packet) = IpPacket::parse(bytes, checksums) else { continue };
            let mut out = Vec::new();
            reset(&packet, &mut out);
            unreachable(&packet, Unreachable::Prohibited, &mut out);
            let remote = packet.tuple().remote.ip();
            error_message(&packet, remote, ErrorMessage::too_large(remote.is_ipv4(), 1280), &mut out);
        }
    }

    #[test]
    fn what_we_read_an_independent_parser_reads_too(data in proptest::collection::vec(any::<u8>(), 0..100), v6: bool) {
        let (from, to) = ends(v6);
        let mut bytes = Vec::new();
        udp_datagram(from, to, 64, &data, &mut bytes);
        let sliced = etherparse::SlicedPacket::from_ip(&bytes).expect("etherparse reads it");
        let Some(etherparse::TransportSlice::Udp(udp)) = sliced.transport else { panic!("not UDP") };
        prop_assert_eq!(udp.payload(), &data[..]);
        prop_assert_eq!((udp.source_port(), udp.destination_port()), (from.port(), to.port()));
    }
}

#[test]
fn this_hosts_word_that_no_socket_took_a_datagram_names_its_flow_and_no_other_error_does() {
    for v6 in [false, true] {
        let (local, remote) = ends(v6);
        for len in [0, 5, 1400] {
            let mut datagram = Vec::new();
            udp_datagram(remote, local, 64, &vec![7; len], &mut datagram);
            let datagram = IpPacket::parse(&datagram, Checksums::Finished).expect("well-formed");
            for (why, flow) in [
                (Unreachable::Port, Some(FiveTuple { protocol: Protocol::UDP, local, remote })),
                (Unreachable::Host, None),
                (Unreachable::Prohibited, None),
            ] {
                let mut bytes = Vec::new();
                unreachable(&datagram, why, &mut bytes);
                let packet = IpPacket::parse(&bytes, Checksums::Finished).expect("well-formed");
                assert_eq!(packet.transport(), flow.map_or(Transport::Icmp, Transport::Unwanted), "{why:?}");
            }
        }
        let mut echo = Vec::new();
        echo_request(remote.ip(), local.ip(), 7, 1, b"x", &mut echo);
        let mut bytes = Vec::new();
        unreachable(&IpPacket::parse(&echo, Checksums::Finished).expect("well-formed"), Unreachable::Port, &mut bytes);
        assert_eq!(IpPacket::parse(&bytes, Checksums::Finished).map(|p| p.transport()), Ok(Transport::Icmp), "of no datagram");
        let mut about_another = Vec::new();
        udp_datagram(remote, local, 64, b"x", &mut about_another);
        let quote_at = if v6 { 48 } else { 28 };
        let mut bytes = Vec::new();
        unreachable(&IpPacket::parse(&about_another, Checksums::Finished).expect("well-formed"), Unreachable::Port, &mut bytes);
        for end in 0..bytes.len() - quote_at {
            assert_eq!(quoted_flow(local.ip(), &bytes[quote_at..quote_at + end]).is_some(), end >= quote_at - 4, "{end} bytes");
        }
        assert_eq!(quoted_flow(remote.ip(), &bytes[quote_at..]), None, "it was for somebody else");
    }
}
