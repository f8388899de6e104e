//! Bytes for the program that go past smoltcp: none is lost, doubled or moved, whatever the wire and the program do.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::packet::{VNET_HEADER_LEN, stream_bytes};
use wire::{Caught, Source};

/// The peer's bytes, as many at a time as `most` says; then the end, or `WouldBlock`.
pub(super) fn source(bytes: Vec<u8>, ends: bool, mut most: impl FnMut() -> usize + 'static) -> Source {
    let mut at = 0;
    Box::new(move |room| {
        let rest = bytes.get(at..).unwrap_or_default();
        let len = rest.len().min(room.len()).min(most());
        if len == 0 && !(ends && rest.is_empty()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        room[..len].copy_from_slice(&rest[..len]);
        at += len;
        Ok(len)
    })
}

/// Numbers that look like chance.
fn chance(seed: usize) -> impl FnMut(usize) -> usize {
    let mut state = seed;
    move |end| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % end
    }
}

/// How many bytes were acknowledged that smoltcp never saw.
fn went_past(line: &Line) -> usize {
    line.stack.connections[SLOT].as_ref().map_or(0, |connection| usize::try_from(connection.numbers.flight.lag().0).expect("few"))
}

pub(super) fn in_flight(line: &Line) -> bool {
    line.stack.connections[SLOT].as_ref().is_some_and(|connection| !connection.numbers.flight.is_empty())
}

/// Lets the peer read until it has so many bytes.
fn read_all(line: &mut Line, len: usize) -> Vec<u8> {
    let mut got = Vec::new();
    line.talk(|_, peer| {
        receive(peer, &mut got);
        got.len() >= len
    });
    got
}

#[test]
fn nearly_everything_goes_past_once_and_the_end_follows_at_once() {
    for v6 in FAMILIES {
        let down = data(3 << 20);
        let mut line = connected(v6);
        line.source = Some(source(down.clone(), true, || usize::MAX));
        let (began, mut got) = (line.now, Vec::new());
        line.talk(|_, peer| {
            receive(peer, &mut got);
            peer.state() == State::CloseWait
        });
        receive_rest(&mut line, &mut got);
        assert!(got == down, "{} of {}", got.len(), down.len());
        assert!(line.now - began < Duration::from_millis(150), "nothing waited for a clock: {:?}", line.now - began);
        assert!(went_past(&line) > down.len() * 8 / 10, "{}", went_past(&line));
        let sent: usize = line.payload;
        assert!(sent < down.len() + 70_000, "{sent} bytes for {}", down.len());
        line.talk(|ours, peer| {
            peer.close();
            ours.state() == State::TimeWait
        });
        assert_drained(line);
    }
}

fn receive_rest(line: &mut Line, got: &mut Vec<u8>) {
    line.talk(|_, peer| {
        receive(peer, got);
        true
    });
}

#[test]
fn streams_stay_whole_whatever_the_wire_does_and_however_the_bytes_come() {
    let (up, down) = (data(1 << 20), data(3 << 20));
    for v6 in FAMILIES {
        for (loss, jitter_ms) in [(0, 0), (1, 0), (3, 0), (0, 3), (1, 2)] {
            let mut dice = chance(loss_seed(loss, jitter_ms));
            let most = move || [usize::MAX, 100_000, 20_000, 1, 0][dice(5)];
            let mut line = connected_in(v6, Weather { loss, jitter_ms });
            line.source = Some(source(down.clone(), true, most));
            let (mut sent, mut got_up, mut got) = (0, Vec::new(), Vec::new());
            line.talk(|ours, peer| {
                send(peer, &up, &mut sent);
                receive(ours, &mut got_up);
                receive(peer, &mut got);
                got_up.len() == up.len() && peer.state() == State::CloseWait && !peer.can_recv()
            });
            assert!(got == down && got_up == up, "loss {loss} jitter {jitter_ms} v6 {v6}");
            assert!(jitter_ms > 0 || went_past(&line) > 100_000, "loss {loss} jitter {jitter_ms} v6 {v6}: {}", went_past(&line));
            line.talk(|ours, peer| {
                peer.close();
                matches!(ours.state(), State::TimeWait | State::Closed)
            });
            assert_drained(line);
        }
    }
}

