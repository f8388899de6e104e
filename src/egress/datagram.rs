//! One upstream UDP flow.
//!
//! Keeps one rule: what goes out together and what comes in together are single datagrams on the wire and to the program.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};

use socket2::{SockAddr, SockRef, Socket};

use super::Source;
use super::message::{self, Received, Trouble};
use super::options::{self, Options};
use crate::flow::{HEARS, Way};
use crate::packet::Marks;

/// A UDP socket for one remote end.
#[derive(Debug)]
pub struct Datagrams {
    socket: Socket,
    to: SocketAddr,
    /// Set where the socket is not connected, so that it hears everybody.
    name: Option<SockAddr>,
    options: Options,
    /// The kernel cuts what goes out together.
    cuts: bool,
    /// The socket has room for bursts out, and in.
    room: (bool, bool),
    /// The mark without a way to a twin; None: there is no mark, or it is plain already.
    plain_mark: Option<u32>,
}

impl Datagrams {
    pub(super) fn new(socket: Socket, to: SocketAddr, hears: bool, plain_mark: Option<u32>) -> io::Result<Self> {
        options::ask_for_details(&SockRef::from(&socket), to.is_ipv4())?;
        let name = hears.then(|| SockAddr::from(to));
        if name.is_some() {
            socket.set_broadcast(true)?;
        } else {
            connect(&socket, to)?;
        }
        Ok(Self { socket, to, name, options: Options::new(to.ip()), cuts: true, room: (false, false), plain_mark })
    }

    /// The port that datagrams leave from.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.socket.local_addr().ok()?.as_socket().map(|address| address.port())
    }

    /// Sends one datagram, or several of `segment` bytes of which the last may be shorter, with the program's marks.
    ///
    /// # Errors
    ///
    /// `WouldBlock`, or why the kernel does not send; of a datagram too large for the path, [`Datagrams::trouble`] tells more.
    pub fn send(&mut self, data: &[u8], segment: Option<u16>, marks: Marks) -> io::Result<()> {
        let size = segment.map(usize::from).filter(|size| *size > 0 && *size < data.len());
        self.options.apply(&SockRef::from(&self.socket), marks, size.unwrap_or(data.len()))?;
        let Some(size) = size else { return self.send_once(data, None) };
        if self.cuts {
            match self.send_once(data, segment) {
                Err(error) if self.must_cut(&error) => {}
                other => return other,
            }
        }
        data.chunks(size).try_for_each(|datagram| self.send_once(datagram, None))
    }

    /// Whether an error means that the kernel does not cut: EIO without checksum offload on the way out, the others where a datagram
    /// is too large for the path (net/ipv4/udp.c, `udp_send_skb`).
    fn must_cut(&mut self, error: &io::Error) -> bool {
        self.cuts &= error.raw_os_error() != Some(libc::EIO);
        matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE))
    }

    /// Whether an error says that the guard cannot give the program's port to what leaves: another conversation has just these ends.
    #[must_use]
    pub fn lacks_port(&self, error: &io::Error) -> bool {
        self.plain_mark.is_some() && error.raw_os_error() == Some(libc::EPERM)
    }

    /// Leaves by the socket's own port from now on.
    ///
    /// # Errors
    ///
    /// Those of setsockopt(2).
    pub fn give_up_port(&mut self) -> io::Result<()> {
        self.plain_mark.take().map_or(Ok(()), |mark| self.socket.set_mark(mark))
    }

    fn send_once(&mut self, data: &[u8], segment: Option<u16>) -> io::Result<()> {
        let socket = SockRef::from(&self.socket);
        let send = || message::send(&socket, self.name.as_ref(), data, segment);
        match send() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !self.room.0 => {
                options::make_room(&socket, true);
                self.room.0 = true;
                send()
            }
            // Errors that came back for earlier datagrams take the place of a send each; what stays is this host's own.
            Err(error) if may_be_earlier(&error) && !self.lacks_port(&error) => send().or_else(|_| send()),
            other => other,
        }
    }

    /// Prepares for many datagrams.
    pub fn expect_many(&mut self, together: bool) {
        if !std::mem::replace(&mut self.room.1, true) {
            let socket = SockRef::from(&self.socket);
            options::make_room(&socket, false);
            if together {
                // A kernel older than 5.0 gives them one by one.
                let _ = options::receive_together(&socket);
            }
        }
    }

    /// Receives one datagram, or several of one size; from whom is told only where it may be somebody else than the other end.
    ///
    /// # Errors
    ///
    /// `WouldBlock`, or an error that came back; [`Datagrams::trouble`] tells which.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        loop {
            let mut received = message::receive(&SockRef::from(&self.socket), buffer)?;
            let same = |from: SocketAddr| from.ip() == self.to.ip() && from.port() == self.to.port();
            let stranger = received.from.take().filter(|from| !same(*from));
            // Between bind and connect a stranger's datagram may have come in.
            if stranger.is_none() || self.name.is_some() {
                return Ok(Received { from: stranger, ..received });
            }
        }
    }

    /// Takes one error off the queue; what it quotes of the datagram goes to `quoted`, its length is returned.
    #[must_use]
    pub fn trouble(&self, quoted: &mut [u8]) -> (Trouble, usize) {
        message::trouble(&SockRef::from(&self.socket), quoted)
    }
}

