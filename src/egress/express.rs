//! The first packet of a connection that the kernel alone is to carry on: sent again as it is, by a raw socket.
//!
//! Keeps one rule: nothing is read here; answers go to the program by the kernel's own way.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

use crate::flow::{EXPRESS, EXPRESS_FIRST};

/// A raw socket for each family; `None` where the family is off.
#[derive(Debug)]
pub struct Express {
    v4: Option<Socket>,
    v6: Option<Socket>,
}

impl Express {
    pub(super) fn open(mark: u32) -> io::Result<Self> {
        let open = |domain| -> io::Result<Socket> {
            // Protocol 255: whole packets, with the sender's header; nothing comes in (raw(7)).
            let socket = Socket::new(domain, Type::RAW.nonblocking().cloexec(), Some(Protocol::from(libc::IPPROTO_RAW)))?;
            socket.set_mark(mark | EXPRESS | EXPRESS_FIRST)?;
            Ok(socket)
        };
        Ok(Self { v4: Some(open(Domain::IPV4)?), v6: open(Domain::IPV6).ok() })
    }

    /// The inodes of its sockets: no program sends by these.
    #[must_use]
    pub fn inodes(&self) -> Vec<u64> {
        let sockets = self.v4.iter().chain(&self.v6);
        sockets.filter_map(|socket| rustix::fs::fstat(socket).ok()).map(|stat| stat.st_ino).collect()
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
