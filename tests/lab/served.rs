//! Servers on the laptop that answer by datagrams, and programs that peers know by their port, under `up`.

use crate::harness::{Lab, Profiles, Router, Running, Way};

/// Answers each datagram by one socket that is bound to no address, or to its fourth word; "connected": by a socket that is connected to
/// whoever asks first.
const SERVER: &str = r#"
import socket, sys
family = socket.AF_INET6 if sys.argv[1] == "6" else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
s.bind((sys.argv[4], int(sys.argv[2]))); s.settimeout(60)
print("serving", flush=True)
connected = False
while True:
    data, peer = s.recvfrom(2000)
    if sys.argv[3] == "connected" and not connected: s.connect(peer[:2]); connected = True
    s.send(data) if connected else s.sendto(data, peer)
"#;

/// Answers the first datagram after 33 s, which is longer than conntrack waits, and says what comes back.
const LATE: &str = r#"
import socket, sys, time
family = socket.AF_INET6 if sys.argv[1] == "6" else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
s.bind(("", 4000)); s.settimeout(60)
print("serving", flush=True)
_, peer = s.recvfrom(2000)
time.sleep(33)
s.sendto(b"late", peer)
print(s.recvfrom(100)[0].decode(), flush=True)
"#;

/// Speaks with a peer from the TUN's own address and the port of somebody else's server, and stays.
const SAME_PORT: &str = r#"
import socket, sys, time
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[2] else socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 4002)); s.settimeout(10)
s.sendto(b"hello", (sys.argv[2], 7)); s.recv(100)
print("spoken", flush=True)
time.sleep(60)
"#;

/// Asks once by a connected socket and thanks for the answer.
const PATIENT: &str = r#"
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.connect((sys.argv[1], 4000)); s.settimeout(60)
s.send(b"question")
if s.recv(100) == b"late": s.send(b"thanks")
"#;

/// Asks every 50 ms by a connected socket, which hears nobody else, and says how often it was answered; once more where it was not.
const CLIENT: &str = r#"
import socket, sys, time
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.connect((sys.argv[1], int(sys.argv[2]))); s.settimeout(1)
answered, silent = 0, 0
while answered < int(sys.argv[3]) and silent < 10:
    s.send(b"%d" % answered)
    try:
        if s.recv(100) == b"%d" % answered: answered += 1; print(answered, flush=True)
    except TimeoutError: silent += 1
    time.sleep(0.05)
"#;

/// Answers each datagram by 1450 bytes, as [`SERVER`].
const GENEROUS: &str = r#"
import socket, sys
family = socket.AF_INET6 if sys.argv[1] == "6" else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
s.bind(("", int(sys.argv[2]))); s.settimeout(60)
print("serving", flush=True)
while True: s.sendto(b"x" * 1450, s.recvfrom(2000)[1])
"#;

/// Asks five times from its third word and says whether the last answer came, and whole.
const LISTENER: &str = r#"
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[3], 0)); s.connect((sys.argv[1], int(sys.argv[2]))); s.settimeout(0.5)
for _ in range(5):
    s.send(b"?")
    try: heard = len(s.recv(2000))
    except TimeoutError: heard = 0
print(heard)
"#;

fn server(lab: &Lab, address: &str, port: &str, kind: &str) -> Running {
    let family = if address.contains(':') { "6" } else { "4" };
    let bound = if kind == "addressed" { address } else { "" };
    let mut server = lab.laptop().spawn(["/usr/bin/python3", "-c", SERVER, family, port, kind, bound]);
    assert_eq!(server.line(), "serving");
    server
}

fn client<'a>(address: &'a str, port: &'a str, times: &'a str) -> [&'a str; 6] {
    ["/usr/bin/python3", "-c", CLIENT, address, port, times]
}

#[test]
fn a_server_of_datagrams_answers_from_where_it_was_asked() {
    let lab = Lab::new();
    let profiles = Profiles::empty();
    let router = Router::start(&lab, Way::Up, &profiles);
    for address in [Lab::LAPTOP_4, Lab::LAPTOP_6] {
        for (port, kind) in [("4000", "bound"), ("4001", "connected")] {
            let _server = server(&lab, address, port, kind);
            let told = lab.internet().run(client(address, port, "3")).expect_success();
            assert_eq!(told, "1\n2\n3\n", "{address} {kind}");
        }
    }
    // Those were no flows of the router's, which would refuse them.
    assert_eq!(router.verb(&["flows"]).expect_success(), "no flows yet\n");
}

