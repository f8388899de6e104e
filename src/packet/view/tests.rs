use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::packet::{echo_reply, udp_datagram};

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
        assert_eq!(packet.hop_limit(), 64);
    }
}

#[test]
fn a_changed_byte_is_a_bad_checksum_unless_the_device_finishes_it() {
    for v6 in [false, true] {
        let (from, to) = ends(v6);
        let mut bytes = Vec::new();
        udp_datagram(from, to, 64, b"hello", &mut bytes);
        *bytes.last_mut().expect("not empty") ^= 1;
        assert_eq!(IpPacket::parse(&bytes, Checksums::Finished).map(|p| p.hop_limit()), Err(Malformed::Checksum));
        assert!(IpPacket::parse(&bytes, Checksums::Unfinished).is_ok());
    }
}

#[test]
fn an_echo_reply_is_icmp_but_no_request() {
    for v6 in [false, true] {
        let (from, to) = ends(v6);
        let mut bytes = Vec::new();
        echo_reply(from.ip(), to.ip(), 60, 7, 1, b"x", &mut bytes);
        let packet = IpPacket::parse(&bytes, Checksums::Finished).expect("well-formed");
        assert!(matches!(packet.transport(), Transport::Icmp { .. }));
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
        ("10.9.0.2:9", "0.1.2.3:53", Malformed::Address),
        ("10.9.0.2:9", "127.0.0.1:53", Malformed::Address),
        ("10.9.0.2:9", "127.9.9.9:53", Malformed::Address),
        ("[fd00::1]:0", "[2001:db8::10]:53", Malformed::PortZero),
        ("[ff02::1]:9", "[2001:db8::10]:53", Malformed::Address),
        ("[::]:9", "[2001:db8::10]:53", Malformed::Address),
        ("[fd00::1]:9", "[::1]:53", Malformed::Address),
        ("[fd00::1]:9", "[::]:53", Malformed::Address),
        ("[fd00::1]:9", "[::ffff:127.0.0.1]:53", Malformed::Address),
        ("[fd00::1]:9", "[::ffff:203.0.113.10]:53", Malformed::Address),
    ];
    for (from, to, why) in cases {
        let mut bytes = Vec::new();
        udp_datagram(from.parse().expect("literal"), to.parse().expect("literal"), 64, b"x", &mut bytes);
        assert_eq!(IpPacket::parse(&bytes, Checksums::Unfinished).map(|p| p.hop_limit()), Err(why), "{from} {to}");
    }
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
