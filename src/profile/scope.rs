//! Where an address is, by its literal prefix alone: never "on-link".

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// The part of the world that an address belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Scope {
    Localhost,
    #[serde(rename = "LAN")]
    Lan,
    Internet,
}

impl Scope {
    pub const ALL: [Self; 3] = [Self::Localhost, Self::Lan, Self::Internet];

    /// The scope of `address`; None when no packet may carry it as an address of a peer.
    #[must_use]
    pub fn of(address: IpAddr) -> Option<Self> {
        match embedded(address) {
            IpAddr::V4(v4) => Self::of_v4(v4),
            IpAddr::V6(v6) => Self::of_v6(v6),
        }
    }

    fn of_v4(address: Ipv4Addr) -> Option<Self> {
        match address.octets() {
            [127, ..] => Some(Self::Localhost),
            [10, ..] | [192, 168, ..] | [169, 254, ..] | [224 | 239, ..] | [255, 255, 255, 255] => Some(Self::Lan),
            [172, b, ..] if (16..32).contains(&b) => Some(Self::Lan),
            [100, b, ..] if (64..128).contains(&b) => Some(Self::Lan),
            [0, ..] | [240..=255, ..] => None,
            [..] => Some(Self::Internet),
        }
    }

    fn of_v6(address: Ipv6Addr) -> Option<Self> {
        let [first, rest @ ..] = address.segments();
        match first {
            0 if address == Ipv6Addr::LOCALHOST => Some(Self::Localhost),
            // ::/96 apart from ::1: the unspecified address and the deprecated IPv4-compatible ones (RFC 4291 §2.5.5.1).
            0 if rest.iter().take(5).all(|&segment| segment == 0) => None,
            0xfe80..=0xfebf | 0xfc00..=0xfdff => Some(Self::Lan),
            // Permanent multicast groups up to site-local scope (RFC 4291 §2.7).
            0xff00..=0xff05 => Some(Self::Lan),
            _ => Some(Self::Internet),
        }
    }
}

/// The IPv4 address inside a v4-mapped (RFC 4291 §2.5.5.2) or 64:ff9b::/96 (RFC 6052) one; any other address as it is.
#[must_use]
pub fn embedded(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let low = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, g, h] | [0x64, 0xff9b, 0, 0, 0, 0, g, h] => low(g, h),
        _ => address,
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Localhost => "Localhost",
            Self::Lan => "LAN",
            Self::Internet => "Internet",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCALHOST: &str = "127.0.0.1 127.255.255.255 ::1 ::ffff:127.0.0.1 64:ff9b::7f00:1";
    const LAN: &str = "10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 100.64.0.1 100.127.255.255 169.254.17.1 fe80::1 febf::1 \
                       fc00::1 fd17::1 224.0.0.251 239.255.255.250 255.255.255.255 ff00::1 ff02::fb ff05::2 ::ffff:10.1.2.3 \
                       64:ff9b::a01:203";
    const INTERNET: &str = "192.0.2.1 198.51.100.7 203.0.113.5 2001:db8::1 172.15.0.1 172.32.0.1 100.63.0.1 100.128.0.1 225.0.0.1 \
                            238.1.1.1 1.1.1.1 128.0.0.1 126.0.0.1 192.167.0.1 169.253.0.1 11.0.0.1 ff06::1 ff0e::1 ff12::1 fec0::1 \
                            ::ffff:1.1.1.1 64:ff9b:1::1 ::1:0:0:1";
    const INVALID: &str = "0.0.0.0 0.0.0.17 240.0.0.1 255.255.255.254 :: ::17 ::2 ::1.2.3.4 ::ffff:0.0.0.1";

    #[test]
    fn scopes_follow_the_table_of_prefixes() {
        let table =
            [(Some(Scope::Localhost), LOCALHOST), (Some(Scope::Lan), LAN), (Some(Scope::Internet), INTERNET), (None, INVALID)];
        for (scope, addresses) in table {
            for address in addresses.split_whitespace() {
                assert_eq!(Scope::of(address.parse().expect(address)), scope, "{address}");
            }
        }
    }
}
