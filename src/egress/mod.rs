//! Upstream sockets: how accepted flows leave.
//!
//! Keeps one rule: no socket is made without a [`Permit`], and every one of them carries the mark, where there is one, before its
//! first packet. Sockets are kernel sockets; the kernel does congestion control, path MTU and retransmission.

mod datagram;
mod echo;
mod express;
mod link;
mod message;
mod options;
mod source;
mod tcp;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

pub use datagram::Datagrams;
pub use echo::{Pings, Reply};
pub use express::Express;
pub use link::{Link, tell_own};
pub use message::{Received, Trouble};
pub use tcp::{Connecting, Progress, Stream, failure_of};

use crate::flow::BY_MAIN;
use crate::verdict::{Lane, Permit};
use source::{Automatic, Choice};

/// Makes upstream sockets.
#[derive(Clone, Copy, Debug)]
pub struct Dialer {
    mark: Option<u32>,
    /// Where packets leave from; `None`: from the address that the kernel chooses.
    source: Option<IpAddr>,
    automatic: Automatic,
}

/// What the program's first segment says that the upstream connection's shall say too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opener {
    /// The source port, where it is free.
    pub port: u16,
    pub hop_limit: u8,
}

/// Where the datagrams of a flow come from: the program's `port` or what stands in for it, else any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Alone {
        port: u16,
    },
    /// A port that other flows share; `leased`: which one it is already. `hears`: what strangers send there, too.
    Shared {
        port: u16,
        leased: Option<u16>,
        hears: bool,
    },
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

impl DialError {
    fn is_about_port(&self) -> bool {
        matches!(self, Self::Kernel { source, .. } if source::is_taken(source))
    }
}

impl Default for Dialer {
    fn default() -> Self {
        Self::new(None)
    }
}

impl Dialer {
    /// `mark` keeps our own packets out of the TUN under `up`; `exec`'s sockets live outside and need none.
    #[must_use]
    pub fn new(mark: Option<u32>) -> Self {
        Self { mark, source: None, automatic: Automatic::read() }
    }

    /// The same for flows that leave by the routes of the main table alone. Rules of others send what lacks their mark into a tunnel, and
    /// the tunnel's own packets must not go there.
    #[must_use]
    pub fn by_main(self) -> Self {
        Self { mark: self.mark.map(|mark| mark | BY_MAIN), ..self }
    }

    /// The same for flows that leave from this address of the host's, or not at all.
    #[must_use]
    pub fn leaving_from(self, source: Option<IpAddr>) -> Self {
        Self { source, ..self }
    }

    /// Begins to connect.
    ///
    /// # Errors
    ///
    /// No gate, or what the kernel knows at once: no route, no port, no descriptor.
    pub fn tcp(&self, permit: Permit, to: SocketAddr, opener: Opener) -> Result<Connecting, DialError> {
        let [first, second, last] = self.automatic.choices(opener.port);
        self.tcp_by(first, permit, to, opener.hop_limit)
            .or_else(|error| if error.is_about_port() { self.tcp_by(second, permit, to, opener.hop_limit) } else { Err(error) })
            .or_else(|error| if error.is_about_port() { self.tcp_by(last, permit, to, opener.hop_limit) } else { Err(error) })
    }

    fn tcp_by(&self, choice: Choice, permit: Permit, to: SocketAddr, hop_limit: u8) -> Result<Connecting, DialError> {
        let socket = self.socket(permit, to, Type::STREAM, Some(Protocol::TCP))?;
        // The program's own Nagle algorithm has decided already what to send.
        socket.set_tcp_nodelay(true).map_err(|source| kernel("set TCP_NODELAY", to, source))?;
        // Urgent data is not carried; its byte stays where it is in the stream (RFC 6093 §6).
        socket.set_out_of_band_inline(true).map_err(|source| kernel("set SO_OOBINLINE", to, source))?;
        options::prepare_connect(&SockRef::from(&socket), to.is_ipv4(), hop_limit)
            .map_err(|source| kernel("set IP_RECVERR and IP_TTL", to, source))?;
        // The program may want its port for another connection before this one's last word is said.
        socket.set_reuse_address(true).map_err(|source| kernel("set SO_REUSEADDR", to, source))?;
        match choice {
            Choice::Connect(port) => source::choose(&socket, port).and_then(|()| source::keep(&socket, self.source)),
            Choice::Bind(port) => match self.source {
                Some(source) => socket.bind(&SockAddr::from(SocketAddr::new(source, port))),
                None => source::bind(&socket, to.is_ipv4(), port, || self.source_to(permit, to)),
            },
            Choice::Any => source::keep(&socket, self.source),
        }
        .map_err(|source| kernel("take the program's port", to, source))?;
        match socket.connect(&SockAddr::from(to)) {
            Ok(()) => Ok(Connecting::new(socket, to.is_ipv4())),
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(Connecting::new(socket, to.is_ipv4())),
            Err(source) => Err(kernel("connect", to, source)),
        }
    }

