//! What the guard leads into the TUN: what programs send by a link that they name.
//!
//! On Ethernet it is a frame. The guard writes the link's index into the source address, behind three bytes of its own; whoever sends the
//! frame on puts the link's address back. Links without a header are told apart by [`super::LinkNumber`]. Keeps one rule: everything
//! else stays as its program's kernel made it.

use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6Packet};

use super::offload::{TCP_CHECKSUM, UDP_CHECKSUM, VNET_HEADER_LEN, datagrams, fragments, unfinished};
use super::{Arrival, IpPacket, LinkNumber, extension};

/// The first bytes of the source address of a frame that was led here: locally administered, and nobody's.
pub const LED: [u8; 3] = [0x02, 0x70, 0x72];

/// Bytes of an Ethernet header.
pub const FRAME_HEADER_LEN: usize = 14;

/// What fits into the fragments of a packet that is cut anew, on any link that carries IPv6 (RFC 8200 §5).
const FRAGMENT: u16 = 1280 - 40 - 8;

/// Bytes of an IPv6 header.
const IPV6_HEADER: usize = 40;

/// Where the source stands in it.
const SOURCE: std::ops::Range<usize> = 6..12;

/// What stands in front of an IP packet on its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkHeader {
    /// The link's index.
    pub link: u32,
    /// The virtio header of one packet, and the Ethernet header where the link has one.
    vnet: [u8; VNET_HEADER_LEN],
    ethernet: Option<[u8; FRAME_HEADER_LEN]>,
}

impl LinkHeader {
    /// Takes what was read from the TUN apart, if it is a frame: its headers and the IP packet.
    #[must_use]
    pub fn split(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (vnet, frame) = bytes.split_first_chunk::<VNET_HEADER_LEN>()?;
        let (ethernet, packet) = frame.split_first_chunk::<FRAME_HEADER_LEN>()?;
        let [_, _, _, _, _, _, led @ .., a, b, c, k0, k1] = *ethernet;
        if led != LED {
            return None;
        }
        let version = packet.first()? >> 4;
        let is_ip =
            matches!((u16::from_be_bytes([k0, k1]), version), (0x0800, 4) | (0x86dd, 6)) && !is_whole(frame, frame.first()? >> 4);
        let header = Self { link: u32::from_be_bytes([0, a, b, c]), vnet: *vnet, ethernet: Some(*ethernet) };
        is_ip.then_some((header, packet))
    }

    /// Takes what was read from the TUN for a packet of a link without headers, if it is one, and gives the packet its version back.
    /// `link_of`: the index of a link that has this number.
    pub fn restore(bytes: &mut [u8], link_of: impl FnOnce(LinkNumber) -> Option<u32>) -> Option<Self> {
        let (number, version) = LinkNumber::of(bytes.get(VNET_HEADER_LEN)? >> 4)?;
        // The address of a neighbour may begin like anything.
        if Self::split(bytes).is_some() {
            return None;
        }
        let (vnet, packet) = bytes.split_first_chunk_mut::<VNET_HEADER_LEN>()?;
        let link = if is_whole(packet, version) { link_of(number)? } else { return None };
        let first = packet.first_mut()?;
        *first = *first & 0x0f | version << 4;
        Some(Self { link, vnet: *vnet, ethernet: None })
    }

    /// The virtio header that came with the packet at hand.
    #[must_use]
    pub fn vnet(&self) -> &[u8; VNET_HEADER_LEN] {
        &self.vnet
    }

    /// The same link and neighbour, for a packet that was kept without its virtio header.
    #[must_use]
    pub fn for_kept(self, packet: &IpPacket<'_>) -> Self {
        let before = if self.ethernet.is_some() { FRAME_HEADER_LEN } else { 0 };
        Self { vnet: vnet_of(packet, before).unwrap_or_default(), ..self }
    }

    /// The Ethernet header as it goes out by a link with this address; by one without headers there is none. None where the packet
    /// came by a link of the other kind.
    #[must_use]
    pub fn ethernet(&self, address: Option<[u8; 6]>) -> Option<Option<[u8; FRAME_HEADER_LEN]>> {
        match (self.ethernet, address) {
            (None, None) => Some(None),
            (Some(mut ethernet), Some(address)) => {
                ethernet.get_mut(SOURCE)?.copy_from_slice(&address);
                Some(Some(ethernet))
            }
            (Some(_), None) | (None, Some(_)) => None,
        }
    }
}

