//! What a peer's acknowledgements tell of bytes that go past smoltcp: losses, doubles, and lies.

use std::time::Duration;

use super::by_hand::{ByHand, answer, written};
use super::flight::{flying, in_flight};
use super::wire::Caught;
use super::*;
use crate::packet::{Checksums, IpPacket, stream_bytes, stream_end};
use crate::stack::Opening;

#[test]
fn the_third_repeated_answer_is_heard_before_more_is_sent() {
    for v6 in FAMILIES {
        let mut peer = ByHand::new(v6, &data(1 << 20));
        (0..3).for_each(|_| peer.draw());
        peer.says(60_000);
        (0..2).for_each(|_| peer.says(60_000));
        written(&mut peer.caught);
        peer.hears(60_000, 60_000);
        assert!(!peer.try_draw(), "what is lost goes first");
        let sent: usize = written(&mut peer.caught).iter().filter_map(|packet| Some(stream_bytes(packet)?.len())).sum();
        assert_eq!((sent, in_flight(&peer.line)), (120_000, false));
    }
}

#[test]
fn words_that_bytes_came_twice_are_no_loss() {
    for v6 in FAMILIES {
        let mut peer = ByHand::new(v6, &data(1 << 20));
        (0..3).for_each(|_| peer.draw());
        peer.says(60_000);
        let acked = peer.begin.wrapping_add(60_000);
        let twice = etherparse::TcpOptionElement::SelectiveAcknowledgement((acked.wrapping_sub(100), acked), [None, None, None]);
        for _ in 0..5 {
            let bytes =
                through::segment(v6, peer.at, 0, &|tcp| tcp.ack(acked).options(std::slice::from_ref(&twice)).expect("it fits"));
            peer.feed(&through::with_room(bytes, 60_000));
        }
        assert!(in_flight(&peer.line));
        // Bytes of its own do not count either, and do not begin the count anew.
        (0..2).for_each(|_| peer.says(60_000));
        let request = through::segment(v6, peer.at, 10, &|tcp| tcp.ack(acked));
        peer.feed(&through::with_room(request, 60_000));
        assert!(in_flight(&peer.line));
        peer.at = peer.at.wrapping_add(10);
        peer.says(60_000);
        assert!(!in_flight(&peer.line));
    }
}

#[test]
fn what_answers_a_wrong_acknowledgement_moves_no_number() {
    for v6 in FAMILIES {
        let bytes = through::segment(v6, 1000, 0, &|tcp| tcp.syn());
        let packet = IpPacket::parse(&bytes, Checksums::Unfinished).expect("a whole packet");
        let (mut stack, mut caught, now) = (Stack::new(7, Instant::now()), Caught::default(), Instant::now());
        let opening = Opening { syn: &bytes, max_segment: Some(1460), has_timestamps: false };
        stack.accept(SLOT, &packet.tuple(), opening, &mut caught, now).expect("memory for two rings");
        let begin = written(&mut caught).first().and_then(|packet| stream_end(packet)).expect("the SYN-ACK");
        for beyond in [100_000, (1 << 31) - 2, 1 << 31, u32::MAX - 5] {
            let wrong = begin.wrapping_add(beyond);
            stack.input(SLOT, &through::segment(v6, 1001, 0, &|tcp| tcp.ack(wrong)), &mut caught, now);
            let resets = written(&mut caught);
            assert!(resets.iter().all(|packet| crate::packet::resets(packet)));
            let numbers = &stack.connections[SLOT].as_ref().expect("it waits").numbers;
            assert_eq!((numbers.acked, numbers.end, resets.len()), (1001, begin, 1), "{beyond}");
        }
        stack.input(SLOT, &through::segment(v6, 1001, 0, &|tcp| tcp.ack(begin)), &mut caught, now);
        assert_eq!(stack.with_socket(SLOT, |socket| socket.state()), Some(State::Established));
    }
}

#[test]
fn what_was_never_sent_cannot_be_acknowledged() {
    for v6 in FAMILIES {
        let mut line = flying(v6);
        line.source = None;
        let connection = line.stack.connections[SLOT].as_ref().expect("it stands");
        let (at, end, before) = (connection.numbers.acked, connection.numbers.end, connection.numbers.flight.lag());
        let mut caught = Caught::default();
        for beyond in [1, 1000, 1 << 20, (1 << 31) - 1, 1 << 31] {
            line.stack.input(SLOT, &answer(v6, at, end.wrapping_add(beyond), 60_000), &mut caught, line.now);
            let connection = line.stack.connections[SLOT].as_ref().expect("it stands");
            assert_eq!(connection.numbers.flight.lag(), before, "{beyond}");
        }
        line.stack.input(SLOT, &answer(v6, at, end, 60_000), &mut caught, line.now);
        assert!(!in_flight(&line));
        assert_drained(line);
    }
}

#[test]
fn three_answers_that_repeat_each_other_mean_a_loss_and_two_do_not() {
    for v6 in FAMILIES {
        let mut line = flying(v6);
        line.source = None;
        let connection = line.stack.connections[SLOT].as_ref().expect("it stands");
        let (at, first) = (connection.numbers.acked, connection.passage.said.expect("an answer").0);
        let mut caught = Caught::default();
        let window = connection.passage.said.expect("an answer").1;
        for room in [window.wrapping_add(1), window, window.wrapping_add(1)] {
            line.stack.input(SLOT, &answer(v6, at, first, room), &mut caught, line.now);
            line.stack.flush(SLOT, &mut caught, line.now);
        }
        assert!(in_flight(&line) && written(&mut caught).is_empty(), "each named another room");
        for _ in 0..3 {
            assert!(in_flight(&line) && written(&mut caught).is_empty());
            line.stack.input(SLOT, &answer(v6, at, first, window.wrapping_add(1)), &mut caught, line.now);
            line.stack.flush(SLOT, &mut caught, line.now);
        }
        assert!(!in_flight(&line));
        let again = written(&mut caught);
        let begins = again
            .first()
            .and_then(|packet| Some(stream_end(packet)?.wrapping_sub(u32::try_from(stream_bytes(packet)?.len()).ok()?)));
        assert_eq!(begins, Some(first), "from the first byte that is missing");
        assert_drained(line);
    }
}

#[test]
fn the_end_carries_an_answer_that_was_due_with_it() {
    for v6 in FAMILIES {
        let mut line = flying(v6);
        let connection = line.stack.connections[SLOT].as_ref().expect("it stands");
        let (at, first) = (connection.numbers.acked, connection.passage.said.expect("an answer").0);
        let mut caught = Caught::default();
        // A small request, whose acknowledgement waits for company.
        let request = through::with_room(through::segment(v6, at, 100, &|tcp| tcp.ack(first)), 60_000);
        line.stack.input(SLOT, &request, &mut caught, line.now);
        line.stack.flush(SLOT, &mut caught, line.now);
        assert!(written(&mut caught).is_empty() && in_flight(&line));
        assert!(line.stack.draw(SLOT, |_| Ok(0), &mut caught, line.now).is_some());
        line.stack.flush(SLOT, &mut caught, line.now + Duration::from_millis(5));
        let answers: Vec<_> = written(&mut caught).iter().filter_map(|packet| crate::packet::acknowledged(packet)).collect();
        assert_eq!(answers, [at.wrapping_add(100)], "said once, without the bytes that are on their way");
    }
}
