//! What a caller leaves to a program and the start of a Rust program takes away, so that the command gets it back.
//!
//! Before `main` Rust's runtime ignores SIGPIPE and puts /dev/null in the place of standard descriptors that are closed
//! (`library/std/src/sys/pal/unix/mod.rs`). So this is noted earlier, among the constructors that the loader runs (`.init_array`), and
//! with it how many files may be open, which the router raises for itself.
//! And SIGCHLD may not be ignored by who waits for children: they would be gone without a status (wait(2), NOTES).
//!
//! Keeps one rule: what the caller left is the command's alone. Once the command has it, the router's processes let go of it, so
//! that who reads from the command sees the end when the command closes its side. Only a keeper whose command has the terminal holds
//! it until the command has ended.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::process::Command;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::{FdFlags, fcntl_getfd};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

const STANDARD: [RawFd; 3] = [libc::STDIN_FILENO, libc::STDOUT_FILENO, libc::STDERR_FILENO];

/// Signals that we need to be as they are by default, or that the runtime changes.
const CHANGED: [libc::c_int; 2] = [libc::SIGPIPE, libc::SIGCHLD];

/// In [`NOTED`], above one bit for each standard descriptor: one for each of [`CHANGED`].
const FIRST_IGNORED: u8 = 1 << 4;

/// Variables that name the process for which they are meant (sd_listen_fds(3), sd_watchdog_enabled(3)).
const MEANT_FOR: [&str; 2] = ["LISTEN_PID", "WATCHDOG_PID"];

static NOTED: AtomicU8 = AtomicU8::new(0);

/// The soft limit on open files; as the kernel has it, where the largest number is none.
static FILES: AtomicU64 = AtomicU64::new(libc::RLIM_INFINITY);

#[used]
// SAFETY: the loader calls each entry of this section once, before `main`, and an entry may ignore what it is called with.
#[unsafe(link_section = ".init_array")]
static NOTE: extern "C" fn() = note;

extern "C" fn note() {
    let mut noted = 0;
    for fd in STANDARD {
        // SAFETY: F_GETFD only asks; a number that is no descriptor is refused.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1 {
            noted |= 1 << fd;
        }
    }
    for (at, signal) in CHANGED.into_iter().enumerate() {
        // SAFETY: zeroes are a `sigaction`, whose handler is then SIG_DFL.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: the pointers are null, which changes nothing, and valid for writing.
        let asked = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
        if asked == 0 && action.sa_sigaction == libc::SIG_IGN {
            noted |= FIRST_IGNORED << at;
        }
    }
    NOTED.store(noted, Ordering::Relaxed);
    let mut files = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the pointer is valid for writing; where the call fails, nothing is written.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut files) };
    FILES.store(files.rlim_cur, Ordering::Relaxed);
}

/// What was noted of the outer process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Inherited {
    /// Of [`CHANGED`].
    ignored: Vec<libc::c_int>,
    /// The standard descriptors that are closed.
    closed: Vec<RawFd>,
    pid: u32,
    /// How many files may be open.
    files: u64,
}

impl Inherited {
    pub(super) fn of_this_process() -> Self {
        let noted = NOTED.load(Ordering::Relaxed);
        let closed = STANDARD.into_iter().filter(|fd| noted & 1 << fd != 0).collect();
        let is_ignored = |(at, _): &(usize, libc::c_int)| noted & FIRST_IGNORED << at != 0;
        let ignored = CHANGED.into_iter().enumerate().filter(is_ignored).map(|(_, signal)| signal).collect();
        Self { ignored, closed, pid: std::process::id(), files: FILES.load(Ordering::Relaxed) }
    }

    /// Has the command, which is about to be executed by this process, start as the outer process did.
    pub(super) fn give_to(&self, command: &mut Command) {
        for name in MEANT_FOR {
            if env::var_os(name).is_some_and(|pid| pid == OsStr::new(&self.pid.to_string())) {
                command.env(name, std::process::id().to_string());
            }
        }
        let Self { ignored, closed, pid: _, files } = self.clone();
        let become_as_left = move || {
            for signal in &ignored {
                // SAFETY: no handler is installed, so nothing can run in one.
                unsafe { libc::signal(*signal, libc::SIG_IGN) };
            }
            close_all(&closed);
            let limit = getrlimit(Resource::Nofile);
            let current = (files != libc::RLIM_INFINITY).then_some(files);
            // It was in force with the same hard limit.
            let _ = setrlimit(Resource::Nofile, Rlimit { current, ..limit });
            Ok(())
        };
        use std::os::unix::process::CommandExt;
        // SAFETY: the process has one thread, and the closure makes system calls alone.
        unsafe { command.pre_exec(become_as_left) };
    }
}

/// Has this process, and those that it starts, keep the status of children until it is asked for, whatever the caller ignores.
pub fn wait_for_children() {
    // SAFETY: the default action is no handler, so nothing can run in one.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// Closes the caller's descriptors in this process: what the command was given is its own to close. The standard ones lead nowhere
/// then; that for errors only `with_errors`.
///
/// Descriptors of our own close on exec, and those of a caller cannot: that is how they are told apart.
pub fn let_go(with_errors: bool) {
    if let Ok(nowhere) = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        // What cannot be replaced stays open, and is as harmless as it was.
        let _ = rustix::stdio::dup2_stdin(&nowhere);
        let _ = rustix::stdio::dup2_stdout(&nowhere);
        if with_errors {
            let _ = rustix::stdio::dup2_stderr(&nowhere);
        }
    }
    close_all(&callers().unwrap_or_default());
}

/// The caller's descriptors beside the standard ones.
fn callers() -> io::Result<Vec<RawFd>> {
    let numbers = fs::read_dir("/proc/self/fd")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is_callers = |fd: &RawFd| {
        // SAFETY: the number is only asked about; one that has been closed since is refused.
        !STANDARD.contains(fd)
            && fcntl_getfd(unsafe { BorrowedFd::borrow_raw(*fd) }).is_ok_and(|flags| !flags.contains(FdFlags::CLOEXEC))
    };
    Ok(numbers.filter(is_callers).collect())
}

fn close_all(fds: &[RawFd]) {
    for fd in fds {
        // SAFETY: the descriptor was inherited from the caller, and nothing in this program owns or uses it.
        drop(unsafe { OwnedFd::from_raw_fd(*fd) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_of_our_own_are_not_taken_for_the_callers() {
        use std::os::fd::AsRawFd;
        let own = tempfile::tempfile().expect("a file");
        let callers = callers().expect("/proc is there");
        assert!(!callers.contains(&own.as_raw_fd()) && !callers.iter().any(|fd| STANDARD.contains(fd)), "{callers:?}");
    }
}
