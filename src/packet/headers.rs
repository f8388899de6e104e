//! Headers of a segment whose bytes lie elsewhere in memory.

use smoltcp::wire::{Ipv4Packet, Ipv6Packet, TcpPacket, TcpSeqNumber};

use super::extent::{acknowledged, tcp_of};
use super::offload::{VNET_HEADER_LEN, unfinished_tcp_headers};

/// An IPv6 and a TCP header without options.
const KEPT: usize = 60;
/// The timestamp option with its padding (RFC 7323 §3.2, appendix A).
const STAMPS_LEN: usize = 12;
const STAMPS_HEAD: [u8; 4] = [1, 1, 8, 10];
/// Bytes before the payload at most, the virtio header included.
pub const HEADERS_MAX: usize = VNET_HEADER_LEN + KEPT + STAMPS_LEN;

/// The headers of the segment that was sent last, under which other bytes of the stream may leave.
#[derive(Clone, Copy, Debug)]
pub struct StreamHeaders {
    bytes: [u8; KEPT],
    len: usize,
}

/// What of a segment is its own.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    pub sequence: u32,
    pub len: usize,
    pub pushes: bool,
    /// TSval and TSecr, where the stream has timestamps.
    pub stamps: Option<(u32, u32)>,
}

impl StreamHeaders {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: [0; KEPT], len: 0 }
    }

    /// Keeps the headers of a segment as smoltcp emits it. `room` is what a SYN-ACK would say if its window could be shifted; one that ends
    /// or resets the stream is passed over.
    pub fn keep(&mut self, packet: &[u8], room: usize) {
        let Some(tcp) = tcp_of(packet).filter(|tcp| tcp.ack() && !tcp.fin() && !tcp.rst()) else { return };
        let window = if tcp.syn() { u16::try_from(room >> window_shift(packet)).unwrap_or(u16::MAX) } else { tcp.window_len() };
        let ip_len = packet.len() - tcp.into_inner().len();
        if let Some(headers) = packet.get(..ip_len + 20)
            && let Some(kept) = self.bytes.get_mut(..headers.len())
        {
            kept.copy_from_slice(headers);
            let mut tcp = TcpPacket::new_unchecked(kept.get_mut(ip_len..).unwrap_or_default());
            tcp.set_syn(false);
            tcp.set_window_len(window);
            self.len = headers.len();
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The most bytes that fit under these headers into one packet whose segments hold `max_payload`; whole segments, if there are several.
    #[must_use]
    pub fn most(&self, has_stamps: bool, max_payload: u16) -> usize {
        let room = usize::from(u16::MAX) - self.len - if has_stamps { STAMPS_LEN } else { 0 };
        let whole = room - room % usize::from(max_payload).max(1);
        if whole == 0 { room } else { whole }
    }

    /// Writes the headers of `piece` behind a virtio header, to be cut into segments of `max_payload` bytes; what acknowledges is as it
    /// was. Returns what is to precede the bytes; None where no headers are known or the piece is too long.
    #[must_use]
    pub fn write<'o>(&self, piece: &Piece, max_payload: u16, out: &'o mut [u8; HEADERS_MAX]) -> Option<&'o [u8]> {
        let kept = self.bytes.get(..self.len).filter(|kept| !kept.is_empty())?;
        let stamps_len = if piece.stamps.is_some() { STAMPS_LEN } else { 0 };
        let out = out.get_mut(..VNET_HEADER_LEN + kept.len() + stamps_len)?;
        let (vnet, headers) = out.split_at_mut(VNET_HEADER_LEN);
        let (plain, options) = headers.split_at_mut(kept.len());
        plain.copy_from_slice(kept);
        if let (Some((value, echo)), Some((head, rest))) = (piece.stamps, options.split_first_chunk_mut::<4>()) {
            *head = STAMPS_HEAD;
            rest.iter_mut().zip(value.to_be_bytes().into_iter().chain(echo.to_be_bytes())).for_each(|(to, from)| *to = from);
        }
        let ip_len = kept.len() - 20;
        let tcp_len = 20 + stamps_len + piece.len;
        if ip_len == 20 {
            let mut ip = Ipv4Packet::new_unchecked(&mut headers[..]);
            ip.set_total_len(u16::try_from(ip_len + tcp_len).ok()?);
            ip.fill_checksum();
        } else {
            Ipv6Packet::new_unchecked(&mut headers[..]).set_payload_len(u16::try_from(tcp_len).ok()?);
        }
        let mut tcp = TcpPacket::new_unchecked(headers.get_mut(ip_len..)?);
        tcp.set_seq_number(TcpSeqNumber(i32::from_ne_bytes(piece.sequence.to_ne_bytes())));
        tcp.set_header_len(u8::try_from(20 + stamps_len).ok()?);
        tcp.set_psh(piece.pushes);
        vnet.copy_from_slice(&unfinished_tcp_headers(headers, piece.len, max_payload)?);
        Some(out)
    }
}

