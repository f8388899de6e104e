//! Bytes for the program that go past smoltcp, against a peer whose every word is chosen.

use std::time::Duration;

use super::flight::{flying, in_flight, source};
use super::*;
use crate::packet::{Checksums, IpPacket, VNET_HEADER_LEN, stream_bytes, stream_end};
use wire::{Caught, Source};

#[test]
fn no_byte_is_sent_beyond_the_room_that_the_program_named() {
    for v6 in FAMILIES {
        for room in [0_u16, 100, 1023, 1024, 20_000, 65_535] {
            let mut peer = ByHand::new(v6, &data(600_000));
            let shift = peer.line.stack.connections[SLOT].as_ref().expect("it stands").passage.shift();
            peer.says_room(0, room);
            written(&mut peer.caught);
            for _ in 0..15 {
                peer.try_draw();
            }
            let sent: usize = written(&mut peer.caught).iter().filter_map(|packet| Some(stream_bytes(packet)?.len())).sum();
            let named = usize::from(room) << shift;
            // A window that is closed may be asked about with one byte.
            assert!(sent <= named.max(1) && (sent + 20_000 > named || sent == 600_000), "{room} << {shift}: {sent}");
        }
    }
}

#[test]
fn numbers_go_on_beyond_the_end_of_the_space() {
    for v6 in FAMILIES {
        for (past, lag) in [(u32::MAX - 100_000, 7), (1 << 31, u32::MAX - 50), (5, (1 << 31) + 9)] {
            let down = data(1 << 20);
            let mut peer = ByHand::new(v6, &down);
            peer.move_on(past, lag);
            for round in 1..8 {
                peer.draw();
                peer.pass_up(20, 60_000 * (round - 1));
                peer.says(60_000 * round);
            }
            peer.draw();
            written(&mut peer.caught);
            (0..3).for_each(|_| peer.says(420_000));
            let again: Vec<u8> =
                written(&mut peer.caught).iter().flat_map(|packet| stream_bytes(packet).unwrap_or_default().to_vec()).collect();
            assert!(!in_flight(&peer.line) && again == down[420_000..480_000], "{} bytes", again.len());
            peer.says(480_000);
            assert_eq!(peer.line.stack.with_socket(SLOT, |socket| socket.send_queue()), Some(0));
            peer.draw();
            assert!(in_flight(&peer.line));
        }
    }
}

#[test]
fn a_reset_by_the_peer_comes_behind_all_that_it_said() {
    for v6 in FAMILIES {
        let mut peer = ByHand::new(v6, &data(1 << 20));
        (0..2).for_each(|_| peer.draw());
        written(&mut peer.caught);
        let broken = |_: &mut [u8]| Err(std::io::ErrorKind::ConnectionReset.into());
        let drawn = peer.line.stack.draw(SLOT, broken, &mut peer.caught, peer.line.now).expect("a look");
        assert_eq!(drawn.read.expect_err("it is broken").kind(), std::io::ErrorKind::ConnectionReset);
        let queue = |stack: &mut Stack| stack.with_socket(SLOT, |socket| socket.send_queue());
        assert_eq!((in_flight(&peer.line), queue(&mut peer.line.stack)), (false, Some(120_000)), "whoever waits for it sees it");
        peer.line.stack.flush(SLOT, &mut peer.caught, peer.line.now);
        assert!(written(&mut peer.caught).is_empty(), "it is on its way");
        peer.says(120_000);
        assert_eq!(queue(&mut peer.line.stack), Some(0));
        peer.line.stack.with_socket(SLOT, Socket::abort);
        peer.line.stack.flush(SLOT, &mut peer.caught, peer.line.now);
        let last = written(&mut peer.caught);
        assert_eq!(last.last().and_then(|packet| stream_end(packet)), Some(peer.begin.wrapping_add(120_000)));
    }
}

#[test]
fn little_room_is_waited_for_a_moment_and_none_for_longer() {
    for v6 in FAMILIES {
        for (room, patience) in [(900_u16, 10), (0, 600)] {
            let mut peer = ByHand::new(v6, &data(1 << 20));
            peer.draw();
            peer.says_room(60_000, room);
            assert!(!peer.try_draw());
            let due = peer.line.stack.poll_timeout().expect("a look for room");
            assert!(due <= peer.line.now + Duration::from_millis(patience), "{room}");
            peer.line.now += Duration::from_millis(patience);
            while peer.line.stack.expired(peer.line.now).is_some() {}
            assert!(peer.try_draw(), "smoltcp asks");
        }
    }
}

