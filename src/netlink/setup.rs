//! Plain steps that give a namespace its links, addresses and default routes, for `up` and for an enclosure alike.
//!
//! Keeps one rule: each function does one step on the socket that it is given and changes nothing else. Undo is the caller's.
//! Idempotent: what is there already is no error.

use std::net::IpAddr;

use ipnet::Ipv6Net;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Host, RequestError, RouteSocket};

/// Packets that wait for us in the TUN at most; 500, the default, loses datagrams silently when we are busy.
pub const TX_QUEUE_LEN: u32 = 1000;

/// Sets the loopback link up.
///
/// # Errors
///
/// The kernel refuses it.
pub fn loopback_up(socket: &mut RouteSocket) -> Result<(), RequestError> {
    // The loopback link has index 1 in every namespace (LOOPBACK_IFINDEX).
    let mut link = LinkMessage::default();
    link.header.index = 1;
    set_up(&mut link);
    socket.change("set lo up", RouteNetlinkMessage::SetLink(link), 0)
}

/// Says of the link that it takes no multicast. Programs that speak on every such link (UPnP, mDNS) would announce its addresses to the
/// network, where nobody can reach them. The kernel's routes do not look at it.
///
/// # Errors
///
/// There is no such link, or the kernel refuses it.
pub(super) fn multicast_off(socket: &mut RouteSocket, device: &str) -> Result<(), RequestError> {
    let mut link = LinkMessage::default();
    link.header.index = index_of(socket, device)?;
    link.header.change_mask = LinkFlags::Multicast;
    socket.change(&format!("set multicast of {device} off"), RouteNetlinkMessage::SetLink(link), 0)
}

/// Gives the link its queue length, MTU and addresses and sets it up. Returns its index.
///
/// # Errors
///
/// There is no such link, or the kernel refuses a step.
pub fn configure_tun(socket: &mut RouteSocket, device: &str, addresses: &[(IpAddr, u8)], mtu: u32) -> Result<u32, RequestError> {
    let index = index_of(socket, device)?;
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes = vec![LinkAttribute::Mtu(mtu), LinkAttribute::TxQueueLen(TX_QUEUE_LEN)];
    set_up(&mut link);
    socket.change(&format!("set {device} up with MTU {mtu}"), RouteNetlinkMessage::SetLink(link), 0)?;
    for &(address, prefix_len) in addresses {
        add_address(socket, device, index, address, prefix_len)?;
    }
    Ok(index)
}

/// Gives the link another MTU.
///
/// # Errors
///
/// The kernel refuses it.
pub fn set_mtu(socket: &mut RouteSocket, index: u32, mtu: u32) -> Result<(), RequestError> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes = vec![LinkAttribute::Mtu(mtu)];
    socket.change(&format!("set the MTU to {mtu}"), RouteNetlinkMessage::SetLink(link), 0)
}

/// Gives the link its old name back. Where it is of another name now, someone changed it by hand.
///
/// # Errors
///
/// Another link has the name, or the kernel refuses it: older ones rename no link that is up.
pub(super) fn set_name(socket: &mut RouteSocket, index: u32, name: &str) -> Result<(), RequestError> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    match socket.change(&format!("name our device {name} again"), RouteNetlinkMessage::SetLink(link), 0) {
        Err(RequestError::Kernel { source, .. }) if source.raw_os_error() == Some(libc::EEXIST) => {
            let what = format!("another link has the name of our device, {name}; rename or remove it");
            Err(RequestError::Kernel { what, source })
        }
        other => other,
    }
}

/// What the TUN needs of /proc/sys/net; it goes with the device.
pub(super) fn settings_of(device: &str, ipv6: bool) -> Vec<(String, &'static str)> {
    // Off by default for new links does not mean off on this host.
    let ipv6 = ipv6.then(|| (format!("ipv6/conf/{device}/disable_ipv6"), "0"));
    // Where the host of a group is this very one, it answers from an address that is on another link; what a program sends to a port
    // on loopback that leads to a container goes by the TUN (ip-sysctl.rst).
    let answers = [("accept_local", "1"), ("rp_filter", "2"), ("route_localnet", "1")]
        .map(|(name, value)| (format!("ipv4/conf/{device}/{name}"), value));
    ipv6.into_iter().chain(answers).collect()
}

