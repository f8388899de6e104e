//! The command: a child of the first process, in a process group of its own, with everything else as the caller left it.
//!
//! Keeps one rule: the child gets what exec(2) would have given it (environment, directory, descriptors, limits, umask, blocked and
//! ignored signals), except for the privileges that are gone already. A program that cannot be run is told apart as env(1) does.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io::{self, PipeReader, Read, Write, pipe};
use std::os::fd::BorrowedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Pid, setpgid};
use rustix::termios::tcsetpgrp;

use super::CommandStatus;
use super::inherited::Inherited;
use super::signals::Mask;

/// What the command starts with beside what survives by itself.
pub(super) struct Start<'a> {
    pub(super) command: &'a [OsString],
    pub(super) inherited: &'a Inherited,
    pub(super) blocked: Mask,
    pub(super) terminal: Option<BorrowedFd<'a>>,
}

/// Starts the command; with a `terminal`, as the foreground process group there.
///
/// # Errors
///
/// The status with which the enclosure ends when the command cannot be run.
pub(super) fn start(start: &Start<'_>) -> Result<Pid, CommandStatus> {
    let command = start.command;
    let unstartable = |source: io::Error| explain(command, &source);
    let (failure, tell) = pipe().map_err(unstartable)?;
    // SAFETY: this process has one thread, so the child may run ordinary code until it execs.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(unstartable(io::Error::last_os_error()));
    }
    match Pid::from_raw(pid) {
        None => {
            let Err(error) = become_command(start);
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            // Nobody is left to hear of a pipe that breaks here.
            let _ = (&tell).write_all(&errno.to_ne_bytes());
            // SAFETY: leaves without running the exit handlers of the parent's copy.
            unsafe { libc::_exit(126) }
        }
        Some(child) => {
            drop(tell);
            match failure_of(failure) {
                None => Ok(child),
                Some(error) => {
                    // The child is leaving; its status has been told by the pipe.
                    let _ = rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty());
                    Err(unstartable(error))
                }
            }
        }
    }
}

/// Runs in the child. Returns only when the command cannot be run.
fn become_command(start: &Start<'_>) -> io::Result<Infallible> {
    let Start { command, inherited, blocked, terminal } = start;
    let [program, arguments @ ..] = command else { return Err(io::ErrorKind::InvalidInput.into()) };
    setpgid(None, None)?;
    if let Some(terminal) = terminal {
        // SIGTTOU is blocked here, so a background process may do this (tcsetpgrp(3)). A terminal that is gone takes nobody.
        let _ = tcsetpgrp(terminal, rustix::process::getpid());
    }
    blocked.set()?;
    let mut command = Command::new(program);
    // `exec` gives SIGPIPE its default back, which the Rust runtime has taken; what the caller left comes after that.
    inherited.give_to(&mut command);
    Err(command.args(arguments).exec())
}

/// The errno that the child reports; the pipe closes silently when the exec succeeds.
fn failure_of(mut failure: PipeReader) -> Option<io::Error> {
    let mut errno = [0; 4];
    failure.read_exact(&mut errno).ok()?;
    Some(io::Error::from_raw_os_error(i32::from_ne_bytes(errno)))
}

fn explain(command: &[OsString], source: &io::Error) -> CommandStatus {
    let command = command.first().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    match source.kind() {
        io::ErrorKind::NotFound => CommandStatus::NotFound { command },
        _ => CommandStatus::NotExecutable { command, cause: source.to_string() },
    }
}
