//! Counts of what happened to questions.
//!
//! Keeps one rule: labels are fields, never strings.

use std::sync::atomic::{AtomicU64, Ordering};

/// A snapshot of the counters since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Well-formed questions that were judged.
    pub questions: u64,
    /// Questions refused by verdict or through their CNAME chain.
    pub blocked: u64,
    /// Answers of which no address was left.
    pub filtered: u64,
    /// Questions dropped in silence by verdict.
    pub dropped: u64,
    /// Answers from the cache.
    pub cached: u64,
    /// Questions that no upstream answered.
    pub unanswered: u64,
    /// Payloads that are no DNS question of class IN.
    pub malformed: u64,
    /// Questions beyond the bounds of one asker or of all.
    pub over_limit: u64,
}

/// The live counters.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) questions: Counter,
    pub(super) blocked: Counter,
    pub(super) filtered: Counter,
    pub(super) dropped: Counter,
    pub(super) cached: Counter,
    pub(super) unanswered: Counter,
    pub(super) malformed: Counter,
    pub(super) over_limit: Counter,
}

impl Counters {
    pub(super) fn snapshot(&self) -> Counts {
        Counts {
            questions: self.questions.value(),
            blocked: self.blocked.value(),
            filtered: self.filtered.value(),
            dropped: self.dropped.value(),
            cached: self.cached.value(),
            unanswered: self.unanswered.value(),
            malformed: self.malformed.value(),
            over_limit: self.over_limit.value(),
        }
    }
}

/// One counter; it only goes up.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn up(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
