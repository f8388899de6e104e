//! `exec`'s enclosure: one program and its children in namespaces of their own, with a TUN as their only way out.
//!
//! # Theory of operation
//!
//! Four processes. The *outer* one is the router; it stays where it is and keeps the sockets that come out. Its child, the
//! *keeper*, is a copy of this program with one thread; it clones the *first process* (PID 1 inside), which furnishes the
//! namespaces and runs the *command*. The outer process stays in the user namespace in which the others are made, and so holds
//! every right over them: nothing else gives it the right to use what comes out.
//!
//! Keeps one rule: nothing of the host changes, and nothing outlives the outer process. Judges nothing; the TUN's packets are
//! the router's.

mod command;
mod error;
mod inherited;
mod init;
mod keeper;
mod line;
mod mounts;
mod net;
mod privileges;
mod resolv;
mod signals;
mod ssh;
mod status;
mod terminal;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};

pub use error::EncloseError;
pub use inherited::{let_go, wait_for_children};
use ipnet::Ipv6Net;
pub use signals::die_of;
pub use status::CommandStatus;

use inherited::Inherited;
use line::{Line, Order, Report};

/// The hidden verb that [`inner_main`] serves.
pub const INNER_VERB: &str = "__enclosure";

/// What to enclose, and with which network.
#[derive(Clone, Debug)]
pub struct Request {
    pub command: Vec<OsString>,
    /// The TUN's own addresses with their prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
    /// The networks of IPv6 that the TUN leads to.
    pub reach: Vec<Ipv6Net>,
    pub mtu: u32,
    /// The TUN's name, [`crate::tun::DEVICE_NAME`] normally.
    pub device: String,
    /// The TUN's queues, one for each thread that reads it.
    pub queues: usize,
    /// Variables that the command gets beside those of this process.
    pub record_env: Vec<(OsString, OsString)>,
}

/// An enclosure with everything that was made inside and passed out. Its end is the end of every process inside.
#[derive(Debug)]
pub struct Enclosed {
    /// The TUN's queues, for [`crate::tun::Queue::adopt`].
    pub tun: Vec<OwnedFd>,
    /// A `NETLINK_SOCK_DIAG` socket of the enclosure.
    pub sock_diag: OwnedFd,
    /// A `NETLINK_ROUTE` socket of the enclosure.
    pub route: OwnedFd,
    /// Bound to port 53 of each loopback address that a program may ask; non-blocking, as the next ones.
    pub dns_udp: Vec<UdpSocket>,
    pub dns_tcp: Vec<TcpListener>,
    /// The first process, numbered as seen outside; its children are the enclosure.
    pub init_pid: u32,
    line: Line,
    keeper: Keeper,
}

/// Makes the enclosure with its network. The command waits for [`Enclosed::start`].
///
/// # Errors
///
/// One sentence with cause and remedy; nothing is left behind.
pub fn enclose(request: Request) -> Result<Enclosed, EncloseError> {
    enclose_with(Path::new("/proc/self/exe"), request)
}

/// As [`enclose`], for a caller that is not the binary itself: `binary` is one that serves the hidden verb.
///
/// # Errors
///
/// As [`enclose`].
pub fn enclose_with(binary: &Path, request: Request) -> Result<Enclosed, EncloseError> {
    if request.command.is_empty() {
        return Err(EncloseError::NoCommand);
    }
    let broken = |source: io::Error| EncloseError::Keeper { cause: source.to_string() };
    let (line, far) = Line::pair().map_err(broken)?;
    let keeper = start_keeper(binary, request, &far).map_err(broken)?;
    // Only the inside holds the far end now, so that its end is seen here.
    drop(far);
    receive_enclosed(line, keeper)
}

impl Enclosed {
    /// Lets the command go.
    ///
    /// # Errors
    ///
    /// The enclosure has ended already.
    pub fn start(&mut self) -> io::Result<()> {
        self.line.send(&Order::Start)
    }

    /// Waits until the command and everything that it left running have ended. Blocks.
    ///
    /// # Errors
    ///
    /// The enclosure was killed from outside, so that there is no status.
    pub fn wait(&mut self) -> io::Result<CommandStatus> {
        let status = loop {
            match self.line.receive()? {
                Some((Report::Ended(status), _)) => break status,
                Some((Report::Refused(refusal), _)) => return Err(io::Error::other(refusal)),
                Some((Report::Born { .. } | Report::Ready { .. }, _)) => {}
                None => return Err(io::Error::other("the enclosure was killed from outside; its command's status is lost")),
            }
        };
        self.keeper.0.wait()?;
        Ok(status)
    }

