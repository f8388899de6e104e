//! Programs that say nothing any more: patience with the living, an end for the dead.

use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use smoltcp::socket::tcp::State;

use super::wire::{Caught, SLOT, Weather};
use super::{FAMILIES, connected, line};
use crate::packet::{Checksums, IpPacket};
use crate::stack::{Opening, Stack};

fn syn(v6: bool) -> Vec<u8> {
    let (v4, six) = (PacketBuilder::ipv4([10, 9, 0, 2], [203, 0, 113, 10], 64), [0x20; 16]);
    let builder = if v6 { PacketBuilder::ipv6([0xfd; 16], six, 64) } else { v4 };
    let mut bytes = Vec::new();
    builder.tcp(40_000, 443, 1000, 64_240).syn().write(&mut bytes, &[]).expect("writing to memory");
    bytes
}

/// A segment with an ACK and maybe another flag.
fn segment(v6: bool, sequence: u32, flag: &str, data: &[u8]) -> Vec<u8> {
    let (v4, six) = (PacketBuilder::ipv4([10, 9, 0, 2], [203, 0, 113, 10], 64), [0x20; 16]);
    let builder = if v6 { PacketBuilder::ipv6([0xfd; 16], six, 64) } else { v4 };
    let builder = builder.tcp(40_000, 443, sequence, 64_240).ack(1);
    let builder = match flag {
        "fin" => builder.fin(),
        "rst" => builder.rst(),
        _ => builder,
    };
    let mut bytes = Vec::new();
    builder.write(&mut bytes, data).expect("writing to memory");
    bytes
}

fn asks(stack: &Stack, bytes: &[u8]) -> bool {
    stack.asks(SLOT, &IpPacket::parse(bytes, Checksums::Finished).expect("a whole packet"))
}

#[test]
fn a_programs_keepalive_is_a_question_and_no_other_segment_is() {
    for v6 in FAMILIES {
        let mut line = connected(v6);
        line.settle();
        let acked = line.stack.connections.get(SLOT).and_then(Option::as_ref).expect("a connection").numbers.acked;
        let [before, earlier] = [1, 2].map(|distance| acked.wrapping_sub(distance));
        assert!(asks(&line.stack, &segment(v6, before, "", b"")));
        for (sequence, flag, data) in
            [(acked, "", ""), (acked, "", "x"), (before, "", "x"), (earlier, "", "x"), (before, "fin", ""), (before, "rst", "")]
        {
            assert!(!asks(&line.stack, &segment(v6, sequence, flag, data.as_bytes())), "{sequence} {flag} {data} {acked}");
        }
        assert!(
            !Stack::new(7, line.now)
                .asks(SLOT, &IpPacket::parse(&segment(v6, before, "", b""), Checksums::Finished).expect("whole"))
        );
    }
}

#[test]
fn what_asks_for_room_is_no_question() {
    for v6 in FAMILIES {
        let (up, mut sent) = (super::data(5000), 0);
        let mut line = connected(v6);
        line.talk(|ours, peer| super::send(peer, &up, &mut sent) && ours.recv_queue() == up.len());
        line.settle();
        let acked = line.stack.connections.get(SLOT).and_then(Option::as_ref).expect("a connection").numbers.acked;
        assert!(!asks(&line.stack, &segment(v6, acked.wrapping_sub(1), "", b"")));
    }
}

/// Lets the stack's timers run out one by one, all it says being lost; gives how long it went on and how often it spoke.
fn alone(stack: &mut Stack, from: Instant) -> (Duration, usize) {
    let (mut now, mut said) = (from, 0);
    for _ in 0..10_000 {
        if stack.with_socket(SLOT, |socket| socket.state()) == Some(State::Closed) {
            return (now - from, said);
        }
        now = stack.poll_timeout().expect("it would stay for ever").max(now);
        let mut caught = Caught::default();
        while let Some(slot) = stack.expired(now) {
            stack.flush(slot, &mut caught, now);
        }
        said += caught.0.len();
        assert!(stack.poll_timeout().is_none_or(|at| at > now), "a timer that stays would spin");
    }
    panic!("it speaks for ever");
}

#[test]
fn an_unanswered_syn_ack_is_given_up_after_a_minute() {
    for v6 in FAMILIES {
        let now = Instant::now();
        let (mut stack, mut caught, bytes) = (Stack::new(7, now), Caught::default(), syn(v6));
        let packet = IpPacket::parse(&bytes, Checksums::Finished).expect("a whole packet");
        let opening = Opening { syn: &bytes, max_segment: Some(1460), has_timestamps: false };
        stack.accept(SLOT, &packet.tuple(), opening, &mut caught, now).expect("memory for two rings");
        assert_eq!(caught.0.len(), 1, "the SYN-ACK");
        let (waited, said) = alone(&mut stack, now);
        assert!((63..70).contains(&waited.as_secs()), "{waited:?}");
        assert!((4..20).contains(&said), "it is repeated, more and more rarely: {said}");
    }
}

#[test]
fn a_program_that_is_silent_for_a_day_is_asked_every_two_hours_and_keeps_its_connection() {
    for v6 in FAMILIES {
        let mut line = connected(v6);
        line.settle();
        let (before, _) = line.written;
        for _ in 0..12 {
            line.now += Duration::from_secs(7200);
            line.settle();
            assert_eq!(line.stack.with_socket(SLOT, |socket| socket.state()), Some(State::Established));
        }
        assert!((11..=13).contains(&(line.written.0 - before)), "{} questions", line.written.0 - before);
    }
}

#[test]
fn a_program_whose_host_has_died_is_given_up_after_two_questions() {
    for v6 in FAMILIES {
        let mut line = connected(v6);
        line.settle();
        let (waited, said) = alone(&mut line.stack, line.now);
        assert!((14_400..15_200).contains(&waited.as_secs()), "{waited:?}");
        assert!((2..=4).contains(&said), "two questions and the end: {said}");
    }
}

#[test]
fn bytes_that_a_dead_program_never_takes_end_its_connection_too() {
    for v6 in FAMILIES {
        let mut line = line(v6, Weather::default());
        let mut sent = 0;
        line.talk(|ours, _| ours.state() == State::Established && super::send(ours, b"unanswered", &mut sent));
        let (waited, said) = alone(&mut line.stack, line.now);
        assert!(waited < Duration::from_secs(15_200) && said < 1000, "{waited:?}, {said}");
    }
}

#[test]
fn a_syn_that_asks_for_tiny_segments_is_refused() {
    for v6 in FAMILIES {
        let now = Instant::now();
        for (mss, is_accepted) in [(0, false), (1, false), (47, false), (48, true)] {
            let (mut stack, mut caught, bytes) = (Stack::new(7, now), Caught::default(), syn(v6));
            let packet = IpPacket::parse(&bytes, Checksums::Finished).expect("a whole packet");
            let opening = Opening { syn: &bytes, max_segment: Some(mss), has_timestamps: false };
            let accepted = stack.accept(SLOT, &packet.tuple(), opening, &mut caught, now);
            assert_eq!((accepted.is_ok(), caught.0.len()), (is_accepted, usize::from(is_accepted)), "{mss}");
        }
    }
}
