//! The threads and tasks of a router, and what becomes of it when one of them ends that should not.
//!
//! Keeps one rule: whose work nobody else does is vital. Where such a part ends by a fault, the log names it, the router ends, and what `up`
//! protected stays closed.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, eventfd};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

/// Threads that carry control, DNS and signals.
const CONTROL: usize = 2;
/// Threads at most that search for programs that ask for names: what waits behind them is short.
const BLOCKING: usize = 16;
/// What a runtime opens (an epoll, what wakes it, the signals' pair and their copies), with some room.
const RUNTIME_FILES: usize = 10;

/// What carries control, DNS and signals.
///
/// # Errors
///
/// There is no descriptor or no thread to be had. Asked first, since tokio panics where one is missing.
pub(super) fn runtime() -> io::Result<Runtime> {
    let files: io::Result<Vec<_>> = (0..RUNTIME_FILES).map(|_| Ok(eventfd(0, EventfdFlags::CLOEXEC)?)).collect();
    drop(files?);
    may_have_threads(CONTROL + 1)?;
    Builder::new_multi_thread().worker_threads(CONTROL).max_blocking_threads(BLOCKING).enable_all().thread_name("control").build()
}

/// Whether so many more threads may be had at the same time.
fn may_have_threads(count: usize) -> io::Result<()> {
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let held = Arc::new(std::sync::Mutex::new(held));
    let start = |_| {
        let held = Arc::clone(&held);
        start_thread("trial", move || {
            // Ends with the other end.
            let _ = super::shared::locked(&held).recv();
        })
    };
    let threads: io::Result<Vec<_>> = (0..count).map(start).collect();
    drop(hold);
    for thread in threads? {
        // It cannot panic, and is no more needed.
        let _ = thread.join();
    }
    Ok(())
}

fn start_thread(name: &str, f: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(f).map_err(|error| {
        let why = "the limit on threads (ulimit -u, a cgroup's pids.max) or on memory (ulimit -v and -d) is too low";
        io::Error::new(error.kind(), format!("no thread may be started: {error}; {why}"))
    })
}

/// Starts a thread. `nice`: the thread's own (setpriority(2)).
pub(super) fn spawn(name: &str, nice: i32, f: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    start_thread(name, move || {
        // Without privilege (RLIMIT_NICE) a thread stays as it is.
        let _ = rustix::process::setpriority_process(None, nice);
        f();
    })
}

/// The parts without which a router must not go on.
#[derive(Clone)]
pub(super) struct Vital {
    ending: watch::Sender<bool>,
    failed: Arc<AtomicBool>,
}

impl Vital {
    /// `ending` turns true when one of them fails.
    pub(super) fn new(ending: watch::Sender<bool>) -> Self {
        Self { ending, failed: Arc::default() }
    }

    /// Whether one of them has failed.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// A part of this name, which runs from now on.
    pub(super) fn part(&self, name: impl Into<String>) -> Part {
        Part { name: name.into(), of: self.clone(), ended_well: false }
    }

    /// Starts a vital thread.
    pub(super) fn spawn(&self, name: &str, nice: i32, f: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
        let (vital, named) = (self.clone(), format!("the thread \"{name}\""));
        spawn(name, nice, move || {
            let part = vital.part(named);
            f();
            part.end_well();
        })
    }

    /// Starts a vital task. Where the runtime ends it, that is no failure.
    pub(super) fn task(&self, runtime: &Runtime, name: &'static str, f: impl Future<Output = ()> + Send + 'static) {
        let work = runtime.spawn(f);
        let vital = self.clone();
        runtime.spawn(async move {
            if work.await.is_err_and(|error| error.is_panic()) {
                drop(vital.part(format!("the task \"{name}\"")));
            }
        });
    }
}

/// One that runs. Dropped without a word, by a panic too, it has failed.
pub(super) struct Part {
    name: String,
    of: Vital,
    ended_well: bool,
}

impl Part {
    /// It has ended because it should.
    pub(super) fn end_well(mut self) {
        self.ended_well = true;
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.ended_well {
            return;
        }
        tracing::error!("{} has failed, which is a fault of Portreeve's own or of the machine; the router ends", self.name);
        self.of.failed.store(true, Ordering::Release);
        self.of.ending.send_replace(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vital() -> (Vital, watch::Receiver<bool>) {
        let (sender, receiver) = watch::channel(false);
        (Vital::new(sender), receiver)
    }

    #[test]
    fn panic_of_a_vital_thread_ends_the_router_as_failed() {
        let (vital, ending) = vital();
        let thread = vital.spawn("network", 0, || panic!("a fault")).expect("a thread");
        assert!(thread.join().is_err());
        assert!(*ending.borrow() && vital.has_failed());
    }

    #[test]
    fn panic_of_a_vital_task_ends_the_router_as_failed_and_is_waited_for_by_whoever_waits_for_the_end() {
        let runtime = runtime().expect("a runtime");
        let (vital, mut ending) = vital();
        vital.task(&runtime, "questions", async { panic!("a fault") });
        runtime.block_on(ending.wait_for(|ending| *ending)).expect("the sender is held here");
        assert!(vital.has_failed());
    }

    #[test]
    fn parts_that_end_well_or_with_their_runtime_end_nobody_else() {
        let runtime = runtime().expect("a runtime");
        let (vital, ending) = vital();
        vital.spawn("network", 0, || {}).expect("a thread").join().expect("no panic");
        vital.task(&runtime, "done", async {});
        vital.task(&runtime, "goes on", std::future::pending());
        drop(runtime);
        assert!(!*ending.borrow() && !vital.has_failed());
    }

    #[test]
    fn loop_that_ends_with_an_error_has_failed_without_a_panic() {
        let (vital, ending) = vital();
        drop(vital.part("packet loop 1"));
        assert!(*ending.borrow() && vital.has_failed());
    }
}