    /// Sends the command a signal: its whole process group where this process's group got it too, as from a terminal, a shell that
    /// hangs up or timeout(1); else the command alone.
    ///
    /// # Errors
    ///
    /// There is no signal of this number, or the enclosure has ended.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        self.pass_on(signal, true)
    }

    /// As [`Self::signal`], but nothing where this process alone got it.
    ///
    /// # Errors
    ///
    /// As [`Self::signal`].
    pub fn signal_of_group(&self, signal: i32) -> io::Result<()> {
        self.pass_on(signal, false)
    }

    fn pass_on(&self, number: i32, alone: bool) -> io::Result<()> {
        if signals::signal(number).is_none() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{number} is no signal's number")));
        }
        self.line.send(&Order::Signal { number, alone })
    }

    /// Becomes readable when the command has ended; then [`Enclosed::wait`] returns soon.
    #[must_use]
    pub fn status_fd(&self) -> BorrowedFd<'_> {
        self.line.as_fd()
    }
}

/// Runs the hidden verb `__enclosure` and never returns. The process must have one thread.
pub fn inner_main() -> ! {
    // The first two words are the program and the verb.
    match keeper::run(std::env::args_os().skip(2)) {
        Ok(()) => std::process::exit(0),
        Err(sentence) => {
            // Whoever closed stderr does not want to know.
            let _ = writeln!(io::stderr(), "portreeve: {sentence}");
            std::process::exit(2)
        }
    }
}

/// The keeper's process. Ends with its owner: the kernel may take long to end a namespace, so this is where one waits for it.
#[derive(Debug)]
struct Keeper(Child);

impl Drop for Keeper {
    fn drop(&mut self) {
        // The line is closed before (fields drop in order), so the keeper is ending; one that has ended is only reaped.
        let _ = self.0.wait();
    }
}

/// Starts the keeper with one end of the line.
fn start_keeper(binary: &Path, request: Request, far: &Line) -> io::Result<Keeper> {
    let parameters = keeper::Parameters {
        addresses: request.addresses,
        reach: request.reach,
        mtu: request.mtu,
        device: request.device,
        queues: request.queues,
        inherited: Inherited::of_this_process(),
        outer: std::process::id(),
    };
    let number = far.as_fd().as_raw_fd();
    let mut keeper = Command::new(binary);
    keeper.arg0("portreeve").arg(INNER_VERB).arg(number.to_string()).arg(serde_json::to_string(&parameters)?).arg("--");
    keeper.args(request.command).envs(request.record_env);
    let inherit = move || {
        // SAFETY: the descriptor is open in the child as in the parent, which holds it until the child has been started.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).map_err(io::Error::from)
    };
    // SAFETY: the closure makes one system call and allocates nothing.
    unsafe { keeper.pre_exec(inherit) };
    Ok(Keeper(keeper.spawn()?))
}

/// Reads reports until the enclosure is ready or refused.
fn receive_enclosed(line: Line, keeper: Keeper) -> Result<Enclosed, EncloseError> {
    match receive_ready(&line) {
        Ok((init_pid, Passed { tun, sock_diag, route, dns_udp, dns_tcp })) => {
            Ok(Enclosed { tun, sock_diag, route, dns_udp, dns_tcp, init_pid, line, keeper })
        }
        Err(error) => {
            // In this order: the keeper ends when the line does, and is waited for.
            drop(line);
            drop(keeper);
            Err(error)
        }
    }
}

/// What comes with `Report::Ready`.
struct Passed {
    tun: Vec<OwnedFd>,
    sock_diag: OwnedFd,
    route: OwnedFd,
    dns_udp: Vec<UdpSocket>,
    dns_tcp: Vec<TcpListener>,
}

fn receive_ready(line: &Line) -> Result<(u32, Passed), EncloseError> {
    let mut born = 0;
    loop {
        match line.receive().map_err(|source| EncloseError::step("hear from the enclosure", source))? {
            Some((Report::Born { init_pid }, _)) => born = init_pid,
            Some((Report::Refused(refusal), _)) => return Err(refusal),
            Some((Report::Ready { queues, udp, tcp, ssh_fault }, fds)) => {
                if let Some(fault) = ssh_fault {
                    tracing::info!(%fault, "ssh may refuse its configuration: root's files are not shown as the user's");
                }
                return Ok((born, sort_out(fds, queues, udp, tcp).ok_or(EncloseError::Lost)?));
            }
            Some((Report::Ended(_), _)) | None => return Err(EncloseError::Lost),
        }
    }
}

/// `None` where the message did not carry what it promised.
fn sort_out(fds: Vec<OwnedFd>, queues: usize, udp: usize, tcp: usize) -> Option<Passed> {
    let complete = fds.len() == queues.checked_add(udp)?.checked_add(tcp)?.checked_add(2)?;
    let mut fds = fds.into_iter();
    let (sock_diag, route) = (fds.next()?, fds.next()?);
    let tun = fds.by_ref().take(queues).collect();
    let dns_udp = fds.by_ref().take(udp).map(UdpSocket::from).collect();
    let dns_tcp = fds.map(TcpListener::from).collect();
    complete.then_some(Passed { tun, sock_diag, route, dns_udp, dns_tcp })
}