fn loss_seed(loss: u64, jitter_ms: u64) -> usize {
    usize::try_from(loss * 10 + jitter_ms + 1).expect("small")
}

#[test]
fn uploads_and_downloads_go_past_at_the_same_time() {
    let (up, down) = (data(2 << 20), data(2 << 20));
    for v6 in FAMILIES {
        for loss in [0, 1] {
            let mut line = connected_in(v6, Weather { loss, jitter_ms: 0 });
            line.source = Some(source(down.clone(), false, || 60_000));
            let got_up = Rc::new(std::cell::RefCell::new(Vec::new()));
            let taken = got_up.clone();
            line.taker = Some(Box::new(move |pieces| {
                let before = taken.borrow().len();
                pieces.iter().for_each(|piece| taken.borrow_mut().extend_from_slice(piece));
                taken.borrow().len() - before
            }));
            let (mut sent, mut got) = (0, Vec::new());
            line.talk(|ours, peer| {
                send(peer, &up, &mut sent);
                receive(ours, &mut got_up.borrow_mut());
                receive(peer, &mut got);
                got_up.borrow().len() == up.len() && got.len() == down.len()
            });
            assert!(*got_up.borrow() == up && got == down, "v6 {v6} loss {loss}");
            assert!(went_past(&line) > 200_000, "{}", went_past(&line));
            assert_drained(line);
        }
    }
}

#[test]
fn a_program_that_does_not_read_holds_the_peer_back_and_gets_everything_later() {
    for v6 in FAMILIES {
        for loses_word in [false, true] {
            let down = data(2 << 20);
            let drawn = Rc::new(Cell::new(0));
            let counter = drawn.clone();
            let mut line = connected(v6);
            let mut inner = source(down.clone(), false, || 50_000);
            line.source = Some(Box::new(move |room| inner(room).inspect(|len| counter.set(counter.get() + len))));
            for _ in 0..20 {
                line.settle();
            }
            assert!(drawn.get() < (512 + 256 + 100) * 1024, "bounded by the ring and the program's room: {}", drawn.get());
            // The word that there is room again may be lost.
            line.loses = Some(if loses_word { |_| true } else { |_| false });
            let mut got = Vec::new();
            receive_rest(&mut line, &mut got);
            line.settle();
            line.loses = None;
            got.extend(read_all(&mut line, down.len() - got.len()));
            assert!(got == down);
            assert_drained(line);
        }
    }
}

#[test]
fn the_word_of_new_room_may_be_lost_while_nothing_is_in_flight() {
    for v6 in FAMILIES {
        let down = data(1 << 20);
        let mut line = connected(v6);
        line.source = Some(source(down.clone(), false, || 50_000));
        // Until the program's room is full, and all of that is acknowledged.
        while in_flight(&line) || went_past(&line) == 0 || line.stack.with_socket(SLOT, |socket| socket.send_queue()) != Some(0) {
            let mut steps = 0;
            line.talk(|_, _| {
                steps += 1;
                steps > 1
            });
        }
        line.loses = Some(|_| true);
        let mut got = Vec::new();
        receive_rest(&mut line, &mut got);
        line.talk_for(Duration::from_millis(100));
        line.loses = None;
        got.extend(read_all(&mut line, down.len() - got.len()));
        assert!(got == down);
        assert_drained(line);
    }
}

#[test]
fn the_program_may_finish_while_bytes_are_in_flight() {
    for v6 in FAMILIES {
        let down = data(2 << 20);
        let mut line = connected(v6);
        line.source = Some(source(down.clone(), true, || 60_000));
        let mut got = Vec::new();
        line.talk(|ours, peer| {
            receive(peer, &mut got);
            if got.len() > 300_000 {
                peer.close();
            }
            ours.state() == State::Closed
        });
        assert!(got == down, "{}", got.len());
        assert_drained(line);
    }
}

