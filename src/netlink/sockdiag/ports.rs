//! All sockets of a UDP port.
//!
//! Keeps one rule: no address excludes a socket. Whatever it is bound to, be it loopback or a group, it can send under every address of this
//! host, as one datagram names it (`IP_PKTINFO`, `IPV6_PKTINFO`), and nobody else who has the port must consent.

use std::collections::HashMap;
use std::io;

use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6};
use netlink_packet_sock_diag::inet::StateFlags;

use super::{SocketTable, socket};
use crate::packet::{FiveTuple, Protocol};
use crate::process::{Confidence, Socket};

/// How many sockets each UDP port has.
#[derive(Debug, Default)]
pub struct PortUse(HashMap<u16, u32>);

impl PortUse {
    /// Whether one socket has this port at most.
    #[must_use]
    pub fn is_ones(&self, port: u16) -> bool {
        self.0.get(&port).is_none_or(|count| *count < 2)
    }
}

impl SocketTable {
    /// All sockets that may have sent a flow: of UDP, those of its port and IP version. TCP has one owner at most.
    ///
    /// Dumps the sockets of the local port, so it is for the side of the data path.
    ///
    /// # Errors
    ///
    /// As [`Self::owner`].
    pub fn owners(&mut self, tuple: &FiveTuple) -> io::Result<Vec<Socket>> {
        if tuple.protocol != Protocol::UDP {
            return Ok(self.owner(tuple)?.into_iter().collect());
        }
        let (port, v4) = (tuple.local.port(), tuple.local.is_ipv4());
        let mut found = self.dump(AF_INET6, Protocol::UDP, StateFlags::all(), port, |found| {
            found.local.port() == port && !(v4 && found.v6_only)
        })?;
        if v4 {
            found.extend(self.dump(AF_INET, Protocol::UDP, StateFlags::all(), port, |found| found.local.port() == port)?);
        }
        let confidence = if found.len() > 1 { Confidence::Ambiguous } else { Confidence::Likely };
        Ok(found.into_iter().map(|found| Socket { confidence, ..socket(found) }).collect())
    }

    /// How many UDP sockets each port has, but for those with a mark of which `is_ours` says so.
    ///
    /// Dumps all of them.
    ///
    /// # Errors
    ///
    /// As [`Self::owner`].
    pub fn ports(&mut self, is_ours: impl Fn(u32) -> bool) -> io::Result<PortUse> {
        let mut ports = PortUse::default();
        for family in [AF_INET, AF_INET6] {
            for found in self.dump(family, Protocol::UDP, StateFlags::all(), 0, |found| !is_ours(found.mark))? {
                *ports.0.entry(found.local.port()).or_default() += 1;
            }
        }
        Ok(ports)
    }
}
