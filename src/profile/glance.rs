//! A few numbers of each rule, by which most rules that speak of something else are passed over at a glance.
//!
//! Keeps one rule: only what cannot match is passed over; what may match is still compared in full.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::entity::Entity;
use super::list::Peer;
use super::rule::Rule;
use crate::names::{Name, Pattern};

/// What a rule asks for, in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Glance {
    of: Of,
    /// The bits that are compared, and what they must be.
    mask: u64,
    value: u64,
    /// 0 to 65535 where the rule names no port.
    first_port: u16,
    last_port: u16,
}

/// What the bits are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Anything,
    /// The last eight bytes of a name, the last byte lowest.
    Name,
    /// An IPv4 address in the upper half.
    V4,
    /// The first eight bytes of an IPv6 address.
    V6,
}

/// The same numbers of a peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    name: Option<u64>,
    /// A chain of CNAMEs has further names, which `name` says nothing of.
    has_chain: bool,
    /// None for a question: rules that need an address may keep it open.
    address: Option<(Of, u64)>,
    port: Option<u16>,
}

impl Glance {
    pub(super) fn at(rule: &Rule) -> Self {
        let (of, mask, value) = match &rule.entity {
            Entity::Domain(pattern) => {
                let (mask, value) = end_of_pattern(pattern);
                (Of::Name, mask, value)
            }
            Entity::Ip(address) => {
                let (of, bits) = bits_of(*address);
                (of, u64::MAX, bits)
            }
            Entity::Net(net) => {
                let (of, bits) = bits_of(net.addr());
                let length = u32::from(net.prefix_len()).min(u64::BITS);
                (of, u64::MAX.checked_shl(u64::BITS - length).unwrap_or(0), bits)
            }
            Entity::Any
            | Entity::Country(_)
            | Entity::Continent(_)
            | Entity::As(_)
            | Entity::Scopes(_)
            | Entity::Labels(_)
            | Entity::Group(_) => (Of::Anything, 0, 0),
        };
        let ports = rule.transport.as_ref().and_then(|transport| transport.ports.as_ref());
        let (first_port, last_port) = ports.map_or((0, u16::MAX), |ports: &RangeInclusive<u16>| (*ports.start(), *ports.end()));
        Self { of, mask, value: value & mask, first_port, last_port }
    }

    /// Whether the rule may match the peer, or keep its question open.
    #[inline]
    pub(super) fn may_match(&self, seen: &Seen) -> bool {
        if seen.port.is_some_and(|port| port < self.first_port || port > self.last_port) {
            return false;
        }
        match self.of {
            Of::Anything => true,
            Of::Name => seen.has_chain || seen.name.is_some_and(|end| end & self.mask == self.value),
            Of::V4 | Of::V6 => seen.address.is_none_or(|(of, bits)| of == self.of && bits & self.mask == self.value),
        }
    }
}

impl Seen {
    pub(super) fn of(peer: &Peer<'_>) -> Self {
        Self {
            name: peer.name.map(Name::as_str).map(last_bytes),
            has_chain: !peer.chain.is_empty(),
            address: peer.address.map(bits_of),
            port: peer.transport.and_then(|(_, port)| port),
        }
    }
}

fn bits_of(address: IpAddr) -> (Of, u64) {
    match address {
        IpAddr::V4(v4) => (Of::V4, u64::from(v4.to_bits()) << 32),
        IpAddr::V6(v6) => {
            let [a, b, c, d, e, f, g, h, ..] = v6.octets();
            (Of::V6, u64::from_be_bytes([a, b, c, d, e, f, g, h]))
        }
    }
}

fn end_of_pattern(pattern: &Pattern) -> (u64, u64) {
    let end = match pattern {
        Pattern::Exact(name) | Pattern::Zone(name) | Pattern::Below(name) => name.as_str(),
        Pattern::Suffix(end) => end,
        Pattern::Prefix(_) | Pattern::Contains(_) => "",
    };
    let bits = u32::try_from(end.len().min(8)).unwrap_or(8) * 8;
    (u64::MAX.checked_shr(u64::BITS - bits).unwrap_or(0), last_bytes(end))
}

/// The last byte is the lowest.
fn last_bytes(text: &str) -> u64 {
    match text.as_bytes().last_chunk::<8>() {
        Some(bytes) => u64::from_be_bytes(*bytes),
        None => text.bytes().fold(0, |value, byte| value << 8 | u64::from(byte)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Protocol;

    fn may_match(rule: &str, name: Option<&str>, address: Option<&str>, port: u16) -> bool {
        let name: Option<Name> = name.map(|name| name.parse().expect("a name"));
        let address: Option<IpAddr> = address.map(|address| address.parse().expect("an address"));
        let transport = address.map(|_| (Protocol::TCP, Some(port)));
        let peer = Peer { name: name.as_ref(), chain: &[], address, scope: None, transport };
        Glance::at(&rule.parse().expect("a rule")).may_match(&Seen::of(&peer))
    }

    #[test]
    fn rules_of_other_names_addresses_and_ports_are_passed_over() {
        for (rule, fine) in [
            ("- .example.com", true),
            ("- *ple.com", true),
            ("- www.*", true),
            ("- *xyz*", true),
            ("- .example.org", false),
            ("- xwww.example.com", true),
            ("- 192.0.2.0/24", true),
            ("- 192.0.2.1", true),
            ("- 192.0.3.0/24", false),
            ("- 0.0.0.0/0", true),
            ("- ::/0", false),
            ("- 2001:db8::/32", false),
            ("- * TCP/443", true),
            ("- * TCP/1-442", false),
            ("- LAN", true),
            ("- AT", true),
        ] {
            assert_eq!(may_match(rule, Some("www.example.com"), Some("192.0.2.1"), 443), fine, "{rule}");
        }
        assert!(!may_match("- .example.com", None, Some("192.0.2.1"), 443));
        assert!(may_match("- 2001:db8::/32", None, Some("2001:db8:1::1"), 443));
        assert!(!may_match("- 2001:db8:2::/48", None, Some("2001:db8:1::1"), 443));
    }

    #[test]
    fn rules_that_may_keep_a_question_open_are_looked_at() {
        for rule in ["? 192.0.2.0/24", "+ 2001:db8::1", "+ * TCP/1", "+ .example.com TCP/1"] {
            assert!(may_match(rule, Some("www.example.com"), None, 443), "{rule}");
        }
    }
}