/// A line with bytes in flight.
pub(super) fn flying(v6: bool) -> Line {
    let mut line = connected(v6);
    line.source = Some(source(data(10 << 20), false, || 60_000));
    let mut got = Vec::new();
    while !(in_flight(&line) && went_past(&line) > 0) {
        receive_rest(&mut line, &mut got);
        line.talk_for(Duration::from_micros(200));
    }
    line
}

#[test]
fn either_side_may_reset_while_bytes_are_in_flight() {
    for v6 in FAMILIES {
        let mut line = flying(v6);
        line.talk(|ours, peer| {
            peer.abort();
            ours.state() == State::Closed
        });
        let mut caught = Caught::default();
        assert!(line.stack.draw(SLOT, |_| panic!("nobody reads it"), &mut caught, line.now).is_none());
        line.stack.flush(SLOT, &mut caught, line.now + Duration::from_secs(2));
        assert!(caught.0.is_empty(), "nothing is said to the dead");
        assert_drained(line);

        let mut line = flying(v6);
        let mut got = Vec::new();
        line.source = None;
        line.talk(|ours, peer| {
            receive(peer, &mut got);
            ours.abort();
            peer.state() == State::Closed
        });
        assert_drained(line);
    }
}

#[test]
fn what_is_in_flight_is_not_at_rest_and_comes_again_when_nobody_answers() {
    for v6 in FAMILIES {
        let mut line = flying(v6);
        line.source = None;
        assert!(!line.stack.connections[SLOT].as_ref().expect("it stands").is_at_rest());
        let mut caught = Caught::default();
        line.stack.flush(SLOT, &mut caught, line.now);
        assert!(caught.0.is_empty());
        let latest = line.now + Duration::from_secs(1);
        while in_flight(&line) {
            let due = line.stack.poll_timeout().expect("a look at what is in flight");
            assert!(due <= latest);
            line.now = due;
            assert_eq!(line.stack.expired(due), Some(SLOT));
            line.stack.flush(SLOT, &mut caught, due);
        }
        assert!(
            caught.0.iter().map(|packet| stream_bytes(&packet[VNET_HEADER_LEN..]).map_or(0, <[u8]>::len)).sum::<usize>() > 1000
        );
        assert_drained(line);
    }
}

#[test]
fn a_stream_of_hours_is_not_taken_for_a_dead_one() {
    for v6 in FAMILIES {
        let mut line = connected(v6);
        let mut turn = 0_usize;
        line.source = Some(Box::new(move |room| {
            turn += 1;
            if turn.is_multiple_of(2) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let len = room.len().min(20_000);
            room[..len].fill(7);
            Ok(len)
        }));
        let (end, mut got, mut read) = (line.now + Duration::from_secs(9 * 3600), Vec::new(), 0);
        while line.now < end {
            line.talk(|_, peer| {
                receive(peer, &mut got);
                true
            });
            line.talk_for(Duration::from_millis(20));
            read += got.len();
            got.clear();
            line.now += Duration::from_secs(100);
        }
        assert_eq!(line.stack.with_socket(SLOT, |socket| socket.state()), Some(State::Established));
        assert!(read > 3_000_000, "{read}");
        assert_drained(line);
    }
}

#[test]
fn messages_are_smoltcps() {
    for v6 in FAMILIES {
        let mut line = connected(v6);
        line.source = Some(source(data(500), false, || usize::MAX));
        assert_eq!(read_all(&mut line, 500), data(500));
        assert_eq!(went_past(&line), 0);
        assert_drained(line);
    }
}

#[test]
fn the_end_is_found_behind_bytes_that_nobody_reads() {
    for v6 in FAMILIES {
        let down = data(300_000);
        let mut line = connected(v6);
        line.stack.with_socket(SLOT, |socket| assert_eq!(socket.send_slice(b"a message"), Ok(9)));
        let (mut inner, ended) = (source(down, true, || 250_000), Rc::new(Cell::new(false)));
        let end = ended.clone();
        line.source = Some(Box::new(move |room| inner(room).inspect(|len| end.set(*len == 0))));
        line.talk_for(Duration::from_secs(5));
        assert!(ended.get(), "the program's room is full, and the peer has said all");
    }
}
