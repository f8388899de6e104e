//! TCP sockets as they go: sock_diag(7) tells whoever listens, with what each has carried.
//!
//! Keeps one rule: only listens. What the kernel could not tell, since nobody read in time, is said to be missing.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netlink_packet_core::{NetlinkBuffer, NlasIterator, Parseable};
use netlink_packet_sock_diag::constants::{INET_DIAG_INFO, SOCK_DIAG_BY_FAMILY};
use netlink_packet_sock_diag::inet::InetResponseHeader;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, netlink, sockopt};

use super::sockdiag::Carried;

/// `SKNLGRP_INET_TCP_DESTROY` and `SKNLGRP_INET6_TCP_DESTROY` (linux/sock_diag.h), as bits.
const GROUPS: u32 = 1 << 0 | 1 << 2;
/// For thousands of sockets that go together.
const ROOM: usize = 4 << 20;
/// A message has some 500 bytes.
const RECEIVE_LEN: usize = 8 * 1024;
/// Bytes of `struct inet_diag_msg`, after which the attributes begin.
const HEADER_LEN: usize = 72;
/// A socket that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone {
    pub cookie: u64,
    pub carried: Carried,
}

/// One socket that hears of all others of its network namespace.
#[derive(Debug)]
pub struct Destroyed {
    fd: OwnedFd,
    buffer: Box<[u8]>,
}

impl Destroyed {
    /// Listens from now on, in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// The kernel has no sock_diag, or refuses a netlink socket.
    pub fn listen() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(netlink::SOCK_DIAG))?;
        // Past the limit for everybody, where we may.
        let forced = sockopt::set_socket_recv_buffer_size_force(&fd, ROOM);
        forced.or_else(|_| sockopt::set_socket_recv_buffer_size(&fd, ROOM))?;
        rustix::net::bind(&fd, &netlink::SocketAddrNetlink::new(0, GROUPS))?;
        Ok(Self { fd, buffer: vec![0; RECEIVE_LEN].into_boxed_slice() })
    }

    /// The socket that went next; `None` where nobody has gone since.
    ///
    /// # Errors
    ///
    /// `ENOBUFS`: some are missing.
    pub fn hear(&mut self) -> io::Result<Option<Gone>> {
        loop {
            match rustix::net::recv(&self.fd, &mut *self.buffer, RecvFlags::empty()) {
                Ok((length, _)) => {
                    if let Some(gone) = self.buffer.get(..length).and_then(read) {
                        return Ok(Some(gone));
                    }
                }
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Destroyed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn read(bytes: &[u8]) -> Option<Gone> {
    let message = NetlinkBuffer::new_checked(bytes).ok().filter(|message| message.message_type() == SOCK_DIAG_BY_FAMILY)?;
    let payload = message.payload();
    let cookie = u64::from_ne_bytes(InetResponseHeader::parse(payload).ok()?.socket_id.cookie);
    let mut attributes = NlasIterator::new(payload.get(HEADER_LEN..)?).filter_map(Result::ok);
    let info = attributes.find(|attribute| attribute.kind() == INET_DIAG_INFO);
    Some(Gone { cookie, carried: info.map(|info| Carried::read(info.value())).unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn socket_that_is_gone_is_told_with_what_it_has_carried() {
        let mut destroyed = Destroyed::listen().expect("sock_diag");
        for loopback in [std::net::IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            let listener = TcpListener::bind((loopback, 0)).expect("a port");
            let mut ours = TcpStream::connect(listener.local_addr().expect("bound")).expect("a connection");
            let (mut theirs, _) = listener.accept().expect("the other end");
            ours.write_all(b"question").expect("room");
            theirs.read_exact(&mut [0; 8]).expect("what was written");
            let cookie = sockopt::socket_cookie(&ours).expect("every socket has one");
            // The first end to close waits for the other's word.
            drop(theirs);
            drop(ours);
            let until = Instant::now() + Duration::from_secs(10);
            let gone = loop {
                match destroyed.hear().expect("room") {
                    Some(gone) if gone.cookie == cookie => break gone,
                    Some(_) => {}
                    None => std::thread::sleep(Duration::from_millis(1)),
                }
                assert!(Instant::now() < until, "nobody tells");
            };
            assert_eq!((gone.carried.up(), gone.carried.down(), gone.carried.was_answered()), (8, 1, true));
        }
    }
}
