//! What the guard refuses and what it lets out, with a positive control before each protection.

use std::os::fd::AsFd;

use super::laptop::{Laptop, MARK, plan, plan_with, program};

/// Sends one datagram past the routing, in the way that `argv[1]` names. Prints "sent" or the error.
const BYPASS: &str = r#"
import os, socket, struct, sys
how, to = sys.argv[1], sys.argv[2]
index = socket.if_nametoindex("v0")
family = socket.AF_INET6 if ":" in to else socket.AF_INET
peer = socket.getaddrinfo(to, 9, family, socket.SOCK_DGRAM)[0][4]
# After this nothing can be imported.
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
s = socket.socket(family, socket.SOCK_DGRAM)
ancillary = []
if how == "bind": s.setsockopt(socket.SOL_SOCKET, 25, b"v0\0")
if how == "pktinfo" and family == socket.AF_INET: ancillary = [(socket.IPPROTO_IP, 8, struct.pack("I4s4s", index, bytes(4), bytes(4)))]
if how == "pktinfo" and family == socket.AF_INET6: ancillary = [(socket.IPPROTO_IPV6, 50, struct.pack("16sI", bytes(16), index))]
if how == "multicast" and family == socket.AF_INET: s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("10.9.0.2"))
if how == "multicast" and family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
if how == "broadcast": s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
try:
    s.sendmsg([b"CANARY"], ancillary, 0, peer)
    print("sent")
except OSError as error:
    print(error)
"#;

/// Sends one frame on an AF_PACKET socket: `arp`, `udp`, `dhcp`, or the type and the first bytes of another in hexadecimal.
const FRAME: &str = r#"
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("v0", 0x0806 if sys.argv[1] == "arp" else 0x0800))
if "bypass" in sys.argv: s.setsockopt(263, 20, 1)
own = bytes.fromhex(open("/sys/class/net/v0/address").read().strip().replace(":", ""))
ends = bytes([10, 9, 0, 2]) + bytes([203, 0, 113, 10])
ports = {"udp": "00090009", "dhcp": "00440043"}.get(sys.argv[1], "")
udp = bytes.fromhex("4500002200010000401100000000" [:24]) + ends + bytes.fromhex(ports + "000e0000") + b"CANARY"
arp = bytes.fromhex("0001080006040001") + own + bytes([10, 9, 0, 2]) + bytes(6) + bytes([10, 9, 0, 1])
known = {"arp": b"\x08\x06" + arp, "udp": b"\x08\x00" + udp, "dhcp": b"\x08\x00" + udp}
body = known.get(sys.argv[1]) or bytes.fromhex(sys.argv[1]) + b"CANARY" + bytes(46)
try:
    s.send(b"\xff" * 6 + own + body)
    print("sent")
except OSError as error:
    print(error)
"#;

/// Frames that hold no packet: of Wake-on-LAN, LLDP, EAPOL, the discovery and the control of PPPoE.
const LINKS_OWN: [&str; 5] = ["0842", "88cc", "888e", "8863", "8864110000010010c021"];

/// Frames that others read or carry on: of an experiment, MPLS, IPv4 and IPv6 by PPPoE, a VLAN.
const OTHERS: [&str; 5] = ["88b5", "8847", "88641100000100100021", "88641100000100100057", "810000070800"];

/// Ways around the routing that need no privilege, and where they send.
const WAYS: [(&str, &str); 9] = [
    ("bind", "203.0.113.10"),
    ("bind", "2001:db8::10"),
    ("pktinfo", "203.0.113.10"),
    ("pktinfo", "2001:db8::10"),
    ("scope", "ff02::1%v0"),
    ("scope", "fe80::17%v0"),
    ("multicast", "239.1.2.3"),
    ("multicast", "ff05::1:3"),
    ("broadcast", "10.9.0.255"),
];

/// Frames with the canary that the gateway's link saw while `work` ran.
pub(super) fn canaries(laptop: &Laptop, work: impl FnOnce() + Send) -> usize {
    laptop.gateway.inside(|| {
        let socket = rustix::net::socket_with(
            rustix::net::AddressFamily::PACKET,
            rustix::net::SocketType::RAW,
            rustix::net::SocketFlags::NONBLOCK,
            // ETH_P_ALL in network byte order.
            Some(rustix::net::Protocol::from_raw(std::num::NonZeroU32::new(0x0300).expect("not zero"))),
        )
        .expect("a packet socket");
        work();
        // Whatever left before this is there when this is.
        assert!((0..5).any(|_| laptop.pings(&format!("-m {MARK}"), "10.9.0.1")), "the control");
        std::thread::sleep(std::time::Duration::from_millis(50));
        let mut buffer = [0; 2048];
        let mut found = 0;
        while let Ok(length) = rustix::io::read(socket.as_fd(), &mut buffer) {
            found += usize::from(buffer[..length].windows(6).any(|bytes| bytes == b"CANARY"));
        }
        found
    })
}

