//! Traffic that a host needs before any policy can matter, as data.
//!
//! Keeps one rule: an exemption names protocol, port and network, and is never open to an ordinary user's programs.

use std::net::IpAddr;

use crate::packet::{Direction, Protocol};
use crate::process::UID_MIN;
use crate::profile::Scope;

/// One kind of exempt traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exemption {
    pub what: &'static str,
    pub direction: Direction,
    pub protocol: Protocol,
    /// The destination's port.
    pub port: u16,
    pub is_v6: bool,
}

const fn udp(what: &'static str, direction: Direction, port: u16, is_v6: bool) -> Exemption {
    Exemption { what, direction, protocol: Protocol::UDP, port, is_v6 }
}

/// DHCP (RFC 2131 §4.1) and DHCPv6 (RFC 9915 §7.2) with peers of the local network. Neighbour discovery has no ports and never
/// passes the router: the guard's own list exempts it.
pub const EXEMPTIONS: [Exemption; 4] = [
    udp("DHCP", Direction::Outbound, 67, false),
    udp("DHCP", Direction::Inbound, 68, false),
    udp("DHCPv6", Direction::Outbound, 547, true),
    udp("DHCPv6", Direction::Inbound, 546, true),
];

/// The exemption that covers a flow. Only system users send such packets; an unknown user counts as one, because the
/// programs that do are gone before they can be looked up.
#[must_use]
pub(super) fn exempt(
    direction: Direction,
    protocol: Protocol,
    remote: IpAddr,
    port: Option<u16>,
    uid: Option<u32>,
) -> Option<&'static str> {
    if uid.is_some_and(|uid| uid >= UID_MIN) || Scope::of(remote) != Some(Scope::Lan) {
        return None;
    }
    let fits = |own: &&Exemption| {
        own.direction == direction && own.protocol == protocol && port == Some(own.port) && remote.is_ipv6() == own.is_v6
    };
    EXEMPTIONS.iter().find(fits).map(|own| own.what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dhcp_with_the_local_network_is_exempt_for_system_users_alone() {
        let table = [
            (Direction::Outbound, "255.255.255.255", 67, Some(0), true),
            (Direction::Outbound, "192.168.1.1", 67, None, true),
            (Direction::Inbound, "192.168.1.1", 68, Some(998), true),
            (Direction::Outbound, "ff02::1:2", 547, Some(0), true),
            (Direction::Inbound, "fe80::1", 546, Some(0), true),
            (Direction::Outbound, "255.255.255.255", 67, Some(1000), false),
            (Direction::Outbound, "192.0.2.1", 67, Some(0), false),
            (Direction::Outbound, "255.255.255.255", 68, Some(0), false),
            (Direction::Outbound, "ff02::1:2", 67, Some(0), false),
            (Direction::Outbound, "2001:db8::1", 547, Some(0), false),
        ];
        for (direction, remote, port, uid, is) in table {
            let remote = remote.parse().expect("an address");
            let found = exempt(direction, Protocol::UDP, remote, Some(port), uid).is_some();
            assert_eq!(found, is, "{direction:?} {remote} {port} {uid:?}");
            assert!(exempt(direction, Protocol::TCP, remote, Some(port), uid).is_none());
        }
    }
}
