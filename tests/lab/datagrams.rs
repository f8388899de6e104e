//! UDP as programs see it: sizes, super-packets, path MTU, ICMP errors, ports and strangers.

use crate::harness::{Host, Lab, Profiles, Router, Running, Way, datagrams, eventually, python};

in_all_ways! {
    datagrams_of_every_size_come_back,
    datagrams_sent_together_arrive_one_by_one,
    a_datagram_that_must_not_be_fragmented_is_told_the_path_mtu,
    a_datagram_that_may_be_fragmented_passes_a_narrow_path,
    a_program_that_runs_while_the_uplink_gets_narrower_and_wider_sees_it,
    a_datagram_that_expires_is_told_by_the_true_hop,
    a_socket_has_one_port_for_all_its_peers,
    an_answer_from_another_address_comes_in_where_peers_are_allowed,
    a_peer_that_goes_on_sending_to_a_socket_that_was_closed_is_told,
    ping_brings_large_echoes_back,
    traceroute_names_the_same_hops,
}

through_a_router! {
    an_answer_from_another_address_is_dropped_where_peers_are_not_allowed,
}

const SERVERS: [(&str, &str); 2] = [(Lab::SERVER_4, Lab::OTHER_4), (Lab::SERVER_6, Lab::OTHER_6)];

/// Each address, and what its verb must say, which is what the kernel says without a router.
fn demand(router: &Router<'_>, wanted: &[(&[&str], &str)]) {
    for (words, answer) in wanted {
        let told = router.run(datagrams(words)).expect_success();
        assert_eq!(told.trim(), *answer, "{words:?}");
    }
}

fn through(way: Way, wanted: &[(&[&str], &str)]) {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    demand(&Router::start(&lab, way, &profiles), wanted);
}

fn datagrams_of_every_size_come_back(way: Way) {
    let all = "[1, 1400, 1472, 1473, 9000, 65507]";
    through(way, &[(&["sizes", Lab::SERVER_4], all), (&["sizes", Lab::SERVER_6], all)]);
}

fn datagrams_sent_together_arrive_one_by_one(way: Way) {
    let each = "[1000, 1000, 500]";
    through(way, &[(&["together", Lab::SERVER_4], each), (&["together", Lab::SERVER_6], each)]);
}

/// Makes the way to the other servers narrower behind the gateway.
fn narrow(gateway: &Host) {
    let four = ["ip", "route", "replace", "203.0.113.11/32", "via", "10.10.0.2", "dev", "wan0", "mtu", "lock", "1300"];
    let six = ["ip", "-6", "route", "replace", "2001:db8::11/128", "via", "fd10::2", "dev", "wan0", "mtu", "1300"];
    gateway.run(four).expect_success();
    gateway.run(six).expect_success();
}

fn a_datagram_that_must_not_be_fragmented_is_told_the_path_mtu(way: Way) {
    let lab = Lab::new();
    narrow(&lab.gateway());
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, way, &profiles);
    let told = r#"["Message too long", "Message too long", "Message too long", 1300]"#;
    demand(&router, &[(&["narrow", Lab::OTHER_4], told), (&["narrow", Lab::OTHER_6], told)]);
}

fn a_datagram_that_may_be_fragmented_passes_a_narrow_path(way: Way) {
    let lab = Lab::new();
    narrow(&lab.gateway());
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, way, &profiles);
    // The first one finds the path out, and the socket hears of it (net/ipv4/udp.c, `__udp4_lib_err`).
    let told = r#"["Message too long", 1400, 1400]"#;
    demand(&router, &[(&["wide", Lab::OTHER_4], told), (&["wide", Lab::OTHER_6], told)]);
}

/// Says what fits towards a host, and again whenever that has changed and a datagram of just that size goes out whole, and a larger one does not.
const WATCH_MTU: &str = r#"
import socket, sys, time
host, six = sys.argv[1], ":" in sys.argv[1]
family, level = (socket.AF_INET6, socket.IPPROTO_IPV6) if six else (socket.AF_INET, socket.IPPROTO_IP)
discover, mtu, header = (23, 24, 48) if six else (10, 14, 28)
def fits(one, size):
    try:
        return one.send(bytes(size - header)) > 0
    except OSError:
        return False
before = None
while True:
    one = socket.socket(family, socket.SOCK_DGRAM)
    one.setsockopt(level, discover, 2)
    one.connect((host, 9))
    now = one.getsockopt(level, mtu)
    if now != before and fits(one, now) and not fits(one, now + 4):
        print(now, flush=True)
        before = now
    time.sleep(0.05)
"#;

