//! Large pieces of a program's stream go through without a stop in a ring.
//!
//! To copy bytes into the ring and out again costs an upload a quarter of its speed, mostly because the rings of several flows do not
//! fit into a core's cache. Where nothing waits before a segment, its bytes are offered upstream straight from the packet. smoltcp never
//! sees them: its numbers lag behind the wire's by what went past it, and are moved on as packets go in and out.
//!
//! Keeps one rule: bytes go through only where the segment begins exactly behind everything that was ever heard of the stream, and all
//! of that has left the ring. Whatever else comes takes the way through smoltcp.

use std::io::IoSlice;

use smoltcp::iface::{Interface, PollResult};
use smoltcp::socket::tcp::{Socket, State};
use smoltcp::time::Instant;

use super::device::{Device, Numbers};
use super::{Connection, PacketSink, Scratch, Stack};
use crate::packet::{
    IpPacket, Transport, answer_of, plain_headers, stamp_of, stream_bytes, stream_end, tells_of_doubles, under_headers,
};

/// Segments that go through in one piece.
pub const MOST_TOGETHER: usize = 6;
/// Longer headers are not kept; such segments take the other way.
const MAX_HEADERS: usize = 120;

/// So long smoltcp need not hear what is of no use to it; its own clocks run by what it hears.
const UNHEARD: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(1);

/// What is known of the bytes that went past smoltcp.
pub(super) struct Passage {
    /// Behind the last byte that went through; at first, behind the SYN.
    end: u32,
    /// Bytes went through that may not be acknowledged yet.
    owes: bool,
    /// Behind the last byte of those that are known to have come without a gap.
    edge: u32,
    /// What the program acknowledged last and the room that it named, and what smoltcp knows of that.
    pub(super) said: Option<(u32, u16)>,
    known: Option<(u32, u16)>,
    /// By how many bits that room is to be shifted.
    shift: u8,
    /// When smoltcp heard something last.
    heard: Instant,
    /// Of a segment that did nothing but acknowledge or carry bytes.
    headers: [u8; MAX_HEADERS],
    headers_len: usize,
}

impl Passage {
    /// For a stream that begins at `end`.
    pub(super) fn new(end: u32, shift: u8) -> Self {
        let headers = [0; MAX_HEADERS];
        Self { end, owes: false, edge: end, said: None, known: None, shift, heard: Instant::ZERO, headers, headers_len: 0 }
    }

    #[cfg(test)]
    pub(super) fn shift(&self) -> u8 {
        self.shift
    }

    /// Whether smoltcp has not heard anything for a while.
    pub(super) fn is_unheard(&self, at: Instant) -> bool {
        at >= self.heard + UNHEARD
    }

    /// Notes what a segment acknowledges; whether that is the newest word.
    fn hear(&mut self, packet: &[u8], numbers: &mut Numbers, at: Instant) -> bool {
        let is_new = |word: &(u32, u16)| self.said.is_none_or(|last| word.0.wrapping_sub(last.0) < 1 << 31);
        let is_sent = |word: &(u32, u16)| numbers.end.wrapping_sub(word.0) < 1 << 31;
        let Some(newest) = answer_of(packet).filter(|word| is_new(word) && is_sent(word)) else { return false };
        let plain = plain_headers(packet);
        if let Some(headers) = plain
            && let Some(room) = self.headers.get_mut(..headers.len())
        {
            room.copy_from_slice(headers);
            self.headers_len = headers.len();
        }
        if self.said != Some(newest) {
            numbers.flight.repeats = 0;
        } else if plain.is_some_and(|headers| headers.len() == packet.len()) && !tells_of_doubles(packet) {
            numbers.flight.repeats = numbers.flight.repeats.saturating_add(1);
        }
        numbers.flight.acknowledge(newest.0, numbers.end, at);
        if numbers.stamp.is_some() {
            numbers.stamp = stamp_of(packet).or(numbers.stamp);
        }
        self.said = Some(newest);
        true
    }