/// Whether this is an IP packet by its own length. The kernel routes no other into the TUN; what is forwarded there may have any source
/// and fields, and so look like a frame behind that.
fn is_whole(bytes: &[u8], version: u8) -> bool {
    let Some([_, _, b2, b3, b4, b5]) = bytes.first_chunk() else { return false };
    let [total, payload] = [[*b2, *b3], [*b4, *b5]].map(|two| usize::from(u16::from_be_bytes(two)));
    match version {
        4 => total == bytes.len(),
        6 => payload.checked_add(IPV6_HEADER) == Some(bytes.len()),
        _ => false,
    }
}

/// The virtio header of a kept packet: what its sender left to the device. A large TCP segment cannot be told from a small one any more;
/// the link refuses it, and its program sends it again. `before`: bytes in front of the packet.
fn vnet_of(packet: &IpPacket<'_>, before: usize) -> Option<[u8; VNET_HEADER_LEN]> {
    if packet.arrival() == Arrival::Finished {
        return None;
    }
    let bytes = packet.bytes();
    let (protocol, offset) = match bytes.first()? >> 4 {
        4 => {
            let ip = Ipv4Packet::new_checked(bytes).ok()?;
            (ip.next_header(), usize::from(ip.header_len()))
        }
        _ => {
            let ip = Ipv6Packet::new_checked(bytes).ok()?;
            let (protocol, offset) = extension::walk(ip.next_header(), ip.payload()).ok()?;
            (protocol, ip.header_len() + offset)
        }
    };
    let start = u16::try_from(before + offset).ok()?;
    match protocol {
        IpProtocol::Tcp => Some(unfinished(start, TCP_CHECKSUM)),
        IpProtocol::Udp => Some(match packet.arrival() {
            Arrival::Together(size) => datagrams(start, size),
            Arrival::Fragments => fragments(start, FRAGMENT),
            Arrival::Whole | Arrival::Finished => unfinished(start, UDP_CHECKSUM),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;
    use crate::packet::{Checksums, udp_datagram};

    const TO: [u8; 6] = [0x4a, 0x4a, 13, 15, 22, 145];

    fn frame(source: [u8; 6], kind: u16, packet: &[u8]) -> Vec<u8> {
        [&[1, 0, 0, 0, 0, 0, 34, 0, 6, 0][..], &TO, &source, &kind.to_be_bytes(), packet].concat()
    }

    fn datagram(v4: bool) -> Vec<u8> {
        let ends = if v4 { ["10.9.0.2:4000", "10.9.0.255:9"] } else { ["[fe80::1]:4000", "[fe80::2]:9"] };
        let [from, to] = ends.map(|end| end.parse().expect("literal"));
        let mut bytes = Vec::new();
        udp_datagram(from, to, 64, b"hello", &mut bytes);
        bytes
    }

    #[test]
    fn frame_goes_out_as_it_came_but_for_the_links_own_address() {
        for (v4, kind) in [(true, 0x0800), (false, 0x86dd)] {
            let packet = datagram(v4);
            let bytes = frame([2, 0x70, 0x72, 0, 1, 2], kind, &packet);
            let (header, inner) = LinkHeader::split(&bytes).expect("a frame");
            assert_eq!((header.link, inner), (258, &packet[..]));
            let out = [&header.vnet()[..], &header.ethernet(Some([7; 6])).flatten().expect("a header"), inner].concat();
            assert_eq!(out, frame([7; 6], kind, &packet));
            assert!(header.ethernet(None).is_none(), "not by a link without headers");
        }
    }

    #[test]
    fn packet_without_an_ethernet_header_and_a_frame_that_was_not_led_here_are_none() {
        let packet = datagram(true);
        assert!(LinkHeader::split(&[&[0; 10][..], &packet].concat()).is_none());
        let led = [2, 0x70, 0x72, 0, 0, 2];
        for (source, kind) in [([2, 0x70, 0x73, 0, 0, 2], 0x0800), (led, 0x0806), (led, 0x86dd)] {
            assert!(LinkHeader::split(&frame(source, kind, &packet)).is_none());
        }
        let whole = frame(led, 0x0800, &packet);
        assert!((0..=24).all(|len| LinkHeader::split(&whole[..len]).is_none()));
    }

    #[test]
    fn packet_of_a_stranger_that_looks_like_a_frame_is_a_packet() {
        for v4 in [true, false] {
            let inner = datagram(v4);
            let len = u16::try_from(FRAME_HEADER_LEN + inner.len()).expect("small");
            let (start, kind) = if v4 { ([0x45, 0, 0, 0, 0, 0], 0x0800) } else { ([0x60, 0, 0, 0, 0, 0], 0x86dd) };
            let mut bytes = frame([2, 0x70, 0x72, 0, 0, 2], kind, &inner);
            let of = |bytes: &mut Vec<u8>, at: usize, len: u16| bytes.splice(at..at + 2, len.to_be_bytes()).for_each(drop);
            bytes.splice(10..16, start).for_each(drop);
            assert!(LinkHeader::split(&bytes).is_some(), "an address of a neighbour may begin so");
            if v4 {
                of(&mut bytes, 12, len);
            } else {
                of(&mut bytes, 14, len - 40);
            }
            assert!(LinkHeader::split(&bytes).is_none());
        }
    }

    /// A packet as the guard leads it from a link without headers.
    fn numbered(number: LinkNumber, v4: bool) -> Vec<u8> {
        let mut bytes = [&[1, 0, 0, 0, 0, 0, 20, 0, 6, 0][..], &datagram(v4)].concat();
        bytes[VNET_HEADER_LEN] = bytes[VNET_HEADER_LEN] & 0x0f | number.version(v4) << 4;
        bytes
    }

    #[test]
    fn packet_of_a_link_without_headers_goes_out_as_it_came() {
        for (number, v4) in LinkNumber::all().flat_map(|number| [(number, true), (number, false)]) {
            let mut bytes = numbered(number, v4);
            let header = LinkHeader::restore(&mut bytes, |of| (of == number).then_some(9)).expect("a packet");
            assert_eq!((header.link, header.ethernet(None), header.ethernet(Some([7; 6]))), (9, Some(None), None));
            assert_eq!(
                (&header.vnet()[..], &bytes[VNET_HEADER_LEN..]),
                (&[1, 0, 0, 0, 0, 0, 20, 0, 6, 0][..], &datagram(v4)[..])
            );
        }
    }

    #[test]
    fn packet_with_a_number_of_no_link_or_another_length_than_its_own_is_none() {
        let number = LinkNumber::all().last().expect("some");
        for v4 in [true, false] {
            let unknown = |bytes: &mut Vec<u8>, link: Option<u32>| LinkHeader::restore(bytes, |_| link).is_none();
            let mut bytes = numbered(number, v4);
            assert!(unknown(&mut bytes, None));
            assert_eq!(bytes, numbered(number, v4), "it keeps its number");
            assert!(IpPacket::parse(&bytes[VNET_HEADER_LEN..], Checksums::Unfinished).is_err());
            bytes.push(0);
            assert!(unknown(&mut bytes, Some(9)));
            assert!((0..VNET_HEADER_LEN + 8).all(|len| unknown(&mut bytes[..len].to_vec(), Some(9))));
            let mut plain = [&[0; VNET_HEADER_LEN][..], &datagram(v4)].concat();
            assert!(unknown(&mut plain, Some(9)), "IP's own version");
            let mut led = frame([2, 0x70, 0x72, 0, 0, 2], if v4 { 0x0800 } else { 0x86dd }, &datagram(v4));
            led[VNET_HEADER_LEN] = number.version(true) << 4;
            let len = u16::try_from(led.len() - VNET_HEADER_LEN).expect("small");
            led.splice(VNET_HEADER_LEN + 2..VNET_HEADER_LEN + 4, len.to_be_bytes());
            assert!(unknown(&mut led, Some(9)), "a frame to a neighbour whose address begins so");
        }
    }

    #[test]
    fn kept_packet_asks_the_device_for_what_its_sender_left_to_it() {
        let (header, _) = LinkHeader::split(&frame([2, 0x70, 0x72, 0, 0, 2], 0x0800, &datagram(true)))
            .map(|(h, p)| (h, p.len()))
            .expect("a frame");
        let start = |v4| if v4 { 34 } else { 54 };
        for v4 in [true, false] {
            let bytes = datagram(v4);
            let of = |arrival| {
                let packet = IpPacket::parse(&bytes, Checksums::Unfinished).expect("a packet").arrived(arrival);
                *header.for_kept(&packet).vnet()
            };
            assert_eq!(of(Arrival::Whole), [1, 0, 0, 0, 0, 0, start(v4), 0, 6, 0]);
            assert_eq!(of(Arrival::Together(3)), [1, 5, start(v4) + 8, 0, 3, 0, start(v4), 0, 6, 0]);
            let [f0, f1] = FRAGMENT.to_le_bytes();
            assert_eq!(of(Arrival::Fragments), [1, 3, start(v4) + 8, 0, f0, f1, start(v4), 0, 6, 0]);
            assert_eq!(of(Arrival::Finished), [0; 10]);
        }
        let mut bytes = Vec::new();
        let tcp = PacketBuilder::ipv4([10, 9, 0, 2], [10, 9, 0, 1], 64).tcp(40_000, 443, 7, 1000).syn();
        tcp.write(&mut bytes, &[]).expect("a vector takes everything");
        let packet = IpPacket::parse(&bytes, Checksums::Unfinished).expect("a packet");
        assert_eq!(*header.for_kept(&packet).vnet(), [1, 0, 0, 0, 0, 0, 34, 0, 16, 0]);
    }
}
