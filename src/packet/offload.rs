//! The virtio header in front of a packet that the kernel shall finish, or did not finish: checksum and segmentation
//! (`struct virtio_net_hdr`, virtio 1.2 §5.1.6).

use smoltcp::wire::{IpAddress, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket, checksum};

/// Bytes of the header.
pub const VNET_HEADER_LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
/// Many UDP datagrams under one header (`VIRTIO_NET_HDR_GSO_UDP_L4`, include/uapi/linux/virtio_net.h).
const GSO_UDP: u8 = 5;
const GSO_FRAGMENTS: u8 = 3;
/// A flag beside the kind of segmentation (`VIRTIO_NET_HDR_GSO_ECN`).
const GSO_ECN: u8 = 0x80;
/// Where the checksum stands in a TCP header (RFC 9293 §3.1).
pub(super) const TCP_CHECKSUM: u16 = 16;
/// Where it stands in a UDP header (RFC 768).
pub(super) const UDP_CHECKSUM: u16 = 6;

/// Prepares `packet`, an IPv4 or IPv6 header without options followed by a TCP segment, for the kernel: writes the pseudo-header sum
/// into the checksum field and returns the header that asks for the rest. Segments whose payload is larger than `max_payload` bytes
/// are to be cut into such pieces.
///
/// None when the packet is not TCP as smoltcp emits it.
pub fn unfinished_tcp(packet: &mut [u8], max_payload: u16) -> Option<[u8; VNET_HEADER_LEN]> {
    let headers = headers_len(packet)?;
    let payload = packet.len().checked_sub(headers)?;
    unfinished_tcp_headers(packet.get_mut(..headers)?, payload, max_payload)
}

/// As [`unfinished_tcp`] for headers alone, behind which come `payload` bytes.
pub(super) fn unfinished_tcp_headers(headers: &mut [u8], payload: usize, max_payload: u16) -> Option<[u8; VNET_HEADER_LEN]> {
    let (v4, ip_len) = ip_header(headers)?;
    headers_len(headers).filter(|len| *len == headers.len())?;
    let tcp_len = headers.len().checked_sub(ip_len)? + payload;
    leave_checksum(headers, v4, IpProtocol::Tcp, tcp_len, TCP_CHECKSUM)?;
    let cut = payload > usize::from(max_payload);
    let gso = match (cut, v4) {
        (false, _) => 0,
        (true, true) => GSO_TCPV4,
        (true, false) => GSO_TCPV6,
    };
    let header_len = u16::try_from(headers.len()).ok()?;
    Some(header(gso, header_len, if cut { max_payload } else { 0 }, u16::try_from(ip_len).ok()?, TCP_CHECKSUM))
}

/// A copy of a TCP packet with its checksum finished; `None` for what is no TCP behind a plain IP header.
#[must_use]
pub fn finished_tcp(packet: &[u8]) -> Option<Vec<u8>> {
    let mut packet = packet.to_vec();
    if packet.first()? >> 4 == 4 {
        let mut ip = Ipv4Packet::new_checked(&mut packet[..]).ok()?;
        let ends = (ip.src_addr().into(), ip.dst_addr().into());
        finish(ip.next_header(), ends, ip.payload_mut())?;
    } else {
        let mut ip = Ipv6Packet::new_checked(&mut packet[..]).ok()?;
        let ends = (ip.src_addr().into(), ip.dst_addr().into());
        finish(ip.next_header(), ends, ip.payload_mut())?;
    }
    Some(packet)
}

fn finish(protocol: IpProtocol, (src, dst): (IpAddress, IpAddress), segment: &mut [u8]) -> Option<()> {
    let mut segment = TcpPacket::new_checked(segment).ok().filter(|_| protocol == IpProtocol::Tcp)?;
    segment.fill_checksum(&src, &dst);
    Some(())
}

/// Whether the header is an IPv4 one, and its length where it has no options.
fn ip_header(packet: &[u8]) -> Option<(bool, usize)> {
    let v4 = packet.first()? >> 4 == 4;
    Some((v4, if v4 { 20 } else { 40 }))
}

/// Bytes of the IP and the TCP header.
fn headers_len(packet: &[u8]) -> Option<usize> {
    let (_, ip_len) = ip_header(packet)?;
    Some(ip_len + usize::from(*packet.get(ip_len + 12)? >> 4) * 4)
}

/// As [`unfinished_tcp`] for UDP: `packet` holds datagrams of `segment` bytes, the last maybe shorter, or a single one.
///
/// None when there is no such packet.
pub(super) fn unfinished_udp(packet: &mut [u8], segment: Option<u16>) -> Option<[u8; VNET_HEADER_LEN]> {
    let (v4, ip_len) = ip_header(packet)?;
    leave_checksum(packet, v4, IpProtocol::Udp, packet.len().checked_sub(ip_len)?, UDP_CHECKSUM)?;
    let (gso, ip_len) = (if segment.is_some() { GSO_UDP } else { 0 }, u16::try_from(ip_len).ok()?);
    Some(header(gso, ip_len + 8, segment.unwrap_or(0), ip_len, UDP_CHECKSUM))
}

/// A header that asks for the checksum of a transport header that stands at `start`.
pub(super) fn unfinished(start: u16, checksum_offset: u16) -> [u8; VNET_HEADER_LEN] {
    header(0, 0, 0, start, checksum_offset)
}

/// The same for UDP datagrams of `size` bytes each.
pub(super) fn datagrams(start: u16, size: u16) -> [u8; VNET_HEADER_LEN] {
    header(GSO_UDP, start + 8, size, start, UDP_CHECKSUM)
}

