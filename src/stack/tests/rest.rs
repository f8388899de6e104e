//! Flows that rest give their memory back, and only those.

use std::time::Duration;

use super::*;

/// Longer than a flow must be silent.
const LONG: Duration = Duration::from_secs(6);

fn is_warm(line: &Line) -> bool {
    line.stack.connections.get(SLOT).and_then(Option::as_ref).is_some_and(|connection| connection.is_warm)
}

/// Lets both sides be silent, looking as often as the stack asks for.
fn rest(line: &mut Line) {
    let until = line.now + LONG * 2;
    while let Some(at) = line.stack.cool_timeout().filter(|at| *at <= until) {
        line.now = line.now.max(at);
        line.stack.cool(line.now);
    }
}

/// Sends a little each way.
fn exchange(line: &mut Line, up: &[u8]) {
    let (mut sent, mut got) = (0, Vec::new());
    line.talk(|ours, peer| {
        send(peer, up, &mut sent);
        receive(ours, &mut got);
        got.len() == up.len()
    });
    assert_eq!(got, up);
    line.settle();
}

#[test]
fn a_flow_that_rests_gives_its_memory_back_once_and_goes_on_afterwards() {
    for v6 in FAMILIES {
        let mut line = connected(v6);
        for round in 1..=3 {
            exchange(&mut line, &data(round * 20_000));
            assert!(is_warm(&line));
            rest(&mut line);
            assert!(!is_warm(&line) && line.stack.cool_timeout().is_none(), "an idle flow costs nothing");
        }
        assert_drained(line);
    }
}

#[test]
fn bytes_that_wait_are_kept() {
    for v6 in FAMILIES {
        let (up, mut sent) = (data(5000), 0);
        let mut line = connected(v6);
        line.talk(|ours, peer| send(peer, &up, &mut sent) && ours.recv_queue() == up.len());
        line.settle();
        rest(&mut line);
        assert!(is_warm(&line));
        let mut got = Vec::new();
        line.stack.with_socket(SLOT, |socket| receive(socket, &mut got));
        assert_eq!(got, up);
    }
}

#[test]
fn bytes_that_came_before_their_time_are_kept() {
    for v6 in FAMILIES {
        let mut line = connected(v6);
        line.settle();
        if let Some(connection) = line.stack.connections.get_mut(SLOT).and_then(Option::as_mut) {
            // As if a segment behind a lost one had come.
            connection.heard = connection.heard.wrapping_add(1000);
        }
        rest(&mut line);
        assert!(is_warm(&line));
    }
}
