//! The stack against a peer in memory: both families, both directions, good and bad weather.

mod answers;
mod by_hand;
mod dead;
mod flight;
mod rest;
mod through;
mod wide;
mod wire;

use std::time::Instant;

use smoltcp::socket::tcp::{Socket, State};

use super::Stack;
use wire::{Line, SLOT, Weather};

const FAMILIES: [bool; 2] = [false, true];

fn line(v6: bool, weather: Weather) -> Line {
    let now = Instant::now();
    Line::new(Stack::new(7, now), now, v6, 40_000, weather)
}

/// A line whose connection stands.
fn connected(v6: bool) -> Line {
    connected_in(v6, Weather::default())
}

fn connected_in(v6: bool, weather: Weather) -> Line {
    shaken_hands(line(v6, weather))
}

fn shaken_hands(mut line: Line) -> Line {
    line.talk(|ours, peer| ours.state() == State::Established && peer.state() == State::Established);
    line
}

fn data(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from(i % 251).expect("below 251")).collect()
}

/// Sends what fits; true when all is sent.
fn send(socket: &mut Socket<'_>, data: &[u8], sent: &mut usize) -> bool {
    if socket.can_send() {
        *sent += socket.send_slice(data.get(*sent..).unwrap_or(&[])).expect("an open socket");
    }
    *sent == data.len()
}

fn receive(socket: &mut Socket<'_>, got: &mut Vec<u8>) {
    while socket.can_recv() {
        socket
            .recv(|bytes| {
                got.extend_from_slice(bytes);
                (bytes.len(), ())
            })
            .expect("an open socket");
    }
}

/// Nothing is left of the flow.
fn assert_drained(mut line: Line) -> Stack {
    line.stack.remove(SLOT, u64::MAX);
    assert_eq!(line.stack.poll_timeout(), None);
    assert!(line.stack.with_socket(SLOT, |_| ()).is_none());
    line.stack
}

#[test]
fn a_handshake_is_completed_in_both_families() {
    for v6 in FAMILIES {
        let mut line = connected(v6);
        line.settle();
        assert_eq!(line.stack.with_socket(SLOT, |socket| socket.state()), Some(State::Established));
        assert_drained(line);
    }
}

#[test]
fn bytes_pass_both_ways_and_large_pieces_as_super_packets() {
    for v6 in FAMILIES {
        let (up, down) = (data(300_000), data(200_001));
        let (mut sent_up, mut sent_down, mut got_up, mut got_down) = (0, 0, Vec::new(), Vec::new());
        let mut line = connected(v6);
        line.talk(|ours, peer| {
            send(peer, &up, &mut sent_up);
            send(ours, &down, &mut sent_down);
            receive(ours, &mut got_up);
            receive(peer, &mut got_down);
            got_up.len() == up.len() && got_down.len() == down.len()
        });
        assert!(got_up == up && got_down == down);
        let (packets, segments) = line.written;
        assert!(segments > packets, "{packets} packets became {segments} segments");
        assert_drained(line);
    }
}

#[test]
fn ten_megabytes_pass_a_wire_that_loses_and_reorders() {
    let all = data(5 << 20);
    for v6 in FAMILIES {
        for weather in [Weather { loss: 1, jitter_ms: 0 }, Weather { loss: 0, jitter_ms: 3 }, Weather { loss: 2, jitter_ms: 2 }] {
            let (mut sent_up, mut sent_down, mut got_up, mut got_down) = (0, 0, Vec::new(), Vec::new());
            let mut line = line(v6, weather);
            line.talk(|ours, peer| {
                if ours.state() == State::Established && peer.state() == State::Established {
                    send(peer, &all, &mut sent_up);
                    send(ours, &all, &mut sent_down);
                    receive(ours, &mut got_up);
                    receive(peer, &mut got_down);
                }
                got_up.len() >= all.len() && got_down.len() >= all.len()
            });
            assert!(got_up == all && got_down == all, "{weather:?} v6 {v6}");
            assert_drained(line);
        }
    }
}

#[test]
fn the_program_may_finish_first_and_still_gets_everything() {
    for v6 in FAMILIES {
        let down = data(100_000);
        let (mut sent, mut got, mut closed) = (0, Vec::new(), false);
        let mut line = connected(v6);
        line.talk(|ours, peer| {
            peer.close();
            if ours.state() == State::CloseWait && send(ours, &down, &mut sent) && !closed {
                ours.close();
                closed = true;
            }
            receive(peer, &mut got);
            ours.state() == State::Closed
        });
        assert!(got == down);
        assert_drained(line);
    }
}

