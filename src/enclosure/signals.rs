//! Signals as a descriptor: the keeper and the first process block all of them and read those that concern them.
//!
//! Keeps one rule: no handler runs anywhere in the enclosure; what is not read here has no effect but SIGKILL and SIGSTOP.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::process::Signal;

/// A signalfd(2).
pub(super) struct Signals(OwnedFd);

impl Signals {
    /// Blocks every signal of this thread and makes `wanted` readable.
    pub(super) fn block_all_and_read(wanted: &[Signal]) -> io::Result<Self> {
        let all = filled()?;
        // SAFETY: both pointers are valid or null; the process has one thread, so its mask is the process's.
        check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut()) })?;
        Self::read_only(wanted)
    }

    /// Makes `wanted` readable; they are blocked already.
    pub(super) fn read_only(wanted: &[Signal]) -> io::Result<Self> {
        let mut set = emptied()?;
        for signal in wanted {
            // SAFETY: the set is initialised and borrowed for the call.
            check(unsafe { libc::sigaddset(&raw mut set, signal.as_raw()) })?;
        }
        // SAFETY: the set is initialised; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        check(fd)?;
        // SAFETY: the kernel gave a new descriptor that nobody else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// What has arrived since the last call, without what this process itself sent to its group.
    pub(super) fn arrived(&self) -> Vec<i32> {
        let mut info = [0_u8; size_of::<libc::signalfd_siginfo>()];
        let mut arrived = Vec::new();
        while let Ok(length) = rustix::io::read(&self.0, &mut info) {
            // `struct signalfd_siginfo` begins with the number, an errno, a code and the sender's PID, each of 32 bits (signalfd(2)).
            let field = |at: usize| info.get(at..)?.first_chunk::<4>().copied();
            let (Some(number), Some(sender)) = (field(0).map(i32::from_ne_bytes), field(12).map(u32::from_ne_bytes)) else {
                break;
            };
            if length != info.len() {
                break;
            }
            if sender != std::process::id() {
                arrived.push(number);
            }
        }
        arrived
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Blocks no signal any more, as a program expects to be started.
pub(super) fn unblock_all() -> io::Result<()> {
    let none = emptied()?;
    // SAFETY: both pointers are valid or null; the process has one thread, so its mask is the process's.
    check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) })
}

/// Reads a signal number as kill(2) takes it; `None` for a number that no signal has.
pub(super) fn signal(number: i32) -> Option<Signal> {
    if (1..=libc::SIGRTMAX()).contains(&number) {
        // SAFETY: the number is that of a signal, so it is not zero. Reserved ones are the C library's threads' and this process
        // only sends them to processes that would take them by kill(2) as well.
        return Some(unsafe { Signal::from_raw_unchecked(number) });
    }
    None
}

fn filled() -> io::Result<libc::sigset_t> {
    let mut set = MaybeUninit::uninit();
    // SAFETY: the pointer is valid for writing.
    check(unsafe { libc::sigfillset(set.as_mut_ptr()) })?;
    // SAFETY: sigfillset has written the whole set.
    Ok(unsafe { set.assume_init() })
}

fn emptied() -> io::Result<libc::sigset_t> {
    let mut set = MaybeUninit::uninit();
    // SAFETY: the pointer is valid for writing.
    check(unsafe { libc::sigemptyset(set.as_mut_ptr()) })?;
    // SAFETY: sigemptyset has written the whole set.
    Ok(unsafe { set.assume_init() })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_of_signals_are_taken() {
        assert_eq!(signal(libc::SIGTERM), Some(Signal::TERM));
        assert!(signal(libc::SIGRTMAX()).is_some());
        for number in [0, -1, -9, libc::SIGRTMAX() + 1, i32::MAX, i32::MIN] {
            assert!(signal(number).is_none(), "{number}");
        }
    }
}