    /// How much more the program takes, where everything before `end` is sent.
    pub(super) fn room(&self, end: u32) -> usize {
        let Some((acked, window)) = self.said else { return 0 };
        let right = acked.wrapping_add(u32::from(window) << self.shift);
        Some(right.wrapping_sub(end)).filter(|room| *room < 1 << 31).and_then(|room| usize::try_from(room).ok()).unwrap_or(0)
    }

    /// Whether everything before `end` is acknowledged but the last `len` bytes.
    pub(super) fn is_all(&self, end: u32, len: usize) -> bool {
        self.said.is_some_and(|(acked, _)| usize::try_from(end.wrapping_sub(acked)) == Ok(len))
    }

    /// Notes that the first `len` bytes of a segment went through.
    pub(super) fn note(&mut self, piece: &Piece<'_>, len: u32, numbers: &mut Numbers, at: Instant) {
        self.hear(piece.packet, numbers, at);
        self.end = piece.sequence.wrapping_add(len);
        numbers.lag = numbers.lag.wrapping_add(len);
        self.edge = self.end;
        self.owes = true;
    }

    /// Whether bytes went through that are not acknowledged by `acked`.
    pub(super) fn owes(&mut self, acked: u32) -> bool {
        self.owes &= (1..1 << 31).contains(&self.end.wrapping_sub(acked));
        self.owes
    }
}

/// The way to smoltcp and back, which keeps the numbers right.
pub(super) struct Link {
    interface: Interface,
    scratch: Scratch,
    moved: Vec<u8>,
}

impl Link {
    pub(super) fn new(interface: Interface, scratch: Scratch) -> Self {
        Self { interface, scratch, moved: Vec::new() }
    }

    /// Feeds a segment of the program.
    pub(super) fn feed(&mut self, connection: &mut Connection, packet: &[u8], sink: &mut dyn PacketSink, at: Instant) {
        if connection.only_hears(packet, at) {
            return;
        }
        // In the order in which the program said it.
        self.catch_up(connection, sink, at);
        let (waited, follows) = (connection.socket().recv_queue(), connection.hear(packet));
        let flew = !connection.numbers.flight.is_empty();
        if connection.passage.hear(packet, &mut connection.numbers, at) {
            // Whether smoltcp takes the segment is its affair, but what is acknowledged of the flight is so by now.
            connection.passage.known = connection.passage.said.filter(|_| !flew);
        }
        self.feed_as_it_is(connection, packet, sink, at);
        // Only what smoltcp has kept is there.
        if let Some(len) = follows
            && let Ok(grown) = u32::try_from(connection.socket().recv_queue().saturating_sub(waited))
            && grown == len
        {
            connection.passage.edge = connection.passage.edge.wrapping_add(len);
        }
    }

    fn feed_as_it_is(&mut self, connection: &mut Connection, packet: &[u8], sink: &mut dyn PacketSink, at: Instant) {
        connection.passage.heard = at;
        if connection.numbers.are_smoltcps() {
            return self.ingress(connection, Some(packet), sink, at);
        }
        self.moved.clear();
        self.moved.extend_from_slice(packet);
        self.ingress(connection, None, sink, at);
    }

    /// Feeds what smoltcp has to know of the segments that it did not see.
    pub(super) fn catch_up(&mut self, connection: &mut Connection, sink: &mut dyn PacketSink, at: Instant) {
        let passage = &mut connection.passage;
        if passage.known != passage.said {
            (passage.known, passage.heard) = (passage.said, at);
            let next = connection.heard;
            self.say(connection, next, &[], sink, at);
        }
    }

    /// Acknowledges what went through, where no packet has by now: smoltcp answers at once whoever repeats a byte.
    pub(super) fn acknowledge(&mut self, connection: &mut Connection, sink: &mut dyn PacketSink, at: Instant) {
        if connection.passage.owes(connection.numbers.acked) {
            let last = connection.passage.end.wrapping_sub(1);
            self.say(connection, last, &[0], sink, at);
        }
    }

