//! The checked view of one IP packet. An [`IpPacket`] exists only if its headers are whole and sane.

use std::net::IpAddr;

use smoltcp::wire::{
    Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet, IpAddress, IpProtocol, Ipv4Packet, Ipv6Packet, TcpControl,
    TcpPacket, UdpPacket,
};

use super::{FiveTuple, Protocol, extension};

/// Whether the sender's checksums are finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksums {
    /// The local kernel left them to the device (virtio header `NEEDS_CSUM`); there is nothing to check.
    Unfinished,
    /// They came over a wire or from a raw socket; check them.
    Finished,
}

/// Why a packet is dropped unread. Each is a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum Malformed {
    #[error("truncated")]
    Truncated,
    #[error("not IPv4 or IPv6")]
    Version,
    #[error("bad checksum")]
    Checksum,
    #[error("impossible source or destination address")]
    Address,
    #[error("port 0")]
    PortZero,
    #[error("impossible TCP flags")]
    Flags,
    #[error("source route")]
    SourceRoute,
    #[error("too many IPv6 extension headers")]
    HeaderChain,
    /// A piece of a packet: for the [`Reassembly`](super::Reassembly) to take. Within a packet that was put together it is none.
    #[error("fragment")]
    Fragment,
}

impl Malformed {
    pub const ALL: [Self; 9] = [
        Self::Truncated,
        Self::Version,
        Self::Checksum,
        Self::Address,
        Self::PortZero,
        Self::Flags,
        Self::SourceRoute,
        Self::HeaderChain,
        Self::Fragment,
    ];
}

/// How the bytes of a packet came to us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arrival {
    #[default]
    Whole,
    /// Whole, and its checksum was finished by whoever sent it: by a raw socket. TCP and UDP sockets leave it to the device, but for
    /// rare datagrams (`MSG_MORE`, `SO_NO_CHECK`).
    Finished,
    /// Several UDP datagrams of so many bytes under one header; the last may be shorter.
    Together(u16),
    /// In fragments, so the sender lets it be fragmented.
    Fragments,
}

/// What an IP header asks of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// TOS or traffic class: DSCP and ECN.
    pub traffic_class: u8,
    /// Where it is too large, it must not be cut but reported (RFC 1191; RFC 8200 §5 for what came whole).
    pub dont_fragment: bool,
}

/// A copy of a packet, kept for later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    bytes: Box<[u8]>,
    arrival: Arrival,
}

impl Kept {
    #[must_use]
    pub fn new(bytes: &[u8], arrival: Arrival) -> Self {
        Self { bytes: bytes.into(), arrival }
    }

    #[must_use]
    pub fn arrival(&self) -> Arrival {
        self.arrival
    }

    /// Reads it again.
    ///
    /// # Errors
    ///
    /// As [`IpPacket::parse`].
    pub fn parse(&self) -> Result<IpPacket<'_>, Malformed> {
        Ok(IpPacket::parse(&self.bytes, Checksums::Unfinished)?.arrived(self.arrival))
    }
}

impl std::ops::Deref for Kept {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// What a TCP segment says beyond its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub control: TcpControl,
    /// Of the first byte, or of the SYN.
    pub sequence: u32,
    pub has_ack: bool,
    /// The MSS option of a SYN.
    pub max_segment: Option<u16>,
    pub has_timestamps: bool,
}

impl Segment {
    /// A SYN without ACK opens a flow.
    #[must_use]
    pub fn opens(&self) -> bool {
        self.control == TcpControl::Syn && !self.has_ack
    }
}

/// An ICMP echo request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo<'a> {
    pub ident: u16,
    pub sequence: u16,
    pub data: &'a [u8],
}

