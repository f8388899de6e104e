//! Who takes what the programs of this host send to one of its own addresses.
//!
//! Keeps one rule: one exact question, never a dump.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{SocketTable, is_bound_for, socket};
use crate::packet::{FiveTuple, Protocol};
use crate::process::Socket;

/// Loopback's index in every namespace (`LOOPBACK_IFINDEX`, net/net_namespace.h): what a host sends to itself comes in by it, and
/// some stubs are bound to it.
const LOOPBACK: u32 = 1;
/// `TCP_LISTEN` (net/tcp_states.h).
const TCP_LISTEN: u8 = 10;

impl SocketTable {
    /// The socket that answers at an address of this host; of a group that shares it (`SO_REUSEPORT`), one.
    ///
    /// # Errors
    ///
    /// As [`Self::owner`].
    pub fn server(&mut self, protocol: Protocol, address: SocketAddr) -> io::Result<Option<Socket>> {
        let anybody = match address.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let tuple = FiveTuple { protocol, local: address, remote: SocketAddr::new(anybody, 0) };
        let found = self.exact_at(&tuple, LOOPBACK)?;
        let answers = |state| protocol == Protocol::UDP || state == TCP_LISTEN;
        Ok(found.filter(|found| answers(found.state) && is_bound_for(found, &tuple)).map(socket))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::os::fd::AsFd;

    use super::*;

    fn inode(socket: &impl AsFd) -> u64 {
        rustix::fs::fstat(socket).expect("an open socket").st_ino
    }

    fn server(protocol: Protocol, address: SocketAddr) -> Option<u64> {
        let mut table = SocketTable::open().expect("sock_diag is there");
        table.server(protocol, address).expect("the kernel answers").map(|socket| socket.inode)
    }

    #[test]
    fn bound_and_wildcard_servers_are_found_by_the_address_that_is_asked() {
        for (bound, asked) in
            [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "::1"), ("::", "::1"), ("::", "127.0.0.1")]
        {
            let ip: IpAddr = bound.parse().expect("an address");
            let udp = UdpSocket::bind((ip, 0)).expect("a free port");
            let tcp = TcpListener::bind((ip, 0)).expect("a free port");
            let at = |port| SocketAddr::new(asked.parse().expect("an address"), port);
            let [udp_at, tcp_at] = [udp.local_addr(), tcp.local_addr()].map(|local| at(local.expect("bound").port()));
            assert_eq!(server(Protocol::UDP, udp_at), Some(inode(&udp)), "UDP at {bound}");
            assert_eq!(server(Protocol::TCP, tcp_at), Some(inode(&tcp)), "TCP at {bound}");
            drop((udp, tcp));
            assert_eq!((server(Protocol::UDP, udp_at), server(Protocol::TCP, tcp_at)), (None, None), "{bound}");
        }
    }

    #[test]
    fn a_server_at_another_address_of_this_host_is_not_the_one() {
        let udp = UdpSocket::bind(("127.0.0.2", 0)).expect("a free port");
        let port = udp.local_addr().expect("bound").port();
        assert_ne!(server(Protocol::UDP, SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)), Some(inode(&udp)));
    }
}