    /// Feeds `payload` as if the program had sent it.
    fn say(&mut self, connection: &mut Connection, sequence: u32, payload: &[u8], sink: &mut dyn PacketSink, at: Instant) {
        let passage = &connection.passage;
        let headers = passage.headers.get(..passage.headers_len).unwrap_or_default();
        // A closed socket answers whoever still speaks to it with a reset.
        let Some(said) = passage.said.filter(|_| connection.socket().state() != State::Closed) else { return };
        if under_headers(headers, said, sequence, payload, &mut self.moved).is_some() {
            self.ingress(connection, None, sink, at);
        }
    }

    /// Without a packet, what lies in `moved` by the wire's numbers.
    fn ingress(&mut self, connection: &mut Connection, packet: Option<&[u8]>, sink: &mut dyn PacketSink, at: Instant) {
        if packet.is_none() {
            connection.numbers.inward(&mut self.moved);
        }
        let rx = Some(packet.unwrap_or(&self.moved));
        let mut device = Device::new(rx, &mut self.scratch, sink, &mut connection.numbers);
        let _ = self.interface.poll_ingress_single(at, &mut device, &mut connection.sockets);
    }

    /// Sends what is due, at most so many packets; then says when to come again.
    pub(super) fn egress(
        &mut self,
        connection: &mut Connection,
        most: usize,
        sink: &mut dyn PacketSink,
        at: Instant,
    ) -> Option<Instant> {
        let mut device = Device::new(None, &mut self.scratch, sink, &mut connection.numbers);
        for _ in 0..most {
            if self.interface.poll_egress(at, &mut device, &mut connection.sockets) != PollResult::SocketStateChanged {
                break;
            }
        }
        self.interface.poll_at(at, &connection.sockets)
    }
}

/// How much of several segments went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Bytes that were taken, those that waited before the segments included.
    pub bytes: u64,
    /// Segments of which all was taken: the first ones.
    pub packets: usize,
}

impl Stack {
    /// Offers the bytes of segments that follow each other to `take` straight from the packets, with those that wait before them;
    /// `take` says how many it took. Whatever segments are not wholly taken [`Stack::input`] must see next, in their order.
    pub fn pass<'p>(
        &mut self,
        slot: usize,
        packets: impl Iterator<Item = IpPacket<'p>> + Clone,
        take: impl FnOnce(&[IoSlice<'_>]) -> usize,
    ) -> Passed {
        let Some(connection) = self.connections.get_mut(slot).and_then(Option::as_mut) else { return Passed::default() };
        let pieces = packets.map_while(|packet| Piece::of(&packet)).scan(None, |end, piece| {
            let follows = end.is_none_or(|end| end == piece.sequence);
            *end = Some(piece.end());
            follows.then_some(piece)
        });
        let pieces = pieces.take(MOST_TOGETHER);
        if !pieces.clone().next().is_some_and(|first| connection.is_at(first.sequence)) {
            return Passed::default();
        }
        let mut slices = [IoSlice::new(&[]); MOST_TOGETHER + 1];
        let mut count = 1;
        for (slice, piece) in slices.iter_mut().skip(1).zip(pieces.clone()) {
            *slice = IoSlice::new(piece.bytes);
            count += 1;
        }
        let socket = connection.sockets.get_mut::<Socket<'static>>(connection.handle);
        let waiting = socket.recv_queue();
        let taken = socket.recv(|first| {
            // Where the ring's end divides them, the pump has to send twice.
            if first.len() != waiting {
                return (0, 0);
            }
            let mut offered = slices;
            if let Some(place) = offered.first_mut() {
                *place = IoSlice::new(first);
            }
            let taken = take(offered.get(usize::from(waiting == 0)..count).unwrap_or_default());
            (taken.min(waiting), taken)
        });
        let taken = taken.unwrap_or(0);
        let (mut left, mut packets) = (taken.saturating_sub(waiting), 0);
        for piece in pieces {
            let len = left.min(piece.bytes.len());
            if len > 0 {
                connection.passage.note(&piece, u32::try_from(len).unwrap_or(0), &mut connection.numbers, connection.used);
                connection.heard = connection.passage.end;
            }
            if len < piece.bytes.len() {
                break;
            }
            left -= len;
            packets += 1;
        }
        Passed { bytes: u64::try_from(taken).unwrap_or(0), packets }
    }
}

/// One segment that may go through.
#[derive(Clone, Copy)]
pub(super) struct Piece<'p> {
    packet: &'p [u8],
    sequence: u32,
    bytes: &'p [u8],
}