/// The same for one UDP datagram that the kernel is to cut into fragments of `size` bytes each (`VIRTIO_NET_HDR_GSO_UDP`).
pub(super) fn fragments(start: u16, size: u16) -> [u8; VNET_HEADER_LEN] {
    header(GSO_FRAGMENTS, start + 8, size, start, UDP_CHECKSUM)
}

fn header(gso: u8, header_len: u16, segment: u16, checksum_start: u16, checksum_offset: u16) -> [u8; VNET_HEADER_LEN] {
    let [h0, h1] = header_len.to_ne_bytes();
    let [s0, s1] = segment.to_ne_bytes();
    let [c0, c1] = checksum_start.to_ne_bytes();
    let [o0, o1] = checksum_offset.to_ne_bytes();
    [NEEDS_CSUM, gso, h0, h1, s0, s1, c0, c1, o0, o1]
}

/// The bytes of each datagram, where the virtio header says that there are several under one header.
#[must_use]
pub fn datagrams_together(header: &[u8]) -> Option<u16> {
    let [_, kind, _, _, s0, s1, ..] = header else { return None };
    let size = u16::from_ne_bytes([*s0, *s1]);
    (kind & !GSO_ECN == GSO_UDP && size > 0).then_some(size)
}

/// Whether the virtio header says that the sender left the checksum to the device.
#[must_use]
pub fn is_unfinished(header: &[u8]) -> bool {
    header.first().is_some_and(|flags| flags & NEEDS_CSUM != 0)
}

/// Writes the sum of the pseudo-header into the checksum field: what the kernel wants there when it shall do the rest. `length` counts
/// what follows the IP header.
fn leave_checksum(packet: &mut [u8], v4: bool, protocol: IpProtocol, length: usize, offset: u16) -> Option<()> {
    let ip_len: usize = if v4 { 20 } else { 40 };
    let length = u32::try_from(length).ok()?;
    let sum = if v4 {
        let (src, dst): ([u8; 4], [u8; 4]) = (*packet.get(12..)?.first_chunk()?, *packet.get(16..)?.first_chunk()?);
        checksum::pseudo_header_v4(&src.into(), &dst.into(), protocol, length)
    } else {
        let (src, dst): ([u8; 16], [u8; 16]) = (*packet.get(8..)?.first_chunk()?, *packet.get(24..)?.first_chunk()?);
        checksum::pseudo_header_v6(&src.into(), &dst.into(), protocol, length)
    };
    packet.get_mut(ip_len + usize::from(offset)..)?.first_chunk_mut::<2>()?.copy_from_slice(&sum.to_be_bytes());
    Some(())
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    #[test]
    fn a_large_segment_asks_to_be_cut_and_a_small_one_does_not() {
        for v6 in [false, true] {
            for (len, cut) in [(100, false), (1448, false), (1449, true), (60_000, true)] {
                let mut packet = Vec::new();
                let built = if v6 {
                    PacketBuilder::ipv6([1; 16], [2; 16], 64).tcp(1, 2, 3, 4).write(&mut packet, &vec![0; len])
                } else {
                    PacketBuilder::ipv4([1; 4], [2; 4], 64).tcp(1, 2, 3, 4).write(&mut packet, &vec![0; len])
                };
                built.expect("writing to memory");
                let header = unfinished_tcp(&mut packet, 1448).expect("TCP");
                let gso = if v6 { 4 } else { 1 };
                assert_eq!(header[..2], [1, if cut { gso } else { 0 }], "{len}");
                assert!(is_unfinished(&header));
            }
        }
    }

    #[test]
    fn what_was_left_to_the_device_is_finished_in_both_families_and_what_is_no_tcp_is_not() {
        for v6 in [false, true] {
            let (mut segment, mut datagram) = (Vec::new(), Vec::new());
            let built = if v6 {
                let ip = || PacketBuilder::ipv6([1; 16], [2; 16], 64);
                ip().tcp(1, 2, 3, 4).write(&mut segment, b"abc").and_then(|()| ip().udp(1, 2).write(&mut datagram, b"abc"))
            } else {
                let ip = || PacketBuilder::ipv4([1; 4], [2; 4], 64);
                ip().tcp(1, 2, 3, 4).write(&mut segment, b"abc").and_then(|()| ip().udp(1, 2).write(&mut datagram, b"abc"))
            };
            built.expect("writing to memory");
            let mut left = segment.clone();
            unfinished_tcp(&mut left, 1448).expect("TCP");
            assert_ne!(left, segment);
            assert_eq!(finished_tcp(&left), Some(segment));
            assert_eq!(finished_tcp(&datagram), None);
            assert_eq!(finished_tcp(&left[..30]), None, "cut short");
        }
    }

    #[test]
    fn the_sum_in_the_field_becomes_the_checksum_when_the_rest_is_added() {
        let mut packet = Vec::new();
        PacketBuilder::ipv4([10, 9, 0, 2], [203, 0, 113, 10], 64).tcp(1, 2, 3, 4).write(&mut packet, b"abc").expect("memory");
        let right = packet[36..38].to_vec();
        packet[36..38].fill(0);
        unfinished_tcp(&mut packet, 1448).expect("TCP");
        assert_eq!((!checksum::data(&packet[20..])).to_be_bytes()[..], right);
    }

    #[test]
    fn what_is_no_tcp_is_left_alone() {
        for bytes in [&[][..], &[0x45; 10], &[0x60; 39]] {
            let mut packet = bytes.to_vec();
            assert!(unfinished_tcp(&mut packet, 1448).is_none());
        }
    }
}