#[test]
fn the_remote_may_finish_first_and_the_program_goes_on_sending() {
    for v6 in FAMILIES {
        let up = data(100_000);
        let (mut sent, mut got) = (0, Vec::new());
        let mut line = connected(v6);
        line.talk(|ours, peer| {
            ours.close();
            if peer.state() == State::CloseWait && send(peer, &up, &mut sent) {
                peer.close();
            }
            receive(ours, &mut got);
            ours.state() == State::TimeWait
        });
        assert!(got == up);
        assert_drained(line);
    }
}

#[test]
fn both_may_finish_at_the_same_time() {
    for v6 in FAMILIES {
        let mut line = connected(v6);
        line.talk(|ours, peer| {
            ours.close();
            peer.close();
            matches!(ours.state(), State::TimeWait | State::Closed)
        });
        assert_drained(line);
    }
}

#[test]
fn a_reset_reaches_the_other_side_at_once() {
    for v6 in FAMILIES {
        let mut line = connected(v6);
        line.talk(|ours, peer| {
            if peer.state() == State::Established {
                ours.abort();
            }
            peer.state() == State::Closed
        });
        assert_drained(line);

        let mut line = connected(v6);
        line.talk(|ours, peer| {
            if ours.state() == State::Established {
                peer.abort();
            }
            ours.state() == State::Closed
        });
        assert_drained(line);
    }
}

#[test]
fn a_program_that_gave_up_before_the_answer_came_is_gone_and_not_waited_for() {
    for v6 in FAMILIES {
        let mut line = line(v6, Weather::default());
        // smoltcp says RST only in the states that have a peer, so the program gives up between SYN-ACK and its own ACK.
        line.talk(|ours, peer| {
            if ours.state() == State::SynReceived {
                peer.abort();
            }
            matches!(ours.state(), State::Closed | State::Listen)
        });
        assert_eq!(line.stack.with_socket(SLOT, |socket| socket.state()), Some(State::Closed));
        assert_drained(line);
    }
}

#[test]
fn a_flow_in_the_place_of_another_has_rings_and_timers_of_its_own() {
    for v6 in FAMILIES {
        let now = Instant::now();
        let mut stack = Stack::new(7, now);
        for round in 0..5_u16 {
            let text = [b"flow ", &round.to_be_bytes()[..]].concat();
            let (mut sent, mut got) = (0, Vec::new());
            let mut line = Line::new(stack, now, v6, 40_000 + round, Weather::default());
            line.talk(|ours, peer| {
                if peer.state() == State::Established {
                    send(peer, &text, &mut sent);
                }
                receive(ours, &mut got);
                got.len() >= text.len()
            });
            assert_eq!(got, text);
            stack = assert_drained(line);
            assert_eq!([stack.up_rings.free_len(), stack.down_rings.free_len()], [1, 1], "the rings of one flow serve the next");
        }
    }
}

#[test]
fn a_flow_that_is_accepted_over_another_leaves_no_timer_of_the_first() {
    for v6 in FAMILIES {
        let now = Instant::now();
        let mut first = Line::new(Stack::new(7, now), now, v6, 40_000, Weather::default());
        let mut sent = 0;
        first.talk(|ours, _| ours.state() == State::Established && send(ours, b"unanswered", &mut sent));
        first.stack.flush(SLOT, &mut wire::Caught::default(), first.now);
        assert!(first.stack.poll_timeout().is_some(), "a retransmission is due");
        let mut second = Line::new(first.stack, first.now, v6, 40_001, Weather::default());
        second.talk(|ours, peer| ours.state() == State::Established && peer.state() == State::Established);
        assert_drained(second);
    }
}

#[test]
fn segments_and_timers_of_no_flow_are_ignored() {
    let now = Instant::now();
    let mut stack = Stack::new(7, now);
    let mut caught = wire::Caught::default();
    for slot in [0, SLOT, 100_000] {
        stack.input(slot, &[0x45; 40], &mut caught, now);
        stack.flush(slot, &mut caught, now);
        stack.remove(slot, 0);
        assert!(stack.with_socket(slot, |_| ()).is_none());
    }
    assert!(caught.0.is_empty() && stack.expired(now).is_none() && stack.poll_timeout().is_none());
}

#[test]
fn garbage_in_an_open_flow_changes_nothing() {
    for v6 in FAMILIES {
        let mut line = connected(v6);
        let mut caught = wire::Caught::default();
        for bytes in [&[][..], &[0x45; 19], &[0x45; 60], &[0x60; 39], &[0x60; 80], &[0xff; 200]] {
            line.stack.input(SLOT, bytes, &mut caught, line.now);
        }
        assert_eq!(line.stack.with_socket(SLOT, |socket| socket.state()), Some(State::Established));
        let (mut sent, mut got) = (0, Vec::new());
        line.talk(|ours, peer| {
            send(peer, b"still here", &mut sent);
            receive(ours, &mut got);
            got == b"still here"
        });
    }
}
