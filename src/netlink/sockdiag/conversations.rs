//! All conversations of this host's sockets at once: TCP connections and connected UDP sockets, with who opened them.
//!
//! Keeps one rule: a socket that waits for others on the same local port makes a conversation inbound. The kernel does not
//! keep who opened a connection, and this is the nearest that its tables tell.

use std::io;

use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6};
use netlink_packet_sock_diag::inet::StateFlags;

use super::wire::Found;
use super::{SocketTable, is_bound_for, socket};
use crate::packet::{Direction, FiveTuple, Protocol};
use crate::process::Socket;

/// One socket's talk with one remote end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conversation {
    pub tuple: FiveTuple,
    pub socket: Socket,
    pub direction: Direction,
}

impl SocketTable {
    /// Every TCP connection that stands or is being closed, and every connected UDP socket, of both families. Neither what is
    /// still being opened nor what is in TIME-WAIT.
    ///
    /// # Errors
    ///
    /// The kernel refuses the dump, or there are more than 65 536 sockets of a kind.
    pub fn conversations(&mut self) -> io::Result<Vec<Conversation>> {
        let standing = StateFlags::ESTABLISHED
            | StateFlags::FIN_WAIT1
            | StateFlags::FIN_WAIT2
            | StateFlags::CLOSE_WAIT
            | StateFlags::LAST_ACK
            | StateFlags::CLOSING;
        let mut all = self.of_protocol(Protocol::TCP, standing, StateFlags::LISTEN)?;
        all.extend(self.of_protocol(Protocol::UDP, StateFlags::ESTABLISHED, StateFlags::CLOSE)?);
        Ok(all)
    }

    /// Who opened the conversation of this tuple, as far as its local port tells.
    ///
    /// # Errors
    ///
    /// As [`Self::conversations`].
    pub fn direction(&mut self, tuple: &FiveTuple) -> io::Result<Direction> {
        let waiting = if tuple.protocol == Protocol::TCP { StateFlags::LISTEN } else { StateFlags::CLOSE };
        let waiting = self.in_states(tuple.protocol, waiting, tuple.local.port())?;
        Ok(direction_of(tuple, &waiting))
    }

    fn of_protocol(&mut self, protocol: Protocol, open: StateFlags, waiting: StateFlags) -> io::Result<Vec<Conversation>> {
        let waiting = self.in_states(protocol, waiting, 0)?;
        let found = self.in_states(protocol, open, 0)?;
        let conversation = |found: Found| {
            let tuple = FiveTuple { protocol, local: found.local, remote: found.remote };
            Conversation { tuple, socket: socket(found), direction: direction_of(&tuple, &waiting) }
        };
        Ok(found.into_iter().filter(|found| !found.remote.ip().is_unspecified()).map(conversation).collect())
    }

    fn in_states(&mut self, protocol: Protocol, states: StateFlags, port: u16) -> io::Result<Vec<Found>> {
        let mut found = self.dump(AF_INET, protocol, states.clone(), port, |_| true)?;
        found.extend(self.dump(AF_INET6, protocol, states, port, |_| true)?);
        Ok(found)
    }
}

fn direction_of(tuple: &FiveTuple, waiting: &[Found]) -> Direction {
    let waits = |found: &Found| found.remote.ip().is_unspecified() && is_bound_for(found, tuple);
    if waiting.iter().any(waits) { Direction::Inbound } else { Direction::Outbound }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(local: &str) -> Found {
        let local: std::net::SocketAddr = local.parse().expect("address");
        let remote = if local.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        Found {
            state: 10,
            local,
            remote: remote.parse().expect("address"),
            uid: 0,
            inode: 1,
            cookie: 1,
            cgroup_id: None,
            v6_only: false,
            mark: 0,
            interface: 0,
            carried: super::super::Carried::default(),
        }
    }

    #[test]
    fn a_conversation_is_inbound_where_a_listener_of_its_address_has_the_port() {
        for (local, remote, listener, direction) in [
            ("10.9.0.2:22", "203.0.113.10:5", "0.0.0.0:22", Direction::Inbound),
            ("10.9.0.2:22", "203.0.113.10:5", "[::]:22", Direction::Inbound),
            ("10.9.0.2:22", "203.0.113.10:5", "10.9.0.2:22", Direction::Inbound),
            ("10.9.0.2:22", "203.0.113.10:5", "127.0.0.1:22", Direction::Outbound),
            ("10.9.0.2:40000", "203.0.113.10:22", "0.0.0.0:22", Direction::Outbound),
            ("[fd09::2]:22", "[2001:db8::10]:5", "[::]:22", Direction::Inbound),
            ("[fd09::2]:22", "[2001:db8::10]:5", "0.0.0.0:22", Direction::Outbound),
        ] {
            let tuple = FiveTuple {
                protocol: Protocol::TCP,
                local: local.parse().expect("address"),
                remote: remote.parse().expect("address"),
            };
            assert_eq!(direction_of(&tuple, &[waiting(listener)]), direction, "{tuple}, listener {listener}");
        }
    }
}
