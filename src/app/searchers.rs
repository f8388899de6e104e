//! The threads that search for the programs behind flows.
//!
//! One is enough, until it waits for a file system that does not answer any more (a program on a network file system whose server is gone,
//! or in user space): then another one goes on with the next flows.
//!
//! Keeps one rule: another one is started only where searches wait and none has ended since the last look, and never more than a few.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::shard::{Attributor, Handles, JobQueue};
use super::threads::Vital;

/// Threads at most.
const MOST: u32 = 8;

/// What each of them does.
#[derive(Clone)]
pub(super) struct Searching {
    pub(super) attributor: Arc<Attributor>,
    pub(super) jobs: JobQueue,
    pub(super) shards: Handles,
    pub(super) vital: Vital,
    /// Searches that have ended.
    pub(super) done: Arc<AtomicU32>,
}

impl Searching {
    /// Starts a thread that searches until the loops are gone. Nobody waits for its end, which may never come.
    pub(super) fn start(&self) -> io::Result<()> {
        let Self { attributor, jobs, shards, vital, done } = self.clone();
        vital.spawn("attribution", 0, move || attributor.serve(&jobs, &shards, &done)).map(drop)
    }
}

/// Sees to it that searches go on.
pub(super) struct Searchers<S> {
    start: S,
    count: u32,
    /// The searches that had ended at the last look, where others waited.
    stood_at: Option<u32>,
}

impl<S: FnMut() -> io::Result<()>> Searchers<S> {
    /// There is one; `start` starts another.
    pub(super) fn new(start: S) -> Self {
        Self { start, count: 1, stood_at: None }
    }

    /// To be called once a second. `waiting`: searches wait; `done`: so many have ended.
    pub(super) fn look(&mut self, waiting: bool, done: u32) {
        let stands = waiting && self.stood_at == Some(done);
        self.stood_at = waiting.then_some(done);
        if !stands || self.count >= MOST {
            return;
        }
        match (self.start)() {
            Ok(()) => {
                self.count += 1;
                tracing::warn!(
                    "the search for a flow's program waits, probably for a file system that does not answer; another thread goes on \
                     with the next ones ({} of {MOST})",
                    self.count
                );
            }
            Err(error) => tracing::warn!("the search for a flow's program waits, and {error}"),
        }
    }
}

/// What the watchdog calls: looks at the searches, and starts more threads.
pub(super) fn watched(searching: Searching) -> impl FnMut() + Send {
    let (jobs, done) = (searching.jobs.clone(), Arc::clone(&searching.done));
    let mut searchers = Searchers::new(move || searching.start());
    move || searchers.look(!jobs.is_empty(), done.load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_thread_is_started_where_searches_wait_and_none_ends() {
        let mut started = 0;
        let mut searchers = Searchers::new(|| {
            started += 1;
            Ok(())
        });
        for (waiting, done) in [(false, 7), (true, 7), (true, 8), (true, 9), (false, 9), (true, 9), (true, 10)] {
            searchers.look(waiting, done);
        }
        assert_eq!(searchers.count, 1, "they go on");
        searchers.look(true, 10);
        assert_eq!(searchers.count, 2);
        (0..100).for_each(|_| searchers.look(true, 10));
        assert_eq!(searchers.count, MOST, "they are bounded");
        assert_eq!(started, MOST - 1);
    }

    #[test]
    fn where_no_thread_is_to_be_had_it_is_tried_again() {
        let mut tries = 0;
        let mut searchers = Searchers::new(|| {
            tries += 1;
            if tries < 3 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        (0..4).for_each(|_| searchers.look(true, 1));
        assert_eq!((searchers.count, tries), (2, 3));
    }
}
