//! Notices a packet loop that stands still, and threads of control and DNS that all do, within five seconds.
//!
//! Keeps one rule: looks are counted, not seconds, so that a process or a machine that slept is not taken for a stall. Ends
//! nothing: what such a loop would carry waits in the TUN, and the guard lets nothing past it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::Runtime;
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

/// What is looked at.
pub(super) struct Watchdog {
    loops: Handles,
    pulses: Vec<Pulse>,
    /// Grows as long as control and DNS go on.
    beats: Arc<AtomicU32>,
    control: Pulse,
    shared: Weak<Shared>,
    stalls: Arc<AtomicU64>,
}

impl Watchdog {
    /// One that counts in `stalls` what stands still. It keeps nothing of `shared` alive.
    pub(super) fn new(loops: Handles, runtime: &Runtime, shared: &Arc<Shared>, stalls: Arc<AtomicU64>) -> Self {
        let beats = Arc::<AtomicU32>::default();
        runtime.spawn(beat(Arc::clone(&beats)));
        let pulses = vec![Pulse::default(); loops.count()];
        Self { loops, pulses, beats, control: Pulse::default(), shared: Arc::downgrade(shared), stalls }
    }

    /// Looks until the loops are told to end, and has `others` look as often. On a thread of its own, since it looks at tokio's as well.
    pub(super) fn watch(mut self, mut others: impl FnMut()) {
        while !self.loops.are_stopping() {
            std::thread::sleep(LOOK);
            self.look();
            others();
        }
    }

    fn look(&mut self) {
        let count = self.loops.count();
        for (index, turns) in self.loops.turns().enumerate() {
            let Some(pulse) = self.pulses.get_mut(index) else { continue };
            let found = pulse.look(turns);
            if found == Finding::Wake {
                self.loops.wake(index);
            }
            self.tell(found, || {
                let name = format!("packet loop {} of {count}", index + 1);
                (name, "what it carries waits, nothing of it passes")
            });
        }
        let found = self.control.look(self.beats.load(Ordering::Relaxed));
        self.tell(found, || ("the control side".to_owned(), "names are not resolved, and no verb is answered"));
    }

    fn tell(&self, found: Finding, of: impl FnOnce() -> (String, &'static str)) {
        let what = match found {
            Finding::Nothing | Finding::Wake => return,
            Finding::Stall => {
                self.stalls.fetch_add(1, Ordering::Relaxed);
                let (name, meaning) = of();
                let what = format!("{name} stands still: {meaning}");
                tracing::error!("{what}");
                what
            }
            Finding::Again(looks) => {
                let what = format!("{} turns again, after {looks} s", of().0);
                tracing::warn!("{what}");
                what
            }
        };
        if let Some(shared) = self.shared.upgrade() {
            shared.tell(|| Some(Event::Notice(what)));
        }
    }
}

/// Twice as often as somebody looks.
async fn beat(beats: Arc<AtomicU32>) {
    let mut ticks = interval(LOOK / 2);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        beats.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::shared::locked;
    use crate::procfs::{Options, Processes};
    use crate::profile::{Level, Policy, Setup};
    use std::sync::Mutex;

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

    #[test]
    fn control_side_whose_threads_all_wait_is_told_and_told_again_when_it_goes_on() {
        let runtime = crate::app::threads::runtime().expect("a runtime");
        let processes = Arc::new(Processes::new(Options::default()));
        let policy = Policy::compile(&[], Setup::default()).expect("an empty set");
        let shared = Arc::new(Shared::new(Arc::new(policy), Level::Dynamic, processes, None));
        let mut events = shared.events.subscribe();
        let stalls = Arc::<AtomicU64>::default();
        let mut watchdog = Watchdog::new(Handles::none(), &runtime, &shared, Arc::clone(&stalls));
        let until = |holds: &dyn Fn(&Watchdog) -> bool, watchdog: &Watchdog| {
            while !holds(watchdog) {
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        let beats = |watchdog: &Watchdog| watchdog.beats.load(Ordering::Relaxed);
        until(&|watchdog| beats(watchdog) > 0, &watchdog);
        watchdog.look();
        assert_eq!(stalls.load(Ordering::Relaxed), 0);
        // All of its threads, until the other end goes.
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let (busy, all_busy) = std::sync::mpsc::channel();
        for _ in 0..runtime.metrics().num_workers() {
            let (held, busy) = (Arc::clone(&held), busy.clone());
            runtime.spawn(async move {
                let _ = busy.send(());
                let _ = locked(&held).recv();
            });
        }
        (0..runtime.metrics().num_workers()).for_each(|_| all_busy.recv().expect("it runs"));
        (0..=STALL).for_each(|_| watchdog.look());
        assert_eq!(stalls.load(Ordering::Relaxed), 1);
        let before = beats(&watchdog);
        drop(hold);
        until(&|watchdog| beats(watchdog) > before, &watchdog);
        watchdog.look();
        let said: Vec<_> = std::iter::from_fn(|| events.try_recv().ok()).collect();
        let is = |event: &Event, word: &str| matches!(event, Event::Notice(text) if text.contains(word));
        let [stands, again] = &said[..] else { panic!("{said:?}") };
        assert!(is(stands, "the control side stands still") && is(again, "the control side turns again"), "{said:?}");
    }
}