/// The canaries of one way around the routing, tried by nobody: uid 65534 without a capability.
fn attempt(laptop: &Laptop, how: &str, to: &str) -> usize {
    let path = program(laptop.dir.path(), "bypass.py", BYPASS);
    let line = format!("python3 {path} {how} {to}");
    canaries(laptop, || drop(laptop.inner.attempt(&line)))
}

#[test]
fn no_way_around_the_routing_reaches_the_wire() {
    let laptop = Laptop::new();
    laptop.inner.run("ip neigh add fe80::17 dev v0 lladdr 02:00:00:00:00:17");
    for (how, to) in WAYS {
        assert!(attempt(&laptop, how, to) > 0, "control: {how} to {to} must reach the wire without the guard");
    }
    let installed = laptop.up(&plan()).expect("up");
    for (how, to) in WAYS {
        assert_eq!(attempt(&laptop, how, to), 0, "{how} to {to}");
    }
    // All of it is led into the TUN, which nobody reads here.
    assert_eq!((laptop.counted("inet", "leak"), laptop.counted("netdev", "leak")), (0, 0));
    laptop.inner.inside(|| drop(installed));
}

#[test]
fn frames_of_packet_sockets_are_stopped_except_arp_and_dhcp() {
    let laptop = Laptop::new();
    let path = program(laptop.dir.path(), "frame.py", FRAME);
    let send = |kind: &str| laptop.inner.run(&format!("python3 {path} {kind}"));
    let seen = |kind: &str| canaries(&laptop, || drop(send(kind)));
    for kind in ["udp", "udp bypass", "dhcp"] {
        assert_eq!(seen(kind), 1, "control: {kind}");
    }
    let installed = laptop.up(&plan()).expect("up");
    for kind in ["udp", "udp bypass"] {
        assert_eq!(seen(kind), 0, "{kind}");
    }
    assert_eq!(laptop.counted("netdev", "leak"), 2);
    assert_eq!(seen("dhcp"), 1);
    assert_eq!(send("arp"), "sent\n");
    laptop.inner.inside(|| drop(installed));
}

#[test]
fn frames_by_which_a_link_comes_up_leave_and_no_others() {
    let laptop = Laptop::new();
    let path = program(laptop.dir.path(), "frame.py", FRAME);
    let seen = |frame: &str| canaries(&laptop, || drop(laptop.inner.attempt(&format!("python3 {path} {frame}"))));
    for frame in LINKS_OWN.iter().chain(&OTHERS) {
        assert_eq!(seen(frame), 1, "control: {frame}");
    }
    let installed = laptop.up(&plan()).expect("up");
    for frame in LINKS_OWN {
        assert_eq!(seen(frame), 1, "{frame}");
    }
    for frame in OTHERS {
        assert_eq!(seen(frame), 0, "{frame}");
    }
    laptop.inner.inside(|| drop(installed));
}

#[test]
fn programs_go_into_the_tun_and_marked_sockets_directly() {
    let laptop = Laptop::new();
    let installed = laptop.up(&plan()).expect("up");
    for to in ["203.0.113.10", "2001:db8::10", "10.9.0.1", "fd09::1"] {
        assert!(laptop.pings(&format!("-m {MARK}"), to), "marked to {to}");
        assert!(!laptop.pings("", to), "unmarked to {to} meets a TUN that nobody reads");
    }
    assert_eq!(laptop.counted("inet", "leak"), 0);
    assert_eq!(laptop.counted("inet", "loop"), 0);
    laptop.inner.inside(|| drop(installed));
}

#[test]
fn neighbours_are_found_while_the_guard_is_up() {
    let laptop = Laptop::new();
    let installed = laptop.up(&plan()).expect("up");
    for flushed in [&laptop.inner, &laptop.gateway] {
        flushed.run("ip neigh flush all; ip -6 neigh flush all");
        for to in ["10.9.0.1", "fd09::1"] {
            assert!(laptop.pings(&format!("-m {MARK}"), to), "{to}");
        }
        for to in ["10.9.0.2", "fd09::2"] {
            assert!(laptop.is_reached(to), "{to}");
        }
    }
    laptop.inner.inside(|| drop(installed));
}

