//! Job control for a command that has a process group of its own.
//!
//! # Theory of operation
//!
//! The shell knows one job: the outer process's group, in which the keeper is too. The command has another group, so that inside
//! it has a number, and so that a Ctrl-C goes to the command and not to the router. While the job is in the foreground the
//! command's group is handed the terminal: from the start where standard input is one, else when the command first reaches for
//! it (a pager at the end of a pipe). A script's background job, whose input the shell has taken away, so leaves the terminal to
//! the script.
//!
//! When the command is stopped (Ctrl-Z), the terminal goes back and the job's group and the outer process are stopped, which the
//! shell sees. When the shell lets the job go on, the keeper gets SIGCONT like every process of the group, hands the terminal
//! over again if the job is in the foreground, and has the command go on.
//!
//! Keeps one rule: without a controlling terminal nothing here does anything. The keeper has every signal blocked, so neither a
//! stop nor an interrupt that it sends to the group hits itself.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, Signal, kill_current_process_group, kill_process};
use rustix::termios::{isatty, tcsetpgrp};

use super::signals::signal;

/// Ancestors that are looked at for a shell with job control.
const ANCESTORS: usize = 64;

/// The controlling terminal, from the keeper's side.
pub(super) struct Terminal {
    tty: Option<OwnedFd>,
    outer: Option<Pid>,
    group: Id,
    /// Whether the command shall have the terminal whenever the job is in the foreground.
    wanted: bool,
    handed_over: bool,
    outer_stopped: bool,
}

impl Terminal {
    /// Opens the controlling terminal of this session, if it has one.
    pub(super) fn open(outer: u32) -> Self {
        let tty = open("/dev/tty", OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).ok();
        let outer = i32::try_from(outer).ok().and_then(Pid::from_raw);
        Self { tty, outer, group: group_of(0), wanted: isatty(std::io::stdin()), handed_over: false, outer_stopped: false }
    }

    /// Says whether the command may take the terminal: the job must be in the foreground.
    pub(super) fn hand_over(&mut self) -> bool {
        self.outer_stopped = false;
        let granted = self.wanted && self.is_foreground();
        self.handed_over |= granted;
        granted
    }

    fn is_foreground(&self) -> bool {
        self.tty.as_ref().is_some_and(|tty| foreground_of(tty) == self.group)
    }

    /// The command was stopped: the job stops with it. An answer means that the command shall go on at once, and whether it gets
    /// the terminal: when it reached for the terminal of a foreground job, and when no shell could ever let it go on.
    pub(super) fn mirror_stop(&mut self, number: i32) -> Option<bool> {
        let (Some(_), Some(outer), Some(signal)) = (&self.tty, self.outer, signal(number)) else { return None };
        if [Signal::TTIN, Signal::TTOU].contains(&signal) && self.is_foreground() {
            self.wanted = true;
            return Some(self.hand_over());
        }
        if !self.has_shell(outer) {
            // The kernel spares orphaned groups the terminal's stops (setpgid(2)); a plain SIGSTOP holds there too. Who reaches
            // for a terminal that nobody can give it would only be stopped again.
            return (signal == Signal::TSTP).then_some(false);
        }
        self.outer_stopped = true;
        if self.give_back() && signal != Signal::STOP {
            // The other processes of a pipeline stop as they would have by the key.
            let _ = kill_current_process_group(Signal::TSTP);
        }
        let _ = kill_process(outer, Signal::STOP);
        None
    }

    /// Somebody let the command go on without the shell: the router must go on too.
    pub(super) fn mirror_continue(&mut self) {
        if let (true, Some(outer)) = (self.outer_stopped, self.outer) {
            self.outer_stopped = false;
            let _ = kill_process(outer, Signal::CONT);
        }
    }

    /// The command has ended. What the terminal's interrupt killed would have hit the whole job, a calling script included.
    pub(super) fn take_back(&mut self, killed_by: Option<i32>) {
        let interrupted = killed_by.and_then(signal).filter(|signal| [Signal::INT, Signal::QUIT].contains(signal));
        if self.give_back()
            && let Some(signal) = interrupted
        {
            let _ = kill_current_process_group(signal);
        }
    }

    /// Makes the job's group the foreground again if it had been. SIGTTOU is blocked, so this needs no foreground.
    fn give_back(&mut self) -> bool {
        let had = std::mem::take(&mut self.handed_over);
        if let (true, Some(tty), Some(group)) = (had, &self.tty, Pid::from_raw(self.group)) {
            // A terminal that is gone has no foreground.
            let _ = tcsetpgrp(tty, group);
        }
        had
    }

    /// Whether a process of this session outside the job's group is an ancestor of it: a shell with job control. Without one the
    /// group is orphaned, and a stop would last for ever.
    fn has_shell(&self, outer: Pid) -> bool {
        let session = session_of(0);
        let mut pid = Some(outer);
        for _ in 0..ANCESTORS {
            let Some(ancestor) = pid.map(|pid| pid.as_raw_nonzero().get()) else { return false };
            if session_of(ancestor) != session {
                return false;
            }
            if group_of(ancestor) != self.group {
                return true;
            }
            pid = parent_of(ancestor);
        }
        false
    }
}

/// A session's or a process group's number. 0 is one outside this PID namespace, -1 an error; neither is a [`Pid`].
type Id = libc::pid_t;

fn group_of(pid: libc::pid_t) -> Id {
    // SAFETY: takes and gives plain numbers.
    unsafe { libc::getpgid(pid) }
}

fn session_of(pid: libc::pid_t) -> Id {
    // SAFETY: takes and gives plain numbers.
    unsafe { libc::getsid(pid) }
}

fn foreground_of(tty: &OwnedFd) -> Id {
    // SAFETY: the descriptor is open for the whole call; the rest are plain numbers.
    unsafe { libc::tcgetpgrp(tty.as_raw_fd()) }
}

/// The fourth field of /proc/PID/stat; the second may hold spaces and parentheses (proc_pid_stat(5)).
fn parent_of(pid: libc::pid_t) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    Pid::from_raw(rest.split_whitespace().nth(1)?.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_read_from_proc() {
        assert_eq!(parent_of(rustix::process::getpid().as_raw_nonzero().get()), rustix::process::getppid());
        assert_eq!(parent_of(0), None);
    }

    #[test]
    fn without_a_terminal_nothing_is_handed_over_or_stopped() {
        let mut terminal =
            Terminal { tty: None, outer: None, group: group_of(0), wanted: true, handed_over: false, outer_stopped: false };
        assert!(!terminal.hand_over());
        assert_eq!(terminal.mirror_stop(libc::SIGTSTP), None);
        terminal.take_back(Some(libc::SIGINT));
        assert!(!terminal.handed_over);
    }
}
