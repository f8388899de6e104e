//! By which address of this host a flow is to leave: the one that its program bound its socket to.
//!
//! Whoever has several addresses says so by which network it wants to go, and rules of this host that ask for the source see to it: a
//! program that is bound to the address of a VPN must not be seen without it.
//!
//! Keeps one rule: what is bound to an address leaves from that one or not at all.

use std::net::IpAddr;

use super::Shard;
use crate::egress::Dialer;
use crate::flow::FlowId;

impl Shard {
    /// Makes the upstream sockets of a flow.
    pub(super) fn dialer_for(&self, id: FlowId) -> Dialer {
        let dialer = self.dialer.leaving_from(self.bound_to(id));
        if self.lanes.goes_by_main(id) { dialer.by_main() } else { dialer }
    }

    /// The address that the program chose; `None` where it left that to the kernel.
    pub(super) fn bound_to(&self, id: FlowId) -> Option<IpAddr> {
        let local = self.router.flow(id)?.tuple.local.ip();
        is_chosen(local, &self.own_addresses, &self.device_addresses).then_some(local)
    }
}

/// The kernel itself chooses an address of the TUN's, as long as it has one.
fn is_chosen(local: IpAddr, own: &[IpAddr], device: &[IpAddr]) -> bool {
    let stands = |address: &IpAddr| address.is_ipv4() == local.is_ipv4() && own.contains(address);
    // Such an address is nothing without its link, and who names a link has another lane.
    let is_link_local = matches!(local, IpAddr::V6(v6) if v6.is_unicast_link_local());
    own.contains(&local) && !local.is_loopback() && !is_link_local && !device.contains(&local) && device.iter().any(stands)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().expect("an address")).collect()
    }

    #[test]
    fn address_of_the_host_is_chosen_and_the_tuns_and_those_of_nobody_are_not() {
        let device = addresses(&["198.18.0.1", "2001:2::1"]);
        let own = addresses(&["127.0.0.1", "10.9.0.2", "fd09::2", "fe80::2", "198.18.0.1", "2001:2::1"]);
        let chosen: Vec<bool> = own.iter().map(|local| is_chosen(*local, &own, &device)).collect();
        assert_eq!(chosen, [false, true, true, false, false, false]);
        assert!(!is_chosen([10, 9, 0, 3].into(), &own, &device));
    }

    #[test]
    fn without_an_address_of_the_tuns_the_kernel_may_have_chosen_any() {
        let own = addresses(&["10.9.0.2", "fd09::2", "198.18.0.1"]);
        let device = addresses(&["198.18.0.1", "2001:2::1"]);
        let chosen = |device: &[IpAddr]| own.iter().map(|local| is_chosen(*local, &own, device)).collect::<Vec<_>>();
        assert_eq!(chosen(&device), [true, false, false]);
        assert_eq!(chosen(&[]), [false; 3]);
    }
}
