//! One upstream TCP connection.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use socket2::{SockRef, Socket};

use super::message::{self, Trouble};
use super::options;
use crate::packet::Unreachable;
use crate::router::Failure;

/// A connection that is being made.
#[derive(Debug)]
pub struct Connecting {
    socket: Socket,
    v4: bool,
}

/// What became of a connection that was being made.
#[derive(Debug)]
pub enum Progress {
    Open(Stream),
    /// It stood, and the peer has reset it since; what came before can still be read.
    Reset(Stream),
    /// Still on the way.
    Waiting(Connecting),
    Failed(Failure),
}

impl Connecting {
    pub(super) fn new(socket: Socket, v4: bool) -> Self {
        Self { socket, v4 }
    }

    /// Call when the socket is writable. `stands`: nothing but writability was reported, no error and no end, which only a connected
    /// socket shows (tcp_poll in net/ipv4/tcp.c).
    #[must_use]
    pub fn finish(self, stands: bool) -> Progress {
        if stands {
            return self.open();
        }
        match self.socket.take_error() {
            // What a reset is called depends on the state that it ends (tcp_reset in net/ipv4/tcp_input.c): these are of connections
            // that stood.
            Ok(Some(error)) if matches!(error.raw_os_error(), Some(libc::ECONNRESET | libc::EPIPE)) => {
                Progress::Reset(Stream(self.socket))
            }
            Ok(Some(error)) | Err(error) => Progress::Failed(self.failure(&error)),
            Ok(None) => match self.socket.peer_addr() {
                Ok(_) => self.open(),
                Err(error) if error.kind() == io::ErrorKind::NotConnected => Progress::Waiting(self),
                Err(error) => Progress::Failed(failure_of(&error)),
            },
        }
    }

    fn open(self) -> Progress {
        match options::hear_errors(&SockRef::from(&self.socket), self.v4, false) {
            Ok(()) => Progress::Open(Stream(self.socket)),
            Err(error) => Progress::Failed(failure_of(&error)),
        }
    }

    /// The ICMP error behind `error`, or what its number says.
    fn failure(&self, error: &io::Error) -> Failure {
        match message::trouble(&SockRef::from(&self.socket), &mut []) {
            (Trouble::Message(message, from), _) => Failure::Message { message, from },
            (Trouble::None | Trouble::Failure(_) | Trouble::Other, _) => failure_of(error),
        }
    }
}

impl AsRawFd for Connecting {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// An open byte stream: an upstream connection, or the resolver's end of one.
#[derive(Debug)]
pub struct Stream(Socket);

impl From<std::os::unix::net::UnixStream> for Stream {
    fn from(stream: std::os::unix::net::UnixStream) -> Self {
        Self(Socket::from(std::os::fd::OwnedFd::from(stream)))
    }
}

impl Stream {
    /// Reads into `buffer`; 0 is the end of the stream.
    ///
    /// # Errors
    ///
    /// `WouldBlock`, or what broke the connection.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.0, buffer)?)
    }

    /// Writes what fits.
    ///
    /// # Errors
    ///
    /// `WouldBlock`, or what broke the connection.
    pub fn write(&self, buffer: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(&self.0, buffer, rustix::net::SendFlags::NOSIGNAL)?)
    }

    /// Writes what fits of several pieces, one behind the other.
    ///
    /// # Errors
    ///
    /// `WouldBlock`, or what broke the connection.
    pub fn write_all_of(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut nothing = rustix::net::SendAncillaryBuffer::new(&mut []);
        Ok(rustix::net::sendmsg(&self.0, pieces, &mut nothing, rustix::net::SendFlags::NOSIGNAL)?)
    }

    /// What broke the connection, where no read or write has told.
    #[must_use]
    pub fn take_error(&self) -> Option<io::Error> {
        self.0.take_error().unwrap_or_else(Some)
    }

    /// Says that nothing more will be written.
    pub fn finish_writing(&self) {
        // A connection that is gone already cannot be shut; its end is seen by the next read.
        let _ = self.0.shutdown(Shutdown::Write);
    }

    /// Closes with a reset instead of a FIN.
    pub fn reset(self) {
        // Zero linger is what makes close(2) send a reset (socket(7), SO_LINGER).
        let _ = self.0.set_linger(Some(Duration::ZERO));
    }

    /// Asks the peer whether it is still there, at once and once.
    ///
    /// # Errors
    ///
    /// The stream is no TCP connection.
    pub fn ask(&self) -> io::Result<()> {
        options::ask_peer(&SockRef::from(&self.0))
    }

    /// Whether the peer was heard from so lately, or need not be asked: while bytes are on their way to it, the kernel finds out by
    /// these alone whether it is there, and what is no TCP connection always is.
    #[must_use]
    pub fn was_heard(&self, lately: Duration) -> bool {
        let socket = SockRef::from(&self.0);
        let Some(info) = message::tcp_info(&socket) else { return true };
        Duration::from_millis(info.tcpi_last_ack_recv.into()) <= lately || message::unacknowledged(&socket) > 0
    }

    /// The smoothed round-trip time in microseconds, where the kernel has one.
    #[must_use]
    pub fn rtt_us(&self) -> Option<u32> {
        message::tcp_info(&SockRef::from(&self.0)).map(|info| info.tcpi_rtt).filter(|rtt| *rtt > 0)
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// What the program must be told of an upstream socket's error.
#[must_use]
pub fn failure_of(error: &io::Error) -> Failure {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => Failure::Refused,
        Some(libc::ECONNRESET | libc::EPIPE) => Failure::Reset,
        Some(libc::ETIMEDOUT) => Failure::TimedOut,
        Some(libc::ENETUNREACH | libc::ENETDOWN | libc::EAFNOSUPPORT) => Failure::Unreachable(Unreachable::Network),
        Some(libc::EACCES | libc::EPERM) => Failure::Unreachable(Unreachable::Prohibited),
        Some(libc::ENOPROTOOPT) => Failure::Unreachable(Unreachable::Protocol),
        // EADDRNOTAVAIL is what connect(2) says where every port is in use.
        Some(
            libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EADDRINUSE | libc::EADDRNOTAVAIL | libc::EAGAIN,
        ) => Failure::Exhausted,
        _ => Failure::Unreachable(Unreachable::Host),
    }
}
