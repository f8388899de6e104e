//! Packets towards the program: UDP datagrams and echo replies, checksums finished.
//!
//! Every function appends one IP packet to `out` and leaves what is in front of it alone (a virtio header, say).

use std::net::{IpAddr, SocketAddr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpProtocol, IpRepr, UdpPacket, UdpRepr};

/// Appends a UDP datagram from `from` to `to`. Nothing is appended when the families differ or the datagram is too large.
pub fn udp_datagram(from: SocketAddr, to: SocketAddr, hop_limit: u8, data: &[u8], out: &mut Vec<u8>) {
    let udp = UdpRepr { src_port: from.port(), dst_port: to.port() };
    let Some(body) = start(from.ip(), to.ip(), IpProtocol::Udp, udp.header_len() + data.len(), hop_limit, out) else { return };
    let mut packet = UdpPacket::new_unchecked(body);
    udp.emit(
        &mut packet,
        &from.ip().into(),
        &to.ip().into(),
        data.len(),
        |payload| payload.copy_from_slice(data),
        &ChecksumCapabilities::default(),
    );
}

/// Appends an ICMP or ICMPv6 echo reply. Nothing is appended when the families differ or the data is too long.
pub fn echo_reply(from: IpAddr, to: IpAddr, hop_limit: u8, ident: u16, sequence: u16, data: &[u8], out: &mut Vec<u8>) {
    let checksums = ChecksumCapabilities::default();
    match (from, to) {
        (IpAddr::V4(_), IpAddr::V4(_)) => {
            let reply = Icmpv4Repr::EchoReply { ident, seq_no: sequence, data };
            let Some(body) = start(from, to, IpProtocol::Icmp, reply.buffer_len(), hop_limit, out) else { return };
            reply.emit(&mut Icmpv4Packet::new_unchecked(body), &checksums);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let reply = Icmpv6Repr::EchoReply { ident, seq_no: sequence, data };
            let Some(body) = start(from, to, IpProtocol::Icmpv6, reply.buffer_len(), hop_limit, out) else { return };
            reply.emit(&src, &dst, &mut Icmpv6Packet::new_unchecked(body), &checksums);
        }
        _ => {}
    }
}

/// Appends an echo request without data, as a quote for an error about it.
pub fn echo_request(from: IpAddr, to: IpAddr, ident: u16, sequence: u16, out: &mut Vec<u8>) {
    let checksums = ChecksumCapabilities::default();
    match (from, to) {
        (IpAddr::V4(_), IpAddr::V4(_)) => {
            let request = Icmpv4Repr::EchoRequest { ident, seq_no: sequence, data: &[] };
            let Some(body) = start(from, to, IpProtocol::Icmp, request.buffer_len(), 64, out) else { return };
            request.emit(&mut Icmpv4Packet::new_unchecked(body), &checksums);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let request = Icmpv6Repr::EchoRequest { ident, seq_no: sequence, data: &[] };
            let Some(body) = start(from, to, IpProtocol::Icmpv6, request.buffer_len(), 64, out) else { return };
            request.emit(&src, &dst, &mut Icmpv6Packet::new_unchecked(body), &checksums);
        }
        _ => {}
    }
}

/// Appends an IP header and `length` zero bytes; returns these bytes.
pub(super) fn start(
    from: IpAddr,
    to: IpAddr,
    protocol: IpProtocol,
    length: usize,
    hop_limit: u8,
    out: &mut Vec<u8>,
) -> Option<&mut [u8]> {
    // IPv4 counts its header in the length of the packet, IPv6 does not (RFC 791 §3.1, RFC 8200 §3).
    let room = usize::from(u16::MAX) - if from.is_ipv4() { 20 } else { 0 };
    if from.is_ipv4() != to.is_ipv4() || length > room {
        return None;
    }
    let ip = IpRepr::new(from.into(), to.into(), protocol, length, hop_limit);
    let begin = out.len();
    out.resize(begin + ip.buffer_len(), 0);
    let packet = out.get_mut(begin..)?;
    ip.emit(&mut *packet, &ChecksumCapabilities::default());
    packet.get_mut(ip.header_len()..)
}