/// What is inside the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport<'a> {
    Tcp(Segment),
    Udp(&'a [u8]),
    Echo(Echo<'a>),
    /// This host's word that no socket took a datagram of this flow.
    Unwanted(FiveTuple),
    /// Other ICMP: neighbour discovery, multicast reports, errors.
    Icmp,
    Other,
}

/// One IP packet, parsed once.
#[derive(Clone, Copy, Debug)]
pub struct IpPacket<'a> {
    bytes: &'a [u8],
    tuple: FiveTuple,
    marks: Marks,
    arrival: Arrival,
    transport: Transport<'a>,
}

impl<'a> IpPacket<'a> {
    /// Reads a packet that a program on this host sent: its source is the local end.
    ///
    /// # Errors
    ///
    /// Why the packet must be dropped.
    pub fn parse(bytes: &'a [u8], checksums: Checksums) -> Result<Self, Malformed> {
        match bytes.first().ok_or(Malformed::Truncated)? >> 4 {
            4 => Self::parse_v4(bytes, checksums),
            6 => Self::parse_v6(bytes, checksums),
            _ => Err(Malformed::Version),
        }
    }

    fn parse_v4(bytes: &'a [u8], checksums: Checksums) -> Result<Self, Malformed> {
        let ip = Ipv4Packet::new_checked(bytes).map_err(|_| Malformed::Truncated)?;
        if !ip.verify_checksum() {
            return Err(Malformed::Checksum);
        }
        let (src, dst) = (ip.src_addr(), ip.dst_addr());
        let from_nobody = src.is_unspecified() || src.is_multicast() || src.is_broadcast();
        // A program may bind to the TUN and send to 127.0.0.1; an upstream socket would find somebody else's loopback there
        // (RFC 1122 §3.2.1.3 (g): such packets never leave a host).
        // The rest of 0/8 is for the decision: 0.0.0.17 stands for refused names, and the program shall be told.
        if from_nobody || dst.is_loopback() || dst.is_unspecified() {
            return Err(Malformed::Address);
        }
        if ip.more_frags() || ip.frag_offset() != 0 {
            return Err(Malformed::Fragment);
        }
        let marks = Marks { hop_limit: ip.hop_limit(), traffic_class: ip.dscp() << 2 | ip.ecn(), dont_fragment: ip.dont_frag() };
        Self::finish(bytes, marks, (src.into(), dst.into()), ip.next_header(), ip.payload(), checksums)
    }

    fn parse_v6(bytes: &'a [u8], checksums: Checksums) -> Result<Self, Malformed> {
        let ip = Ipv6Packet::new_checked(bytes).map_err(|_| Malformed::Truncated)?;
        let (src, dst) = (ip.src_addr(), ip.dst_addr());
        let payload = ip.payload();
        let (protocol, offset) = extension::walk(ip.next_header(), payload)?;
        // A mapped address on the wire would make the upstream socket an IPv4 one (RFC 4038 §4.2); loopback as above.
        let to_nowhere = dst.is_unspecified() || dst.is_loopback() || dst.to_ipv4_mapped().is_some();
        if src.is_multicast() || src.is_loopback() || to_nowhere {
            return Err(Malformed::Address);
        }
        if protocol == IpProtocol::Ipv6Frag {
            return Err(Malformed::Fragment);
        }
        let payload = payload.get(offset..).ok_or(Malformed::Truncated)?;
        let marks = Marks { hop_limit: ip.hop_limit(), traffic_class: ip.traffic_class(), dont_fragment: true };
        let packet = Self::finish(bytes, marks, (src.into(), dst.into()), protocol, payload, checksums)?;
        // Duplicate address detection and multicast reports come from `::` (RFC 4861 §4.3); nothing else may.
        if src.is_unspecified() && packet.transport != Transport::Icmp {
            return Err(Malformed::Address);
        }
        Ok(packet)
    }

