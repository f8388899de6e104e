//! The first process of an enclosure: furnishes the namespaces, then starts, reaps and ends everything in them.
//!
//! # Theory of operation
//!
//! It is PID 1 of its PID namespace, so that its end is the end of every process inside, daemons included. It waits until its
//! keeper has written the id maps, furnishes ([`mounts`], [`net`]), passes out what the router needs, gives up its dangerous
//! privileges and waits for the order to start. From then on it does four things: it reaps every orphan, passes signals on,
//! speaks with the keeper about the terminal, and when the command has ended it ends the rest.
//!
//! Keeps one rule: it lives no longer than its keeper and the outer process. The kernel kills it when the keeper dies, and the
//! end of either line is an order to leave.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, kill_process, kill_process_group, set_parent_process_death_signal, setpgid, wait,
};
use rustix::termios::tcsetpgrp;

use super::inherited::Inherited;
use super::keeper::Parameters;
use super::line::{Grant, Line, Need, Order, Report, To};
use super::signals::Mask;
use super::signals::{Signals, signal};
use super::ssh::Copies;
use super::{CommandStatus, EncloseError, command, error, inherited, mounts, net, privileges};

/// What the rest gets between TERM and KILL once the command has ended.
const GRACE: Duration = Duration::from_secs(2);

/// What the namespaces are furnished with.
pub(super) struct Furniture<'a> {
    pub(super) parameters: &'a Parameters,
    pub(super) user_namespace: bool,
    pub(super) for_ssh: Copies,
    pub(super) settings: net::Settings,
}

/// What the first process runs, and the signals that it was called with blocked.
pub(super) struct Errand {
    pub(super) command: Vec<OsString>,
    pub(super) blocked: Mask,
}

/// Runs the first process. Its return is the end of the enclosure.
pub(super) fn run(outer: Line, keeper: Line, furniture: Furniture<'_>, errand: Errand) {
    let Ok(signals) = Signals::read_only(&[Signal::CHILD]) else { return };
    if set_parent_process_death_signal(Some(Signal::KILL)).is_err() {
        return;
    }
    // A keeper that died before the line above is seen here: its end of the line is closed.
    if !matches!(keeper.receive(), Ok(Some((Grant::Maps, _)))) {
        return;
    }
    let inherited = &furniture.parameters.inherited;
    if let Err(refusal) = furnish(&outer, &furniture) {
        // An outer process that is gone needs no reason.
        let _ = outer.send(&Report::Refused(refusal));
        return;
    }
    let terminal = open("/dev/tty", OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).ok();
    Init { outer, keeper, signals, terminal, errand, inherited, child: None }.serve();
}

/// Makes everything, passes it out and gives up what the command must not have.
fn furnish(outer: &Line, furniture: &Furniture<'_>) -> Result<(), EncloseError> {
    let Furniture { parameters, user_namespace, for_ssh, settings } = furniture;
    let around = error::Surroundings::look(*user_namespace);
    let conf = mounts::make(&around)?;
    let ssh_fault = mounts::cover(&for_ssh.files).err().map(|fault| fault.to_string());
    let ssh_fault = ssh_fault.or(for_ssh.incomplete.then(|| "it has more or longer files than are looked at".to_owned()));
    let sockets = net::make(parameters, settings, &conf.servers, &around)?;
    privileges::drop_forbidden()
        .map_err(|source| error::explain("drop NET_ADMIN and SYS_ADMIN for the command", &source, &around))?;
    let ready = Report::Ready { queues: sockets.tun.len(), udp: sockets.dns_udp.len(), tcp: sockets.dns_tcp.len(), ssh_fault };
    outer.send_with(&ready, &sockets.fds()).map_err(|source| EncloseError::step("pass the enclosure's sockets out", source))
}

struct Init<'a> {
    outer: Line,
    keeper: Line,
    signals: Signals,
    /// The controlling terminal, if there is one.
    terminal: Option<OwnedFd>,
    errand: Errand,
    inherited: &'a Inherited,
    child: Option<Pid>,
}

