//! Upstream sockets: how accepted flows leave.
//!
//! Keeps one rule: no socket is made without a [`Permit`], and every one of them carries the mark, where there is one, before its
//! first packet. Sockets are kernel sockets; the kernel does congestion control, path MTU and retransmission.

mod datagram;
mod echo;
mod message;
mod options;
mod tcp;

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

pub use datagram::Datagrams;
pub use echo::{Pings, Reply};
pub use message::{Received, Trouble};
pub use tcp::{Connecting, Stream, failure_of};

use crate::verdict::{Lane, Permit};

/// Makes upstream sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dialer {
    mark: Option<u32>,
}

/// Where the datagrams of a flow come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Any free port.
    Anywhere,
    /// A port that other flows share: this one, or if it need not be, any free one where it is taken.
    Shared { port: u16, must: bool, hears: bool },
}

/// Why there is no upstream socket.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The flow requires a tunnel and there is none.
    #[error("the flow requires the gate and no gate is up")]
    NoGate,
    #[error("{what} to {to}: {source}")]
    Kernel { what: &'static str, to: SocketAddr, source: io::Error },
}

impl Dialer {
    /// `mark` keeps our own packets out of the TUN under `up`; `exec`'s sockets live outside and need none.
    #[must_use]
    pub fn new(mark: Option<u32>) -> Self {
        Self { mark }
    }

    /// Begins to connect.
    ///
    /// # Errors
    ///
    /// No gate, or what the kernel knows at once: no route, no port, no descriptor.
    pub fn tcp(&self, permit: Permit, to: SocketAddr) -> Result<Connecting, DialError> {
        let socket = self.socket(permit, to, Type::STREAM, Some(Protocol::TCP))?;
        // The program's own Nagle algorithm has decided already what to send.
        socket.set_tcp_nodelay(true).map_err(|source| kernel("set TCP_NODELAY", to, source))?;
        // Urgent data is not carried; its byte stays where it is in the stream (RFC 6093 §6).
        socket.set_out_of_band_inline(true).map_err(|source| kernel("set SO_OOBINLINE", to, source))?;
        match socket.connect(&SockAddr::from(to)) {
            Ok(()) => Ok(Connecting::new(socket)),
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(Connecting::new(socket)),
            Err(source) => Err(kernel("connect", to, source)),
        }
    }

    /// A UDP socket, connected unless it is to hear strangers.
    ///
    /// # Errors
    ///
    /// As [`Dialer::tcp`].
    pub fn udp(&self, permit: Permit, to: SocketAddr, from: Source) -> Result<Datagrams, DialError> {
        let socket = self.socket(permit, to, Type::DGRAM, Some(Protocol::UDP))?;
        // Beside the programs, in their own namespace, their ports are taken by themselves.
        let from = match from {
            Source::Shared { must: false, hears, .. } if self.mark.is_some() => Source::Shared { port: 0, must: false, hears },
            other => other,
        };
        Datagrams::new(socket, to, from).map_err(|source| kernel("connect", to, source))
    }

    /// A socket for echo requests to one host.
    ///
    /// # Errors
    ///
    /// As [`Dialer::tcp`]; also where neither `net.ipv4.ping_group_range` nor a capability lets us ping.
    pub fn ping(&self, permit: Permit, to: SocketAddr) -> Result<Pings, DialError> {
        let protocol = if to.is_ipv4() { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
        match self.socket(permit, to, Type::DGRAM, Some(protocol)) {
            Ok(socket) => Pings::datagram(socket, to),
            // Outside the group range a raw socket does the same, for those who may have one.
            Err(DialError::Kernel { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
                Pings::raw(self.socket(permit, to, Type::RAW, Some(protocol))?, to)
            }
            Err(error) => return Err(error),
        }
        .map_err(|source| kernel("connect", to, source))
    }

    fn socket(&self, permit: Permit, to: SocketAddr, kind: Type, protocol: Option<Protocol>) -> Result<Socket, DialError> {
        if permit.lane() == Lane::Gate {
            return Err(DialError::NoGate);
        }
        let make = || -> io::Result<Socket> {
            let socket = Socket::new(Domain::for_address(to), kind.nonblocking().cloexec(), protocol)?;
            if let Some(mark) = self.mark {
                socket.set_mark(mark)?;
            }
            Ok(socket)
        };
        make().map_err(|source| kernel("open a socket", to, source))
    }
}

fn kernel(what: &'static str, to: SocketAddr, source: io::Error) -> DialError {
    DialError::Kernel { what, to, source }
}

#[cfg(test)]
mod tests;