/// What is changed of the host's own settings, below /proc/sys/net.
pub(super) fn settings_of_host(host: &Host) -> impl Iterator<Item = (&'static str, &'static str)> {
    // Lets a mark on a packet count in the reverse-path filter's lookup (ip-sysctl.rst). Also where no filter is strict now: a link that
    // comes later may have one, and so may what somebody sets later.
    let valid = ("ipv4/conf/all/src_valid_mark", "1");
    // What a server's datagram was too big for is told to the address that its answer left from. The kernel notes the path's MTU at the route
    // that the socket has, which leads into the TUN; with this, at that of the message's own mark, by which answers leave (`ip6_update_pmtu`
    // in net/ipv6/route.c). IPv4 does without.
    let reflects = host.ipv6.then_some(("ipv6/fwmark_reflect", "1"));
    std::iter::once(valid).chain(reflects)
}

/// Leads all of IPv4 and these networks of IPv6 to the link, in the main table.
///
/// # Errors
///
/// The kernel refuses one of the routes; IPv6 that is absent or disabled is passed over.
pub fn lead(socket: &mut RouteSocket, index: u32, reach: &[Ipv6Net]) -> Result<(), RequestError> {
    let main = u32::from(RouteHeader::RT_TABLE_MAIN);
    add_route(socket, "add the IPv4 default route", &default_route(AddressFamily::Inet, main, index))?;
    for net in reach {
        match add_route(socket, &format!("add the route to {net}"), &route_to(*net, main, index)) {
            Err(error) if ipv6_is_missing(&error) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Leads one network of IPv6 to the link no more.
///
/// # Errors
///
/// The kernel refuses it; a route that is gone, and IPv6 that is absent or disabled, is passed over.
pub fn withdraw(socket: &mut RouteSocket, index: u32, net: Ipv6Net) -> Result<(), RequestError> {
    let route = route_to(net, u32::from(RouteHeader::RT_TABLE_MAIN), index);
    let message = RouteNetlinkMessage::DelRoute(route);
    match ignoring(libc::ESRCH, socket.change(&format!("remove the route to {net}"), message, 0)) {
        Err(error) if ipv6_is_missing(&error) => Ok(()),
        other => other,
    }
}

/// The index of the link of this name.
///
/// # Errors
///
/// There is no such link.
pub fn index_of(socket: &mut RouteSocket, device: &str) -> Result<u32, RequestError> {
    let links = socket.dump("list links", RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    let named = |link: &LinkMessage| link.attributes.iter().any(|a| matches!(a, LinkAttribute::IfName(name) if name == device));
    let found = links.iter().find_map(|entry| match entry {
        RouteNetlinkMessage::NewLink(link) if named(link) => Some(link.header.index),
        _ => None,
    });
    let missing = || std::io::Error::from_raw_os_error(libc::ENODEV);
    found.ok_or_else(|| RequestError::Kernel { what: format!("find the link {device}"), source: missing() })
}

/// Whether a change failed only because this kernel, namespace or link has no IPv6.
pub(super) fn ipv6_is_missing(error: &RequestError) -> bool {
    matches!(error.errno(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::EACCES | libc::ENODEV | libc::EINVAL))
        && !ipv6_is_enabled()
}

/// Whether new links of the calling thread's namespace get IPv6.
pub(super) fn ipv6_is_enabled() -> bool {
    // /proc/sys/net shows the namespace of the thread that looks.
    let off = |path: &str| std::fs::read_to_string(path).map_or(true, |text| text.trim() != "0");
    !off("/proc/sys/net/ipv6/conf/all/disable_ipv6") && !off("/proc/sys/net/ipv6/conf/default/disable_ipv6")
}

pub(super) fn default_route(family: AddressFamily, table: u32, index: u32) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = family;
    route.header.kind = RouteType::Unicast;
    // systemd-networkd drops foreign routes and rules unless the kernel itself seems to own them.
    route.header.protocol = RouteProtocol::Kernel;
    route.header.scope = if family == AddressFamily::Inet { RouteScope::Link } else { RouteScope::Universe };
    route.attributes = vec![RouteAttribute::Table(table), RouteAttribute::Oif(index)];
    route
}

/// The route to one network of IPv6, or to all of them.
pub(super) fn route_to(net: Ipv6Net, table: u32, index: u32) -> RouteMessage {
    let mut route = default_route(AddressFamily::Inet6, table, index);
    if net.prefix_len() > 0 {
        route.header.destination_prefix_length = net.prefix_len();
        route.attributes.push(RouteAttribute::Destination(net.network().into()));
    }
    route
}

pub(super) fn add_route(socket: &mut RouteSocket, what: &str, route: &RouteMessage) -> Result<(), RequestError> {
    let message = RouteNetlinkMessage::NewRoute(route.clone());
    ignoring(libc::EEXIST, socket.change(what, message, NLM_F_CREATE | NLM_F_EXCL))
}

/// Takes an error with this errno for done.
pub(super) fn ignoring(errno: i32, result: Result<(), RequestError>) -> Result<(), RequestError> {
    match result {
        Err(error) if error.errno() == Some(errno) => Ok(()),
        other => other,
    }
}

fn set_up(link: &mut LinkMessage) {
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
}

/// Takes an address from the link.
pub(super) fn remove_address(
    socket: &mut RouteSocket,
    device: &str,
    index: u32,
    address: IpAddr,
    prefix_len: u8,
) -> Result<(), RequestError> {
    let message = RouteNetlinkMessage::DelAddress(address_message(index, address, prefix_len));
    ignoring(libc::EADDRNOTAVAIL, socket.change(&format!("remove {address}/{prefix_len} from {device}"), message, 0))
}

fn add_address(socket: &mut RouteSocket, device: &str, index: u32, address: IpAddr, prefix_len: u8) -> Result<(), RequestError> {
    let mut message = address_message(index, address, prefix_len);
    if address.is_ipv6() {
        // Nobody answers duplicate address detection on a TUN; without this the address is unusable for a second.
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    let what = format!("add {address}/{prefix_len} to {device}");
    let result = socket.change(&what, RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL);
    match ignoring(libc::EEXIST, result) {
        Err(error) if address.is_ipv6() && ipv6_is_missing(&error) => Ok(()),
        other => other,
    }
}

fn address_message(index: u32, address: IpAddr, prefix_len: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.index = index;
    message.header.prefix_len = prefix_len;
    message.header.scope = AddressScope::Universe;
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_is_not_there_is_an_error_that_names_it() {
        let mut socket = RouteSocket::open().expect("a netlink socket");
        let error = index_of(&mut socket, "no-such-link").expect_err("no such link");
        assert_eq!(error.errno(), Some(libc::ENODEV));
        assert!(error.to_string().contains("no-such-link"));
    }

    #[test]
    fn loopback_is_the_first_link_of_every_namespace() {
        let mut socket = RouteSocket::open().expect("a netlink socket");
        assert_eq!(index_of(&mut socket, "lo").expect("lo"), 1);
    }

    #[test]
    fn default_routes_look_like_the_kernels_own_in_both_families() {
        for (family, scope) in [(AddressFamily::Inet, RouteScope::Link), (AddressFamily::Inet6, RouteScope::Universe)] {
            let route = default_route(family, 17, 4);
            assert_eq!(route.header.protocol, RouteProtocol::Kernel);
            assert_eq!(route.header.scope, scope);
            assert_eq!(route.attributes, [RouteAttribute::Table(17), RouteAttribute::Oif(4)]);
        }
    }
}