fn a_program_that_runs_while_the_uplink_gets_narrower_and_wider_sees_it(way: Way) {
    for server in [Lab::SILENT[0], Lab::SILENT[1]] {
        let lab = Lab::new();
        let profiles = Profiles::accepting();
        let router = Router::start(&lab, way, &profiles);
        let mut program = router.spawn(["/usr/bin/python3", "-c", WATCH_MTU, server]);
        assert_eq!(program.line(), "1500", "{way:?} {server}");
        for mtu in ["1400", "1300", "1500"] {
            lab.laptop().run(["ip", "link", "set", "eth0", "mtu", mtu]).expect_success();
            assert_eq!(program.line(), mtu, "{way:?} {server}");
        }
    }
}

fn a_datagram_that_expires_is_told_by_the_true_hop(way: Way) {
    let told = [r#"[2, 11, 0, "10.9.0.1", "what was sent"]"#, r#"[3, 3, 0, "fd09::1", "what was sent"]"#];
    through(way, &[(&["expires", Lab::SERVER_4], told[0]), (&["expires", Lab::SERVER_6], told[1])]);
}

fn a_peer_that_goes_on_sending_to_a_socket_that_was_closed_is_told(way: Way) {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, way, &profiles);
    for (address, other) in SERVERS {
        for addresses in [&[address][..], &[address, other]] {
            let words: Vec<&str> = ["stream"].iter().chain(addresses).copied().collect();
            let mut peer = lab.internet().spawn(datagrams(&words));
            assert_eq!(peer.line(), "streaming");
            // The program lives on, and its enclosure with it.
            let mut program = router.spawn(datagrams(&["leave", address]));
            assert_eq!(program.line(), "left");
            assert_eq!(peer.line(), r#""Connection refused""#, "{addresses:?}");
        }
        if way != Way::Direct {
            // What the stranger said counts, too.
            let dst = std::net::SocketAddr::new(address.parse().expect("literal"), 9011).to_string();
            let ended = || router.records().into_iter().filter(|r| r.dst == dst && r.end.is_some()).collect::<Vec<_>>();
            let ended = eventually("both flows have ended", || Some(ended()).filter(|ended| ended.len() == 2));
            assert!(ended.iter().all(|record| record.bytes_down >= 300), "{ended:?}");
        }
    }
}

/// A server whose two addresses answer for each other.
fn serve(lab: &Lab, addresses: (&str, &str)) -> Running {
    let mut server = lab.internet().spawn(datagrams(&["serve", addresses.0, addresses.1]));
    assert_eq!(server.line(), "serving");
    server
}

fn a_socket_has_one_port_for_all_its_peers(way: Way) {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, way, &profiles);
    for (one, other) in SERVERS {
        let _server = serve(&lab, (one, other));
        demand(&router, &[(&["ports", one, other], "true")]);
    }
}

fn an_answer_from_another_address_comes_in_where_peers_are_allowed(way: Way) {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, way, &profiles);
    for (one, other) in SERVERS {
        let _server = serve(&lab, (one, other));
        demand(&router, &[(&["stranger", one], &format!("{other:?}"))]);
    }
}

fn an_answer_from_another_address_is_dropped_where_peers_are_not_allowed(way: Way) {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let one_peer = format!("endpoints = [\"+ {}\", \"+ {}\", \"- *\"]", Lab::SERVER_4, Lab::SERVER_6);
    profiles.user("python", &python(), &one_peer);
    let router = Router::start(&lab, way, &profiles);
    for (one, other) in SERVERS {
        let _server = serve(&lab, (one, other));
        demand(&router, &[(&["stranger", one], "\"silence\"")]);
    }
}

fn ping_brings_large_echoes_back(way: Way) {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, way, &profiles);
    for address in [Lab::SERVER_4, Lab::SERVER_6] {
        for size in ["0", "1400", "8000", "65507"] {
            // Without a shorter interval: ping waits that long for its last answer and not longer.
            let told = router.run(["ping", "-c", "2", "-W", "10", "-s", size, address]).expect_success();
            assert!(told.contains("2 received"), "{address}, {size} bytes: {told}");
        }
    }
}

fn traceroute_names_the_same_hops(way: Way) {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, way, &profiles);
    for (address, gateway) in [(Lab::SERVER_4, "10.9.0.1"), (Lab::SERVER_6, "fd09::1")] {
        // 0,0: a hop has its five seconds however quick the next one was.
        let told = router.run(["traceroute", "-n", "-q", "1", "-w", "5,0,0", "-m", "5", address]).expect_success();
        let hops: Vec<&str> = told.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
        assert_eq!(hops, [gateway, address], "{told}");
    }
}
