//! The keeper: a single-threaded copy of this program that clones the first process and stays as its parent.
//!
//! # Theory of operation
//!
//! The outer process may have threads, which must not be cloned, and may be killed at any moment, from any of them. So it starts
//! `/proc/self/exe __enclosure`, which has one thread, makes the namespaces in one clone and lives on outside them. The keeper
//! stays in the caller's session and process group: it sees what the shell does to the job and mirrors it for the command, which
//! has a process group of its own (see `terminal`).
//!
//! Keeps one rule: the keeper ends with the outer process, and the first process with the keeper. The outer's death is the end
//! of the line, whichever of its threads made the enclosure; the keeper has one thread, so the kernel's death signal is exact.

use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use ipnet::Ipv6Net;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_parent_process_death_signal, waitpid};
use serde::{Deserialize, Serialize};

use super::inherited::{self, Inherited};
use super::init::{Errand, Furniture};
use super::line::{Grant, Line, Need, Report, To};
use super::privileges::{Standing, write_maps};
use super::signals::{self, Signals};
use super::ssh::Copies;
use super::terminal::Terminal;
use super::{EncloseError, error, init, net};

/// What the keeper is started with, beside the command.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Parameters {
    pub(super) addresses: Vec<(IpAddr, u8)>,
    pub(super) reach: Vec<Ipv6Net>,
    pub(super) mtu: u32,
    pub(super) device: String,
    pub(super) queues: usize,
    pub(super) inherited: Inherited,
    /// The outer process.
    pub(super) outer: u32,
}

/// Runs the keeper with what stands behind the hidden verb: the line's descriptor, the parameters, `--` and the command.
/// Its return is the end of the keeper; the result is said to a person who called the verb by hand.
pub(super) fn run(mut arguments: impl Iterator<Item = OsString>) -> Result<(), &'static str> {
    const BY_HAND: &str = "__enclosure is internal; use: portreeve exec -- CMD…";
    let word = |argument: Option<OsString>| argument.and_then(|argument| argument.into_string().ok()).ok_or(BY_HAND);
    let number: i32 = word(arguments.next())?.parse().map_err(|_| BY_HAND)?;
    let parameters: Parameters = serde_json::from_str(&word(arguments.next())?).map_err(|_| BY_HAND)?;
    if word(arguments.next())? != "--" {
        return Err(BY_HAND);
    }
    let outer = adopt_line(number).map_err(|_| BY_HAND)?;
    if let Err(refusal) = keep(&outer, &parameters, arguments.collect()) {
        // An outer process that is gone needs no reason.
        let _ = outer.send(&Report::Refused(refusal));
    }
    Ok(())
}

/// Takes the inherited descriptor and hides it from what is executed later.
fn adopt_line(number: i32) -> io::Result<Line> {
    // SAFETY: F_GETFD only asks; a number that is no descriptor is refused.
    if number <= 2 || unsafe { libc::fcntl(number, libc::F_GETFD) } == -1 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the descriptor is open, was inherited for us alone and is owned by nothing else in this fresh process.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(Line::adopt(fd))
}

/// Makes the first process and keeps it until it ends.
fn keep(outer: &Line, parameters: &Parameters, command: Vec<OsString>) -> Result<(), EncloseError> {
    let step = |what: &'static str| move |source: io::Error| EncloseError::step(what, source);
    // Wakes a keeper that is stopped; the end of the line then ends it. Not KILL, which a mere thread's end would send too.
    set_parent_process_death_signal(Some(Signal::CONT)).map_err(|source| step("follow the outer process")(source.into()))?;
    let (signals, blocked) =
        Signals::block_all_and_read(&[Signal::CHILD, Signal::TSTP, Signal::CONT]).map_err(step("block signals"))?;
    let standing = Standing::look().map_err(step("read the own capabilities"))?;
    let (init_line, far_line) = Line::pair().map_err(step("make a socket pair"))?;
    let around = error::Surroundings::look(standing.wants_user_namespace());
    // Here and not inside, where an owner is not to be seen.
    let for_ssh = if standing.hides_root() { Copies::make() } else { Copies::default() };
    let settings = net::Settings::of_this_host();
    let cloned = clone_namespaces(standing);
    let Some(init) = cloned.map_err(|source| error::explain("clone the enclosure's namespaces", &source, &around))? else {
        drop((init_line, signals));
        let outer = outer.as_fd().try_clone_to_owned().map_err(step("keep the line"))?;
        let furniture = Furniture { parameters, user_namespace: standing.wants_user_namespace(), for_ssh, settings };
        init::run(Line::adopt(outer), far_line, furniture, Errand { command, blocked });
        std::process::exit(0);
    };
    drop((far_line, for_ssh));
    let mut kept = Kept { init, line: init_line, signals, terminal: Terminal::open(parameters.outer) };
    kept.release(outer, standing).map_err(|source| error::explain("write the enclosure's id maps", &source, &around))?;
    kept.serve(outer);
    Ok(())
}

