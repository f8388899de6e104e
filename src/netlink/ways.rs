//! Where IPv6 leads from this host.
//!
//! # Theory of operation
//!
//! Many a host has half of IPv6: a link-local address, or one that a home router announces though no provider carries it
//! (RFC 4193), and no default route. There the kernel refuses to connect (ENETUNREACH), and the C library, which connects a UDP
//! socket to each address of a name before it puts them in order (RFC 6724 §6), puts IPv4 first. A TUN that takes all of IPv6
//! would turn that round. So it takes what the host's own routes lead to: everything where there is a default route, else the
//! single networks.
//!
//! Keeps one rule: only what was read counts; nothing is asked of the kernel here.

use std::net::Ipv6Addr;

use ipnet::Ipv6Net;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};

use super::host::Host;
use super::rule::LOCAL;

/// All of IPv6.
pub const EVERYWHERE: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0);

/// The addresses of the Internet (RFC 4291 §2.4 and its registry: all that is assigned of global unicast).
const INTERNET: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// Half of the Internet, as who replaces a default route without removing it divides it.
const HALF: u8 = 4;

/// Every link leads to its own (RFC 4291 §2.5.6), and who sends there names the link.
const LINK_LOCAL: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);

/// Networks that are led into the TUN one by one; a host with more of them is a router, and all is led there.
const MOST: usize = 64;

/// One IPv6 route of any table but `local`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    pub table: u32,
    pub link: u32,
    pub to: Ipv6Net,
}

impl Host {
    /// The networks that IPv6 leads to by other links than `device`, apart and in order; [`EVERYWHERE`] alone where there is a
    /// default route.
    #[must_use]
    pub fn reach(&self, device: &str) -> Vec<Ipv6Net> {
        let leads_out =
            |way: &&Way| self.links.iter().any(|link| link.index == way.link && !link.loopback && link.name != device);
        let nets = self.ways.iter().filter(leads_out).map(|way| way.to).filter(|net| !LINK_LOCAL.contains(net)).collect();
        let nets = Ipv6Net::aggregate(&nets);
        if nets.len() > MOST { vec![EVERYWHERE] } else { nets }
    }
}

/// Whether these networks are a way into the Internet.
pub(super) fn lead_out(reach: &[Ipv6Net]) -> bool {
    reach.iter().any(|net| net.contains(&INTERNET) || (INTERNET.contains(net) && net.prefix_len() <= HALF))
}

/// What a route of the kernel's list leads to; one for each of its links, none for what leads nowhere.
pub(super) fn of(route: &RouteMessage) -> Vec<Way> {
    let header = &route.header;
    if header.address_family != AddressFamily::Inet6 || header.kind != RouteType::Unicast {
        return Vec::new();
    }
    let attribute = |chosen: fn(&RouteAttribute) -> Option<u32>| route.attributes.iter().find_map(chosen);
    let table = attribute(|a| if let RouteAttribute::Table(table) = a { Some(*table) } else { None });
    let table = table.unwrap_or(u32::from(header.table));
    let destination = route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(*address),
        _ => None,
    });
    let to = Ipv6Net::new(destination.unwrap_or(Ipv6Addr::UNSPECIFIED), header.destination_prefix_length);
    let Some(to) = to.ok().filter(|_| table != LOCAL) else { return Vec::new() };
    links_of(route).into_iter().map(|link| Way { table, link, to }).collect()
}

/// The links that a route leads out by.
pub(super) fn links_of(route: &RouteMessage) -> Vec<u32> {
    let mut links = Vec::new();
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => links.push(*index),
            RouteAttribute::MultiPath(hops) => links.extend(hops.iter().map(|hop| hop.interface_index)),
            _ => {}
        }
    }
    links
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Link;

    fn host(ways: &[(u32, &str)]) -> Host {
        let link = |index, name: &str| Link {
            index,
            name: name.to_owned(),
            mtu: 1500,
            up: true,
            loopback: name == "lo",
            framing: crate::netlink::Framing::Ethernet,
            shared: false,
        };
        let ways = ways.iter().map(|(link, to)| Way { table: 254, link: *link, to: to.parse().expect("a network") }).collect();
        let links = vec![link(1, "lo"), link(2, "eth0"), link(3, "portreeve0")];
        Host { links, addresses: Vec::new(), uplinks: std::collections::BTreeSet::new(), ways, ipv6: true }
    }

    fn reach(ways: &[(u32, &str)]) -> Vec<String> {
        host(ways).reach("portreeve0").iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_default_route_leads_everywhere_and_its_halves_do_together() {
        for ways in [&[(2, "fd09::/64"), (2, "::/0")][..], &[(2, "::/1"), (2, "8000::/1")]] {
            assert_eq!(reach(ways), ["::/0"]);
        }
    }

    #[test]
    fn without_one_the_single_networks_count_and_no_link_local_one() {
        assert_eq!(
            reach(&[(2, "fe80::/64"), (2, "fd77::/64"), (2, "fd09::/64"), (2, "fd09::5/128")]),
            ["fd09::/64", "fd77::/64"]
        );
    }

    #[test]
    fn our_own_device_and_loopback_lead_nowhere() {
        assert!(reach(&[(3, "::/0"), (1, "fd01::/64"), (9, "fd02::/64")]).is_empty());
    }

    #[test]
    fn a_host_with_more_networks_than_can_be_followed_is_taken_whole() {
        let many: Vec<String> = (0..=MOST).map(|n| format!("fd00:{:x}::/32", 2 * n)).collect();
        let ways: Vec<(u32, &str)> = many.iter().map(|net| (2, net.as_str())).collect();
        assert_eq!(reach(&ways), ["::/0"]);
        assert_eq!(reach(ways.get(1..).expect("one less")).len(), MOST);
    }

    #[test]
    fn a_way_into_the_internet_is_as_wide_as_half_of_it() {
        for (net, leads) in
            [("::/0", true), ("2000::/3", true), ("3000::/4", true), ("2001:db8::/32", false), ("fc00::/7", false)]
        {
            assert_eq!(lead_out(&[net.parse().expect("a network")]), leads, "{net}");
        }
        assert!(!lead_out(&[]));
    }
}
