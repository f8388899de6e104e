//! What the calling thread's network namespace looks like: links, addresses, uplinks.
//!
//! Keeps one rule: only reads. A snapshot; [`super::Watcher`] says when to take the next one.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage};
use netlink_packet_route::route::{RouteHeader, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::setup::ipv6_is_enabled;
use super::ways::{self, Way};
use super::{RequestError, RouteSocket};

/// The MTU where no uplink is found.
const USUAL_MTU: u32 = 1500;

/// The least MTU with which IPv6 works (RFC 8200 section 5).
const LEAST_MTU: u32 = 1280;

/// What stands in front of the IP packets of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Ethernet,
    /// Nothing that programs' packets have in this host: tunnels, mobile modems, PPP.
    Bare,
    /// Something else, or it cannot be told.
    Other,
}

impl Framing {
    /// GRE is left out, since it is both kinds.
    fn of(kind: LinkLayerType) -> Self {
        use LinkLayerType::{Ether, None, Ppp, Rawip, Sit, Tunnel, Tunnel6};
        match kind {
            Ether => Self::Ethernet,
            None | Rawip | Ppp | Tunnel | Tunnel6 | Sit => Self::Bare,
            _ => Self::Other,
        }
    }
}

/// One link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mtu: u32,
    pub up: bool,
    pub loopback: bool,
    pub framing: Framing,
    /// Frames of others pass it: it is a port of a bridge or bond, or a VLAN or the like stands on it.
    pub shared: bool,
}

/// A snapshot of the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    pub links: Vec<Link>,
    /// Every address, with the index of its link.
    pub addresses: Vec<(u32, IpNet)>,
    /// The links that carry a default route of the main table.
    pub uplinks: BTreeSet<u32>,
    /// The IPv6 routes.
    pub ways: Vec<Way>,
    /// IPv6 is there: not switched off for new links, or in use on one that is there already.
    pub ipv6: bool,
}

impl Host {
    /// Reads the namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// The kernel refuses a list.
    pub fn read(socket: &mut RouteSocket) -> Result<Self, RequestError> {
        let links = read_links(socket)?;
        let routes = read_routes(socket)?;
        let addresses = read_addresses(socket)?;
        Ok(Self {
            links,
            uplinks: routes.iter().filter(|route| is_default(route)).flat_map(ways::links_of).collect(),
            ways: routes.iter().flat_map(ways::of).collect(),
            ipv6: ipv6_is_enabled() || addresses.iter().any(|(_, net)| is_global(net.addr())),
            addresses,
        })
    }

    /// The MTU for our device: the smallest of the uplinks', else of any other link in use, else 1500.
    #[must_use]
    pub fn uplink_mtu(&self, device: &str) -> u32 {
        self.mtu_of_uplinks(device).or_else(|| self.smallest_mtu(device, |_| true)).unwrap_or(USUAL_MTU)
    }

    /// The smallest MTU of the uplinks that our device can have; None without an uplink.
    #[must_use]
    pub fn mtu_of_uplinks(&self, device: &str) -> Option<u32> {
        self.smallest_mtu(device, |link| self.uplinks.contains(&link.index))
    }

    fn smallest_mtu(&self, device: &str, chosen: impl Fn(&Link) -> bool) -> Option<u32> {
        let usable = |link: &&Link| link.up && !link.loopback && link.name != device && chosen(link);
        let mtu = self.links.iter().filter(usable).map(|link| link.mtu).min()?;
        Some(mtu.clamp(LEAST_MTU, u32::from(u16::MAX)))
    }

    /// The addresses of this host, so that "the peer is this host" can be told.
    #[must_use]
    pub fn own_addresses(&self) -> Vec<IpAddr> {
        self.addresses.iter().map(|(_, net)| net.addr()).collect()
    }

    /// The networks on the link of this name, without the link-local ones, which every link has.
    #[must_use]
    pub fn networks_of(&self, name: &str) -> Vec<IpNet> {
        let index = self.links.iter().find(|link| link.name == name).map(|link| link.index);
        let local = |net: &IpNet| match net.addr() {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        let nets = self.addresses.iter().filter(|(link, _)| Some(*link) == index).map(|(_, net)| net.trunc());
        nets.filter(|net| !local(net)).collect()
    }

    /// The addresses of the plan that this host shall have: the IPv6 ones only where it has an IPv6 address of its own and IPv6
    /// leads into the Internet. Towards single networks programs keep the address that they have there without us.
    #[must_use]
    pub fn fitting(&self, planned: &[IpNet], device: &str) -> Vec<IpNet> {
        let ours = self.links.iter().find(|link| link.name == device).map(|link| link.index);
        let global = |(index, net): &(u32, IpNet)| Some(*index) != ours && is_global(net.addr());
        let has_ipv6 = self.ipv6 && self.addresses.iter().any(global) && ways::lead_out(&self.reach(device));
        planned.iter().copied().filter(|net| net.addr().is_ipv4() || has_ipv6).collect()
    }
}

/// IPv6 and neither loopback nor link-local.
fn is_global(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if !v6.is_loopback() && !v6.is_unicast_link_local())
}

