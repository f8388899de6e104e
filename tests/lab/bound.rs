//! A program that is bound to one of several addresses of its host is seen by that one, or by none.

use crate::harness::{Lab, Profiles, Router, Running, Way};

/// Tells whoever asks by TCP or UDP from which address.
const SERVER: &str = r#"
import socket, sys, threading
def tcp(s):
    while True:
        c, peer = s.accept()
        c.sendall(peer[0].encode())
        c.close()
def udp(s):
    while True:
        _, peer = s.recvfrom(9)
        s.sendto(peer[0].encode(), peer)
for at in sys.argv[1:]:
    for kind, serve in ((socket.SOCK_STREAM, tcp), (socket.SOCK_DGRAM, udp)):
        s = socket.socket(socket.AF_INET6 if ":" in at else socket.AF_INET, kind)
        s.bind((at, 7007))
        if serve is tcp: s.listen()
        threading.Thread(target=serve, args=(s,)).start()
print("ready", flush=True)
"#;

/// Asks it from the port `argv[2]`, bound to each of the addresses that follow ("-": to none).
const ASK: &str = r#"
import errno, socket, sys
to, port, kinds = sys.argv[1], int(sys.argv[2]), ("tcp", "udp", "unconnected")
for address in sys.argv[3:]:
    for kind in kinds:
        s = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
        s.settimeout(3)
        try:
            if address != "-": s.bind((address, port))
            if kind == "unconnected": s.sendto(b"x", (to, 7007))
            else: s.connect((to, 7007))
            if kind == "udp": s.send(b"x")
            said = s.recv(99).decode()
            # Who closes last leaves its port at once.
            if kind == "tcp": assert s.recv(1) == b""
            print(said)
        except TimeoutError: print("nobody")
        except OSError as error: print(errno.errorcode[error.errno])
"#;

const SECOND: [&str; 2] = ["10.9.0.3", "fd09::3"];
const FIRST: [&str; 2] = [Lab::LAPTOP_4, Lab::LAPTOP_6];
const SERVERS: [&str; 2] = [Lab::SERVER_4, Lab::SERVER_6];

/// The host has a second address of each family.
fn lab() -> (Lab, Running) {
    let lab = Lab::new();
    let add = "ip addr add 10.9.0.3/24 dev eth0; ip -6 addr add fd09::3/64 dev eth0 nodad preferred_lft 0";
    lab.laptop().run(["sh", "-c", add]).expect_success();
    let mut server = lab.internet().spawn(["/usr/bin/python3", "-c", SERVER].into_iter().chain(SERVERS));
    assert_eq!(server.line(), "ready");
    (lab, server)
}

/// Without a router, through it, and by the express lane.
fn in_turn(lab: &Lab, story: impl Fn(&Router<'_>, &str)) {
    let profiles = Profiles::accepting();
    for (way, express) in [(Way::Direct, false), (Way::Up, false), (Way::Up, true)] {
        let router = Router::start_with(lab, way, &profiles, Some(&format!("express = {express}\n")));
        story(&router, &format!("{way:?}, express {express}"));
        if way == Way::Up {
            router.verb(&["down"]).expect_success();
        }
    }
}

fn ask(router: &Router<'_>, to: &str, port: &str, from: &[&str]) -> Vec<String> {
    let words = ["/usr/bin/python3", "-c", ASK, to, port].into_iter().chain(from.iter().copied());
    router.run(words).expect_success().lines().map(str::to_owned).collect()
}

#[test]
fn whoever_is_bound_to_an_address_is_seen_by_it_and_whoever_is_not_by_the_kernels_choice() {
    let (lab, _server) = lab();
    in_turn(&lab, |router, way| {
        for ((to, first), second) in SERVERS.into_iter().zip(FIRST).zip(SECOND) {
            for port in ["0", "50123", "1023"] {
                let seen = ask(router, to, port, &[second, first, "-"]);
                assert_eq!(seen, [second, second, second, first, first, first, first, first, first], "{way}: from port {port}");
            }
        }
    });
}

#[test]
fn echo_requests_of_whoever_is_bound_to_an_address_leave_from_it() {
    let (lab, _server) = lab();
    let refuse = "table inet first { chain arrived { type filter hook input priority 0; \
                  ip saddr 10.9.0.2 icmp type echo-request drop; ip6 saddr fd09::2 icmpv6 type echo-request drop; }; }";
    lab.internet().run(["nft", refuse]).expect_success();
    in_turn(&lab, |router, way| {
        for ((to, first), second) in SERVERS.into_iter().zip(FIRST).zip(SECOND) {
            let is_answered = |from: &str| router.run(["ping", "-c1", "-W2", "-q", "-I", from, to]).code() == 0;
            assert_eq!([second, first].map(is_answered), [true, false], "{way}: {to}");
        }
    });
}

/// What a host with a VPN has that nothing may leave beside, and one whose VPN has just gone.
#[test]
fn whoever_is_bound_to_an_address_that_leads_nowhere_is_not_seen_by_another() {
    let (lab, _server) = lab();
    let closed = "ip rule add from 10.9.0.3 prohibit priority 9000; ip -6 rule add from fd09::3 prohibit priority 9000";
    lab.laptop().run(["sh", "-c", closed]).expect_success();
    in_turn(&lab, |router, way| {
        for ((to, first), second) in SERVERS.into_iter().zip(FIRST).zip(SECOND) {
            let seen = ask(router, to, "0", &[second, first]);
            let [bound @ .., _, _, _] = &*seen else { panic!("{way}: {seen:?}") };
            assert!(bound.iter().all(|seen| !seen.contains(['.', ':'])), "{way}: {seen:?}");
            assert_eq!(seen[3..], [first; 3], "{way}");
        }
    });
}