#[test]
fn a_servers_answers_learn_what_the_path_carries() {
    let lab = Lab::new();
    // A path of its own each time: what was learnt of one is known to the next.
    assert_eq!(heard_on_a_narrow_path(&lab, ["10.10.0.3", "fd10::3"]), [1450, 1450], "control");
    let profiles = Profiles::empty();
    let _router = Router::start(&lab, Way::Up, &profiles);
    assert_eq!(heard_on_a_narrow_path(&lab, ["10.10.0.4", "fd10::4"]), [1450, 1450]);
}

/// What is heard by IPv4 and by IPv6 at these addresses of the internet's, behind a link that carries 1400 bytes.
fn heard_on_a_narrow_path(lab: &Lab, from: [&str; 2]) -> [u16; 2] {
    lab.gateway().run(["ip", "link", "set", "wan0", "mtu", "1400"]).expect_success();
    let [v4, v6] = from;
    [(Lab::LAPTOP_4, v4, "24", "4"), (Lab::LAPTOP_6, v6, "64", "6")].map(|(address, from, prefix, family)| {
        let mut server = lab.laptop().spawn(["/usr/bin/python3", "-c", GENEROUS, family, "4010"]);
        assert_eq!(server.line(), "serving");
        lab.internet().run(["ip", "addr", "add", &format!("{from}/{prefix}"), "dev", "net0"]).expect_success();
        let told = lab.internet().run(["/usr/bin/python3", "-c", LISTENER, address, "4010", from]).expect_success();
        told.trim().parse().expect("a number")
    })
}

#[test]
fn who_was_asking_before_up_is_answered_on() {
    let lab = Lab::new();
    let profiles = Profiles::empty();
    // Conntrack follows already, as on a laptop with a firewall of its own.
    let watch = "nft 'add table inet mine; add chain inet mine c { type filter hook input priority 0; }; \
         add rule inet mine c ct state established accept'";
    lab.laptop().run(["sh", "-c", watch]).expect_success();
    let mut talks = Vec::new();
    for (address, port) in [(Lab::LAPTOP_4, "4000"), (Lab::LAPTOP_6, "4001")] {
        let server = server(&lab, address, port, "bound");
        let mut client = lab.internet().spawn(client(address, port, "1000"));
        assert_eq!(client.line(), "1");
        talks.push((server, client));
    }
    let _router = Router::start(&lab, Way::Up, &profiles);
    for (_server, client) in &mut talks {
        // What was said before waits in the pipe: `up` took no three seconds.
        for _ in 0..100 {
            assert_ne!(client.line(), "");
        }
    }
}

#[test]
fn an_answer_that_conntrack_waits_for_no_longer_is_a_flow_with_the_servers_port() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let _router = Router::start(&lab, Way::Up, &profiles);
    let talks = [Lab::LAPTOP_4, Lab::LAPTOP_6].map(|address| {
        let family = if address.contains(':') { "6" } else { "4" };
        let mut server = lab.laptop().spawn(["/usr/bin/python3", "-c", LATE, family]);
        assert_eq!(server.line(), "serving");
        (server, lab.internet().spawn(["/usr/bin/python3", "-c", PATIENT, address]))
    });
    for (mut server, _client) in talks {
        assert_eq!(server.line(), "thanks");
    }
}

#[test]
fn who_speaks_from_a_servers_port_by_another_address_does_not_get_its_askers() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let _router = Router::start(&lab, Way::Up, &profiles);
    for (address, own, peer) in [(Lab::LAPTOP_4, "198.18.0.1", Lab::SERVER_4), (Lab::LAPTOP_6, "2001:2::1", Lab::SERVER_6)] {
        let _server = server(&lab, address, "4002", "addressed");
        let mut other = lab.laptop().spawn(["/usr/bin/python3", "-c", SAME_PORT, own, peer]);
        assert_eq!(other.line(), "spoken");
        assert_eq!(lab.internet().run(client(address, "4002", "3")).expect_success(), "1\n2\n3\n", "{address}");
    }
}