fn read_links(socket: &mut RouteSocket) -> Result<Vec<Link>, RequestError> {
    let entries = socket.dump("list links", RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    let messages =
        || entries.iter().filter_map(|entry| if let RouteNetlinkMessage::NewLink(link) = entry { Some(link) } else { None });
    let mut links: Vec<Link> = messages().filter_map(link_of).collect();
    let lower: BTreeSet<u32> = messages().filter_map(stands_on).collect();
    for link in &mut links {
        link.shared |= lower.contains(&link.index);
    }
    Ok(links)
}

/// The link below a VLAN and its kind. A veth names its peer in the same attribute, which is no link below it.
fn stands_on(message: &LinkMessage) -> Option<u32> {
    use InfoKind::{IpVlan, IpVtap, MacSec, MacVlan, MacVtap, Vlan};
    let upper = |info: &LinkInfo| matches!(info, LinkInfo::Kind(Vlan | MacVlan | MacVtap | IpVlan | IpVtap | MacSec));
    let stacked = message.attributes.iter().any(|a| matches!(a, LinkAttribute::LinkInfo(infos) if infos.iter().any(upper)));
    let below = message.attributes.iter().find_map(|a| if let LinkAttribute::Link(index) = a { Some(*index) } else { None });
    below.filter(|_| stacked)
}

fn link_of(message: &LinkMessage) -> Option<Link> {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mtu: USUAL_MTU,
        up: message.header.flags.contains(LinkFlags::Up),
        loopback: message.header.flags.contains(LinkFlags::Loopback),
        framing: Framing::of(message.header.link_layer_type),
        shared: false,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(_) => link.shared = true,
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

fn read_addresses(socket: &mut RouteSocket) -> Result<Vec<(u32, IpNet)>, RequestError> {
    let entries = socket.dump("list addresses", RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    Ok(entries
        .iter()
        .filter_map(|entry| if let RouteNetlinkMessage::NewAddress(m) = entry { address_of(m) } else { None })
        .collect())
}

/// `IFA_LOCAL` is ours; `IFA_ADDRESS` is the peer's on a point-to-point link and the only one in IPv6 (rtnetlink(7)).
fn address_of(message: &AddressMessage) -> Option<(u32, IpNet)> {
    if message.header.scope == AddressScope::Nowhere {
        return None;
    }
    let local = message.attributes.iter().find_map(|a| if let AddressAttribute::Local(ip) = a { Some(*ip) } else { None });
    let any = message.attributes.iter().find_map(|a| if let AddressAttribute::Address(ip) = a { Some(*ip) } else { None });
    Some((message.header.index, IpNet::new(local.or(any)?, message.header.prefix_len).ok()?))
}

fn read_routes(socket: &mut RouteSocket) -> Result<Vec<RouteMessage>, RequestError> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut question = RouteMessage::default();
        question.header.address_family = family;
        let entries = socket.dump("list routes", RouteNetlinkMessage::GetRoute(question))?;
        routes.extend(entries.into_iter().filter_map(|entry| match entry {
            RouteNetlinkMessage::NewRoute(route) => Some(route),
            _ => None,
        }));
    }
    Ok(routes)
}

/// A default route of the main table.
fn is_default(route: &RouteMessage) -> bool {
    let RouteHeader { table, destination_prefix_length, kind, .. } = route.header;
    table == RouteHeader::RT_TABLE_MAIN && destination_prefix_length == 0 && kind == RouteType::Unicast
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, mtu: u32) -> Link {
        Link { index, name: name.to_owned(), mtu, up: true, loopback: name == "lo", framing: Framing::Ethernet, shared: false }
    }

    fn host() -> Host {
        Host {
            links: vec![link(1, "lo", 65536), link(2, "eth0", 1500), link(3, "wlan0", 1400), link(4, "docker0", 1300)],
            addresses: vec![(2, "10.9.0.2/24".parse().expect("a network"))],
            uplinks: BTreeSet::from([2, 3]),
            ways: vec![Way { table: 254, link: 2, to: ways::EVERYWHERE }],
            ipv6: true,
        }
    }

    #[test]
    fn the_mtu_is_the_smallest_uplinks_and_not_a_bridges() {
        assert_eq!(host().uplink_mtu("portreeve0"), 1400);
    }

    #[test]
    fn without_a_default_route_any_link_in_use_counts_but_never_our_own_or_loopback() {
        let mut host = host();
        host.uplinks.clear();
        host.links.push(link(5, "portreeve0", 1290));
        assert_eq!(host.uplink_mtu("portreeve0"), 1300);
        host.links.retain(|link| link.loopback);
        assert_eq!(host.uplink_mtu("portreeve0"), 1500);
    }

    #[test]
    fn the_mtu_never_falls_below_what_ipv6_needs() {
        let mut host = host();
        host.links[1].mtu = 576;
        assert_eq!(host.uplink_mtu("portreeve0"), 1280);
    }

    #[test]
    fn an_ipv6_address_is_given_only_beside_one_of_the_hosts_own() {
        let planned: Vec<IpNet> = ["198.18.0.1/32", "2001:2::1/128"].map(|net| net.parse().expect("a network")).into();
        let mut host = host();
        for (own, given) in [("::1/128", 1), ("fe80::2/64", 1), ("fd09::2/64", 2), ("2001:db8::2/64", 2)] {
            host.addresses.truncate(1);
            host.addresses.push((2, own.parse().expect("a network")));
            assert_eq!(host.fitting(&planned, "portreeve0").len(), given, "{own}");
        }
        host.ipv6 = false;
        assert_eq!(host.fitting(&planned, "portreeve0").len(), 1);
    }

    #[test]
    fn an_ipv6_address_is_given_only_where_ipv6_leads_into_the_internet() {
        let planned: Vec<IpNet> = ["198.18.0.1/32", "2001:2::1/128"].map(|net| net.parse().expect("a network")).into();
        let mut host = host();
        host.addresses.push((2, "fd09::2/64".parse().expect("a network")));
        for (to, given) in [("fd09::/64", 1), ("2001:db8:5::/48", 1), ("2000::/3", 2), ("::/0", 2)] {
            host.ways = vec![Way { table: 254, link: 2, to: to.parse().expect("a network") }];
            assert_eq!(host.fitting(&planned, "portreeve0").len(), given, "{to}");
        }
    }
}
