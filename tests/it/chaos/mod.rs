//! Arbitrary bytes where programs' packets go: what the fuzz targets do, ten thousand times from seeds.
//!
//! Keeps one rule: each body is a plain function of its bytes, which the targets in `tests/fuzz` call as well.

mod packets;
#[cfg(feature = "edges")]
mod peer;
mod sequences;

#[cfg(feature = "edges")]
use std::cell::Cell;

use super::world::Dice;

/// Inputs that every run of the tests tries.
const INPUTS: u64 = 10_000;

/// Bytes that a seed decides, at most `longest`.
fn bytes(seed: u64, longest: usize) -> Vec<u8> {
    let mut dice = Dice::new(seed);
    let len = dice.index(longest);
    (0..len).map(|_| dice.byte()).collect()
}

fn try_all(what: &str, run: impl Fn(u64)) {
    for seed in 0..INPUTS {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seed)));
        assert!(outcome.is_ok(), "{what} went wrong with seed {seed}");
    }
}

#[test]
fn any_bytes_are_a_packet_or_a_counted_drop() {
    try_all("the parser", |seed| {
        let mut dice = Dice::new(seed);
        let mut packet = if dice.chance(20) { bytes(seed, 200) } else { super::world::packet(&mut dice) };
        for _ in 0..dice.below(4) {
            let at = dice.index(packet.len());
            if let Some(byte) = packet.get_mut(at) {
                *byte = dice.byte();
            }
        }
        packets::run(&packet);
    });
}

#[test]
fn any_sequence_of_inputs_keeps_the_routers_bounds() {
    try_all("the router", |seed| {
        let mut dice = Dice::new(seed);
        let mut story = Vec::new();
        for _ in 0..dice.below(40) {
            let op = dice.byte();
            if op % 8 > 1 {
                story.extend([op, dice.byte()]);
                continue;
            }
            let packet = super::world::packet(&mut dice);
            let len = packet.len().min(255);
            story.extend([op, u8::try_from(len).expect("at most 255")]);
            story.extend(packet.get(..len).unwrap_or_default());
        }
        sequences::run(&story);
    });
}

#[cfg(feature = "edges")]
#[test]
fn any_tcp_peer_leaves_the_stack_whole() {
    let (taken, said, heard) = (Cell::new(0), Cell::new(0), Cell::new(0));
    try_all("the stack", |seed| {
        let (bytes, sent) = peer::run(&bytes(seed, 600));
        taken.set(taken.get() + bytes);
        said.set(said.get() + sent);
        heard.set(heard.get() + u64::from(bytes > 0));
    });
    // A stack that takes nothing would be whole, too.
    assert!(heard.get() > INPUTS / 4, "{} bytes in {} conversations", taken.get(), heard.get());
    assert!(said.get() > 10_000 * usize::try_from(INPUTS).expect("a count"), "{} bytes for the peers", said.get());
}