    fn finish(
        bytes: &'a [u8],
        marks: Marks,
        (src, dst): (IpAddr, IpAddr),
        protocol: IpProtocol,
        payload: &'a [u8],
        checksums: Checksums,
    ) -> Result<Self, Malformed> {
        let ends = (IpAddress::from(src), IpAddress::from(dst));
        let (ports, transport) = match protocol {
            IpProtocol::Tcp => tcp(payload, ends, checksums)?,
            IpProtocol::Udp => udp(payload, ends, checksums)?,
            IpProtocol::Icmp if src.is_ipv4() => icmp_v4(payload, src)?,
            IpProtocol::Icmpv6 if src.is_ipv6() => icmp_v6(payload, checksums, ends)?,
            // One family's ICMP inside the other's header is a protocol that nobody speaks.
            _ => ((0, 0), Transport::Other),
        };
        let tuple = FiveTuple::new(Protocol(protocol.into()), (src, ports.0), (dst, ports.1));
        Ok(Self { bytes, tuple, marks, arrival: Arrival::Whole, transport })
    }

    /// The whole packet, from the IP header on.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    #[must_use]
    pub fn tuple(&self) -> FiveTuple {
        self.tuple
    }

    /// The same packet with the way it came.
    #[must_use]
    pub fn arrived(mut self, arrival: Arrival) -> Self {
        self.arrival = arrival;
        self.marks.dont_fragment &= arrival != Arrival::Fragments;
        self
    }

    #[must_use]
    pub fn arrival(&self) -> Arrival {
        self.arrival
    }

    #[must_use]
    pub fn marks(&self) -> Marks {
        self.marks
    }

    #[must_use]
    pub fn transport(&self) -> Transport<'a> {
        self.transport
    }
}

type Parts<'a> = ((u16, u16), Transport<'a>);

fn tcp(payload: &[u8], (src, dst): (IpAddress, IpAddress), checksums: Checksums) -> Result<Parts<'_>, Malformed> {
    let tcp = TcpPacket::new_checked(payload).map_err(|_| Malformed::Truncated)?;
    if checksums == Checksums::Finished && !tcp.verify_checksum(&src, &dst) {
        return Err(Malformed::Checksum);
    }
    // A connection to port 0 may be tried: its peer refuses it.
    if tcp.src_port() == 0 {
        return Err(Malformed::PortZero);
    }
    let control = match (tcp.syn(), tcp.fin(), tcp.rst(), tcp.psh()) {
        (false, false, false, false) => TcpControl::None,
        (false, false, false, true) => TcpControl::Psh,
        (true, false, false, _) => TcpControl::Syn,
        (false, true, false, _) => TcpControl::Fin,
        (false, false, true, _) => TcpControl::Rst,
        _ => return Err(Malformed::Flags),
    };
    let (mut max_segment, mut has_timestamps) = (None, false);
    if tcp.syn() {
        let mut options = tcp.options();
        while !options.is_empty() {
            let (rest, option) = smoltcp::wire::TcpOption::parse(options).map_err(|_| Malformed::Truncated)?;
            match option {
                smoltcp::wire::TcpOption::EndOfList => break,
                smoltcp::wire::TcpOption::MaxSegmentSize(size) => max_segment = Some(size),
                smoltcp::wire::TcpOption::TimeStamp { .. } => has_timestamps = true,
                _ => {}
            }
            options = rest;
        }
    }
    let sequence = u32::from_ne_bytes(tcp.seq_number().0.to_ne_bytes());
    let segment = Segment { control, sequence, has_ack: tcp.ack(), max_segment, has_timestamps };
    Ok(((tcp.src_port(), tcp.dst_port()), Transport::Tcp(segment)))
}

fn udp(payload: &[u8], (src, dst): (IpAddress, IpAddress), checksums: Checksums) -> Result<Parts<'_>, Malformed> {
    let udp = UdpPacket::new_checked(payload).map_err(|_| Malformed::Truncated)?;
    if checksums == Checksums::Finished && !udp.verify_checksum(&src, &dst) {
        return Err(Malformed::Checksum);
    }
    if udp.src_port() == 0 || udp.dst_port() == 0 {
        return Err(Malformed::PortZero);
    }
    let ports = (udp.src_port(), udp.dst_port());
    let data = payload.get(8..usize::from(udp.len())).ok_or(Malformed::Truncated)?;
    Ok((ports, Transport::Udp(data)))
}