impl Default for StreamHeaders {
    fn default() -> Self {
        Self::new()
    }
}

/// What the segment's timestamp says (TSval, RFC 7323 §3.2).
#[must_use]
pub fn stamp_of(packet: &[u8]) -> Option<u32> {
    let tcp = tcp_of(packet)?;
    // As every kernel of today writes it, or else in whatever order.
    if let [1, 1, 8, 10, value @ ..] = tcp.options() {
        return value.first_chunk().map(|value| u32::from_be_bytes(*value));
    }
    options_of(tcp.options()).find_map(|option| match option {
        smoltcp::wire::TcpOption::TimeStamp { tsval, .. } => Some(tsval),
        _ => None,
    })
}

/// By how many bits the room that later segments name is to be shifted, as the SYN says (RFC 7323 §2.2).
#[must_use]
pub fn window_shift(syn: &[u8]) -> u8 {
    let Some(tcp) = tcp_of(syn) else { return 0 };
    let shift = options_of(tcp.options()).find_map(|option| match option {
        smoltcp::wire::TcpOption::WindowScale(shift) => Some(shift),
        _ => None,
    });
    shift.unwrap_or(0).min(14)
}

fn are_well_formed(mut options: &[u8]) -> bool {
    // As every kernel of today writes them.
    if options.is_empty() || matches!(options, [1, 1, 8, 10, rest @ ..] if rest.len() == 8) {
        return true;
    }
    while !options.is_empty() {
        match smoltcp::wire::TcpOption::parse(options) {
            Ok((_, smoltcp::wire::TcpOption::EndOfList)) => return true,
            Ok((rest, _)) => options = rest,
            Err(_) => return false,
        }
    }
    true
}

fn options_of(mut options: &[u8]) -> impl Iterator<Item = smoltcp::wire::TcpOption<'_>> {
    std::iter::from_fn(move || {
        let (rest, option) = smoltcp::wire::TcpOption::parse(options).ok().filter(|_| !options.is_empty())?;
        options = if option == smoltcp::wire::TcpOption::EndOfList { &[] } else { rest };
        Some(option)
    })
}

/// Whether an acknowledgement tells that bytes came twice (D-SACK, RFC 2883 §4.1), and so not of a loss.
#[must_use]
pub fn tells_of_doubles(packet: &[u8]) -> bool {
    let first = |tcp: TcpPacket<&[u8]>| {
        options_of(tcp.options()).find_map(|option| match option {
            smoltcp::wire::TcpOption::SackRange([first, ..]) => first,
            _ => None,
        })
    };
    let end = tcp_of(packet).and_then(first).map(|(_, end)| end);
    end.zip(acknowledged(packet)).is_some_and(|(end, acked)| acked.wrapping_sub(end) < 1 << 31)
}

/// The headers of a segment that does nothing but acknowledge and carry bytes, and whose options are well-formed.
#[must_use]
pub fn plain_headers(packet: &[u8]) -> Option<&[u8]> {
    let (headers, _) = super::split_stream(packet)?;
    let tcp = tcp_of(packet)?;
    let is_plain = tcp.ack() && !tcp.syn() && !tcp.fin() && !tcp.rst();
    (is_plain && are_well_formed(tcp.options())).then_some(headers)
}

#[cfg(test)]
mod tests {
    use super::super::{Checksums, IpPacket, stream_bytes, stream_end, unfinished_tcp};
    use super::*;
    use etherparse::{PacketBuilder, PacketBuilderStep, TcpHeader, TcpOptionElement};

    type Step = PacketBuilderStep<TcpHeader>;

