//! Large pieces of a peer's stream go to the program without a stop in smoltcp.
//!
//! To copy bytes out of the ring into a packet costs a download a fifth of its speed. Where smoltcp has nothing to send, what is read of
//! the peer stays where it was read, in the flow's ring, and leaves from there under headers of our own; smoltcp never sees it. Its numbers
//! lag behind the wire's by these bytes, and are moved on as packets go in and out.
//!
//! Keeps one rule: either smoltcp holds bytes of this direction, or bytes are in flight here. Whatever wants a sender's judgement, a
//! loss, silence or the end, is smoltcp's: it gets all that is not acknowledged first.

use std::io;
use std::time::Instant;

use smoltcp::socket::tcp::{Socket, State};
use smoltcp::time::Duration;

use super::device::Numbers;
use super::through::Link;
use super::{Connection, NARROW, NoSink, PacketSink, Stack, timestamp};
use crate::packet::{HEADERS_MAX, Piece};

/// The first piece has at least so many bytes; what is smaller is a message, and smoltcp's.
const LARGE: usize = 8192;
/// So long an acknowledgement may take; Linux delays none for more than 200 ms. As long a program may give no room before it is asked.
const SILENCE: Duration = Duration::from_millis(500);
/// So long at most nothing is read while smoltcp waits for the last acknowledgement.
const DELAY: Duration = Duration::from_millis(4);
/// So many repeated acknowledgements mean a loss (RFC 5681 §3.2).
const REPEATS: u8 = 3;

/// Bytes that are sent and not acknowledged, in the flow's ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    /// The first of them.
    place: usize,
    len: usize,
    /// So much of the ring is used, from its beginning.
    span: usize,
    /// Those that are acknowledged, and that smoltcp never saw.
    past: u32,
    /// When it began, or something was acknowledged last.
    since: smoltcp::time::Instant,
    /// Empty segments in a row that said the same.
    pub(super) repeats: u8,
    /// The last piece went past smoltcp.
    is_large: bool,
    /// Nothing is read until smoltcp holds nothing.
    drains: bool,
    /// What is waited for will not come later.
    waits_until: Option<smoltcp::time::Instant>,
}

impl Flight {
    pub(super) fn new() -> Self {
        Self {
            place: 0,
            len: 0,
            span: NARROW,
            past: 0,
            since: smoltcp::time::Instant::ZERO,
            repeats: 0,
            is_large: false,
            drains: false,
            waits_until: None,
        }
    }

    /// How far smoltcp's numbers lag behind what was acknowledged, and behind what was sent.
    pub(super) fn lag(&self) -> (u32, u32) {
        (self.past, self.past.wrapping_add(u32::try_from(self.len).unwrap_or(0)))
    }

