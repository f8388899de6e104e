//! Ways around the firewall's own name resolution.
//!
//! Keeps one rule: what counts as a way around is data in this file.

use std::net::IpAddr;

use crate::names::Name;
use crate::packet::Protocol;
use crate::profile::{Level, MULTICAST_DNS_REFUSED, STUN_REFUSED, Scope};

/// DNS over TLS (RFC 7858) and DNS over QUIC (RFC 9250).
const ENCRYPTED_DNS_PORT: u16 = 853;
/// DNS over HTTPS (RFC 8484).
const HTTPS_PORT: u16 = 443;
/// STUN and TURN, plain and over TLS (RFC 8489 §18.6, RFC 8656 §18).
const STUN_PORTS: [u16; 2] = [3478, 5349];
/// mDNS (RFC 6762 §3) and LLMNR (RFC 4795 §2).
const MULTICAST_DNS_PORTS: [u16; 2] = [5353, 5355];
/// Browsers ask for it before they switch to DNS over HTTPS; a refusal keeps them with the system's resolver.
const CANARY: &str = "use-application-dns.net";

const RESOLVERS_V4: [[u8; 4]; 16] = [
    [1, 1, 1, 1],
    [1, 0, 0, 1],
    [1, 1, 1, 2],
    [1, 0, 0, 2],
    [1, 1, 1, 3],
    [1, 0, 0, 3],
    [8, 8, 8, 8],
    [8, 8, 4, 4],
    [9, 9, 9, 9],
    [149, 112, 112, 112],
    [208, 67, 222, 222],
    [208, 67, 220, 220],
    [94, 140, 14, 14],
    [94, 140, 15, 15],
    [45, 90, 28, 0],
    [76, 76, 2, 0],
];
const RESOLVERS_V6: [[u16; 8]; 10] = [
    [0x2606, 0x4700, 0x4700, 0, 0, 0, 0, 0x1111],
    [0x2606, 0x4700, 0x4700, 0, 0, 0, 0, 0x1001],
    [0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8888],
    [0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8844],
    [0x2620, 0xfe, 0, 0, 0, 0, 0, 0xfe],
    [0x2620, 0xfe, 0, 0, 0, 0, 0, 9],
    [0x2620, 0x119, 0x35, 0, 0, 0, 0, 0x35],
    [0x2620, 0x119, 0x53, 0, 0, 0, 0, 0x53],
    [0x2a10, 0x50c0, 0, 0, 0, 0, 0xad1, 0xff],
    [0x2a10, 0x50c0, 0, 0, 0, 0, 0xad2, 0xff],
];

/// Why an outbound flow is a way around, if it is.
#[must_use]
pub(super) fn of_flow(
    protocol: Protocol,
    address: IpAddr,
    port: Option<u16>,
    name: Option<&Name>,
    level: Level,
) -> Option<&'static str> {
    if !matches!(protocol, Protocol::TCP | Protocol::UDP) {
        return None;
    }
    match port? {
        ENCRYPTED_DNS_PORT => Some("encrypted DNS beside the firewall's own (port 853)"),
        HTTPS_PORT if is_resolver(address) || name.is_some_and(is_resolver_name) => Some("a known resolver of DNS over HTTPS"),
        port if STUN_PORTS.contains(&port) && STUN_REFUSED.is_on(level) => Some("STUN and TURN are refused at this level"),
        port if protocol == Protocol::UDP && is_multicast_dns(address, port) && MULTICAST_DNS_REFUSED.is_on(level) => {
            Some("mDNS and LLMNR are refused at this level")
        }
        _ => None,
    }
}

/// Why a question is a way around, if it is.
#[must_use]
pub(super) fn of_question(name: &Name) -> Option<&'static str> {
    if is_at_or_below(name.as_str(), CANARY) {
        return Some("the canary name that asks whether DNS over HTTPS is welcome");
    }
    is_resolver_name(name).then_some("a known resolver of DNS over HTTPS")
}

fn is_multicast_dns(address: IpAddr, port: u16) -> bool {
    MULTICAST_DNS_PORTS.contains(&port) && Scope::of(address) == Some(Scope::Lan)
}

