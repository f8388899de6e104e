//! The first packet of a connection that the kernel alone is to carry on: sent again as it is, by a raw socket. And from which address it
//! leaves.
//!
//! Keeps one rule: nothing is read here; answers go to the program by the kernel's own way.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use rustix::net::connect_unspec;
use socket2::{Domain, Protocol, Socket, Type};

use super::source::{Automatic, Reserved};
use crate::flow::{EXPRESS, EXPRESS_FIRST};
use crate::packet::udp_datagram;

/// Raw sockets for each family; `None` where the family is off.
#[derive(Debug)]
pub struct Express {
    v4: Option<Socket>,
    v6: Option<Socket>,
    /// Those that are connected to ask for the way, and send nothing.
    ways: Mutex<[Option<Socket>; 2]>,
    mark: u32,
    automatic: Automatic,
    reserved: Reserved,
}

impl Express {
    pub(super) fn open(mark: u32, automatic: Automatic) -> io::Result<Self> {
        let open = |domain| -> io::Result<Socket> {
            // Protocol 255: whole packets, with the sender's header; nothing comes in (raw(7)).
            let socket = Socket::new(domain, Type::RAW.nonblocking().cloexec(), Some(Protocol::from(libc::IPPROTO_RAW)))?;
            socket.set_mark(mark | EXPRESS | EXPRESS_FIRST)?;
            Ok(socket)
        };
        let ways = Mutex::new([Some(open(Domain::IPV4)?), open(Domain::IPV6).ok()]);
        let (v4, v6) = (Some(open(Domain::IPV4)?), open(Domain::IPV6).ok());
        Ok(Self { v4, v6, ways, mark: mark | EXPRESS, automatic, reserved: Reserved::read() })
    }

    /// On what belongs to such a connection.
    #[must_use]
    pub fn mark(&self) -> u32 {
        self.mark
    }

    /// A port that the kernel might choose for a connection.
    #[must_use]
    pub fn some_port(&self) -> u16 {
        self.automatic.random(&self.reserved)
    }

    /// The address of this host that a packet to this one leaves from.
    ///
    /// # Errors
    ///
    /// There is no way to it.
    pub fn source(&self, to: IpAddr) -> io::Result<IpAddr> {
        let ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        let socket = ways[usize::from(to.is_ipv6())].as_ref().ok_or(io::ErrorKind::Unsupported)?;
        // Without this the last one's address stays.
        connect_unspec(socket)?;
        socket.connect(&SocketAddr::new(to, 0).into())?;
        let source = socket.local_addr()?.as_socket().map(|source| source.ip()).ok_or(io::ErrorKind::InvalidData)?;
        let leads_nowhere = matches!((source, to), (IpAddr::V6(source), IpAddr::V6(to))
            if source.is_unicast_link_local() && !to.is_unicast_link_local());
        if leads_nowhere { Err(io::Error::from_raw_os_error(libc::ENETUNREACH)) } else { Ok(source) }
    }

    /// The inodes of its sockets: no program sends by these.
    #[must_use]
    pub fn inodes(&self) -> Vec<u64> {
        let ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        let sockets = self.v4.iter().chain(&self.v6).chain(ways.iter().flatten());
        sockets.filter_map(|socket| rustix::fs::fstat(socket).ok()).map(|stat| stat.st_ino).collect()
    }

    /// Has the guard know that nobody here has the connection with these ends any more, so that its peer is told so whenever it speaks. The
    /// guard takes the datagram that says it; were it not there, no router would pass it on.
    ///
    /// # Errors
    ///
    /// The guard has taken it, or there is no way to the peer.
    pub fn note_ended(&self, outer: SocketAddr, peer: SocketAddr) -> io::Result<()> {
        let mut datagram = Vec::new();
        udp_datagram(outer, peer, 0, &[], &mut datagram);
        self.send(peer.ip(), &datagram)
    }

    /// Sends a finished packet to where it says.
    ///
    /// # Errors
    ///
    /// There is no way to it, or it is too large for its link.
    pub fn send(&self, to: IpAddr, packet: &[u8]) -> io::Result<()> {
        let socket = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        let socket = socket.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        socket.send_to(packet, &SocketAddr::new(to, 0).into()).map(drop)
    }
}
