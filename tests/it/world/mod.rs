//! The router in a simulated world: seeded programs, kernels, upstreams, people and policies, in virtual time.
//!
//! Keeps one rule: the world is the seed; the same seed tells the same story. `PORTREEVE_SEEDS=10000` tells more of them,
//! `PORTREEVE_SEED=N` one again, and both together that many from N on.

mod cast;
mod dice;
mod laws;
mod sender;
mod story;

use std::ops::Range;

pub(super) use dice::Dice;
use story::Story;

/// Stories that every run of the tests tells.
const SEEDS: u64 = 500;
/// Things that happen in one story.
const STEPS: u32 = 300;

fn seeds() -> Range<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")));
    let (first, count) = (number("PORTREEVE_SEED"), number("PORTREEVE_SEEDS"));
    let usual = if first.is_some() { 1 } else { SEEDS };
    let first = first.unwrap_or(0);
    first..first + count.unwrap_or(usual)
}

/// Says which story went wrong.
struct Telling(u64);

impl Drop for Telling {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the story of PORTREEVE_SEED={} went wrong", self.0);
        }
    }
}

/// A packet of no flow in particular.
pub(super) fn packet(dice: &mut Dice) -> Vec<u8> {
    sender::packet(dice, None)
}

fn tell(seed: u64) -> Story {
    let _telling = Telling(seed);
    let mut story = Story::new(seed);
    (0..STEPS).for_each(|_| story.step());
    story.end();
    story
}

#[test]
fn nothing_passes_without_a_permit_nothing_grows_and_every_flow_ends_once() {
    let (mut delivered, mut refused, mut asked, mut cut, mut crowded) = (0, 0, 0, 0, 0);
    for seed in seeds() {
        let seen = tell(seed).seen;
        delivered += seen.delivered;
        refused += seen.refused;
        asked += seen.asked;
        cut += seen.cut;
        crowded += seen.crowded;
    }
    // A world in which nothing happens would keep every law.
    assert!(delivered > 0 && refused > 0 && asked > 0 && cut > 0 && crowded > 0, "{delivered} {refused} {asked} {cut} {crowded}");
}

#[test]
fn the_same_seed_tells_the_same_story() {
    for seed in [1, 17, 4711] {
        assert_eq!(tell(seed).transcript, tell(seed).transcript, "seed {seed}");
    }
    assert_ne!(tell(1).transcript, tell(2).transcript);
}