    /// The address of ours that packets to `to` leave from. Connecting a UDP socket sends nothing.
    fn source_to(&self, permit: Permit, to: SocketAddr) -> io::Result<IpAddr> {
        let socket = self.socket(permit, to, Type::DGRAM, Some(Protocol::UDP)).map_err(io::Error::other)?;
        socket.connect(&SockAddr::from(to))?;
        let address = socket.local_addr()?.as_socket().map(|address| address.ip());
        address.ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    /// What a socket that talks to `to` is bound to.
    fn source_for(&self, to: SocketAddr) -> IpAddr {
        let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        self.source.unwrap_or(any)
    }

    /// A UDP socket, connected unless it is to hear strangers.
    ///
    /// # Errors
    ///
    /// As [`Dialer::tcp`].
    pub fn udp(&self, permit: Permit, to: SocketAddr, from: Source) -> Result<Datagrams, DialError> {
        self.udp_beside(permit, to, from, &|_| false)
    }

    /// The same, where a port that stands in for the program's must be none of which `is_spared`: another program may have left it just
    /// now, and its last words would be taken for ours.
    ///
    /// # Errors
    ///
    /// As [`Dialer::tcp`].
    pub fn udp_beside(
        &self,
        permit: Permit,
        to: SocketAddr,
        from: Source,
        is_spared: &dyn Fn(u16) -> bool,
    ) -> Result<Datagrams, DialError> {
        let socket = self.socket(permit, to, Type::DGRAM, Some(Protocol::UDP))?;
        let made = datagram::bind(&socket, self.source_for(to), from, self.mark, is_spared).and_then(|()| {
            let hears = matches!(from, Source::Shared { hears: true, .. });
            Datagrams::new(socket, to, hears, self.mark)
        });
        made.map_err(|source| kernel("connect", to, source))
    }

    /// A socket for echo requests to one host.
    ///
    /// # Errors
    ///
    /// As [`Dialer::tcp`]; also where neither `net.ipv4.ping_group_range` nor a capability lets us ping.
    pub fn ping(&self, permit: Permit, to: SocketAddr) -> Result<Pings, DialError> {
        let protocol = if to.is_ipv4() { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
        match self.socket(permit, to, Type::DGRAM, Some(protocol)) {
            Ok(socket) => Pings::datagram(socket, to, self.source),
            // Outside the group range a raw socket does the same, for those who may have one.
            Err(DialError::Kernel { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
                Pings::raw(self.socket(permit, to, Type::RAW, Some(protocol))?, to, self.source)
            }
            Err(error) => return Err(error),
        }
        .map_err(|source| kernel("connect", to, source))
    }

    /// A way out by the link with this index, for packets to whomever, as they are.
    ///
    /// # Errors
    ///
    /// As [`Dialer::tcp`]; also where the link is gone, and without CAP_NET_RAW.
    pub fn link(&self, permit: Permit, to: SocketAddr, index: u32) -> Result<Link, DialError> {
        if permit.lane() == Lane::Gate {
            return Err(DialError::NoGate);
        }
        Link::open(index, self.mark).map_err(|source| kernel("open a packet socket for what goes", to, source))
    }

    /// A way out for whole packets of accepted connections, each with a permit for the direct lane, which the kernel carries on.
    ///
    /// # Errors
    ///
    /// Without CAP_NET_RAW, and where nothing is marked.
    pub fn express(&self) -> io::Result<Express> {
        Express::open(self.mark.ok_or(io::ErrorKind::Unsupported)?, self.automatic)
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