impl<'p> Piece<'p> {
    /// None where a segment says more than bytes.
    pub(super) fn of(packet: &IpPacket<'p>) -> Option<Self> {
        let Transport::Tcp(segment) = packet.transport() else { return None };
        let headers = plain_headers(packet.bytes()).filter(|headers| headers.len() <= MAX_HEADERS)?;
        let bytes = packet.bytes().get(headers.len()..).filter(|bytes| !bytes.is_empty())?;
        Some(Self { packet: packet.bytes(), sequence: segment.sequence, bytes })
    }

    fn end(&self) -> u32 {
        self.sequence.wrapping_add(u32::try_from(self.bytes.len()).unwrap_or(0))
    }
}

impl Connection {
    fn socket(&self) -> &Socket<'static> {
        self.sockets.get(self.handle)
    }

    /// Notes how far the program's stream is known; how many bytes the segment has, where it follows all that was heard without a gap.
    fn hear(&mut self, packet: &[u8]) -> Option<u32> {
        let end = stream_end(packet)?;
        let len = u32::try_from(stream_bytes(packet)?.len()).ok()?;
        let follows = self.is_whole_at(end.wrapping_sub(len));
        if end.wrapping_sub(self.heard) < 1 << 31 {
            self.heard = end;
        }
        if follows {
            self.passage.edge = end.wrapping_sub(len);
        }
        follows.then_some(len)
    }

    /// As if so many bytes had gone past smoltcp.
    #[cfg(test)]
    pub(super) fn move_on(&mut self, past: u32, lag: u32) {
        let (numbers, passage) = (&mut self.numbers, &mut self.passage);
        numbers.flight.move_on(past);
        numbers.end = numbers.end.wrapping_add(past);
        numbers.lag = numbers.lag.wrapping_add(lag);
        for place in [&mut numbers.acked, &mut passage.end, &mut passage.edge, &mut self.heard] {
            *place = place.wrapping_add(lag);
        }
        let moved = |(acked, room): (u32, u16)| (acked.wrapping_add(past), room);
        (passage.said, passage.known) = (passage.said.map(moved), passage.known.map(moved));
    }

    /// Takes a segment that only acknowledges what smoltcp never saw.
    fn only_hears(&mut self, packet: &[u8], at: Instant) -> bool {
        let goes_past = !self.numbers.flight.is_empty() && !self.passage.is_unheard(at) && self.is_silent();
        let is_answer = goes_past && packet.len() <= MAX_HEADERS && stream_end(packet) == Some(self.heard);
        if !is_answer || plain_headers(packet).map(<[u8]>::len) != Some(packet.len()) {
            return false;
        }
        self.passage.hear(packet, &mut self.numbers, at)
    }

    /// Whether all that was ever heard of the stream ends at `sequence`, without a gap.
    fn is_whole_at(&self, sequence: u32) -> bool {
        self.heard == sequence && (self.numbers.acked == sequence || self.passage.edge == sequence)
    }

    /// Whether a segment that begins at `sequence` may go through.
    fn is_at(&self, sequence: u32) -> bool {
        let may_send = matches!(self.socket().state(), State::Established | State::FinWait1 | State::FinWait2);
        may_send && self.is_whole_at(sequence)
    }
}