    #[cfg(test)]
    pub(super) fn move_on(&mut self, past: u32) {
        self.past = self.past.wrapping_add(past);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether what is waited for may still come: within `patience` from now on, if nothing shorter was said before.
    fn waits_still(&mut self, at: smoltcp::time::Instant, patience: Duration) -> bool {
        let until = self.waits_until.map_or(at + patience, |until| until.min(at + patience));
        self.waits_until = Some(until);
        at < until
    }

    /// When something has to be done if nothing is acknowledged by then.
    fn deadline(&self, at: smoltcp::time::Instant) -> Option<smoltcp::time::Instant> {
        let silence = (self.len > 0).then(|| self.since + SILENCE);
        [silence, self.waits_until].into_iter().flatten().filter(|deadline| *deadline > at).min()
    }

    /// Takes an acknowledgement of everything before `acked`, where the last byte was sent before `end`.
    pub(super) fn acknowledge(&mut self, acked: u32, end: u32, at: smoltcp::time::Instant) {
        let begin = end.wrapping_sub(u32::try_from(self.len).unwrap_or(0));
        let Ok(len) = usize::try_from(acked.wrapping_sub(begin)) else { return };
        if len > 0 && len <= self.len {
            self.len -= len;
            // From the beginning again: the core's cache knows these bytes.
            self.place = if self.len == 0 { 0 } else { (self.place + len) % self.span };
            self.past = self.past.wrapping_add(acked.wrapping_sub(begin));
            self.since = at;
        }
    }

    pub(super) fn is_wide(&self) -> bool {
        self.span > NARROW
    }

    /// Uses all of a ring of `len` bytes from now on, if it is half full as it is; whether it does.
    fn widen(&mut self, len: usize) -> bool {
        let can = len > self.span && self.len >= self.span / 2 && self.place + self.len <= self.span;
        if can {
            self.span = len;
        }
        can
    }

    /// Uses no more than any other, while nothing is in flight; whether it did use more.
    pub(super) fn narrow(&mut self) -> bool {
        std::mem::replace(&mut self.span, NARROW) > NARROW
    }

    /// Where the next bytes can lie in one piece.
    fn free(&self) -> std::ops::Range<usize> {
        let next = self.place + self.len;
        if next < self.span { next..self.span } else { next - self.span..self.place }
    }
}

/// What became of a look for bytes.
#[derive(Debug)]
pub struct Drawn {
    /// How many bytes could have been read.
    pub room: usize,
    /// As the reader said it.
    pub read: io::Result<usize>,
}

impl Stack {
    /// Lets `read` fill room with the next bytes for the program, and sends them or leaves them to [`Stack::flush`]. None where the
    /// program takes nothing now, or nothing more.
    pub fn draw(
        &mut self,
        slot: usize,
        read: impl FnOnce(&mut [u8]) -> io::Result<usize>,
        sink: &mut dyn PacketSink,
        now: Instant,
    ) -> Option<Drawn> {
        let at = self.at(now);
        let connection = self.connections.get_mut(slot)?.as_mut()?;
        self.cooling.warm(connection, at);
        let socket = connection.sockets.get_mut::<Socket<'static>>(connection.handle);
        if !socket.can_send() {
            return None;
        }
        let (numbers, said) = (&mut connection.numbers, &connection.passage);
        let (queue, window) = (socket.send_queue(), said.room(numbers.end));
        let flows = !numbers.flight.is_empty();
        let can_send = queue == 0 && !numbers.headers.is_empty() && said.is_all(numbers.end, numbers.flight.len);
        let goes_on = can_send && window >= if flows { usize::from(numbers.max_payload).min(LARGE) } else { LARGE };
        let flight = &mut numbers.flight;
        let waits = if flows {
            !goes_on || flight.repeats >= REPEATS
        } else if queue >= LARGE {
            // What smoltcp holds leaves first. The last acknowledgement may be delayed, and a peer may end what nobody reads.
            flight.drains = true;
            flight.waits_still(at, if said.is_all(numbers.end, queue) { DELAY } else { SILENCE })
        } else {
            // A little room is often more in a moment. If the word of new room is lost, smoltcp asks for it, which takes bytes.
            let patience = if window < usize::from(numbers.max_payload) { SILENCE } else { DELAY };
            can_send && flight.is_large && !goes_on && flight.waits_still(at, patience)
        };
        if waits {
            return None;
        }
        (flight.drains, flight.waits_until) = (false, None);
        flight.is_large &= flows;
        let down = &connection.rings[1];
        if flows && !self.has_wide {
            self.has_wide = numbers.flight.widen(down.len());
        }
        let drawn = socket.send(|ring| {
            let flight = &numbers.flight;
            // Where bytes wait on and on, smoltcp goes through all of the ring; it is to begin anew before.
            let left = flight.span.saturating_sub(down.place_of(ring)).min(ring.len());
            let place = if flows { flight.free() } else { 0..left };
            let Some(free) = ring.get_mut(place) else { return (0, None) };
            let room = free.len().min(if goes_on { window } else { usize::MAX });
            let Some(free) = free.get_mut(..room).filter(|free| !free.is_empty()) else { return (0, None) };
            let read = read(free);
            let len = read.as_ref().map_or(0, |len| *len);
            if goes_on && len > 0 && (flows || len >= LARGE) {
                numbers.send(free.get(..len).unwrap_or_default(), sink, at);
                return (0, Some(Drawn { room, read }));
            }
            (len, Some(Drawn { room, read }))
        });
        let drawn = drawn.ok()??;
        let is_over = match &drawn.read {
            Ok(len) => *len == 0,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        };
        if is_over {
            self.link.hand_over_in_silence(connection, sink, at);
        }
        Some(drawn)
    }
}

impl Numbers {
    /// Sends the next bytes, which lie behind those that are in flight.
    fn send(&mut self, bytes: &[u8], sink: &mut dyn PacketSink, at: smoltcp::time::Instant) {
        if self.flight.is_empty() {
            (self.flight.since, self.flight.repeats) = (at, 0);
        }
        self.flight.is_large = true;
        let mut rest = bytes;
        while !rest.is_empty() {
            let most = self.headers.most(self.stamp.is_some(), self.max_payload).min(rest.len());
            let (piece, after) = rest.split_at(most);
            rest = after;
            self.send_piece(piece, rest.is_empty(), sink);
            self.flight.len += piece.len();
        }
    }

