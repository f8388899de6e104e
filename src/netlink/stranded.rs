//! What still speaks from the device's addresses once nobody carries it any more: the kernel would send it by the uplink, for minutes, from
//! addresses that nobody routes, and its programs would wait in vain.
//!
//! Keeps one rule: an address that this host has by another link too is not the device's alone; what speaks from it goes on.

use std::net::IpAddr;

use super::{Host, Plan, RouteSocket, SocketTable};
use crate::packet::Protocol;

/// Ends all of it, as the device goes.
pub(super) fn end_all(socket: &mut RouteSocket, device: &str, addresses: &[IpAddr]) {
    for protocol in [Protocol::TCP, Protocol::UDP] {
        end(socket, device, protocol, addresses);
    }
}

/// Ends what a killed router alone knew, before the next one has its addresses. Datagrams go on from those that the next one has, too.
pub(super) fn end_taken_over(socket: &mut RouteSocket, plan: &Plan, addresses: &[IpAddr]) {
    let is_kept = |address: &IpAddr| plan.addresses.iter().any(|net| net.addr() == *address);
    let gone: Vec<IpAddr> = addresses.iter().copied().filter(|address| !is_kept(address)).collect();
    end(socket, &plan.device, Protocol::TCP, addresses);
    end(socket, &plan.device, Protocol::UDP, &gone);
}

/// Programs see ECONNABORTED. A failure is told and keeps nothing else from being taken back.
fn end(socket: &mut RouteSocket, device: &str, protocol: Protocol, addresses: &[IpAddr]) {
    let at = match Host::read(socket) {
        Ok(host) => addresses.iter().copied().filter(|address| !is_elsewhere(&host, device, *address)).collect::<Vec<IpAddr>>(),
        Err(error) => return told(protocol, error),
    };
    if at.is_empty() {
        return;
    }
    match SocketTable::open().and_then(|mut table| table.end_at(protocol, &at)) {
        Ok(ended) => tracing::debug!("{ended} sockets of protocol {protocol} at {at:?} have ended"),
        Err(error) => told(protocol, error),
    }
}

fn told(protocol: Protocol, error: impl std::fmt::Display) {
    tracing::warn!(
        "sockets of protocol {protocol} go on to send from the device's addresses until their programs give up: {error}"
    );
}

fn is_elsewhere(host: &Host, device: &str, address: IpAddr) -> bool {
    let ours = host.links.iter().find(|link| link.name == device).map(|link| link.index);
    host.addresses.iter().any(|(index, net)| net.addr() == address && Some(*index) != ours)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::netlink::{Framing, Link};

    #[test]
    fn address_is_the_devices_alone_unless_another_link_has_it() {
        let link = |index, name: &str| Link {
            index,
            name: name.to_owned(),
            mtu: 1500,
            up: true,
            loopback: false,
            framing: Framing::Ethernet,
            shared: false,
        };
        let mut host = Host {
            links: vec![link(2, "eth0"), link(3, "portreeve0")],
            addresses: Vec::new(),
            uplinks: BTreeSet::new(),
            ways: Vec::new(),
            ipv6: true,
        };
        for net in ["198.18.0.1/15", "2001:2::1/48"] {
            let net: ipnet::IpNet = net.parse().expect("a network");
            for (index, device, elsewhere) in [(3, "portreeve0", false), (2, "portreeve0", true), (3, "gone0", true)] {
                host.addresses = vec![(index, net)];
                assert_eq!(is_elsewhere(&host, device, net.addr()), elsewhere, "{net} on {index}, {device}");
            }
            assert!(!is_elsewhere(&host, "portreeve0", "192.0.2.1".parse().expect("an address")));
        }
    }
}