#[test]
fn dhcp_renewals_of_ordinary_and_of_bound_sockets_leave_directly() {
    let laptop = Laptop::new();
    let installed = laptop.up(&plan()).expect("up");
    let send = |port: u16, to: &str, bound: bool| {
        let text = format!(
            "import socket\nv6 = ':' in '{to}'\ns = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)\n\
             if {bound}: s.setsockopt(socket.SOL_SOCKET, 25, b'v0\\0')\n\
             s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)\ns.bind(('::' if v6 else '10.9.0.2', {port}))\n\
             s.sendto(b'CANARY', socket.getaddrinfo('{to}', 547 if v6 else 67, 0, socket.SOCK_DGRAM)[0][4])\n",
            bound = if bound { "True" } else { "False" },
        );
        let path = program(laptop.dir.path(), "renew.py", &text);
        canaries(&laptop, || drop(laptop.inner.attempt(&format!("python3 {path}"))))
    };
    // The gateway's "port unreachable" quotes a datagram, so it may be seen twice.
    for (port, to, bound) in [
        (68, "10.9.0.1", false),
        (68, "10.9.0.1", true),
        (68, "203.0.113.10", true),
        (68, "255.255.255.255", true),
        (546, "ff02::1:2%v0", false),
        (546, "ff02::1:2%v0", true),
    ] {
        assert!(send(port, to, bound) > 0, "{port} to {to}, bound: {bound}");
    }
    for (port, to, bound) in [(69, "10.9.0.1", false), (69, "255.255.255.255", true), (547, "ff02::1:2%v0", true)] {
        assert_eq!(send(port, to, bound), 0, "{port} to {to}, bound: {bound}");
    }
    laptop.inner.inside(|| drop(installed));
}

#[test]
fn marked_packets_that_a_foreign_route_sends_into_the_tun_are_refused_and_counted() {
    let laptop = Laptop::new();
    let installed = laptop.up(&plan()).expect("up");
    assert!(laptop.pings(&format!("-m {MARK}"), "203.0.113.10"));
    laptop.inner.run("ip route add 203.0.113.0/24 dev portreeve0 && ip -6 route add 2001:db8::/64 dev portreeve0");
    for (counted, to) in [(1, "203.0.113.10"), (2, "2001:db8::10")] {
        assert!(!laptop.pings(&format!("-m {MARK}"), to), "{to}");
        assert_eq!(laptop.counted("inet", "loop"), counted, "{to}");
    }
    laptop.inner.inside(|| drop(installed));
}

#[test]
fn excluded_networks_and_users_pass_unjudged_and_others_do_not() {
    let laptop = Laptop::new();
    let plan = plan_with("[exclude]\nnetworks = [\"203.0.113.0/24\", \"2001:db8::/64\"]\nusers = [65534]\n");
    let installed = laptop.up(&plan).expect("up");
    for to in ["203.0.113.10", "2001:db8::10"] {
        assert!(laptop.pings("", to), "{to}");
    }
    let nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups ping -n -c1 -W1";
    for to in ["10.9.0.1", "fd09::1"] {
        assert!(!laptop.pings("", to), "{to}");
        assert!(laptop.inner.attempt(&format!("{nobody} {to}")).status.success(), "nobody to {to}");
    }
    laptop.inner.inside(|| drop(installed));
}

#[test]
fn forwarded_packets_go_into_the_tun_and_not_past_it() {
    let laptop = Laptop::new();
    let guest = super::namespace::Namespace::new("guest");
    laptop.inner.run(&format!(
        "ip link add g0 type veth peer name g1 netns {} && ip addr add 172.17.0.1/24 dev g0 && ip link set g0 up && \
         sysctl -qw net.ipv4.ip_forward=1",
        guest.name()
    ));
    guest.run("ip addr add 172.17.0.2/24 dev g1 && ip link set g1 up && ip route add default via 172.17.0.1");
    laptop.gateway.run("ip route add 172.17.0.0/24 via 10.9.0.2");
    let reaches = || guest.attempt("ping -n -c1 -W1 -p 43414e415259 203.0.113.10").status.success();
    assert!((0..20).any(|_| reaches()), "control: forwarding works");
    let mut installed = laptop.up(&plan()).expect("up");
    let queue = installed.take_queues().pop().expect("the queue");
    assert_eq!(canaries(&laptop, || assert!(!reaches())), 0);
    let mut buffer = [0; 4096];
    let mut arrived = false;
    while let Ok(length) = queue.read(&mut buffer) {
        arrived |= buffer[..length].windows(6).any(|bytes| bytes == b"CANARY");
    }
    assert!(arrived, "the router sees it");
    laptop.inner.inside(|| drop(installed));
    assert!((0..5).any(|_| reaches()));
}

