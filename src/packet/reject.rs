//! Refusals that a program sees at once: TCP resets and ICMP errors.

use std::net::IpAddr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet, IpAddress, IpProtocol, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};

use super::build::start;
use super::{IpPacket, Transport, extent};

/// Why a destination cannot be reached, in the words that both families share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unreachable {
    Network,
    /// No route of this very host leads there. A connected UDP socket of IPv4 hears of it, as where the routes are its own, and of
    /// [`Self::Network`] it does not (`icmp_err_convert` in net/ipv4/icmp.c).
    Nowhere,
    Host,
    Protocol,
    Port,
    /// Refused by a policy.
    Prohibited,
}

/// An ICMP or ICMPv6 error as it came from somewhere on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorMessage {
    pub kind: u8,
    pub code: u8,
    /// The MTU of "too large", the pointer of "parameter problem", else 0.
    pub detail: u32,
    /// What was left of the hops when it came in, from which `tracepath` counts the way back; None where it was not told.
    pub hop_limit: Option<u8>,
}

impl ErrorMessage {
    /// "Fragmentation needed" or "packet too big" (RFC 1191 §4, RFC 4443 §3.2).
    #[must_use]
    pub fn too_large(v4: bool, mtu: u32) -> Self {
        let (kind, code) = if v4 { (3, 4) } else { (2, 0) };
        Self { kind, code, detail: mtu, hop_limit: None }
    }
}

/// Errors quote no more than fits the smallest MTU that both families must carry (RFC 1812 §4.3.2.3, RFC 4443 §2.4).
const MAX_ERROR_V4: usize = 576;
const MAX_ERROR_V6: usize = 1280;
/// The hop limit that Linux gives to packets of its own.
const HOP_LIMIT: u8 = 64;

/// Appends the reset that answers `packet` (RFC 9293 §3.10.7.1). Nothing is appended for anything but a TCP segment, for a reset, and
/// for segments to several hosts (RFC 1122 §4.2.3.10).
pub fn reset(packet: &IpPacket<'_>, out: &mut Vec<u8>) {
    let Transport::Tcp(segment) = packet.transport() else { return };
    if segment.control == TcpControl::Rst || is_to_many(packet) {
        return;
    }
    let Some(tcp) = extent::tcp_of(packet.bytes()) else { return };
    let tuple = packet.tuple();
    let (seq_number, ack_number) =
        if segment.has_ack { (tcp.ack_number(), None) } else { (TcpSeqNumber(0), Some(tcp.seq_number() + tcp.segment_len())) };
    let repr = TcpRepr {
        src_port: tuple.remote.port(),
        dst_port: tuple.local.port(),
        control: TcpControl::Rst,
        seq_number,
        ack_number,
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    let (from, to) = (tuple.remote.ip(), tuple.local.ip());
    let Some(body) = start(from, to, IpProtocol::Tcp, repr.buffer_len(), HOP_LIMIT, out) else { return };
    let ends: (IpAddress, IpAddress) = (from.into(), to.into());
    repr.emit(&mut TcpPacket::new_unchecked(body), &ends.0, &ends.1, &ChecksumCapabilities::default());
}

/// Appends the ICMP error that tells the sender of `packet` why its destination cannot be reached. Nothing is appended for
/// packets to several hosts and for ICMP errors (RFC 1122 §3.2.2, RFC 4443 §2.4).
pub fn unreachable(packet: &IpPacket<'_>, why: Unreachable, out: &mut Vec<u8>) {
    let v4 = match why {
        Unreachable::Network => 0,
        Unreachable::Nowhere => 6,
        Unreachable::Host => 1,
        Unreachable::Protocol => 2,
        Unreachable::Port => 3,
        Unreachable::Prohibited => 13,
    };
    let v6 = match why {
        Unreachable::Network | Unreachable::Nowhere => (Icmpv6Message::DstUnreachable, 0, 0),
        Unreachable::Prohibited => (Icmpv6Message::DstUnreachable, 1, 0),
        Unreachable::Host => (Icmpv6Message::DstUnreachable, 3, 0),
        Unreachable::Port => (Icmpv6Message::DstUnreachable, 4, 0),
        // ICMPv6 has no such code: it points at the next-header field, byte 6 (RFC 4443 §3.4).
        Unreachable::Protocol => (Icmpv6Message::ParamProblem, 1, 6),
    };
    error(packet, (packet.tuple().remote.ip(), HOP_LIMIT), (Icmpv4Message::DstUnreachable, v4, 0), v6, out);
}

/// Appends an ICMP error about `packet` as it came from `from`. Nothing is appended where [`unreachable()`] appends nothing, and for what
/// is no error.
pub fn error_message(packet: &IpPacket<'_>, from: IpAddr, message: ErrorMessage, out: &mut Vec<u8>) {
    let ErrorMessage { kind, code, detail, hop_limit } = message;
    // Destination unreachable, time exceeded and parameter problem (RFC 792); the errors of RFC 4443 §2.1.
    let known = if from.is_ipv4() { matches!(kind, 3 | 11 | 12) } else { matches!(kind, 1..=4) };
    if known {
        // The pointer of ICMPv4 stands in the first byte (RFC 792).
        let detail_v4 = if kind == 12 { detail << 24 } else { detail };
        let (v4, v6) = ((Icmpv4Message::from(kind), code, detail_v4), (Icmpv6Message::from(kind), code, detail));
        error(packet, (from, hop_limit.unwrap_or(HOP_LIMIT)), v4, v6, out);
    }
}

fn error(
    packet: &IpPacket<'_>,
    (from, hop_limit): (IpAddr, u8),
    v4: (Icmpv4Message, u8, u32),
    v6: (Icmpv6Message, u8, u32),
    out: &mut Vec<u8>,
) {
    let tuple = packet.tuple();
    if is_to_many(packet) || matches!(packet.transport(), Transport::Icmp | Transport::Unwanted(_)) {
        return;
    }
    match (from, tuple.local.ip()) {
        (IpAddr::V4(_), IpAddr::V4(_)) => {
            let quote = packet.bytes().get(..MAX_ERROR_V4 - 28).unwrap_or(packet.bytes());
            let Some(body) = start(from, tuple.local.ip(), IpProtocol::Icmp, 8 + quote.len(), hop_limit, out) else { return };
            let (head, data) = body.split_at_mut(8);
            data.copy_from_slice(quote);
            if let Some(detail) = head.get_mut(4..8) {
                detail.copy_from_slice(&v4.2.to_be_bytes());
            }
            let mut icmp = Icmpv4Packet::new_unchecked(body);
            icmp.set_msg_type(v4.0);
            icmp.set_msg_code(v4.1);
            icmp.fill_checksum();
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let quote = packet.bytes().get(..MAX_ERROR_V6 - 48).unwrap_or(packet.bytes());
            let Some(body) = start(from, tuple.local.ip(), IpProtocol::Icmpv6, 8 + quote.len(), hop_limit, out) else { return };
            let (head, data) = body.split_at_mut(8);
            data.copy_from_slice(quote);
            if let Some(pointer) = head.get_mut(4..8) {
                pointer.copy_from_slice(&v6.2.to_be_bytes());
            }
            let mut icmp = Icmpv6Packet::new_unchecked(body);
            icmp.set_msg_type(v6.0);
            icmp.set_msg_code(v6.1);
            icmp.fill_checksum(&src, &dst);
        }
        _ => {}
    }
}

fn is_to_many(packet: &IpPacket<'_>) -> bool {
    match packet.tuple().remote.ip() {
        IpAddr::V4(ip) => ip.is_multicast() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_multicast(),
    }
}

#[cfg(test)]
mod tests;