    fn segment(v6: bool, flags: &dyn Fn(Step) -> Step, payload: &[u8]) -> Vec<u8> {
        let builder = if v6 {
            PacketBuilder::ipv6([0xfd; 16], [0x20; 16], 64)
        } else {
            PacketBuilder::ipv4([10, 9, 0, 2], [203, 0, 113, 10], 64)
        };
        let mut bytes = Vec::new();
        flags(builder.tcp(5000, 443, 1000, 77)).write(&mut bytes, payload).expect("a vector takes it");
        bytes
    }

    fn kept(v6: bool, flags: &dyn Fn(Step) -> Step) -> StreamHeaders {
        let mut headers = StreamHeaders::new();
        headers.keep(&segment(v6, flags, b"old"), 1 << 20);
        headers
    }

    #[test]
    fn bytes_leave_under_headers_that_were_sent_before_as_if_in_one_piece() {
        for v6 in [false, true] {
            let headers = kept(v6, &|tcp| tcp.ack(9).options(&[TcpOptionElement::Timestamp(1, 2)]).expect("they fit"));
            for (stamps, pushes, len) in [(None, false, 3), (Some((70, 80)), true, 1448), (Some((70, 80)), false, 60_000)] {
                let (bytes, mut out) = (vec![5; len], [0; HEADERS_MAX]);
                let piece = Piece { sequence: u32::MAX - 1, len, pushes, stamps };
                let written = headers.write(&piece, 1448, &mut out).expect("headers");
                let (vnet, rest) = written.split_at(VNET_HEADER_LEN);
                let whole = [rest, &bytes].concat();
                let packet = IpPacket::parse(&whole, Checksums::Unfinished).expect("a whole packet with a right IPv4 checksum");
                assert_eq!(packet.marks().hop_limit, 64);
                let tcp = tcp_of(&whole).expect("a segment");
                assert_eq!((tcp.psh(), tcp.ack(), tcp.window_len()), (pushes, true, 77));
                let end = (u32::MAX - 1).wrapping_add(u32::try_from(len).expect("short"));
                assert_eq!(
                    (stream_end(&whole), acknowledged(&whole), stream_bytes(&whole)),
                    (Some(end), Some(9), Some(&bytes[..]))
                );
                let mut options = options_of(tcp.options()).filter(|option| *option != smoltcp::wire::TcpOption::NoOperation);
                let stamp = stamps.map(|(tsval, tsecr)| smoltcp::wire::TcpOption::TimeStamp { tsval, tsecr });
                assert_eq!((options.next(), options.next()), (stamp, None));
                let mut again = whole.clone();
                assert_eq!(unfinished_tcp(&mut again, 1448).expect("TCP")[..], *vnet);
                assert!(whole == again, "the sum of the pseudo-header is there");
            }
        }
    }

    #[test]
    fn what_does_not_fit_into_a_packet_is_not_written() {
        for v6 in [false, true] {
            let headers = kept(v6, &|tcp| tcp.ack(9));
            for (max_payload, stamps) in
                [(1460, None), (1448, Some((1, 2))), (65_000, None), (u16::MAX, None), (48, None), (0, None)]
            {
                let most = headers.most(stamps.is_some(), max_payload);
                let piece = |len| Piece { sequence: 0, len, pushes: false, stamps };
                assert!(headers.write(&piece(most), max_payload, &mut [0; HEADERS_MAX]).is_some());
                assert!(
                    usize::from(max_payload) > most || most.is_multiple_of(usize::from(max_payload).max(1)),
                    "whole segments"
                );
            }
            let piece = Piece { sequence: 0, len: 65_536, pushes: false, stamps: None };
            assert!(headers.write(&piece, 1460, &mut [0; HEADERS_MAX]).is_none());
            assert!(
                StreamHeaders::new().write(&Piece { len: 1, ..piece }, 1460, &mut [0; HEADERS_MAX]).is_none(),
                "of no packet"
            );
        }
    }