impl Init<'_> {
    /// Serves until the command and all others have ended, or a line has.
    fn serve(&mut self) {
        loop {
            let Ok([outer, keeper, children]) = self.wait_ready(None) else { return };
            // One line at a turn: to start the command is to read from the other one, too, and nothing may be left there.
            let goes_on = if outer { self.obey() } else { !keeper || self.take_grant() };
            if !goes_on {
                return;
            }
            if !children {
                continue;
            }
            self.signals.arrived();
            if let Some(status) = self.reap() {
                self.end(status);
                return;
            }
        }
    }

    /// Waits for an order, a grant or a child.
    fn wait_ready(&self, limit: Option<Duration>) -> io::Result<[bool; 3]> {
        let mut fds =
            [self.outer.as_fd(), self.keeper.as_fd(), self.signals.as_fd()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        match poll(&mut fds, limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(fds.map(|fd| !fd.revents().is_empty())),
            Err(error) => Err(error.into()),
        }
    }

    /// Does what the outer process wants. False when it is gone.
    fn obey(&mut self) -> bool {
        match self.outer.receive() {
            Ok(Some((Order::Start, _))) => self.start(),
            // The keeper knows whom it was meant for.
            Ok(Some((Order::Signal { number, alone }, _))) => self.keeper.send(&Need::Whom { number, alone }).is_ok(),
            Ok(None) | Err(_) => false,
        }
    }

    /// Starts the command once.
    fn start(&mut self) -> bool {
        if self.child.is_some() {
            return true;
        }
        let foreground = self.ask_for_terminal();
        let terminal = self.terminal.as_ref().filter(|_| foreground).map(AsFd::as_fd);
        let Errand { command, blocked } = &self.errand;
        match command::start(&command::Start { command, inherited: self.inherited, blocked: *blocked, terminal }) {
            Ok(child) => {
                inherited::let_go(true);
                // The child does the same; whoever comes second is refused, and that is well.
                let _ = setpgid(Some(child), Some(child));
                self.child = Some(child);
                true
            }
            Err(status) => {
                self.end(status);
                false
            }
        }
    }

    fn ask_for_terminal(&self) -> bool {
        if self.keeper.send(&Need::Terminal).is_err() {
            return false;
        }
        loop {
            match self.keeper.receive() {
                Ok(Some((Grant::Terminal(granted), _))) => return granted,
                // A shell that stops or continues the job now is too early for the command.
                Ok(Some((Grant::Maps | Grant::Signal { .. } | Grant::Stop | Grant::Resume { .. } | Grant::Over, _))) => {}
                Ok(None) | Err(_) => return false,
            }
        }
    }

    /// Passes a signal on to the command, or to its whole group. An ended command gets none.
    fn pass_on(&self, number: i32, to: To) {
        let (Some(child), Some(signal)) = (self.child, signal(number)) else { return };
        // A group that is gone is no fault: the command may have left it, and then is reached by itself.
        if to == To::Process || kill_process_group(child, signal).is_err() {
            let _ = kill_process(child, signal);
        }
    }

    /// Takes what the keeper says on its own accord. False when the keeper is gone.
    fn take_grant(&mut self) -> bool {
        match self.keeper.receive() {
            Ok(Some((Grant::Resume { terminal }, _))) => {
                if let (Some(child), Some(tty), true) = (self.child, &self.terminal, terminal) {
                    let _ = tcsetpgrp(tty, child);
                }
                self.pass_on(Signal::CONT.as_raw(), To::Group);
                true
            }
            Ok(Some((Grant::Signal { number, to }, _))) => {
                self.pass_on(number, to);
                true
            }
            Ok(Some((Grant::Stop, _))) => {
                self.pass_on(Signal::TSTP.as_raw(), To::Group);
                true
            }
            Ok(Some((Grant::Maps | Grant::Terminal(_) | Grant::Over, _))) => true,
            Ok(None) | Err(_) => false,
        }
    }

    /// Reaps every child that has ended. The command's status when it is among them.
    fn reap(&self) -> Option<CommandStatus> {
        let mut ended = None;
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG | WaitOptions::UNTRACED | WaitOptions::CONTINUED) {
            if Some(pid) != self.child {
                continue;
            }
            if let Some(signal) = status.stopping_signal() {
                // Without a keeper the line's end says so at the next turn.
                let _ = self.keeper.send(&Need::Stopped(signal));
            } else if status.continued() {
                let _ = self.keeper.send(&Need::Continued);
            } else {
                ended = Some(command_status(status));
            }
        }
        ended
    }

    /// Gives the terminal back, ends the rest and reports.
    fn end(&self, status: CommandStatus) {
        let signal = if let CommandStatus::Killed(signal) = status { Some(signal) } else { None };
        if self.terminal.is_some() && self.keeper.send(&Need::Over { signal }).is_ok() {
            // Whatever else it still says is too late for the command.
            while matches!(self.keeper.receive(), Ok(Some((grant, _))) if !matches!(grant, Grant::Over)) {}
        }
        self.end_the_rest();
        let _ = self.outer.send(&Report::Ended(status));
    }

    /// TERM, and KILL after [`GRACE`]. Returns when nobody is left, or the outer process is gone.
    fn end_the_rest(&self) {
        let deadline = Instant::now() + GRACE;
        send_to_all(Signal::TERM);
        // A stopped process takes its TERM only when it goes on.
        send_to_all(Signal::CONT);
        let mut killed = false;
        while self.reap_all() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() && !killed {
                send_to_all(Signal::KILL);
                killed = true;
            }
            let mut fds = [
                PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.outer.as_fd(), PollFlags::empty()),
            ];
            // After KILL each death wakes us; the kernel may need long to end a process in an uninterruptible call.
            let limit = if killed { GRACE } else { left };
            let _ = poll(&mut fds, Timespec::try_from(limit).ok().as_ref());
            let [_, outer] = &fds;
            if outer.revents().contains(PollFlags::HUP) {
                return;
            }
            self.signals.arrived();
        }
    }

    /// Reaps what has ended. False when no child is left: every process inside is, or becomes, our child.
    fn reap_all(&self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    }
}

/// Signals every process of the PID namespace but ourselves (kill(2), PID -1).
fn send_to_all(signal: Signal) {
    // SAFETY: kill takes plain numbers. The caller is PID 1 of a namespace of its own, so nobody outside is reached.
    unsafe { libc::kill(-1, signal.as_raw()) };
}

fn command_status(status: WaitStatus) -> CommandStatus {
    match (status.exit_status().map(u8::try_from), status.terminating_signal()) {
        (Some(Ok(code)), _) => CommandStatus::Exited(code),
        (_, Some(signal)) => CommandStatus::Killed(signal),
        (Some(Err(_)) | None, None) => CommandStatus::Exited(u8::MAX),
    }
}
