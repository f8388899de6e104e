//! One upstream UDP flow.
//!
//! Keeps one rule: what goes out together and what comes in together are single datagrams on the wire and to the program.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};

use socket2::{SockAddr, SockRef, Socket};

use super::Source;
use super::message::{self, Received, Trouble};
use super::options::{self, Options};
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
}

impl Datagrams {
    pub(super) fn new(socket: Socket, to: SocketAddr, from: Source) -> io::Result<Self> {
        options::ask_for_details(&SockRef::from(&socket), to.is_ipv4())?;
        let name = match from {
            Source::Alone { port } => {
                bind_alone(&socket, to.is_ipv4(), port)?;
                None
            }
            Source::Shared { port, must, hears } => {
                bind(&socket, to.is_ipv4(), port, must)?;
                hears.then(|| SockAddr::from(to))
            }
        };
        if name.is_some() {
            socket.set_broadcast(true)?;
        } else {
            connect(&socket, to)?;
        }
        Ok(Self { socket, to, name, options: Options::new(to.ip()), cuts: true, room: (false, false) })
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

    fn send_once(&mut self, data: &[u8], segment: Option<u16>) -> io::Result<()> {
        let socket = SockRef::from(&self.socket);
        let send = || message::send(&socket, self.name.as_ref(), data, segment);
        match send() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !self.room.0 => {
                options::make_room(&socket, true);
                self.room.0 = true;
                send()
            }
            // An error that came back for an earlier datagram takes the place of one send.
            Err(error) if may_be_earlier(&error) => send(),
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

fn any(v4: bool, port: u16) -> SockAddr {
    let ip: IpAddr = if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    SockAddr::from(SocketAddr::new(ip, port))
}

/// Binds to a port if it can be had; connect(2) finds another otherwise.
fn bind_alone(socket: &Socket, v4: bool, port: u16) -> io::Result<()> {
    if port == 0 {
        return Ok(());
    }
    if !v4 {
        // Else any IPv4 socket on this port would count as one on ours.
        socket.set_only_v6(true)?;
    }
    match socket.bind(&any(v4, port)) {
        Err(error) if is_taken(&error) => Ok(()),
        other => other,
    }
}

/// Binds to a port that sockets of ours may share: SO_REUSEPORT lets nobody in but the same user (socket(7)).
fn bind(socket: &Socket, v4: bool, port: u16, must: bool) -> io::Result<()> {
    if !v4 {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(true)?;
    match socket.bind(&any(v4, port)) {
        Err(error) if !must && is_taken(&error) => socket.bind(&any(v4, 0)),
        other => other,
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