    #[test]
    fn only_what_goes_on_is_kept_and_an_opening_answer_with_its_window_shifted() {
        for v6 in [false, true] {
            let ends: [&dyn Fn(Step) -> Step; 3] = [&|tcp| tcp, &|tcp| tcp.ack(9).fin(), &|tcp| tcp.ack(9).rst()];
            assert!(ends.iter().all(|flags| kept(v6, flags).is_empty()));
            for (shift, window) in [(None, u16::MAX), (Some(4), u16::MAX), (Some(6), 1 << 14), (Some(200), 1 << 6)] {
                let options: Vec<TcpOptionElement> = shift.map(TcpOptionElement::WindowScale).into_iter().collect();
                let headers = kept(v6, &|tcp| tcp.ack(9).syn().options(&options).expect("it fits"));
                let (piece, mut out) = (Piece { sequence: 5, len: 1, pushes: false, stamps: None }, [0; HEADERS_MAX]);
                let written = headers.write(&piece, 1460, &mut out).expect("headers");
                let whole = [written.get(VNET_HEADER_LEN..).expect("headers"), b"x"].concat();
                let tcp = tcp_of(&whole).expect("a segment");
                assert_eq!((tcp.syn(), tcp.window_len(), acknowledged(&whole)), (false, window, Some(9)), "{shift:?}");
            }
        }
    }

    #[test]
    fn stamps_and_shifts_are_read_in_any_order_and_garbage_has_none() {
        use TcpOptionElement::{MaximumSegmentSize, Noop, SelectiveAcknowledgementPermitted, Timestamp, WindowScale};
        for v6 in [false, true] {
            let with = |options: &[TcpOptionElement]| segment(v6, &|tcp| tcp.ack(9).options(options).expect("they fit"), b"xyz");
            assert_eq!(stamp_of(&with(&[Noop, Noop, Timestamp(7, 8)])), Some(7));
            let all = with(&[MaximumSegmentSize(1460), SelectiveAcknowledgementPermitted, Timestamp(7, 8), Noop, WindowScale(9)]);
            assert_eq!((stamp_of(&all), window_shift(&all)), (Some(7), 9));
            assert_eq!((stamp_of(&with(&[])), window_shift(&with(&[]))), (None, 0));
            assert_eq!(plain_headers(&all), all.get(..all.len() - 3));
            let mut broken = with(&[Noop, Noop, Timestamp(7, 8)]);
            let at = broken.len() - 3 - 12;
            for lie in [[8, 0, 1, 1], [8, 200, 1, 1], [3, 1, 1, 1], [254, 0, 0, 0]] {
                broken[at..at + 4].copy_from_slice(&lie);
                assert_eq!((stamp_of(&broken), window_shift(&broken), plain_headers(&broken)), (None, 0, None), "{lie:?}");
            }
        }
        for bytes in [&[][..], &[0x45; 10], &[0x60; 39], &[0x45; 60]] {
            assert_eq!((stamp_of(bytes), window_shift(bytes), plain_headers(bytes)), (None, 0, None));
        }
    }

    #[test]
    fn blocks_that_came_twice_lie_before_what_is_acknowledged() {
        for v6 in [false, true] {
            let with = |first, acked| {
                let blocks = TcpOptionElement::SelectiveAcknowledgement(first, [None, None, None]);
                segment(v6, &|tcp| tcp.ack(acked).options(std::slice::from_ref(&blocks)).expect("they fit"), b"")
            };
            assert!(tells_of_doubles(&with((5, 9), 9)) && tells_of_doubles(&with((u32::MAX - 5, u32::MAX), 3)));
            assert!(!tells_of_doubles(&with((10, 19), 9)) && !tells_of_doubles(&with((3, 7), u32::MAX)));
            assert!(!tells_of_doubles(&segment(v6, &|tcp| tcp.ack(9), b"")));
        }
        assert!(!tells_of_doubles(&[0x45; 60]));
    }

    #[test]
    fn segments_that_say_more_are_not_plain() {
        let flags: [&dyn Fn(Step) -> Step; 4] =
            [&|tcp| tcp, &|tcp| tcp.ack(9).syn(), &|tcp| tcp.ack(9).fin(), &|tcp| tcp.ack(9).rst()];
        for v6 in [false, true] {
            assert!(flags.iter().all(|flags| plain_headers(&segment(v6, flags, b"x")).is_none()));
            let plain = segment(v6, &|tcp| tcp.ack(9).psh(), b"x");
            assert_eq!(plain_headers(&plain), plain.get(..plain.len() - 1));
        }
    }
}
