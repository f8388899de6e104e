//! Bytes that go past smoltcp: none is lost, doubled or moved, and the program is told of all of them.

use std::cell::RefCell;
use std::io::IoSlice;
use std::rc::Rc;

use super::*;
use crate::packet::{Checksums, IpPacket, VNET_HEADER_LEN, acknowledged, stream_end};
use crate::stack::Passed;
use crate::stack::device::Numbers;
use crate::stack::through::Piece;

/// What arrived at the other end, by either way, and how much of that went through.
#[derive(Clone, Default)]
struct Got(Rc<RefCell<(Vec<u8>, usize)>>);

impl Got {
    fn len(&self) -> usize {
        self.0.borrow().0.len()
    }

    /// Reads the ring.
    fn read(&self, socket: &mut Socket<'_>) {
        receive(socket, &mut self.0.borrow_mut().0);
    }

    /// Takes what is offered, but at most so many bytes.
    fn take(&self, pieces: &[IoSlice<'_>], most: usize) -> usize {
        let (got, through) = &mut *self.0.borrow_mut();
        let before = got.len();
        pieces.iter().for_each(|piece| got.extend_from_slice(piece));
        got.truncate(before.saturating_add(most));
        *through += got.len() - before;
        got.len() - before
    }
}

fn line_that_passes(v6: bool, weather: Weather, got: &Got, mut most: impl FnMut() -> usize + 'static) -> Line {
    let (mut line, got) = (connected_in(v6, weather), got.clone());
    line.taker = Some(Box::new(move |pieces| got.take(pieces, most())));
    line
}

#[test]
fn nearly_everything_goes_through_where_it_is_taken_and_the_program_is_told_at_once() {
    for v6 in FAMILIES {
        let (up, got, mut sent) = (data(600_000), Got::default(), 0);
        let mut line = line_that_passes(v6, Weather::default(), &got, || usize::MAX);
        let began = line.now;
        line.talk(|ours, peer| {
            send(peer, &up, &mut sent);
            got.read(ours);
            got.len() == up.len()
        });
        let took = line.now - began;
        assert!(took < std::time::Duration::from_millis(200), "nothing had to be sent again: {took:?}");
        assert!(got.0.borrow().0 == up);
        assert!(got.0.borrow().1 > up.len() * 9 / 10, "{} of {}", got.0.borrow().1, up.len());
        assert_drained(line);
    }
}

#[test]
fn streams_stay_whole_however_much_is_taken_and_whatever_the_wire_does() {
    let (up, down) = (data(3 << 20), data(1 << 20));
    for v6 in FAMILIES {
        for weather in [Weather { loss: 0, jitter_ms: 0 }, Weather { loss: 2, jitter_ms: 0 }, Weather { loss: 1, jitter_ms: 2 }] {
            let (got, mut sent, mut sent_down, mut got_down, mut turn) = (Got::default(), 0, 0, Vec::new(), 0_usize);
            let mut chance = 7_usize;
            let most = move || {
                chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                [usize::MAX, usize::MAX, 0, 1, 2000][(chance >> 33) % 5]
            };
            let mut line = line_that_passes(v6, weather, &got, most);
            line.talk(|ours, peer| {
                if peer.state() == State::Established {
                    send(peer, &up, &mut sent);
                    send(ours, &down, &mut sent_down);
                }
                turn += 1;
                if turn.is_multiple_of(7) {
                    got.read(ours);
                }
                receive(peer, &mut got_down);
                got.len() == up.len() && got_down.len() == down.len()
            });
            assert!(got.0.borrow().0 == up && got_down == down, "{weather:?} v6 {v6}");
            assert!(got.0.borrow().1 > 5_000, "{weather:?} v6 {v6}: {} went through", got.0.borrow().1);
            assert_drained(line);
        }
    }
}

#[test]
fn both_ends_can_finish_after_bytes_went_through() {
    for v6 in FAMILIES {
        let (up, down, got) = (data(100_000), data(50_000), Got::default());
        let (mut sent, mut sent_down, mut got_down) = (0, 0, Vec::new());
        let mut line = line_that_passes(v6, Weather::default(), &got, || usize::MAX);
        line.talk(|ours, peer| {
            if send(peer, &up, &mut sent) {
                peer.close();
            }
            got.read(ours);
            if ours.state() == State::CloseWait && send(ours, &down, &mut sent_down) {
                ours.close();
            }
            receive(peer, &mut got_down);
            ours.state() == State::Closed
        });
        assert!(got.0.borrow().0 == up && got_down == down);
        assert_drained(line);
    }
}

#[test]
fn a_finished_remote_end_still_takes_what_goes_through() {
    for v6 in FAMILIES {
        let (up, got, mut sent) = (data(100_000), Got::default(), 0);
        let mut line = line_that_passes(v6, Weather::default(), &got, || usize::MAX);
        line.talk(|ours, peer| {
            ours.close();
            if peer.state() == State::CloseWait && send(peer, &up, &mut sent) {
                peer.close();
            }
            got.read(ours);
            ours.state() == State::TimeWait
        });
        assert!(got.0.borrow().0 == up && got.0.borrow().1 > 0);
        assert_drained(line);
    }
}

pub(super) type Flags<'a> = &'a dyn Fn(Step) -> Step;
pub(super) type Step = etherparse::PacketBuilderStep<etherparse::TcpHeader>;

/// A segment of `len` bytes from `sequence` on.
pub(super) fn segment(v6: bool, sequence: u32, len: usize, flags: Flags<'_>) -> Vec<u8> {
    let builder = if v6 {
        etherparse::PacketBuilder::ipv6(V6_ENDS.0, V6_ENDS.1, 64)
    } else {
        etherparse::PacketBuilder::ipv4([10, 9, 0, 2], [203, 0, 113, 10], 64)
    };
    let mut bytes = Vec::new();
    flags(builder.tcp(40_000, 443, sequence, 1000)).write(&mut bytes, &vec![7; len]).expect("a vector takes it");
    bytes
}

const V6_ENDS: ([u8; 16], [u8; 16]) =
    ([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2], [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10]);

pub(super) fn with_room(mut packet: Vec<u8>, room: u16) -> Vec<u8> {
    let at = if packet[0] >> 4 == 4 { 20 } else { 40 } + 14;
    packet[at..at + 2].copy_from_slice(&room.to_be_bytes());
    packet
}

/// Offers packets to somebody who takes everything.
fn offer(stack: &mut Stack, packets: &[Vec<u8>]) -> Passed {
    let packets = packets.iter().map(|bytes| IpPacket::parse(bytes, Checksums::Unfinished).expect("well-formed"));
    stack.pass(SLOT, packets, |pieces| pieces.iter().map(|piece| piece.len()).sum())
}

#[test]
fn what_a_segment_says_beside_its_bytes_is_heard() {
    for v6 in FAMILIES {
        let mut line = connected(v6);
        line.settle();
        line.stack.with_socket(SLOT, |socket| assert_eq!(socket.send_slice(b"an answer"), Ok(9)));
        line.stack.flush(SLOT, &mut wire::Caught::default(), line.now);
        let connection = line.stack.connections[SLOT].as_ref().expect("it stands");
        let (at, answer) = (connection.numbers.acked, connection.passage.said.expect("the handshake's last word").0);
        let queued = |stack: &mut Stack| stack.with_socket(SLOT, |socket| socket.send_queue());
        assert_eq!(queued(&mut line.stack), Some(9));
        let passed = offer(&mut line.stack, &[segment(v6, at, 100, &|tcp| tcp.ack(answer.wrapping_add(9)))]);
        assert_eq!(passed, Passed { bytes: 100, packets: 1 });
        line.stack.flush(SLOT, &mut wire::Caught::default(), line.now);
        assert_eq!(queued(&mut line.stack), Some(0), "the answer is acknowledged");
    }
}

#[test]
fn words_between_pieces_are_heard_in_their_order() {
    for v6 in FAMILIES {
        let mut line = connected(v6);
        line.settle();
        let mut caught = wire::Caught::default();
        line.stack.with_socket(SLOT, |socket| assert_eq!(socket.send_slice(&[7; 20_000]), Ok(20_000)));
        line.stack.flush(SLOT, &mut caught, line.now);
        let connection = line.stack.connections[SLOT].as_ref().expect("it stands");
        let (at, answer) = (connection.numbers.acked, connection.passage.said.expect("the handshake's last word").0);
        let newer = answer.wrapping_add(1000);
        // The bytes say that there is no room, and an empty segment behind them that there is, and more acknowledged.
        assert_eq!(offer(&mut line.stack, &[with_room(segment(v6, at, 100, &|tcp| tcp.ack(answer)), 0)]).packets, 1);
        caught.0.clear();
        line.stack.input(
            SLOT,
            &with_room(segment(v6, at.wrapping_add(100), 0, &|tcp| tcp.ack(newer)), 60_000),
            &mut caught,
            line.now,
        );
        line.stack.flush(SLOT, &mut caught, line.now);
        let said: Vec<_> = caught.0.iter().filter_map(|packet| acknowledged(&packet[VNET_HEADER_LEN..])).collect();
        assert_eq!(said.last(), Some(&at.wrapping_add(100)), "the bytes are acknowledged");
        assert_eq!(line.stack.with_socket(SLOT, |socket| socket.send_queue()), Some(19_000));
        line.stack.with_socket(SLOT, |socket| assert_eq!(socket.send_slice(&[7; 10]), Ok(10)));
        caught.0.clear();
        line.stack.flush(SLOT, &mut caught, line.now);
        assert!(!caught.0.is_empty(), "there is room");
    }
}

#[test]
fn what_was_acknowledged_once_is_never_owed_again() {
    let mut passage = crate::stack::through::Passage::new(1000, 0);
    let (mut numbers, at) = (Numbers::new(1460, None), smoltcp::time::Instant::ZERO);
    assert!(!passage.owes(1000), "nothing went through");
    let bytes = segment(false, 1000, 100, &|tcp| tcp.ack(5));
    passage.note(
        &Piece::of(&IpPacket::parse(&bytes, Checksums::Unfinished).expect("well-formed")).expect("plain"),
        100,
        &mut numbers,
        at,
    );
    assert!(passage.owes(1000) && passage.owes(1099) && !passage.owes(1100));
    assert!(!passage.owes(1100 + (1 << 31)) && !passage.owes(1099), "more than two gigabytes later");
}

#[test]
fn only_plain_segments_behind_all_that_was_heard_go_through() {
    for v6 in FAMILIES {
        let mut line = connected(v6);
        line.settle();
        let connection = line.stack.connections[SLOT].as_ref().expect("it stands");
        let (at, answer) = (connection.numbers.acked, connection.passage.said.expect("the handshake's last word").0);
        let plain = |tcp: Step| tcp.ack(answer);
        let refused: [(u32, usize, Flags<'_>); 8] = [
            (at.wrapping_sub(1), 100, &plain),
            (at.wrapping_add(1), 100, &plain),
            (at, 0, &plain),
            (at, 100, &|tcp| tcp),
            (at, 100, &|tcp| tcp.ack(answer).fin()),
            (at, 100, &|tcp| tcp.ack(answer).rst()),
            (at, 100, &|tcp| tcp.ack(answer).syn()),
            (at.wrapping_add(1 << 31), 100, &plain),
        ];
        for (place, (sequence, len, flags)) in refused.into_iter().enumerate() {
            assert_eq!(offer(&mut line.stack, &[segment(v6, sequence, len, flags)]), Passed::default(), "{place}");
        }
        let three = [segment(v6, at, 100, &plain), segment(v6, at + 100, 50, &plain), segment(v6, at + 151, 100, &plain)];
        assert_eq!(offer(&mut line.stack, &three), Passed { bytes: 150, packets: 2 }, "the third leaves a gap");
        assert_eq!(offer(&mut line.stack, &three), Passed::default(), "they went through before");
        let mut caught = wire::Caught::default();
        line.stack.flush(SLOT, &mut caught, line.now);
        let said = caught.0.iter().map(|packet| acknowledged(&packet[VNET_HEADER_LEN..])).collect::<Vec<_>>();
        assert_eq!(said, [stream_end(&three[1])], "one word for both");
    }
}