/// The one clone. `None` in the child.
fn clone_namespaces(standing: Standing) -> io::Result<Option<Pid>> {
    let mut flags = libc::CLONE_NEWNET | libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::SIGCHLD;
    if standing.wants_user_namespace() {
        flags |= libc::CLONE_NEWUSER;
    }
    const NONE: libc::c_long = 0;
    // SAFETY: without CLONE_VM and with no stack this is fork(2) with namespaces; one thread exists, so the child may go on.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::c_long::from(flags), NONE, NONE, NONE, NONE) };
    match i32::try_from(pid) {
        Ok(-1) | Err(_) => Err(io::Error::last_os_error()),
        Ok(pid) => Ok(Pid::from_raw(pid)),
    }
}

/// The first process as its keeper has it.
struct Kept {
    init: Pid,
    line: Line,
    signals: Signals,
    terminal: Terminal,
}

impl Kept {
    /// Tells the outer process of the first one, writes its maps and lets it go.
    fn release(&mut self, outer: &Line, standing: Standing) -> io::Result<()> {
        let init_pid = u32::try_from(self.init.as_raw_nonzero().get()).map_err(io::Error::other)?;
        let released = outer
            .send(&Report::Born { init_pid })
            .and_then(|()| write_maps(standing, self.init))
            .and_then(|()| self.line.send(&Grant::Maps));
        if released.is_err() {
            self.kill();
        }
        released
    }

    /// Serves until the first process or the outer one has ended.
    fn serve(&mut self, outer: &Line) {
        loop {
            let mut fds = [
                // The first process reads this line; here only its end counts, which is always told (poll(2)).
                PollFd::from_borrowed_fd(outer.as_fd(), PollFlags::empty()),
                PollFd::from_borrowed_fd(self.line.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return self.kill(),
            }
            let [gone, asked, signalled] = fds.map(|fd| !fd.revents().is_empty());
            if gone || asked && !self.answer() {
                return self.kill();
            }
            if signalled {
                self.follow_shell();
            }
        }
    }

    /// Answers the first process. False when it is gone.
    fn answer(&mut self) -> bool {
        let Ok(Some((need, _))) = self.line.receive() else { return false };
        let grant = match need {
            Need::Terminal => {
                let granted = self.terminal.hand_over();
                // Where the terminal's interrupt hits the command alone, its pipe to the next of a pipeline stays open until we have sent
                // the interrupt on: the end of its input would have the next one end well, and a loop around both go on.
                if !granted {
                    inherited::let_go(true);
                }
                Some(Grant::Terminal(granted))
            }
            Need::Stopped(signal) => self.terminal.mirror_stop(signal).map(|terminal| Grant::Resume { terminal }),
            Need::Continued => {
                self.terminal.mirror_continue();
                None
            }
            // It stays with us, blocked, until somebody asks for it: a signal to the whole group comes to all of it at once.
            Need::Whom { number, alone } => match signals::take(number) {
                true => Some(Grant::Signal { number, to: To::Group }),
                false => alone.then_some(Grant::Signal { number, to: To::Process }),
            },
            Need::Over { signal } => {
                self.terminal.take_back(signal);
                inherited::let_go(true);
                Some(Grant::Over)
            }
        };
        grant.is_none_or(|grant| self.line.send(&grant).is_ok())
    }

    /// Mirrors what the shell or the terminal did to the job. The first process's absence is noticed at the next turn.
    fn follow_shell(&mut self) {
        for number in self.signals.arrived() {
            if number == Signal::TSTP.as_raw() {
                let _ = self.line.send(&Grant::Stop);
            } else if number == Signal::CONT.as_raw() {
                let terminal = self.terminal.hand_over();
                let _ = self.line.send(&Grant::Resume { terminal });
            }
        }
    }

    /// Ends the first process, and so everything inside, and waits for that.
    fn kill(&mut self) {
        self.terminal.take_back(None);
        // Whoever has ended already is only reaped.
        let _ = kill_process(self.init, Signal::KILL);
        while matches!(waitpid(Some(self.init), WaitOptions::empty()), Err(rustix::io::Errno::INTR)) {}
    }
}