#[test]
fn messages_behind_a_large_piece_are_smoltcps() {
    for v6 in FAMILIES {
        let mut peer = ByHand::new(v6, &data(60_100));
        peer.draw();
        peer.says(60_000);
        peer.draw();
        assert_eq!((in_flight(&peer.line), peer.line.stack.with_socket(SLOT, |socket| socket.send_queue())), (false, Some(100)));
    }
}

/// What the stack wrote since the last look, without virtio headers.
pub(super) fn written(caught: &mut Caught) -> Vec<Vec<u8>> {
    std::mem::take(&mut caught.0).into_iter().map(|packet| packet[VNET_HEADER_LEN..].to_vec()).collect()
}

/// An empty segment that acknowledges.
pub(super) fn answer(v6: bool, sequence: u32, acked: u32, room: u16) -> Vec<u8> {
    through::with_room(through::segment(v6, sequence, 0, &|tcp| tcp.ack(acked)), room)
}

/// A peer who says by hand what it has, and where that stands in the stream.
/// A peer whose every word is chosen, and the stack before it.
pub(super) struct ByHand {
    pub(super) line: Line,
    source: Source,
    pub(super) caught: Caught,
    v6: bool,
    pub(super) at: u32,
    pub(super) begin: u32,
}

impl ByHand {
    pub(super) fn new(v6: bool, bytes: &[u8]) -> Self {
        Self::of(connected(v6), v6, bytes)
    }

    pub(super) fn of(mut line: Line, v6: bool, bytes: &[u8]) -> Self {
        line.settle();
        let numbers = &line.stack.connections[SLOT].as_ref().expect("it stands").numbers;
        let (at, begin) = (numbers.acked, numbers.end);
        let source = source(bytes.to_vec(), false, || 60_000);
        let mut by_hand = Self { line, source, caught: Caught::default(), v6, at, begin };
        by_hand.says(0);
        by_hand
    }

    /// So many bytes have come, and there is room.
    pub(super) fn says(&mut self, len: usize) {
        self.says_room(len, 60_000);
    }

    pub(super) fn says_room(&mut self, len: usize, room: u16) {
        self.hears(len, room);
        self.line.stack.flush(SLOT, &mut self.caught, self.line.now);
    }

    /// The stack reads the word, and has not acted on it yet.
    pub(super) fn hears(&mut self, len: usize, room: u16) {
        let acked = self.begin.wrapping_add(u32::try_from(len).expect("a short stream"));
        let bytes = answer(self.v6, self.at, acked, room);
        self.line.stack.input(SLOT, &bytes, &mut self.caught, self.line.now);
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.line.stack.input(SLOT, bytes, &mut self.caught, self.line.now);
        self.line.stack.flush(SLOT, &mut self.caught, self.line.now);
    }

    /// Bytes of its own that go straight on, and what it says beside them.
    fn pass_up(&mut self, len: usize, come: usize) {
        let acked = self.begin.wrapping_add(u32::try_from(come).expect("a short stream"));
        let bytes = through::with_room(through::segment(self.v6, self.at, len, &|tcp| tcp.ack(acked)), 60_000);
        let packet = IpPacket::parse(&bytes, Checksums::Unfinished).expect("a whole packet");
        let passed = self.line.stack.pass(SLOT, std::iter::once(packet), |pieces| pieces.iter().map(|piece| piece.len()).sum());
        assert_eq!(passed.packets, 1);
        self.at = self.at.wrapping_add(u32::try_from(len).expect("short"));
        self.line.stack.flush(SLOT, &mut self.caught, self.line.now);
    }

    /// As if so many bytes had gone past smoltcp each way.
    fn move_on(&mut self, past: u32, lag: u32) {
        let connection = self.line.stack.connections[SLOT].as_mut().expect("it stands");
        connection.move_on(past, lag);
        (self.begin, self.at) = (self.begin.wrapping_add(past), self.at.wrapping_add(lag));
    }

    pub(super) fn draw(&mut self) {
        assert!(self.try_draw());
    }

    pub(super) fn try_draw(&mut self) -> bool {
        let drawn = self.line.stack.draw(SLOT, &mut self.source, &mut self.caught, self.line.now).is_some();
        self.line.stack.flush(SLOT, &mut self.caught, self.line.now);
        drawn
    }
}

