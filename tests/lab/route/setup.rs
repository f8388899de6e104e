//! The plain steps of `netlink::setup`.

use std::net::IpAddr;

use portreeve::netlink::{RouteSocket, setup};
use portreeve::tun::Queue;

use super::namespace::Namespace;

fn addresses() -> Vec<(IpAddr, u8)> {
    vec![("198.18.0.1".parse().expect("an address"), 32), ("2001:2::1".parse().expect("an address"), 128)]
}

#[test]
fn a_fresh_namespace_gets_loopback_tun_addresses_and_default_routes_in_both_families() {
    let namespace = Namespace::new("setup");
    namespace.run("ip link set lo down");
    let _queue = namespace.inside(|| {
        let queue = Queue::open("portreeve0").expect("a TUN device");
        let mut socket = RouteSocket::open().expect("a netlink socket");
        setup::loopback_up(&mut socket).expect("lo goes up");
        // Twice: what is there already is no error.
        for _ in 0..2 {
            let index = setup::configure_tun(&mut socket, "portreeve0", &addresses(), 1400).expect("the TUN is configured");
            setup::lead(&mut socket, index, &[portreeve::netlink::EVERYWHERE]).expect("default routes");
        }
        queue
    });
    assert!(namespace.run("ip link show lo").contains("LOOPBACK,UP"));
    let link = namespace.run("ip link show portreeve0");
    assert!(link.contains("mtu 1400") && link.contains("qlen 1000") && link.contains(",UP"), "{link}");
    assert!(namespace.run("ip -4 addr show dev portreeve0").contains("198.18.0.1/32"));
    assert!(!namespace.run("ip -6 addr show dev portreeve0").contains("tentative"));
    for (to, source) in [("203.0.113.10", "src 198.18.0.1"), ("2001:db8::10", "src 2001:2::1")] {
        let route = namespace.run(&format!("ip route get {to}"));
        assert!(route.contains("dev portreeve0") && route.contains(source), "{route}");
    }
}

#[test]
fn a_namespace_without_ipv6_gets_ipv4_alone() {
    let namespace = Namespace::new("setup");
    namespace.run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
    let _queue = namespace.inside(|| {
        let queue = Queue::open("portreeve0").expect("a TUN device");
        let mut socket = RouteSocket::open().expect("a netlink socket");
        let index = setup::configure_tun(&mut socket, "portreeve0", &addresses(), 1500).expect("the TUN is configured");
        setup::lead(&mut socket, index, &[portreeve::netlink::EVERYWHERE]).expect("default routes");
        queue
    });
    assert!(namespace.run("ip route get 203.0.113.10").contains("dev portreeve0"));
    assert_eq!(namespace.run("ip -6 route show default"), "");
}
