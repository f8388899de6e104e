//! A segment's numbers, moved on in place: for streams of which one side has not seen every byte.
//!
//! Checksums are left alone: only for packets whose checksums nobody has finished or will look at.

use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket};

use super::extension;
use super::extent::number;

/// No operation, padding between options (RFC 9293 §3.2).
const NO_OPERATION: u8 = 1;
/// Blocks that came before their time (RFC 2018 §3).
const SELECTIVE: u8 = 5;

/// Takes the segment `by` bytes back in its stream.
pub fn step_back(packet: &mut [u8], by: u32) {
    if let Some(mut tcp) = tcp_of(packet) {
        let sequence = number(tcp.seq_number().0).wrapping_sub(by);
        tcp.set_seq_number(smoltcp::wire::TcpSeqNumber(i32::from_ne_bytes(sequence.to_ne_bytes())));
    }
}

/// Takes the segment `by` bytes on in its stream.
pub fn step_forward(packet: &mut [u8], by: u32) {
    step_back(packet, by.wrapping_neg());
}

/// Lets the segment acknowledge `by` bytes more, the blocks that it names (SACK) included.
pub fn acknowledge_more(packet: &mut [u8], by: u32) {
    let Some(mut tcp) = tcp_of(packet).filter(TcpPacket::ack) else { return };
    let acknowledged = number(tcp.ack_number().0).wrapping_add(by);
    tcp.set_ack_number(smoltcp::wire::TcpSeqNumber(i32::from_ne_bytes(acknowledged.to_ne_bytes())));
    let mut options = tcp.options_mut();
    while let Some((kind, rest)) = options.split_first_mut() {
        if *kind == NO_OPERATION {
            options = rest;
            continue;
        }
        // The end of the list is 0, and has no length.
        let Some(len) = rest.first().map(|len| usize::from(*len)).filter(|len| *kind != 0 && *len >= 2) else { return };
        let Some((body, after)) = rest.split_at_mut_checked(len - 1) else { return };
        if *kind == SELECTIVE {
            for edge in body.get_mut(1..).unwrap_or_default().chunks_exact_mut(4) {
                let moved = edge.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes)).wrapping_add(by);
                edge.copy_from_slice(&moved.to_be_bytes());
            }
        }
        options = after;
    }
}

/// A segment under the headers of another: `payload` from `sequence` on, with another acknowledgement and window.
///
/// `headers` is what precedes the bytes of a whole packet. None when they are none.
pub fn under_headers(
    headers: &[u8],
    (acknowledged, window): (u32, u16),
    sequence: u32,
    payload: &[u8],
    out: &mut Vec<u8>,
) -> Option<()> {
    out.clear();
    out.extend_from_slice(headers);
    out.extend_from_slice(payload);
    let len = out.len();
    match out.first()? >> 4 {
        4 => Ipv4Packet::new_unchecked(&mut out[..]).set_total_len(u16::try_from(len).ok()?),
        _ => Ipv6Packet::new_unchecked(&mut out[..]).set_payload_len(u16::try_from(len.checked_sub(40)?).ok()?),
    }
    let mut tcp = tcp_of(out)?;
    tcp.set_seq_number(smoltcp::wire::TcpSeqNumber(i32::from_ne_bytes(sequence.to_ne_bytes())));
    tcp.set_ack_number(smoltcp::wire::TcpSeqNumber(i32::from_ne_bytes(acknowledged.to_ne_bytes())));
    tcp.set_window_len(window);
    tcp.set_psh(false);
    Some(())
}

