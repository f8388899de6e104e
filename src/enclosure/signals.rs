//! Signals as a descriptor: the keeper and the first process block all of them and read those that concern them.
//!
//! Keeps one rule: no handler runs anywhere in the enclosure; what is not read here has no effect but SIGKILL and SIGSTOP.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::process::{DumpableBehavior, Signal, set_dumpable_behavior};

/// A signalfd(2).
pub(super) struct Signals(OwnedFd);

impl Signals {
    /// Blocks every signal of this thread and makes `wanted` readable. Gives the mask of before, too.
    pub(super) fn block_all_and_read(wanted: &[Signal]) -> io::Result<(Self, Mask)> {
        let before = Mask(filled()?).set()?;
        Ok((Self::read_only(wanted)?, before))
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

/// The signals that are blocked.
#[derive(Clone, Copy)]
pub(super) struct Mask(libc::sigset_t);

impl Mask {
    /// Blocks these signals and no others in this thread. Gives the mask of before.
    pub(super) fn set(&self) -> io::Result<Self> {
        let mut before = emptied()?;
        // SAFETY: both pointers are valid for the call.
        check(unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, &raw mut before) })?;
        Ok(Self(before))
    }
}

/// Takes a signal that has come to this process, which blocks it. False where none has.
pub(super) fn take(number: i32) -> bool {
    let Ok(mut set) = emptied() else { return false };
    let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the set is initialised and borrowed for the call; a number that no signal has is refused.
    if unsafe { libc::sigaddset(&raw mut set, number) } == -1 {
        return false;
    }
    // SAFETY: the set and the time are valid for the call; nothing is written.
    unsafe { libc::sigtimedwait(&raw const set, std::ptr::null_mut(), &raw const at_once) == number }
}

/// Ends this process by a signal, so that its parent sees of it what ended the command. Returns where the signal does not kill.
pub fn die_of(number: i32) {
    let Some(signal) = signal(number) else { return };
    // The core, if any, is the command's; ours would tell nothing.
    if set_dumpable_behavior(DumpableBehavior::NotDumpable).is_err() {
        return;
    }
    // SAFETY: the default action is no handler, so nothing can run in one. KILL has none other, and is refused.
    unsafe { libc::signal(signal.as_raw(), libc::SIG_DFL) };
    if emptied().and_then(|none| Mask(none).set()).is_ok() {
        // SAFETY: takes a plain number.
        unsafe { libc::raise(signal.as_raw()) };
    }
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
    fn a_signal_is_taken_once_and_only_where_it_came() {
        let urgent = libc::SIGURG;
        let mut set = emptied().expect("a set");
        // SAFETY: the set is initialised and borrowed for the call.
        check(unsafe { libc::sigaddset(&raw mut set, urgent) }).expect("added");
        let before = Mask(set).set().expect("blocked");
        assert!(!take(urgent));
        // SAFETY: takes a plain number.
        check(unsafe { libc::raise(urgent) }).expect("raised");
        assert!(take(urgent) && !take(urgent) && !take(-1));
        before.set().expect("as before");
    }

    #[test]
    fn only_numbers_of_signals_are_taken() {
        assert_eq!(signal(libc::SIGTERM), Some(Signal::TERM));
        assert!(signal(libc::SIGRTMAX()).is_some());
        for number in [0, -1, -9, libc::SIGRTMAX() + 1, i32::MAX, i32::MIN] {
            assert!(signal(number).is_none(), "{number}");
        }
    }
}
