//! One upstream UDP flow.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};

use socket2::{SockAddr, SockRef, Socket};

use super::message::{self, Received, Trouble};

/// Hop limit that a socket starts with (ip(7)).
const DEFAULT_HOP_LIMIT: u8 = 64;

/// A connected UDP socket.
#[derive(Debug)]
pub struct Datagrams {
    socket: Socket,
    v4: bool,
    hop_limit: u8,
}

impl Datagrams {
    pub(super) fn new(socket: Socket, to: SocketAddr) -> io::Result<Self> {
        let v4 = to.is_ipv4();
        // The verdict has been given; the kernel's own guard against accidental broadcasts would only hide it.
        socket.set_broadcast(true)?;
        message::ask_for_details(&SockRef::from(&socket), v4)?;
        socket.connect(&SockAddr::from(to))?;
        Ok(Self { socket, v4, hop_limit: DEFAULT_HOP_LIMIT })
    }

    /// Sends one datagram with the program's hop limit.
    ///
    /// # Errors
    ///
    /// `WouldBlock`, or an error that came back for an earlier datagram.
    pub fn send(&mut self, data: &[u8], hop_limit: u8) -> io::Result<()> {
        if hop_limit != self.hop_limit {
            message::set_hop_limit(&SockRef::from(&self.socket), self.v4, hop_limit)?;
            self.hop_limit = hop_limit;
        }
        self.socket.send(data).map(|_| ())
    }

    /// Receives one datagram.
    ///
    /// # Errors
    ///
    /// `WouldBlock`, or an error that came back; [`Datagrams::trouble`] tells which.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        message::receive(&SockRef::from(&self.socket), buffer)
    }

    /// Takes one error off the queue.
    #[must_use]
    pub fn trouble(&self) -> Trouble {
        message::trouble(&SockRef::from(&self.socket), &mut [0; 8])
    }
}

impl AsRawFd for Datagrams {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