#[test]
fn what_comes_in_from_an_excluded_link_is_forwarded_past_the_tun() {
    let laptop = Laptop::new();
    let guest = super::namespace::Namespace::new("guest");
    laptop.inner.run(&format!(
        "ip link add g0 type veth peer name g1 netns {} && ip addr add 172.17.0.1/24 dev g0 && ip link set g0 up && \
         sysctl -qw net.ipv4.ip_forward=1",
        guest.name()
    ));
    guest.run("ip addr add 172.17.0.2/24 dev g1 && ip link set g1 up && ip route add default via 172.17.0.1");
    laptop.gateway.run("ip route add 172.17.0.0/24 via 10.9.0.2");
    let installed = laptop.up(&plan_with("[exclude]\ninterfaces = [\"g0\"]\n")).expect("up");
    assert!((0..20).any(|_| guest.attempt("ping -n -c1 -W1 203.0.113.10").status.success()));
    assert!(laptop.pings("-I g0", "172.17.0.2"), "and what leaves by it");
    assert!(!laptop.pings("", "203.0.113.10"), "this host's own programs are still judged");
    laptop.inner.inside(|| drop(installed));
}

#[test]
fn a_bridged_guest_keeps_its_network_and_the_bridge_itself_is_guarded() {
    let laptop = Laptop::new();
    let guest = super::namespace::Namespace::new("guest");
    // v0 becomes a port; the laptop's addresses move to the bridge.
    laptop.inner.run(&format!(
        "ip link add br0 type bridge && ip link set br0 up && ip link set v0 master br0 && ip addr flush dev v0 && \
         ip addr add 10.9.0.2/24 dev br0 && ip route add default via 10.9.0.1 && ip link add g0 type veth peer name g1 netns {} && \
         ip link set g0 master br0 up",
        guest.name()
    ));
    guest.run("ip addr add 10.9.0.4/24 dev g1 && ip link set g1 up");
    let reaches = || guest.attempt("ping -n -c1 -W1 10.9.0.1").status.success();
    assert!((0..20).any(|_| reaches()), "control: the bridge forwards");
    let installed = laptop.up(&plan()).expect("up");
    assert!(reaches());
    assert!(laptop.pings(&format!("-m {MARK}"), "10.9.0.1"));
    assert!(!laptop.pings("-I br0", "10.9.0.1"));
    let chains = laptop.inner.run("nft list table netdev portreeve");
    assert!(chains.contains("device \"br0\"") && !chains.contains("device \"v0\""), "{chains}");
    laptop.inner.inside(|| drop(installed));
}

#[test]
fn a_link_below_a_macvlan_is_left_to_it() {
    let laptop = Laptop::new();
    laptop.inner.run("ip link add link v0 name mac0 type macvlan && ip link set mac0 up");
    let installed = laptop.up(&plan()).expect("up");
    let chains = laptop.inner.run("nft list table netdev portreeve");
    assert!(chains.contains("device \"mac0\"") && !chains.contains("device \"v0\""), "{chains}");
    laptop.inner.inside(|| drop(installed));
}

#[test]
fn a_route_that_leads_marked_packets_into_the_tun_is_refused_and_does_not_loop() {
    let laptop = Laptop::new();
    let installed = laptop.up(&plan()).expect("up");
    laptop.inner.run("ip route add 203.0.113.0/24 dev portreeve0");
    assert!(!laptop.pings(&format!("-m {MARK}"), "203.0.113.10"));
    assert_eq!(laptop.counted("inet", "loop"), 1);
    laptop.inner.inside(|| drop(installed));
}

#[test]
fn more_specific_routes_of_the_main_table_take_nothing_away_from_the_tun() {
    let laptop = Laptop::new();
    let installed = laptop.up(&plan()).expect("up");
    laptop.inner.run(
        "for net in 0.0.0.0/1 128.0.0.0/1; do ip route add $net via 10.9.0.1 dev v0; done && \
         for net in ::/1 8000::/1; do ip route add $net via fd09::1 dev v0; done && ip addr add 203.0.113.2/24 dev v0",
    );
    for to in ["203.0.113.10", "192.0.2.1", "2001:db8::10", "fd09::1", "10.9.0.1"] {
        let route = laptop.inner.run(&format!("ip route get {to}"));
        assert!(route.contains("dev portreeve0"), "{route}");
    }
    laptop.inner.inside(|| drop(installed));
}

#[test]
fn an_unprivileged_program_cannot_give_itself_the_mark() {
    let laptop = Laptop::new();
    let installed = laptop.up(&plan()).expect("up");
    let text = format!(
        "import os, socket\nos.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n\
         s = socket.socket()\ntry:\n  s.setsockopt(socket.SOL_SOCKET, 36, {MARK})\n  print('marked')\n\
         except PermissionError:\n  print('refused')\n"
    );
    let path = program(laptop.dir.path(), "mark.py", &text);
    assert_eq!(laptop.inner.run(&format!("python3 {path}")), "refused\n");
    laptop.inner.inside(|| drop(installed));
}
