//! Servers on this host, whose own questions come back to us.
//!
//! Keeps one rule: an address is near by what the host has now, not by how it looks: an own dnsmasq on the laptop's address or on a
//! bridge's asks through us as much as a stub on loopback does.

use std::net::IpAddr;
use std::sync::Arc;

/// The addresses of this host, where what its servers ask is captured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Near {
    own: Option<Arc<[IpAddr]>>,
}

impl Near {
    /// What this host's servers ask does not come to us, so that they may be upstreams like any other (`exec`).
    #[must_use]
    pub fn nothing() -> Self {
        Self { own: None }
    }

    /// Loopback and these addresses are this host (`up`).
    #[must_use]
    pub fn this_host(own: &[IpAddr]) -> Self {
        Self { own: Some(own.iter().map(IpAddr::to_canonical).collect()) }
    }

    /// Whether a server at this address asks through us.
    pub(super) fn has(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.own.as_ref().is_some_and(|own| ip.is_loopback() || own.contains(&ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("the test writes an address")
    }

    #[test]
    fn loopback_and_own_addresses_are_near_in_both_families_and_mapped() {
        let near = Near::this_host(&[ip("10.9.0.2"), ip("172.17.0.1"), ip("fd09::2")]);
        for text in ["10.9.0.2", "::ffff:10.9.0.2", "172.17.0.1", "fd09::2", "127.0.0.53", "::ffff:127.0.0.1", "::1"] {
            assert!(near.has(ip(text)), "{text}");
        }
    }

    #[test]
    fn neighbours_are_not_near_and_without_capture_nothing_is() {
        let near = Near::this_host(&[ip("10.9.0.2"), ip("fd09::2")]);
        for text in ["10.9.0.1", "10.9.0.3", "fd09::1", "198.51.100.53", "2001:db8::53"] {
            assert!(!near.has(ip(text)), "{text}");
        }
        for text in ["10.9.0.2", "127.0.0.1", "::1"] {
            assert!(!Near::nothing().has(ip(text)), "{text}");
        }
    }
}
