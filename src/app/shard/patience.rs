//! How long the loop looks for more before it sleeps.
//!
//! To sleep costs a wake-up: tens of microseconds of delay for the program, and as much work for whoever wakes us. While
//! events follow each other closely the loop therefore goes on asking for a moment; when they do not, it stops asking. Keeps one
//! rule: what is spent on asking is bounded by what sleeping would have cost, so an idle machine stays idle.

use std::io;
use std::time::{Duration, Instant};

use mio::Events;

use super::{Shard, TUN};
use crate::bpf::since_boot;

/// The longest look, about two wake-ups.
const LONGEST: Duration = Duration::from_micros(100);
/// The first look after a sleep that a look would have spared.
const FIRST: Duration = Duration::from_micros(25);

/// Grows with every sleep that was too short to be worth it, shrinks with every one that was not.
#[derive(Debug, Default)]
pub(super) struct Patience {
    window: Duration,
}

impl Patience {
    /// How long to look before the next sleep.
    pub(super) fn window(&self) -> Duration {
        self.window
    }

    /// A look in vain was followed by a sleep of so long.
    pub(super) fn slept(&mut self, slept: Duration) {
        self.window = if slept > LONGEST {
            // Half of the smallest look is none.
            Some(self.window / 2).filter(|half| *half >= FIRST / 2).unwrap_or_default()
        } else {
            (self.window * 2).clamp(FIRST, LONGEST)
        };
    }
}

impl Shard {
    /// Waits for events: first by asking again and again for a moment, then asleep.
    pub(super) fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        let timeout = self.timeout();
        let began = Instant::now();
        // In a rush the packets come by themselves, and others want the cores.
        let window = if self.newcomers.is_empty() { self.patience.window() } else { Duration::ZERO };
        let window = window.min(timeout.unwrap_or(Duration::MAX));
        while !window.is_zero() && began.elapsed() < window {
            self.poll_for(events, Some(Duration::ZERO))?;
            if !events.is_empty() {
                return Ok(());
            }
            // Whoever is to say the next word may want this core.
            std::thread::yield_now();
        }
        let asleep = since_boot();
        self.poll_for(events, timeout)?;
        if !self.tun_ready && events.iter().all(|event| event.token() != TUN) {
            self.turn.saw_none(asleep);
        }
        if timeout != Some(Duration::ZERO) {
            self.turn.slept(since_boot());
            self.patience.slept(began.elapsed().saturating_sub(window));
        }
        Ok(())
    }

    fn poll_for(&mut self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            other => other,
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let now = Instant::now();
        let newcomer = self.newcomers.next(now);
        let is_due = newcomer.is_some_and(|at| at <= now);
        if self.tun_ready
            || self.inbox_waits
            || self.gone_ready
            || is_due
            || !self.dirty.is_empty()
            || !self.unidentified.is_empty()
        {
            return Some(Duration::ZERO);
        }
        let fresh = self.datagrams.fresh.next();
        let later = self.later.first().map(|(at, _)| *at);
        let stack = [self.stack.poll_timeout(), self.stack.cool_timeout()];
        let next = [self.router.poll_timeout(), self.stop_at, newcomer, fresh, later, self.express_timeout()]
            .into_iter()
            .chain(stack)
            .flatten()
            .min()?;
        // epoll counts in milliseconds; rounding up keeps a deadline from being met too early and again.
        Some(next.saturating_duration_since(now) + Duration::from_millis(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_in_close_succession_are_looked_for_and_the_look_is_bounded() {
        let mut patience = Patience::default();
        assert_eq!(patience.window(), Duration::ZERO);
        for _ in 0..100 {
            patience.slept(Duration::from_micros(40));
            assert!(patience.window() >= FIRST && patience.window() <= LONGEST);
        }
        assert_eq!(patience.window(), LONGEST);
    }

    #[test]
    fn events_far_from_each_other_are_slept_for() {
        let mut patience = Patience::default();
        (0..10).for_each(|_| patience.slept(Duration::from_micros(40)));
        (0..4).for_each(|_| patience.slept(Duration::from_millis(1)));
        assert_eq!(patience.window(), Duration::ZERO);
    }
}
