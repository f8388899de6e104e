//! What TCP sockets have carried, where no bytes of theirs pass us.

use std::io;
use std::net::SocketAddr;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, SOCK_DIAG_BY_FAMILY};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};

use super::wire::Found;
use super::{MAX_DUMPED, SocketTable, is_connection};
use crate::packet::{FiveTuple, Protocol};

/// `tcpi_rtt`, `tcpi_bytes_acked`, `…_received`, `…_sent` and `…_retrans` in `struct tcp_info` (linux/tcp.h); the last two since Linux 4.19.
const RTT: usize = 68;
const ACKNOWLEDGED: usize = 120;
const RECEIVED: usize = 128;
const SENT: usize = 200;
const SENT_AGAIN: usize = 208;

/// What one TCP socket has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    was_answered: bool,
    sent: u64,
    received: u64,
    rtt_us: u32,
}

impl Carried {
    /// From `struct tcp_info`; what an old kernel does not tell is 0.
    pub(in crate::netlink) fn read(info: &[u8]) -> Self {
        let word = |at| info.get(at..).and_then(<[u8]>::first_chunk).copied().map_or(0, u64::from_ne_bytes);
        let rtt_us = info.get(RTT..).and_then(<[u8]>::first_chunk).copied().map_or(0, u32::from_ne_bytes);
        let sent = word(SENT).saturating_sub(word(SENT_AGAIN));
        Self { was_answered: word(ACKNOWLEDGED) > 0, sent, received: word(RECEIVED), rtt_us }
    }

    /// Whether the peer ever answered.
    #[must_use]
    pub fn was_answered(&self) -> bool {
        self.was_answered
    }

    /// Bytes that were sent, each once.
    #[must_use]
    pub fn up(&self) -> u64 {
        self.sent
    }

    /// Bytes that have come from the peer; its last word, that there are no more, counts as one.
    #[must_use]
    pub fn down(&self) -> u64 {
        self.received
    }

    /// The smoothed round-trip time in microseconds, where the kernel has one.
    #[must_use]
    pub fn rtt_us(&self) -> Option<u32> {
        Some(self.rtt_us).filter(|rtt| *rtt > 0)
    }
}

impl SocketTable {
    /// Whether a program still has the TCP connection with this cookie, whatever link it has bound it to since. Costs a dump where the
    /// nearest look misses it, so it is for the side of the data path.
    ///
    /// # Errors
    ///
    /// As [`Self::owner`].
    pub fn holds(&mut self, tuple: &FiveTuple, cookie: u64) -> io::Result<bool> {
        Ok(self.by_cookie(tuple, cookie)?.is_some())
    }

    /// Ends the TCP connection with this cookie as [`Self::destroy`] does; found as [`Self::holds`] finds it.
    ///
    /// # Errors
    ///
    /// As [`Self::destroy`].
    pub fn destroy_one(&mut self, tuple: &FiveTuple, cookie: u64) -> io::Result<bool> {
        match self.by_cookie(tuple, cookie)? {
            Some(found) => self.destroy_found(tuple, &found),
            None => Ok(false),
        }
    }

    fn by_cookie(&mut self, tuple: &FiveTuple, cookie: u64) -> io::Result<Option<Found>> {
        let is_it = |found: &Found| found.cookie == cookie && is_connection(found, tuple);
        if let Some(found) = self.exact(tuple)?.filter(is_it) {
            return Ok(Some(found));
        }
        let states = || StateFlags::all() - StateFlags::LISTEN - StateFlags::TIME_WAIT;
        let mut found = Vec::new();
        for family in [AF_INET, AF_INET6] {
            found.extend(self.dump(family, Protocol::TCP, states(), tuple.local.port(), is_it)?);
        }
        Ok(found.pop())
    }

    /// What each TCP connection has carried, by its local and its remote end. Dumps all, so it is for the side of the data path.
    ///
    /// # Errors
    ///
    /// The kernel refuses the dump.
    pub fn carried(&mut self) -> io::Result<Vec<([SocketAddr; 2], Carried)>> {
        let mut all = Vec::new();
        for (family, socket_id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
            let states = StateFlags::all() - StateFlags::LISTEN - StateFlags::TIME_WAIT;
            let request = InetRequest { family, protocol: Protocol::TCP.0, extensions: ExtensionFlags::INFO, states, socket_id };
            self.ask(&request, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, |found| {
                if all.len() < MAX_DUMPED {
                    all.push(([found.local, found.remote], found.carried));
                }
            })?;
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_tells_what_it_has_carried_and_a_new_one_that_nobody_answered() {
        let mut info = vec![0; 232];
        info[RTT..RTT + 4].copy_from_slice(&700_u32.to_ne_bytes());
        for (at, count) in [(ACKNOWLEDGED, 78_u64), (RECEIVED, 309), (SENT, 80), (SENT_AGAIN, 3)] {
            info[at..at + 8].copy_from_slice(&count.to_ne_bytes());
        }
        let carried = Carried::read(&info);
        assert_eq!((carried.up(), carried.down(), carried.rtt_us(), carried.was_answered()), (77, 309, Some(700), true));
        let silent = Carried::read(&[0; 104]);
        assert_eq!((silent.up(), silent.down(), silent.rtt_us(), silent.was_answered()), (0, 0, None, false));
    }
}