#[test]
fn bytes_on_both_sides_of_the_rings_end_are_sent_again_in_their_order() {
    for v6 in FAMILIES {
        let down = data(2 << 20);
        let mut peer = ByHand::new(v6, &down);
        for round in 0..11 {
            peer.draw();
            // All but the last four pieces: one of them is cut by the ring's end.
            if let Some(come) = usize::checked_sub(round, 3).filter(|come| *come > 0) {
                peer.says(60_000 * come);
            }
        }
        let flight = peer.line.stack.connections[SLOT].as_ref().expect("it stands").numbers.flight;
        let acked = usize::try_from(flight.lag().0).expect("few");
        let len = usize::try_from(flight.lag().1).expect("few") - acked;
        assert!(acked % super::super::NARROW + len > super::super::NARROW, "{acked} {len}");
        written(&mut peer.caught);
        (0..3).for_each(|_| peer.says(acked));
        assert!(!in_flight(&peer.line));
        let again: Vec<u8> =
            written(&mut peer.caught).iter().flat_map(|packet| stream_bytes(packet).unwrap_or_default().to_vec()).collect();
        assert!(again == down[acked..acked + len], "{} of {len}", again.len());
    }
}

#[test]
fn streams_that_never_pause_are_not_taken_for_dead_ones() {
    for (v6, uploads) in [(false, true), (true, false)] {
        let mut peer = ByHand::new(v6, &[]);
        peer.source = Box::new(|room| Ok(room.len().min(8192)));
        peer.draw();
        // Five hours, in pieces that fill the ring, each step shorter than any silence.
        for round in 1..45_000 {
            peer.line.now += Duration::from_millis(400);
            while peer.line.stack.expired(peer.line.now).is_some() {}
            peer.draw();
            if uploads {
                peer.pass_up(9000, 8192 * round);
            } else {
                peer.says(8192 * round);
            }
            assert!(in_flight(&peer.line));
            peer.caught.0.clear();
        }
        assert_eq!(peer.line.stack.with_socket(SLOT, |socket| socket.state()), Some(State::Established));
    }
}

#[test]
fn what_smoltcp_holds_is_waited_for_but_not_for_long() {
    for v6 in FAMILIES {
        let mut line = connected(v6);
        line.settle();
        let mut caught = Caught::default();
        let mut all = source(data(1 << 20), false, || 20_000);
        let mut draw = |stack: &mut Stack, caught: &mut Caught, now| stack.draw(SLOT, &mut all, caught, now).is_some();
        line.stack.with_socket(SLOT, |socket| assert_eq!(socket.send_slice(b"a message"), Ok(9)));
        assert!(draw(&mut line.stack, &mut caught, line.now), "behind a message");
        assert!(!draw(&mut line.stack, &mut caught, line.now), "that is much");
        line.stack.flush(SLOT, &mut caught, line.now);
        assert!(!draw(&mut line.stack, &mut caught, line.now));
        let due = line.stack.poll_timeout().expect("a look for the answer");
        assert!(due <= line.now + Duration::from_millis(10), "{:?}", due - line.now);
        assert_eq!(line.stack.expired(due), Some(SLOT));
        line.stack.flush(SLOT, &mut caught, due);
        assert!(draw(&mut line.stack, &mut caught, due), "the answer may be delayed for long");
        assert!(!in_flight(&line));
    }
}

#[test]
fn timestamps_are_echoed_as_they_came_last() {
    let mut line = flying(true);
    let connection = line.stack.connections[SLOT].as_ref().expect("it stands");
    let (at, end) = (connection.numbers.acked, connection.numbers.end);
    let (mut caught, mut source) = (Caught::default(), line.source.take().expect("a source"));
    let stamp = connection.numbers.stamp.expect("the peer has them").wrapping_add(5000);
    let options = [etherparse::TcpOptionElement::Timestamp(stamp, 0)];
    let answer = through::segment(true, at, 0, &|tcp| tcp.ack(end).options(&options).expect("they fit"));
    let answer = through::with_room(answer, 60_000);
    line.stack.input(SLOT, &answer, &mut caught, line.now);
    assert!(line.stack.draw(SLOT, &mut source, &mut caught, line.now).is_some() && in_flight(&line));
    let packet = written(&mut caught).pop().expect("a piece");
    assert_eq!(packet.get(40 + 20 + 8..40 + 20 + 12), Some(&stamp.to_be_bytes()[..]));
}
