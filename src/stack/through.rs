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
use smoltcp::wire::TcpControl;

use super::device::Device;
use super::{Connection, PacketSink, Scratch, Stack};
use crate::packet::{IpPacket, Transport, answer_of, split_stream, step_back, stream_bytes, stream_end, under_headers};

/// Segments that go through in one piece.
pub const MOST_TOGETHER: usize = 6;
/// Longer headers are not kept; such segments take the other way.
const MAX_HEADERS: usize = 120;

/// What is known of the bytes that went past smoltcp.
pub(super) struct Passage {
    /// How far smoltcp's numbers lag behind.
    lag: u32,
    /// Behind the last byte that went through; at first, behind the SYN.
    end: u32,
    /// Bytes went through that may not be acknowledged yet.
    owes: bool,
    /// Behind the last byte of those that are known to have come without a gap.
    edge: u32,
    /// What the program acknowledged last and the room that it named, and what smoltcp knows of that.
    pub(super) said: Option<(u32, u16)>,
    known: Option<(u32, u16)>,
    /// Of the last segment that went through.
    headers: [u8; MAX_HEADERS],
    headers_len: usize,
}

impl Passage {
    /// For a stream that begins at `end`.
    pub(super) fn new(end: u32) -> Self {
        Self { lag: 0, end, owes: false, edge: end, said: None, known: None, headers: [0; MAX_HEADERS], headers_len: 0 }
    }

    /// Notes what a segment acknowledges; whether that is the newest word.
    fn hear(&mut self, packet: &[u8]) -> bool {
        let newest = answer_of(packet).filter(|word| self.said.is_none_or(|last| word.0.wrapping_sub(last.0) < 1 << 31));
        self.said = newest.or(self.said);
        newest.is_some()
    }

    /// Notes that the first `len` bytes of a segment went through.
    pub(super) fn note(&mut self, piece: &Piece<'_>, len: u32) {
        self.hear(piece.packet);
        self.headers.iter_mut().zip(piece.headers).for_each(|(to, from)| *to = *from);
        self.headers_len = piece.headers.len();
        self.lag = self.lag.wrapping_add(len);
        self.end = piece.sequence.wrapping_add(len);
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
        // In the order in which the program said it.
        self.catch_up(connection, sink, at);
        let (waited, follows) = (connection.socket().recv_queue(), connection.hear(packet));
        if connection.passage.hear(packet) {
            connection.passage.known = connection.passage.said;
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
        if connection.passage.lag == 0 {
            return self.ingress(connection, Some(packet), sink, at);
        }
        self.moved.clear();
        self.moved.extend_from_slice(packet);
        self.ingress(connection, None, sink, at);
    }

    /// Feeds what smoltcp has to know of the segments that went through.
    pub(super) fn catch_up(&mut self, connection: &mut Connection, sink: &mut dyn PacketSink, at: Instant) {
        let passage = &mut connection.passage;
        if passage.known != passage.said {
            passage.known = passage.said;
            let end = passage.end;
            self.say(connection, end, &[], sink, at);
        }
    }

    /// Acknowledges what went through, where no packet has by now: smoltcp answers at once whoever repeats a byte.
    pub(super) fn acknowledge(&mut self, connection: &mut Connection, sink: &mut dyn PacketSink, at: Instant) {
        if connection.passage.owes(connection.acked) {
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
        let lag = connection.passage.lag;
        if packet.is_none() {
            step_back(&mut self.moved, lag);
        }
        let limits = (connection.max_payload, lag, &mut connection.acked);
        let mut device = Device::new(Some(packet.unwrap_or(&self.moved)), &mut self.scratch, sink, limits);
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
        let limits = (connection.max_payload, connection.passage.lag, &mut connection.acked);
        let mut device = Device::new(None, &mut self.scratch, sink, limits);
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
                connection.passage.note(&piece, u32::try_from(len).unwrap_or(0));
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
    headers: &'p [u8],
    bytes: &'p [u8],
}

impl<'p> Piece<'p> {
    /// None where a segment says more than bytes.
    pub(super) fn of(packet: &IpPacket<'p>) -> Option<Self> {
        let Transport::Tcp(segment) = packet.transport() else { return None };
        let (headers, bytes) = split_stream(packet.bytes())?;
        let is_plain = segment.has_ack && matches!(segment.control, TcpControl::None | TcpControl::Psh);
        let fits = !bytes.is_empty() && headers.len() <= MAX_HEADERS;
        Some(Self { packet: packet.bytes(), sequence: segment.sequence, headers, bytes }).filter(|_| is_plain && fits)
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

    /// Whether all that was ever heard of the stream ends at `sequence`, without a gap.
    fn is_whole_at(&self, sequence: u32) -> bool {
        self.heard == sequence && (self.acked == sequence || self.passage.edge == sequence)
    }

    /// Whether a segment that begins at `sequence` may go through.
    fn is_at(&self, sequence: u32) -> bool {
        let may_send = matches!(self.socket().state(), State::Established | State::FinWait1 | State::FinWait2);
        may_send && self.is_whole_at(sequence)
    }
}