fn icmp_v4(payload: &[u8], src: IpAddr) -> Result<Parts<'_>, Malformed> {
    let icmp = Icmpv4Packet::new_checked(payload).map_err(|_| Malformed::Truncated)?;
    if !icmp.verify_checksum() {
        return Err(Malformed::Checksum);
    }
    if icmp.msg_type() != Icmpv4Message::EchoRequest {
        let is_port = (icmp.msg_type(), icmp.msg_code()) == (Icmpv4Message::DstUnreachable, 3);
        return Ok(((0, 0), error(is_port, src, payload)));
    }
    let data = payload.get(8..).ok_or(Malformed::Truncated)?;
    Ok(((icmp.echo_ident(), 0), Transport::Echo(Echo { ident: icmp.echo_ident(), sequence: icmp.echo_seq_no(), data })))
}

fn icmp_v6(payload: &[u8], checksums: Checksums, (src, dst): (IpAddress, IpAddress)) -> Result<Parts<'_>, Malformed> {
    let icmp = Icmpv6Packet::new_checked(payload).map_err(|_| Malformed::Truncated)?;
    let (IpAddress::Ipv6(src), IpAddress::Ipv6(dst)) = (src, dst) else { return Err(Malformed::Version) };
    if checksums == Checksums::Finished && !icmp.verify_checksum(&src, &dst) {
        return Err(Malformed::Checksum);
    }
    if icmp.msg_type() != Icmpv6Message::EchoRequest {
        let is_port = (icmp.msg_type(), icmp.msg_code()) == (Icmpv6Message::DstUnreachable, 4);
        return Ok(((0, 0), error(is_port, src.into(), payload)));
    }
    let data = payload.get(8..).ok_or(Malformed::Truncated)?;
    Ok(((icmp.echo_ident(), 0), Transport::Echo(Echo { ident: icmp.echo_ident(), sequence: icmp.echo_seq_no(), data })))
}

/// An ICMP message that is no echo request; `is_port`: it says that there is no such port.
fn error(is_port: bool, src: IpAddr, payload: &[u8]) -> Transport<'_> {
    let quoted = payload.get(8..).filter(|_| is_port).and_then(|quote| quoted_flow(src, quote));
    quoted.map_or(Transport::Icmp, Transport::Unwanted)
}

/// The flow of the UDP datagram to `local` whose beginning is quoted.
fn quoted_flow(local: IpAddr, quote: &[u8]) -> Option<FiveTuple> {
    let (from, to, protocol, ports): (IpAddr, IpAddr, u8, usize) = if local.is_ipv4() {
        let (from, to): ([u8; 4], [u8; 4]) = (*quote.get(12..)?.first_chunk()?, *quote.get(16..)?.first_chunk()?);
        (from.into(), to.into(), *quote.get(9)?, usize::from(quote.first()? & 0xf) * 4)
    } else {
        let (from, to): ([u8; 16], [u8; 16]) = (*quote.get(8..)?.first_chunk()?, *quote.get(24..)?.first_chunk()?);
        (from.into(), to.into(), *quote.get(6)?, 40)
    };
    let [f0, f1, t0, t1] = *quote.get(ports..)?.first_chunk()?;
    let is_its_own = to == local && Protocol(protocol) == Protocol::UDP;
    let ends = ((to, u16::from_be_bytes([t0, t1])), (from, u16::from_be_bytes([f0, f1])));
    is_its_own.then(|| FiveTuple::new(Protocol::UDP, ends.0, ends.1))
}

#[cfg(test)]
mod tests;
