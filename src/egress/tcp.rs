//! One upstream TCP connection.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};

use socket2::{SockRef, Socket};

use crate::packet::Unreachable;
use crate::router::Failure;

/// A connection that is being made.
#[derive(Debug)]
pub struct Connecting(Socket);

impl Connecting {
    pub(super) fn new(socket: Socket) -> Self {
        Self(socket)
    }

    /// Call when the socket is writable: connected, still on the way (`Ok(Err(self))`), or failed. `stands`: nothing but
    /// writability was reported, no error and no end, which only a connected socket shows (tcp_poll in net/ipv4/tcp.c).
    ///
    /// # Errors
    ///
    /// What became of the connection.
    pub fn finish(self, stands: bool) -> io::Result<Result<Stream, Self>> {
        if stands {
            return Ok(Ok(Stream(self.0)));
        }
        if let Some(error) = self.0.take_error()? {
            return Err(error);
        }
        match self.0.peer_addr() {
            Ok(_) => Ok(Ok(Stream(self.0))),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(Err(self)),
            Err(error) => Err(error),
        }
    }
}

impl AsRawFd for Connecting {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
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

    /// Says that nothing more will be written.
    pub fn finish_writing(&self) {
        // A connection that is gone already cannot be shut; its end is seen by the next read.
        let _ = self.0.shutdown(Shutdown::Write);
    }

    /// Closes with a reset instead of a FIN.
    pub fn reset(self) {
        // Zero linger is what makes close(2) send a reset (socket(7), SO_LINGER).
        let _ = self.0.set_linger(Some(std::time::Duration::ZERO));
    }

    /// The smoothed round-trip time in microseconds, where the kernel has one.
    #[must_use]
    pub fn rtt_us(&self) -> Option<u32> {
        super::message::tcp_rtt(&SockRef::from(&self.0))
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
        Some(libc::ENETUNREACH | libc::ENETDOWN | libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT) => {
            Failure::Unreachable(Unreachable::Network)
        }
        Some(libc::EACCES | libc::EPERM) => Failure::Unreachable(Unreachable::Prohibited),
        Some(libc::ENOPROTOOPT) => Failure::Unreachable(Unreachable::Protocol),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EADDRINUSE | libc::EAGAIN) => Failure::Exhausted,
        _ => Failure::Unreachable(Unreachable::Host),
    }
}
