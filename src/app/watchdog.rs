//! Notices a packet loop that stands still, within five seconds.
//!
//! Keeps one rule: looks are counted, not seconds, so that a process or a machine that slept is not taken for a stall. Ends
//! nothing: what such a loop would carry waits in the TUN, and the guard lets nothing past it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::shard::Handles;
use super::shared::Shared;
use crate::control::Event;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// After so many looks without a turn the loop is woken: one that only has nothing to do turns then.
const WAKE: u32 = 2;
/// After so many it stands still. The first look may have seen its last turn, so that this is five seconds at most.
const STALL: u32 = 4;

/// What the looks have shown of one loop.
#[derive(Clone, Copy, Debug, Default)]
struct Pulse {
    turns: u32,
    /// Looks since it turned.
    looks: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    Nothing,
    Wake,
    Stall,
    /// It turns again, after so many looks.
    Again(u32),
}

impl Pulse {
    fn look(&mut self, turns: u32) -> Finding {
        if turns != self.turns {
            let Self { looks, .. } = std::mem::replace(self, Self { turns, looks: 0 });
            return if looks >= STALL { Finding::Again(looks) } else { Finding::Nothing };
        }
        self.looks = self.looks.saturating_add(1);
        match self.looks {
            WAKE => Finding::Wake,
            STALL => Finding::Stall,
            _ => Finding::Nothing,
        }
    }
}

/// Looks at the loops until they are told to end.
pub(super) async fn watch(loops: Handles, shared: Arc<Shared>, stalls: Arc<AtomicU64>) {
    let mut pulses = vec![Pulse::default(); loops.count()];
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !loops.are_stopping() {
        looks.tick().await;
        for (index, (pulse, turns)) in pulses.iter_mut().zip(loops.turns()).enumerate() {
            let name = || format!("packet loop {} of {}", index + 1, loops.count());
            match pulse.look(turns) {
                Finding::Nothing => {}
                Finding::Wake => loops.wake(index),
                Finding::Stall => {
                    stalls.fetch_add(1, Ordering::Relaxed);
                    let what = format!("{} stands still: what it carries waits, nothing of it passes", name());
                    tracing::error!("{what}");
                    shared.tell(|| Some(Event::Notice(what)));
                }
                Finding::Again(looks) => {
                    let what = format!("{} turns again, after {looks} s", name());
                    tracing::warn!("{what}");
                    shared.tell(|| Some(Event::Notice(what)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_turns_is_left_alone_also_when_its_count_begins_anew() {
        let mut pulse = Pulse::default();
        for turns in [1, 2, 900, u32::MAX, 0, 1] {
            assert_eq!(pulse.look(turns), Finding::Nothing, "{turns}");
        }
    }

    #[test]
    fn an_idle_loop_is_woken_now_and_then_and_never_said_to_stand_still() {
        let mut pulse = Pulse::default();
        let mut turns = 0;
        for _ in 0..100 {
            match pulse.look(turns) {
                Finding::Wake => turns += 1,
                found => assert_eq!(found, Finding::Nothing),
            }
        }
        assert!(turns > 10, "{turns}");
    }

    #[test]
    fn a_loop_that_does_not_turn_when_it_is_woken_is_told_once_and_once_more_when_it_turns() {
        let mut pulse = Pulse::default();
        assert_eq!(pulse.look(7), Finding::Nothing);
        let found: Vec<Finding> = (0..30).map(|_| pulse.look(7)).filter(|found| *found != Finding::Nothing).collect();
        assert_eq!(found, [Finding::Wake, Finding::Stall]);
        assert_eq!(pulse.look(8), Finding::Again(30));
        assert_eq!(pulse.look(9), Finding::Nothing);
    }
}