fn tcp_of(bytes: &mut [u8]) -> Option<TcpPacket<&mut [u8]>> {
    let at = match bytes.first()? >> 4 {
        4 => {
            let ip = Ipv4Packet::new_checked(&*bytes).ok().filter(|ip| ip.next_header() == IpProtocol::Tcp)?;
            usize::from(ip.header_len())
        }
        _ => {
            let ip = Ipv6Packet::new_checked(&*bytes).ok()?;
            let (protocol, offset) = extension::walk(ip.next_header(), ip.payload()).ok()?;
            Some(ip.header_len() + offset).filter(|_| protocol == IpProtocol::Tcp)?
        }
    };
    TcpPacket::new_checked(bytes.get_mut(at..)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{acknowledged, answer_of, stream_bytes, stream_end};
    use etherparse::{PacketBuilder, TcpOptionElement};

    fn segment(v6: bool, options: &[TcpOptionElement], payload: &[u8]) -> Vec<u8> {
        let builder = if v6 {
            PacketBuilder::ipv6([0xfd; 16], [0x20; 16], 64)
        } else {
            PacketBuilder::ipv4([10, 9, 0, 2], [203, 0, 113, 10], 64)
        };
        let mut bytes = Vec::new();
        let tcp = builder.tcp(5000, 443, 3, 1000).psh().ack(u32::MAX - 1).options(options).expect("they fit");
        tcp.write(&mut bytes, payload).expect("a vector takes it");
        bytes
    }

    #[test]
    fn numbers_move_on_and_wrap_and_the_bytes_stay() {
        for v6 in [false, true] {
            let mut packet = segment(v6, &[], b"abc");
            step_back(&mut packet, 5);
            acknowledge_more(&mut packet, 4);
            assert_eq!((stream_end(&packet), acknowledged(&packet)), (Some(1), Some(2)), "3 - 5 + 3 bytes; MAX - 1 + 4");
            assert_eq!(stream_bytes(&packet), Some(&b"abc"[..]));
        }
    }

    #[test]
    fn blocks_that_came_early_move_with_what_is_acknowledged() {
        let early = TcpOptionElement::SelectiveAcknowledgement((10, 20), [Some((u32::MAX, 2)), None, None]);
        for v6 in [false, true] {
            let stamp = TcpOptionElement::Timestamp(7, 8);
            let mut packet = segment(v6, &[TcpOptionElement::Noop, stamp.clone(), early.clone()], b"");
            acknowledge_more(&mut packet, 100);
            let moved = TcpOptionElement::SelectiveAcknowledgement((110, 120), [Some((99, 102)), None, None]);
            let mut tcp = tcp_of(&mut packet).expect("a segment");
            let options = etherparse::TcpOptionsIterator::from_slice(tcp.options_mut());
            let options: Vec<TcpOptionElement> = options.map(|option| option.expect("well-formed")).collect();
            assert_eq!(options.into_iter().filter(|o| *o != TcpOptionElement::Noop).collect::<Vec<_>>(), [stamp, moved]);
        }
    }

    #[test]
    fn options_that_lie_about_their_length_are_left_alone() {
        for lie in [[5, 0, 1, 2], [5, 1, 1, 2], [5, 200, 1, 2], [0, 9, 9, 9], [5, 4, 1, 2]] {
            let mut packet = segment(false, &[TcpOptionElement::MaximumSegmentSize(1)], b"xyz");
            let at = packet.len() - 7;
            packet[at..at + 4].copy_from_slice(&lie);
            acknowledge_more(&mut packet, 100);
            assert_eq!(packet[at..], [&lie[..], b"xyz"].concat());
        }
    }

    #[test]
    fn headers_carry_other_bytes_at_another_place() {
        for v6 in [false, true] {
            let packet = segment(v6, &[TcpOptionElement::Timestamp(7, 8)], b"whole payload");
            let headers = &packet[..packet.len() - 13];
            let mut out = Vec::new();
            under_headers(headers, (50, 60), 40, b"x", &mut out).expect("headers");
            assert_eq!((stream_end(&out), answer_of(&out), stream_bytes(&out)), (Some(41), Some((50, 60)), Some(&b"x"[..])));
        }
    }

    #[test]
    fn what_is_no_segment_stays_as_it_is() {
        for bytes in [&[][..], &[0x45; 10], &[0x60; 39], &[0x45; 60]] {
            let mut same = bytes.to_vec();
            step_back(&mut same, 1);
            acknowledge_more(&mut same, 1);
            assert_eq!(same, bytes);
            assert_eq!(under_headers(bytes, (1, 1), 1, &[], &mut same), None);
        }
    }
}
