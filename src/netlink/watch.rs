//! Tells when this host's links, addresses, rules, routes or nftables change.
//!
//! Keeps one rule: an event only says "read again"; what was lost in an overrun is thereby not lost. Repairs nothing.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink_sys::{
    Socket, SocketAddr,
    protocols::{NETLINK_NETFILTER, NETLINK_ROUTE},
};

/// `RTNLGRP_LINK`, `RTNLGRP_IPV4_IFADDR`, `RTNLGRP_IPV6_IFADDR` (linux/rtnetlink.h).
const ADDRESSES: [u32; 3] = [1, 5, 9];

/// `RTNLGRP_IPV4_ROUTE`, `RTNLGRP_IPV4_RULE`, `RTNLGRP_IPV6_ROUTE`, `RTNLGRP_IPV6_RULE`, and `RTNLGRP_IPV4_NETCONF`, which tells of
/// reverse-path filters.
const ROUTES: [u32; 5] = [7, 8, 11, 19, 24];

/// `NFNLGRP_NFTABLES` (linux/netfilter/nfnetlink.h).
const TABLES: [u32; 1] = [7];

/// Datagrams read in one call at most; a storm must not keep the caller here.
const BATCH: usize = 256;

/// A non-blocking socket that becomes readable when something changes. For mio, tokio's `AsyncFd` or poll(2).
#[derive(Debug)]
pub struct Watcher {
    socket: Socket,
}

impl Watcher {
    /// Watches the links and addresses of the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// The kernel gives no socket or no membership.
    pub fn addresses() -> io::Result<Self> {
        Self::open(NETLINK_ROUTE, &ADDRESSES)
    }

    /// Watches its rules, routes and reverse-path filters.
    ///
    /// # Errors
    ///
    /// As [`Self::addresses`].
    pub fn routes() -> io::Result<Self> {
        Self::open(NETLINK_ROUTE, &ROUTES)
    }

    /// Watches its nftables.
    ///
    /// # Errors
    ///
    /// As [`Self::addresses`].
    pub fn tables() -> io::Result<Self> {
        Self::open(NETLINK_NETFILTER, &TABLES)
    }

    fn open(protocol: isize, groups: &[u32]) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        for group in groups.iter().copied() {
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

impl AsFd for Watcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Watcher {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_host_has_no_news_and_the_call_does_not_block() {
        for watcher in [Watcher::addresses(), Watcher::routes()] {
            assert!(watcher.expect("a socket").changed().is_ok());
        }
    }
}
