//! Tells when this host's links or addresses change.
//!
//! Keeps one rule: an event only says "read again"; what was lost in an overrun is thereby not lost. Repairs nothing.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// `RTNLGRP_LINK`, `RTNLGRP_IPV4_IFADDR`, `RTNLGRP_IPV6_IFADDR` (linux/rtnetlink.h).
const GROUPS: [u32; 3] = [1, 5, 9];

/// Datagrams read in one call at most; a storm must not keep the caller here.
const BATCH: usize = 256;

/// A non-blocking socket that becomes readable when links or addresses change. For mio, tokio's `AsyncFd` or poll(2).
#[derive(Debug)]
pub struct AddressWatcher {
    socket: Socket,
}

impl AddressWatcher {
    /// Watches the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// The kernel gives no socket or no membership.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        socket.set_non_blocking(true)?;
        Ok(Self { socket })
    }

    /// Empties the socket. True: something changed since the last call, so read the host again.
    ///
    /// # Errors
    ///
    /// The socket is broken.
    pub fn changed(&self) -> io::Result<bool> {
        let mut changed = false;
        for _ in 0..BATCH {
            match self.socket.recv_from_full() {
                Ok(_) => changed = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => changed = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(changed)
    }
}

impl AsFd for AddressWatcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for AddressWatcher {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_host_has_no_news_and_the_call_does_not_block() {
        let watcher = AddressWatcher::open().expect("a socket");
        assert!(watcher.changed().is_ok());
    }
}