fn is_resolver(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => RESOLVERS_V4.contains(&v4.octets()),
        IpAddr::V6(v6) => RESOLVERS_V6.contains(&v6.segments()),
    }
}

/// Public resolvers that answer over HTTPS or TLS, by the names of their services and all below. Written as a match because
/// that compiles to a comparison or two, and every flow to port 443 comes by.
fn is_resolver_service(name: &str) -> bool {
    matches!(
        name,
        "dns.google"
            | "dns64.dns.google"
            | "cloudflare-dns.com"
            | "one.one.one.one"
            | "dns.quad9.net"
            | "dns9.quad9.net"
            | "dns10.quad9.net"
            | "dns11.quad9.net"
            | "doh.opendns.com"
            | "dns.opendns.com"
            | "dns.adguard.com"
            | "dns.adguard-dns.com"
            | "dns.nextdns.io"
            | "doh.cleanbrowsing.org"
            | "dns.controld.com"
            | "freedns.controld.com"
            | "dns.mullvad.net"
            | "doh.mullvad.net"
            | "dns0.eu"
            | "dns.digitale-gesellschaft.ch"
            | "doh.dns.sb"
            | "dns.sb"
            | "doh.libredns.gr"
            | "dns.switch.ch"
    )
}

fn is_resolver_name(name: &Name) -> bool {
    let text = name.as_str();
    let above = text.match_indices('.').filter_map(|(dot, _)| text.get(dot + 1..));
    std::iter::once(text).chain(above).any(is_resolver_service)
}

fn is_at_or_below(name: &str, zone: &str) -> bool {
    name.strip_suffix(zone).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(protocol: Protocol, address: &str, port: u16, name: Option<&str>, level: Level) -> bool {
        let name = name.map(|name| name.parse().expect("a name"));
        of_flow(protocol, address.parse().expect("an address"), Some(port), name.as_ref(), level).is_some()
    }

    #[test]
    fn encrypted_dns_beside_our_own_is_a_way_around_in_both_families() {
        for (address, port, name, is) in [
            ("192.0.2.1", 853, None, true),
            ("2001:db8::1", 853, None, true),
            ("1.1.1.1", 443, None, true),
            ("2606:4700:4700::1111", 443, None, true),
            ("192.0.2.1", 443, Some("dns.google"), true),
            ("192.0.2.1", 443, Some("mozilla.cloudflare-dns.com"), true),
            ("192.0.2.1", 443, Some("notdns.google.example"), false),
            ("1.1.1.1", 80, None, false),
            ("2001:db8::1", 443, None, false),
        ] {
            for protocol in [Protocol::TCP, Protocol::UDP] {
                assert_eq!(flow(protocol, address, port, name, Level::Dynamic), is, "{address} {port} {name:?}");
            }
        }
    }

    #[test]
    fn stun_is_a_way_around_in_fortress_alone() {
        for (level, is) in [(Level::Dynamic, false), (Level::Secure, false), (Level::Fortress, true)] {
            assert_eq!(flow(Protocol::UDP, "192.0.2.1", 3478, None, level), is);
            assert_eq!(flow(Protocol::TCP, "2001:db8::1", 5349, None, level), is);
        }
    }

    #[test]
    fn names_are_asked_of_the_whole_network_in_dynamic_alone() {
        for (level, is) in [(Level::Dynamic, false), (Level::Secure, true), (Level::Fortress, true)] {
            assert_eq!(flow(Protocol::UDP, "224.0.0.251", 5353, None, level), is);
            assert_eq!(flow(Protocol::UDP, "ff02::1:3", 5355, None, level), is);
            assert!(!flow(Protocol::TCP, "224.0.0.251", 5353, None, level));
            assert!(!flow(Protocol::UDP, "192.0.2.1", 5353, None, level));
        }
    }

    #[test]
    fn the_canary_and_resolver_names_are_not_resolved() {
        for (name, is) in [("use-application-dns.net", true), ("dns.google", true), ("google.com", false), ("xdns.google", false)]
        {
            assert_eq!(of_question(&name.parse().expect("a name")).is_some(), is, "{name}");
        }
    }
}
