use std::net::SocketAddr;

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

use super::*;
use crate::packet::{Checksums, udp_datagram};

fn syn(v6: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let tcp = |b: etherparse::PacketBuilderStep<etherparse::IpHeaders>| b.tcp(40000, 443, 1000, 64240).syn();
    let built = if v6 {
        let mut src = [0; 16];
        src[0] = 0xfd;
        src[15] = 1;
        let mut dst = [0; 16];
        dst[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
        tcp(PacketBuilder::ipv6(src, dst, 64)).write(&mut bytes, &[])
    } else {
        tcp(PacketBuilder::ipv4([10, 9, 0, 2], [203, 0, 113, 10], 64)).write(&mut bytes, &[])
    };
    built.expect("writing to memory");
    bytes
}

#[test]
fn a_syn_is_answered_by_a_reset_that_acknowledges_it() {
    for v6 in [false, true] {
        let bytes = syn(v6);
        let packet = IpPacket::parse(&bytes, Checksums::Finished).expect("well-formed");
        let mut out = Vec::new();
        reset(&packet, &mut out);
        let sliced = SlicedPacket::from_ip(&out).expect("etherparse reads it");
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("not TCP") };
        assert!(tcp.rst() && tcp.ack());
        assert_eq!(tcp.acknowledgment_number(), 1001);
        assert_eq!((tcp.source_port(), tcp.destination_port()), (443, 40000));
        let sum = match sliced.net.expect("an IP header") {
            NetSlice::Ipv4(ip) => tcp.calc_checksum_ipv4(ip.header().to_header().source, ip.header().to_header().destination),
            NetSlice::Ipv6(ip) => tcp.calc_checksum_ipv6(ip.header().to_header().source, ip.header().to_header().destination),
            NetSlice::Arp(_) => panic!("not IP"),
        };
        assert_eq!(sum.expect("short"), tcp.checksum());
    }
}

#[test]
fn a_reset_is_never_answered() {
    let bytes = syn(false);
    let mut first = Vec::new();
    reset(&IpPacket::parse(&bytes, Checksums::Finished).expect("well-formed"), &mut first);
    let mut second = Vec::new();
    reset(&IpPacket::parse(&first, Checksums::Finished).expect("well-formed"), &mut second);
    assert!(second.is_empty());
}

#[test]
fn an_error_quotes_the_packet_and_fits_the_smallest_mtu() {
    let cases: [(&str, &str, usize); 2] = [("10.9.0.2:9", "203.0.113.10:9", 576), ("[fd00::1]:9", "[2001:db8::1]:9", 1280)];
    for (from, to, limit) in cases {
        let (from, to): (SocketAddr, SocketAddr) = (from.parse().expect("literal"), to.parse().expect("literal"));
        let mut bytes = Vec::new();
        udp_datagram(from, to, 64, &[7; 1400], &mut bytes);
        let packet = IpPacket::parse(&bytes, Checksums::Finished).expect("well-formed");
        for why in [Unreachable::Network, Unreachable::Host, Unreachable::Protocol, Unreachable::Port, Unreachable::Prohibited] {
            let mut out = Vec::new();
            unreachable(&packet, why, &mut out);
            assert_eq!(out.len(), limit);
            let answer = IpPacket::parse(&out, Checksums::Finished).expect("well-formed");
            assert!(matches!(answer.transport(), Transport::Icmp | Transport::Unwanted(_)), "{why:?}");
            assert_eq!(answer.tuple().remote.ip(), from.ip());
            let quote_at = if from.is_ipv4() { 28 } else { 48 };
            assert!(bytes.starts_with(&out[quote_at..]), "the quote is the packet's beginning");
        }
    }
}

#[test]
fn packets_to_many_hosts_are_never_answered() {
    for (from, to) in
        [("10.9.0.2:9", "224.0.0.251:5353"), ("10.9.0.2:9", "255.255.255.255:9"), ("[fd00::1]:9", "[ff02::fb]:5353")]
    {
        let mut bytes = Vec::new();
        udp_datagram(from.parse().expect("literal"), to.parse().expect("literal"), 64, b"x", &mut bytes);
        let mut out = Vec::new();
        unreachable(&IpPacket::parse(&bytes, Checksums::Finished).expect("well-formed"), Unreachable::Prohibited, &mut out);
        assert!(out.is_empty(), "{to}");
    }
}

#[test]
fn a_segment_to_many_hosts_is_never_reset() {
    for (to, is_many) in [([224, 0, 0, 1], true), ([255, 255, 255, 255], true), ([203, 0, 113, 1], false)] {
        let mut bytes = Vec::new();
        let builder = PacketBuilder::ipv4([10, 9, 0, 2], to, 64).tcp(40000, 443, 1000, 64240).syn();
        builder.write(&mut bytes, &[]).expect("writing to memory");
        let mut out = Vec::new();
        reset(&IpPacket::parse(&bytes, Checksums::Finished).expect("well-formed"), &mut out);
        assert_eq!(out.is_empty(), is_many, "{to:?}");
    }
}

#[test]
fn errors_are_never_answered_by_errors() {
    for v6 in [false, true] {
        let bytes = syn(v6);
        let mut error = Vec::new();
        unreachable(&IpPacket::parse(&bytes, Checksums::Finished).expect("well-formed"), Unreachable::Host, &mut error);
        let error = IpPacket::parse(&error, Checksums::Finished).expect("well-formed");
        let mut out = Vec::new();
        unreachable(&error, Unreachable::Host, &mut out);
        error_message(&error, error.tuple().local.ip(), ErrorMessage::too_large(error.tuple().local.is_ipv4(), 1280), &mut out);
        reset(&error, &mut out);
        assert!(out.is_empty());
    }
}

#[test]
fn a_refused_names_address_is_answered_as_any_other_is() {
    let mut bytes = Vec::new();
    PacketBuilder::ipv4([10, 9, 0, 2], [0, 0, 0, 17], 64)
        .tcp(40000, 443, 1000, 64240)
        .syn()
        .write(&mut bytes, &[])
        .expect("memory");
    let mut out = Vec::new();
    reset(&IpPacket::parse(&bytes, Checksums::Finished).expect("well-formed"), &mut out);
    let sliced = SlicedPacket::from_ip(&out).expect("etherparse reads it");
    let Some(NetSlice::Ipv4(ip)) = sliced.net else { panic!("not IPv4") };
    assert_eq!(ip.header().source(), [0, 0, 0, 17]);
    let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("not TCP") };
    assert!(tcp.rst() && tcp.acknowledgment_number() == 1001);
}