    fn send_piece(&mut self, bytes: &[u8], pushes: bool, sink: &mut dyn PacketSink) {
        let mut headers = [0; HEADERS_MAX];
        let stamps = self.stamp.map(|echo| (timestamp(), echo));
        let piece = Piece { sequence: self.end, len: bytes.len(), pushes, stamps };
        // Headers that cannot be written are those of no packet: as lost, and sent again by smoltcp.
        if let Some(headers) = self.headers.write(&piece, self.max_payload, &mut headers) {
            sink.write_both(headers, bytes);
        }
        self.end = self.end.wrapping_add(u32::try_from(bytes.len()).unwrap_or(0));
    }
}

impl Link {
    /// Gives smoltcp what is in flight, as if nobody had sent it yet.
    pub(super) fn hand_over(&mut self, connection: &mut Connection, sink: &mut dyn PacketSink, at: smoltcp::time::Instant) {
        if connection.numbers.flight.is_empty() {
            return;
        }
        // It has to know of the program's room.
        self.catch_up(connection, sink, at);
        let flight = &mut connection.numbers.flight;
        let (place, len, span) = (flight.place, std::mem::take(&mut flight.len), flight.span);
        (flight.place, flight.repeats) = (0, 0);
        let socket = connection.sockets.get_mut::<Socket<'static>>(connection.handle);
        let moved = socket.send(|ring| {
            if place + len <= span {
                ring.copy_within(place..place + len, 0);
            } else {
                ring.get_mut(..span).unwrap_or_default().rotate_left(place);
            }
            (len, ())
        });
        if moved.is_err() {
            // The program is gone, and nothing is sent again; the numbers stay.
            flight.past = flight.past.wrapping_add(u32::try_from(len).unwrap_or(0));
        }
    }

    /// Gives smoltcp what is in flight, as sent.
    fn hand_over_in_silence(&mut self, connection: &mut Connection, sink: &mut dyn PacketSink, at: smoltcp::time::Instant) {
        if connection.numbers.flight.is_empty() {
            return;
        }
        let most = 1 + connection.numbers.flight.len / usize::from(connection.numbers.max_payload).max(1);
        let (acked, headers) = (connection.numbers.acked, connection.numbers.headers);
        self.hand_over(connection, sink, at);
        self.egress(connection, most, &mut NoSink, at);
        if connection.numbers.acked == acked {
            connection.numbers.headers = headers;
        } else {
            connection.numbers.send_piece(&[], false, sink);
        }
    }

    /// Leaves to smoltcp what seems lost.
    pub(super) fn give_up(&mut self, connection: &mut Connection, sink: &mut dyn PacketSink, at: smoltcp::time::Instant) {
        let flight = &connection.numbers.flight;
        if flight.repeats >= REPEATS || flight.since + SILENCE <= at {
            self.hand_over(connection, sink, at);
        }
    }
}

impl Connection {
    /// When to look again for what does not come.
    pub(super) fn look_again(&mut self, at: smoltcp::time::Instant) -> Option<smoltcp::time::Instant> {
        let queue = self.sockets.get::<Socket<'static>>(self.handle).send_queue();
        let flight = &mut self.numbers.flight;
        if flight.drains && self.passage.is_all(self.numbers.end, queue) {
            flight.waits_still(at, DELAY);
        }
        flight.deadline(at)
    }

    /// Whether smoltcp has nothing to say to the program that depends on what the program acknowledges.
    pub(super) fn is_silent(&self) -> bool {
        let socket = self.sockets.get::<Socket<'static>>(self.handle);
        socket.send_queue() == 0 && matches!(socket.state(), State::Established | State::CloseWait)
    }
}
