//! Where a TCP segment stands in its two streams, read without the checks of [`super::IpPacket`]: for packets that passed them, and for
//! our own.

use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket};

use super::extension;

/// The sequence number behind the segment's last byte, its SYN and FIN counted.
#[must_use]
pub fn stream_end(packet: &[u8]) -> Option<u32> {
    let tcp = tcp_of(packet)?;
    let len = u32::try_from(tcp.segment_len()).ok()?;
    Some(number(tcp.seq_number().0).wrapping_add(len))
}

/// Whether the segment resets its connection.
#[must_use]
pub fn resets(packet: &[u8]) -> bool {
    tcp_of(packet).is_some_and(|tcp| tcp.rst())
}

/// What the segment acknowledges.
#[must_use]
pub fn acknowledged(packet: &[u8]) -> Option<u32> {
    let tcp = tcp_of(packet)?;
    tcp.ack().then(|| number(tcp.ack_number().0))
}

/// What the segment acknowledges, and the room that it names, not scaled. None where it opens or resets the stream.
#[must_use]
pub fn answer_of(packet: &[u8]) -> Option<(u32, u16)> {
    let tcp = tcp_of(packet)?;
    (tcp.ack() && !tcp.syn() && !tcp.rst()).then(|| (number(tcp.ack_number().0), tcp.window_len()))
}

/// The bytes that the segment carries.
#[must_use]
pub fn stream_bytes(packet: &[u8]) -> Option<&[u8]> {
    let tcp = tcp_of(packet)?;
    let headers = usize::from(tcp.header_len());
    tcp.into_inner().get(headers..)
}

/// The headers of a segment and the bytes that it carries. None where there is anything else: extension headers, bytes behind its end.
#[must_use]
pub fn split_stream(packet: &[u8]) -> Option<(&[u8], &[u8])> {
    let next = if packet.first()? >> 4 == 4 { 9 } else { 6 };
    let bytes = stream_bytes(packet)?;
    let ip_len = match packet.first()? >> 4 {
        4 => usize::from(Ipv4Packet::new_checked(packet).ok()?.total_len()),
        _ => 40 + usize::from(Ipv6Packet::new_checked(packet).ok()?.payload_len()),
    };
    let is_all = ip_len == packet.len() && *packet.get(next)? == u8::from(IpProtocol::Tcp);
    packet.split_at_checked(packet.len() - bytes.len()).filter(|_| is_all)
}

pub(super) fn number(sequence: i32) -> u32 {
    u32::from_ne_bytes(sequence.to_ne_bytes())
}

pub(super) fn tcp_of(bytes: &[u8]) -> Option<TcpPacket<&[u8]>> {
    let payload = match bytes.first()? >> 4 {
        4 => Ipv4Packet::new_checked(bytes).ok().filter(|ip| ip.next_header() == IpProtocol::Tcp)?.payload(),
        _ => {
            let ip = Ipv6Packet::new_checked(bytes).ok()?;
            let (protocol, offset) = extension::walk(ip.next_header(), ip.payload()).ok()?;
            ip.payload().get(offset..).filter(|_| protocol == IpProtocol::Tcp)?
        }
    };
    TcpPacket::new_checked(payload).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(v6: bool, flags: (bool, bool), payload: &[u8]) -> Vec<u8> {
        let builder = if v6 {
            etherparse::PacketBuilder::ipv6([0xfd; 16], [0x20; 16], 64)
        } else {
            etherparse::PacketBuilder::ipv4([10, 9, 0, 2], [203, 0, 113, 10], 64)
        };
        let mut tcp = builder.tcp(5000, 443, u32::MAX - 1, 1000).ack(77);
        if flags.0 {
            tcp = tcp.syn();
        }
        if flags.1 {
            tcp = tcp.fin();
        }
        let mut bytes = Vec::new();
        tcp.write(&mut bytes, payload).expect("a vector takes it");
        bytes
    }

    #[test]
    fn the_end_counts_bytes_and_flags_and_wraps() {
        for v6 in [false, true] {
            assert_eq!(stream_end(&segment(v6, (false, false), b"")), Some(u32::MAX - 1));
            assert_eq!(stream_end(&segment(v6, (true, false), b"")), Some(u32::MAX));
            assert_eq!(stream_end(&segment(v6, (false, true), b"abc")), Some(2));
            assert_eq!(acknowledged(&segment(v6, (false, false), b"")), Some(77));
        }
    }

    #[test]
    fn a_segment_is_headers_and_bytes_and_nothing_else() {
        for v6 in [false, true] {
            let mut packet = segment(v6, (false, false), b"abc");
            let headers = packet.len() - 3;
            assert_eq!(split_stream(&packet), Some((&packet[..headers], &b"abc"[..])));
            packet.push(0);
            assert_eq!(split_stream(&packet), None, "a byte behind its end");
        }
        let tcp = &segment(true, (false, false), b"abc")[40..];
        let mut packet = segment(true, (false, false), b"")[..40].to_vec();
        packet[6] = 60;
        packet[5] = u8::try_from(8 + tcp.len()).expect("short");
        packet.extend([6, 0, 1, 4, 0, 0, 0, 0]);
        packet.extend(tcp);
        assert_eq!((stream_bytes(&packet), split_stream(&packet)), (Some(&b"abc"[..]), None), "options for the destination");
    }

    #[test]
    fn what_is_no_segment_has_neither() {
        for bytes in [&[][..], &[0x45; 10], &[0x60; 39]] {
            assert_eq!((stream_end(bytes), acknowledged(bytes)), (None, None));
        }
    }
}
