//! Sockets whose address goes: their programs are told at once instead of repeating what nobody answers.

use std::io;
use std::net::IpAddr;

use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6};
use netlink_packet_sock_diag::inet::StateFlags;

use super::SocketTable;
use super::wire::Found;
use crate::packet::{FiveTuple, Protocol};

impl SocketTable {
    /// Ends all that speaks from one of these addresses as [`Self::destroy`] does: TCP connections, those too that are being opened and
    /// those that no program has any more, or connected UDP sockets. Gives how many there were.
    ///
    /// # Errors
    ///
    /// As [`Self::destroy`]; the others are ended all the same.
    pub fn end_at(&mut self, protocol: Protocol, addresses: &[IpAddr]) -> io::Result<usize> {
        let states = || match protocol {
            Protocol::TCP => StateFlags::all() - StateFlags::LISTEN - StateFlags::TIME_WAIT,
            _ => StateFlags::ESTABLISHED,
        };
        let is_there = |found: &Found| addresses.contains(&found.local.ip()) && !found.remote.ip().is_unspecified();
        let mut all = Vec::new();
        for family in [AF_INET, AF_INET6] {
            all.extend(self.dump(family, protocol, states(), 0, is_there)?);
        }
        let (mut ended, mut failure) = (0, None);
        for found in all {
            match self.destroy_found(&FiveTuple { protocol, local: found.local, remote: found.remote }, &found) {
                Ok(was_there) => ended += usize::from(was_there),
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(ended), Err)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
    use std::time::Duration;

    use super::*;

    /// Of this test alone: sockets of others at 127.0.0.1 are not to be ended.
    const OURS: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 93, 14, 1), Ipv4Addr::new(127, 93, 14, 2)];

    fn connected(from: Ipv4Addr, to: &TcpListener) -> TcpStream {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&std::net::SocketAddr::from((from, 0)).into()).expect("an address of loopback");
        socket.connect(&to.local_addr().expect("bound").into()).expect("somebody listens");
        socket.into()
    }

    fn datagrams(from: Ipv4Addr) -> UdpSocket {
        let socket = UdpSocket::bind((from, 0)).expect("an address of loopback");
        socket.connect((Ipv4Addr::LOCALHOST, 9)).expect("a peer");
        socket
    }

    #[test]
    fn sockets_at_an_address_hear_that_they_have_ended_and_those_at_another_do_not() {
        let mut table = SocketTable::open().expect("sock_diag");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let waiting = TcpListener::bind((OURS[0], 0)).expect("a port");
        let open = OURS.map(|from| connected(from, &listener));
        let peers: [UdpSocket; 2] = OURS.map(datagrams);
        let unconnected = UdpSocket::bind((OURS[0], 0)).expect("an address of loopback");
        for protocol in [Protocol::TCP, Protocol::UDP] {
            assert_eq!(table.end_at(protocol, &[OURS[0].into(), Ipv6Addr::UNSPECIFIED.into()]).expect("ended"), 1, "{protocol}");
        }
        let error = |result: io::Result<usize>| result.expect_err("nobody wrote").raw_os_error();
        let soon = Some(Duration::from_millis(20));
        for (index, wanted) in [(0, libc::ECONNABORTED), (1, libc::EAGAIN)] {
            open[index].set_read_timeout(soon).expect("set");
            assert_eq!(error(open[index].peek(&mut [0])), Some(wanted));
            peers[index].set_read_timeout(soon).expect("set");
            assert_eq!(error(peers[index].recv(&mut [0])), Some(wanted));
        }
        // Who only waits for others has no conversation to end.
        connected(OURS[1], &waiting);
        unconnected.send_to(b"x", (Ipv4Addr::LOCALHOST, 9)).expect("it is as it was");
    }
}
