//! Packets towards the program: UDP datagrams and echo replies.
//!
//! Functions with an `out` append one IP packet, checksums finished, and leave what is in front of it alone (a virtio header, say).

use std::net::{IpAddr, SocketAddr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpProtocol, IpRepr, Ipv4Packet, Ipv6Packet, UdpPacket, UdpRepr,
};

use super::Marks;
use super::offload::{VNET_HEADER_LEN, unfinished_udp};

const UDP_HEADER_LEN: usize = 8;

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

/// Bytes that [`frame_datagrams`] writes in front of the data: virtio header, IP header, UDP header.
#[must_use]
pub fn frame_room(v4: bool) -> usize {
    VNET_HEADER_LEN + if v4 { 20 } else { 40 } + UDP_HEADER_LEN
}

/// Writes the headers in front of the data that begins at [`frame_room`] and goes on to the end of `frame`. The kernel finishes the
/// checksum and, where `segment` is given, cuts the data into datagrams of so many bytes.
///
/// None when the families differ, or the data is too long for one packet.
pub fn frame_datagrams(frame: &mut [u8], from: SocketAddr, to: SocketAddr, marks: Marks, segment: Option<u16>) -> Option<()> {
    let (header, packet) = frame.split_at_mut_checked(VNET_HEADER_LEN)?;
    let ip_len = if from.is_ipv4() { 20 } else { 40 };
    let length = packet.len().checked_sub(ip_len)?;
    if from.is_ipv4() != to.is_ipv4() || length > room(from.ip()) {
        return None;
    }
    let (ip, udp) = packet.split_at_mut_checked(ip_len)?;
    IpRepr::new(from.ip().into(), to.ip().into(), IpProtocol::Udp, length, marks.hop_limit)
        .emit(&mut *ip, &ChecksumCapabilities::ignored());
    set_service(ip, from.is_ipv4(), marks.traffic_class);
    let mut udp = UdpPacket::new_unchecked(udp.get_mut(..length)?);
    udp.set_src_port(from.port());
    udp.set_dst_port(to.port());
    udp.set_len(u16::try_from(length).ok()?);
    header.copy_from_slice(&unfinished_udp(packet, segment)?);
    Some(())
}

/// Writes TOS or traffic class into an IP header, and an IPv4 header's checksum.
fn set_service(ip: &mut [u8], v4: bool, traffic_class: u8) {
    if v4 {
        let mut ip = Ipv4Packet::new_unchecked(ip);
        ip.set_dscp(traffic_class >> 2);
        ip.set_ecn(traffic_class & 3);
        ip.fill_checksum();
    } else {
        Ipv6Packet::new_unchecked(ip).set_traffic_class(traffic_class);
    }
}

/// Appends an ICMP or ICMPv6 echo reply. Nothing is appended when the families differ or the data is too long.
pub fn echo_reply(from: IpAddr, to: IpAddr, marks: Marks, ident: u16, sequence: u16, data: &[u8], out: &mut Vec<u8>) {
    let checksums = ChecksumCapabilities::default();
    let (begin, hop_limit) = (out.len(), marks.hop_limit);
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
        _ => return,
    }
    set_service(out.get_mut(begin..).unwrap_or(&mut []), from.is_ipv4(), marks.traffic_class);
}

/// Appends an echo request, as a quote for an error about it.
pub fn echo_request(from: IpAddr, to: IpAddr, ident: u16, sequence: u16, data: &[u8], out: &mut Vec<u8>) {
    let checksums = ChecksumCapabilities::default();
    match (from, to) {
        (IpAddr::V4(_), IpAddr::V4(_)) => {
            let request = Icmpv4Repr::EchoRequest { ident, seq_no: sequence, data };
            let Some(body) = start(from, to, IpProtocol::Icmp, request.buffer_len(), 64, out) else { return };
            request.emit(&mut Icmpv4Packet::new_unchecked(body), &checksums);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let request = Icmpv6Repr::EchoRequest { ident, seq_no: sequence, data };
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
    if from.is_ipv4() != to.is_ipv4() || length > room(from) {
        return None;
    }
    let ip = IpRepr::new(from.into(), to.into(), protocol, length, hop_limit);
    let begin = out.len();
    out.resize(begin + ip.buffer_len(), 0);
    let packet = out.get_mut(begin..)?;
    ip.emit(&mut *packet, &ChecksumCapabilities::default());
    packet.get_mut(ip.header_len()..)
}

/// The longest payload. IPv4 counts its header in the length of the packet, IPv6 does not (RFC 791 §3.1, RFC 8200 §3).
fn room(from: IpAddr) -> usize {
    usize::from(u16::MAX) - if from.is_ipv4() { 20 } else { 0 }
}
