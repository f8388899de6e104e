//! Refused, unreachable and silent hosts look through a router as they do without one.

use crate::harness::{Connect, Lab, Profiles, Router, Way, connect, probe, told};

in_all_ways! {
    a_closed_port_refuses,
    an_unreachable_host_says_so,
    a_silent_host_stays_silent,
    a_closed_udp_port_refuses,
    an_unreachable_host_is_silence_to_plain_datagrams,
    a_connected_socket_hears_that_the_host_has_another_address,
    an_error_says_how_far_it_has_come,
}

/// Demands of each address and port what the kernel says without a router: each story runs there, too.
fn compare(way: Way, wanted: [(&str, u16, &str); 2], say: impl Fn(&Router<'_>, &str, u16) -> Connect) {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, way, &profiles);
    for (address, port, errno) in wanted {
        let answer = say(&router, address, port);
        assert_eq!(answer.said, errno, "{way:?}, {address} port {port}");
        eprintln!("{way:?}, {address} port {port}: {errno} after {:.1} ms", answer.milliseconds);
    }
}

fn a_closed_port_refuses(way: Way) {
    let closed = Lab::CLOSED_PORT;
    compare(way, [(Lab::SERVER_4, closed, "ECONNREFUSED"), (Lab::SERVER_6, closed, "ECONNREFUSED")], connect);
}

fn an_unreachable_host_says_so(way: Way) {
    let [four, six] = Lab::UNREACHABLE;
    // Linux maps ICMPv6 "no route" to ENETUNREACH (net/ipv6/icmp.c, tab_unreach).
    compare(way, [(four, 80, "EHOSTUNREACH"), (six, 80, "ENETUNREACH")], connect);
}

fn a_silent_host_stays_silent(way: Way) {
    let [four, six] = Lab::SILENT;
    compare(way, [(four, 80, "silence"), (six, 80, "silence")], connect);
}

fn a_closed_udp_port_refuses(way: Way) {
    let closed = Lab::CLOSED_PORT;
    let send = |router: &Router<'_>, address: &str, port: u16| told(router.run(probe(&["datagram", address, &port.to_string()])));
    compare(way, [(Lab::SERVER_4, closed, "ECONNREFUSED"), (Lab::SERVER_6, closed, "ECONNREFUSED")], send);
}

fn an_unreachable_host_is_silence_to_plain_datagrams(way: Way) {
    let [four, six] = Lab::UNREACHABLE;
    let send = |router: &Router<'_>, address: &str, port: u16| told(router.run(probe(&["datagram", address, &port.to_string()])));
    // Not fatal to a UDP socket that does not ask for errors (net/ipv4/icmp.c, icmp_err_convert).
    compare(way, [(four, 7, "silence"), (six, 7, "silence")], send);
}

/// Sends one datagram with a hop limit and says what is left of the hops of the error that comes back.
const HOPS_LEFT: &str = r#"
import select, socket, sys
six = ":" in sys.argv[1]
s = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
# IP_RECVERR, IP_RECVTTL and IP_TTL; IPV6_RECVERR, IPV6_RECVHOPLIMIT and IPV6_UNICAST_HOPS.
level, errors, told, limit = (41, 25, 51, 16) if six else (0, 11, 12, 2)
for option, value in (errors, 1), (told, 1), (limit, int(sys.argv[3])):
    s.setsockopt(level, option, value)
s.connect((sys.argv[1], int(sys.argv[2])))
s.send(b"x")
wait = select.poll()
wait.register(s, 0)
assert wait.poll(20000), "no error"
control = s.recvmsg(100, 500, socket.MSG_ERRQUEUE)[1]
print([int.from_bytes(data[:4], "little") for at, kind, data in control if (at, kind) == ((41, 52) if six else (0, 2))])
"#;

fn an_error_says_how_far_it_has_come(way: Way) {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, way, &profiles);
    let closed = Lab::CLOSED_PORT.to_string();
    for server in [Lab::SERVER_4, Lab::SERVER_6] {
        // Of the gateway's 64 all are left, of the server's one less.
        for (hop_limit, left) in [("1", "[64]"), ("64", "[63]")] {
            let answer = router.run(["/usr/bin/python3", "-c", HOPS_LEFT, server, &closed, hop_limit]).expect_success();
            assert_eq!(answer.trim(), left, "{server}, hop limit {hop_limit}");
        }
    }
}

