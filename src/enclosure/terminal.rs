//! Job control for a command that has a process group of its own.
//!
//! # Theory of operation
//!
//! The shell knows one job: the outer process's group, in which the keeper is too. The command has another group, so that inside
//! it has a number, and so that a Ctrl-C goes to the command and not to the router. While the job is in the foreground the
//! command's group is handed the terminal. When the command is stopped (Ctrl-Z), the terminal goes back and the job's group and
//! the outer process are stopped, which the shell sees; when the shell lets the job go on, the keeper gets SIGCONT like every
//! process of the group, hands the terminal over again if the job is in the foreground, and has the command go on.
//!
//! Keeps one rule: without a controlling terminal nothing here does anything. The keeper has every signal blocked, so neither a
//! stop nor an interrupt that it sends to the group hits itself.

use std::fs;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, Signal, getpgid, getpid, getsid, kill_current_process_group, kill_process};
use rustix::termios::{tcgetpgrp, tcsetpgrp};

use super::signals::signal;

/// Ancestors that are looked at for a shell with job control.
const ANCESTORS: usize = 64;

/// The controlling terminal, from the keeper's side.
pub(super) struct Terminal {
    tty: Option<OwnedFd>,
    outer: Option<Pid>,
    group: Option<Pid>,
    handed_over: bool,
    outer_stopped: bool,
}

impl Terminal {
    /// Opens the controlling terminal of this session, if it has one.
    pub(super) fn open(outer: u32) -> Self {
        let tty = open("/dev/tty", OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).ok();
        let outer = i32::try_from(outer).ok().and_then(Pid::from_raw);
        Self { tty, outer, group: getpgid(None).ok(), handed_over: false, outer_stopped: false }
    }

    /// Says whether the command may take the terminal: the job must be in the foreground.
    pub(super) fn hand_over(&mut self) -> bool {
        self.outer_stopped = false;
        self.handed_over |= self.is_foreground();
        self.handed_over
    }

    fn is_foreground(&self) -> bool {
        self.tty.as_ref().is_some_and(|tty| tcgetpgrp(tty).ok() == self.group)
    }

    /// The command was stopped: the job stops with it. Where no shell could let it go on, the command shall go on at once; the
    /// answer then says whether it keeps the terminal.
    pub(super) fn mirror_stop(&mut self, number: i32) -> Option<bool> {
        let (Some(_), Some(outer), Some(signal)) = (&self.tty, self.outer, signal(number)) else { return None };
        let keyboard = [Signal::TSTP, Signal::TTIN, Signal::TTOU].contains(&signal);
        if !self.has_shell(outer) {
            // The kernel spares orphaned groups the terminal's stops (setpgid(2)); a plain SIGSTOP holds there too.
            return keyboard.then_some(self.handed_over);
        }
        self.give_back();
        self.outer_stopped = true;
        if keyboard {
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
        if let (true, Some(tty), Some(group)) = (had, &self.tty, self.group) {
            // A terminal that is gone has no foreground.
            let _ = tcsetpgrp(tty, group);
        }
        had
    }

    /// Whether a process of this session outside the job's group is an ancestor of it: a shell with job control. Without one the
    /// group is orphaned, and a stop would last for ever.
    fn has_shell(&self, outer: Pid) -> bool {
        let session = getsid(None).ok();
        let mut pid = Some(outer);
        for _ in 0..ANCESTORS {
            let Some(ancestor) = pid else { return false };
            if getsid(Some(ancestor)).ok() != session {
                return false;
            }
            if getpgid(Some(ancestor)).ok() != self.group {
                return ancestor != getpid();
            }
            pid = parent_of(ancestor);
        }
        false
    }
}

/// The fourth field of /proc/PID/stat; the second may hold spaces and parentheses (proc_pid_stat(5)).
fn parent_of(pid: Pid) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    Pid::from_raw(rest.split_whitespace().nth(1)?.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_read_from_proc() {
        assert_eq!(parent_of(getpid()), rustix::process::getppid());
    }

    #[test]
    fn without_a_terminal_nothing_is_handed_over_or_stopped() {
        let mut terminal = Terminal { tty: None, outer: None, group: None, handed_over: false, outer_stopped: false };
        assert!(!terminal.hand_over());
        assert_eq!(terminal.mirror_stop(libc::SIGTSTP), None);
        terminal.take_back(Some(libc::SIGINT));
        assert!(!terminal.handed_over);
    }
}
