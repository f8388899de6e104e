//! Which upstream port stands for a program's socket that talks to several peers.
//!
//! Keeps one rule: all flows of such a socket leave by one port as long as one of them lives (RFC 4787 §4.1), and one of their upstream
//! sockets hears what others send to that port. Whose words are passed on is the router's to say.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use crate::app::shared::locked;

/// The ports in use, by the program's address and port. Bounded by the flows, which hold the leases.
#[derive(Debug, Default)]
pub(in crate::app) struct Ports(Mutex<HashMap<SocketAddr, Used>>);

#[derive(Debug)]
struct Used {
    port: u16,
    flows: usize,
    /// One of the sockets hears strangers.
    heard: bool,
}

/// A flow's part in a port; it ends with the flow.
#[derive(Debug)]
pub(super) struct Lease {
    ports: Arc<Ports>,
    local: SocketAddr,
    hears: bool,
}

impl Ports {
    /// The port that stands for `local` already, and whether a socket hears strangers there.
    pub(super) fn of(&self, local: SocketAddr) -> Option<(u16, bool)> {
        locked(&self.0).get(&local).map(|used| (used.port, used.heard))
    }

    /// Notes one flow more. None when another port has come to stand for `local` in the meantime: then the flow has its port alone.
    pub(super) fn lease(self: &Arc<Self>, local: SocketAddr, port: u16, hears: bool) -> Option<Lease> {
        let mut all = locked(&self.0);
        let used = all.entry(local).or_insert(Used { port, flows: 0, heard: false });
        if used.port != port {
            return None;
        }
        used.flows += 1;
        used.heard |= hears;
        Some(Lease { ports: self.clone(), local, hears })
    }
}

impl Lease {
    /// Whether its flow hears what strangers send to `local`.
    pub(super) fn hears_for(&self, local: SocketAddr) -> bool {
        self.hears && self.local == local
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut all = locked(&self.ports.0);
        let Some(used) = all.get_mut(&self.local) else { return };
        used.flows -= 1;
        used.heard &= !self.hears;
        if used.flows == 0 {
            all.remove(&self.local);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local() -> SocketAddr {
        "10.9.0.2:5000".parse().expect("an address")
    }

    #[test]
    fn a_port_stands_for_a_socket_until_its_last_flow_ends() {
        let ports = Arc::new(Ports::default());
        assert_eq!(ports.of(local()), None);
        let first = ports.lease(local(), 7, true).expect("nobody else has it");
        let second = ports.lease(local(), 7, false).expect("the same port");
        assert_eq!(ports.of(local()), Some((7, true)));
        drop(first);
        assert_eq!(ports.of(local()), Some((7, false)), "the next flow is to hear strangers");
        drop(second);
        assert_eq!(ports.of(local()), None);
    }

    #[test]
    fn another_port_for_the_same_socket_is_refused() {
        let ports = Arc::new(Ports::default());
        let _first = ports.lease(local(), 7, true).expect("nobody else has it");
        assert!(ports.lease(local(), 8, true).is_none());
        assert_eq!(ports.of(local()), Some((7, true)));
    }
}