/// Talks with the echo server by a connected socket until that is silent, or an error comes; says "ready" with the first answer.
const TALK: &str = r#"
import errno, socket, sys, time
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.connect((sys.argv[1], 7)); s.settimeout(0.3)
heard = silent = 0
while silent < 5:
    try:
        s.send(b"x")
        s.recv(10)
        heard, silent = heard + 1, 0
        if heard == 1: print("ready", flush=True)
        time.sleep(0.1)
    except TimeoutError: silent += 1
    except OSError as error: sys.exit(print(errno.errorcode[error.errno]))
print("silence")
"#;

fn a_connected_socket_hears_that_the_host_has_another_address(way: Way) {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, way, &profiles);
    // IPv6 goes on with the address that the socket has.
    for (to, move_out, said) in [
        (
            Lab::SERVER_4,
            "ip addr del 10.9.0.2/24 dev eth0; ip addr add 10.9.0.5/24 dev eth0; ip route add default via 10.9.0.1 dev eth0",
            "ENETUNREACH",
        ),
        (Lab::SERVER_6, "ip addr add fd09::5/64 dev eth0 nodad; ip addr del fd09::2/64 dev eth0", "silence"),
    ] {
        let mut talk = router.spawn(["/usr/bin/python3", "-c", TALK, to]);
        assert_eq!(talk.line(), "ready");
        lab.laptop().run(["sh", "-c", move_out]).expect_success();
        assert_eq!(talk.line(), said, "{way:?}, {to}");
    }
}

/// Pings until it is silent for three seconds. With the first answer it says "ready", and with the first to a request that was sent when the
/// file held something, that.
const PING: &str = r#"
import socket, sys, time
six = ":" in sys.argv[1]
family, protocol, kind = (socket.AF_INET6, socket.IPPROTO_ICMPV6, 128) if six else (socket.AF_INET, socket.IPPROTO_ICMP, 8)
s = socket.socket(family, socket.SOCK_DGRAM, protocol)
s.settimeout(0.2)
last, said = time.monotonic(), ""
while time.monotonic() < last + 3:
    try:
        now = open(sys.argv[2]).read() or "ready"
        s.sendto(bytes([kind, 0, 0, 0, 0, 1, 0, 1]), (sys.argv[1], 0))
        s.recv(100)
        if now != said: print(now, flush=True)
        said = now
        last = time.monotonic()
    except (TimeoutError, OSError): pass
    time.sleep(0.05)
print("silence")
"#;

#[test]
fn who_pings_goes_on_when_the_host_gets_another_address() {
    for way in [Way::Direct, Way::Up] {
        let lab = Lab::new();
        let profiles = Profiles::accepting();
        let router = Router::start(&lab, way, &profiles);
        for (to, move_out) in [
            (
                Lab::SERVER_4,
                "ip addr del 10.9.0.2/24 dev eth0; ip addr add 10.9.0.5/24 dev eth0; ip route add default via 10.9.0.1 dev eth0",
            ),
            (Lab::SERVER_6, "ip addr add fd09::5/64 dev eth0 nodad; ip addr del fd09::2/64 dev eth0"),
        ] {
            let moved = tempfile::NamedTempFile::new().expect("a file");
            let path = moved.path().to_str().expect("a path");
            let mut ping = router.spawn(["/usr/bin/python3", "-c", PING, to, path]);
            assert_eq!(ping.line(), "ready", "{way:?}, {to}");
            lab.laptop().run(["sh", "-c", move_out]).expect_success();
            std::fs::write(path, "moved").expect("written");
            assert_eq!(ping.line(), "moved", "{way:?}, {to}");
        }
    }
}