fn connect(socket: &Socket, to: SocketAddr) -> io::Result<()> {
    match socket.connect(&SockAddr::from(to)) {
        // The verdict has been given; the kernel's own guard against accidental broadcasts would only hide it.
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
            socket.set_broadcast(true)?;
            socket.connect(&SockAddr::from(to))
        }
        other => other,
    }
}

/// Binds to the port of `from` if it can be had; where another is needed, nobody shares it and no address is asked for, connect(2) finds
/// one. Under a mark we live beside the programs, whose own sockets hold their ports, and bind to a [`Way`]'s twin. Socket options and
/// bind(2) in turn.
pub(super) fn bind(
    socket: &Socket,
    address: IpAddr,
    from: Source,
    mark: Option<u32>,
    is_spared: &dyn Fn(u16) -> bool,
) -> io::Result<()> {
    let (port, leased, shared) = match from {
        Source::Alone { port } => (port, None, false),
        Source::Shared { port, leased, .. } => (port, leased, true),
    };
    let at = |port| SockAddr::from(SocketAddr::new(address, port));
    if address.is_ipv6() && (port != 0 || shared) {
        // Else any IPv4 socket on this port would count as one on ours.
        socket.set_only_v6(true)?;
    }
    if shared {
        // Nobody but the same user gets in (socket(7)).
        socket.set_reuse_port(true)?;
    }
    if let Some(leased) = leased {
        if let (Some(mark), Some(way)) = (mark, Way::between(port, leased)) {
            socket.set_mark(mark | way.bits | HEARS)?;
        }
        return socket.bind(&at(leased));
    }
    let bound = match mark {
        Some(mark) => bind_to_twin(socket, &at, port, if shared { mark | HEARS } else { mark }, is_spared)?,
        None => port != 0 && is_bound(socket.bind(&at(port)))?,
    };
    if (shared || !address.is_unspecified()) && !bound { socket.bind(&at(0)) } else { Ok(()) }
}

/// False when no twin is free.
fn bind_to_twin(
    socket: &Socket,
    at: &dyn Fn(u16) -> SockAddr,
    port: u16,
    mark: u32,
    is_spared: &dyn Fn(u16) -> bool,
) -> io::Result<bool> {
    for way in Way::from(port).filter(|way| !is_spared(way.twin(port))) {
        if is_bound(socket.bind(&at(way.twin(port))))? {
            return socket.set_mark(mark | way.bits).map(|()| true);
        }
    }
    Ok(false)
}

/// False when the port cannot be had.
fn is_bound(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Err(error) if is_taken(&error) => Ok(false),
        other => other.map(|()| true),
    }
}

/// Whether an error of bind(2) is about the port: another socket has it, or it is privileged.
fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied)
}

/// Of these, no ICMP message is the cause.
fn may_be_earlier(error: &io::Error) -> bool {
    !matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINVAL | libc::EIO | libc::ENOBUFS))
}

impl AsRawFd for Datagrams {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
