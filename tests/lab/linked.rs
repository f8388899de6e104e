//! Programs that name a link under `up`: they are heard as without a router, judged like the rest, and told what was refused.

use std::net::IpAddr;

use crate::harness::{Capture, Finished, Lab, Profiles, Router, Running, Seen, Way, python};

/// Talks by the link eth0 in the way that `argv[1]` names, to `argv[2]` with port `argv[3]`. Prints what came back, or the error's name.
const NAMING: &str = r#"
import errno, socket, sys
how, to, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
family, kind, _, _, end = socket.getaddrinfo(to, port, type=socket.SOCK_STREAM if how in ("tcp", "hold") else socket.SOCK_DGRAM)[0]
s = socket.socket(family, kind)
s.settimeout(5)
if how not in ("scope", "broadcast", "route"): s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
if how == "broadcast": s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
if how == "route": s.setsockopt(socket.SOL_SOCKET, 5, 1)
said = b"x" * 4000 if how == "large" else b"hello"
try:
    if how != "broadcast": s.connect(end)
    s.sendto(said, end) if how == "broadcast" else s.sendall(said)
    heard = s.recv(65535)
    if how == "hold":
        print("talking", flush=True)
        s.settimeout(20)
        s.recv(1)
    print(len(heard))
except socket.timeout: print("silence")
except OSError as error: print(errno.errorcode[error.errno])
"#;

/// Answers datagrams and connections at port 9020 of the gateway.
const ECHO: &str = r#"
import socket, threading
def talk(server):
    while True:
        one, _ = server.accept()
        one.sendall(one.recv(65535))
        one.close()
stream = socket.create_server(("", 9020), family=socket.AF_INET6, dualstack_ipv6=True)
threading.Thread(target=talk, args=(stream,), daemon=True).start()
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.bind(("", 9020))
print("ready", flush=True)
while True: s.sendto(*s.recvfrom(65535))
"#;

fn words<'a>(how: &'a str, to: &'a str, port: &'a str) -> [&'a str; 6] {
    ["/usr/bin/python3", "-c", NAMING, how, to, port]
}

fn said(router: &Router<'_>, how: &str, to: &str, port: &str) -> String {
    router.run(words(how, to, port)).expect_success().trim().to_owned()
}

/// The gateway with its echo, and its link-local address as the laptop writes it.
fn neighbour(lab: &Lab) -> (Running, String) {
    let mut echo = lab.gateway().spawn(["/usr/bin/python3", "-c", ECHO]);
    assert_eq!(echo.line(), "ready");
    let shown = lab.gateway().run(["ip", "-6", "-o", "addr", "show", "dev", "lan0", "scope", "link"]).expect_success();
    let address = shown.split_whitespace().find_map(|word| word.strip_suffix("/64")).expect("a link-local address");
    (echo, format!("{address}%eth0"))
}

/// What answers in a lab, by every way to name a link.
fn talks(neighbour: &str) -> [(&str, &str, &str, &str); 11] {
    [
        ("tcp", Lab::SERVER_4, "7", "5"),
        ("tcp", Lab::SERVER_6, "7", "5"),
        ("tcp", Lab::SERVER_4, "81", "ECONNREFUSED"),
        ("tcp", Lab::SERVER_6, "81", "ECONNREFUSED"),
        ("bound", Lab::SERVER_4, "7", "5"),
        ("bound", Lab::SERVER_6, "7", "5"),
        ("bound", Lab::SERVER_4, "81", "ECONNREFUSED"),
        ("large", Lab::SERVER_4, "7", "4000"),
        ("large", Lab::SERVER_6, "7", "4000"),
        ("scope", neighbour, "9020", "5"),
        ("tcp", neighbour, "9020", "5"),
    ]
}

#[test]
fn who_names_a_link_is_heard_as_without_a_router() {
    let lab = Lab::new();
    crate::whole::settle(&lab);
    let (_echo, neighbour) = neighbour(&lab);
    let profiles = Profiles::accepting();
    for way in [Way::Direct, Way::Up] {
        let router = Router::start(&lab, way, &profiles);
        for (how, to, port, expected) in talks(&neighbour) {
            assert_eq!(said(&router, how, to, port), expected, "{way:?}: {how} to {to}");
        }
        for (how, to) in [("broadcast", "10.9.0.255"), ("route", "10.9.0.1")] {
            assert_eq!(said(&router, how, to, "9020"), "5", "{way:?}: {how}");
        }
        for to in [Lab::SERVER_4, Lab::SERVER_6, &neighbour] {
            router.run(["ping", "-c1", "-W5", "-q", "-I", "eth0", to]).expect_success();
        }
    }
}

#[test]
fn a_flow_by_a_named_link_has_its_record() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, Way::Up, &profiles);
    for to in [Lab::SERVER_4, Lab::SERVER_6] {
        let mut held = router.spawn(words("hold", to, "7"));
        assert_eq!(held.line(), "talking");
        let record = router.record(to, |record| record.outcome.is_none() && record.dst.contains(to));
        assert!(record.exe.is_some_and(|exe| exe.contains("python3")) && record.verdict == "accept");
    }
}

#[test]
fn nothing_leaves_by_a_named_link_where_it_is_refused_and_its_program_is_told() {
    let lab = Lab::new();
    let (_echo, neighbour) = neighbour(&lab);
    let profiles = Profiles::accepting();
    profiles.user("python", &python(), "endpoints = [\"- *\"]\n[scope]\nlan = false\ninternet = false");
    let router = Router::start(&lab, Way::Up, &profiles);
    let capture = Capture::start(&lab, "named");
    for (how, to, port, _) in talks(&neighbour) {
        let told = said(&router, how, to, port);
        match how {
            "tcp" => assert_eq!(told, "ECONNREFUSED", "{how} to {to}"),
            _ => assert!(["silence", "EACCES", "EHOSTUNREACH"].contains(&told.as_str()), "{how} to {to}: {told}"),
        }
    }
    assert_eq!(said(&router, "broadcast", "10.9.0.255", "9020"), "silence");
    lab.gateway().run(["ping", "-c1", "-q", Lab::LAPTOP_4]).expect_success();
    capture.stop_with_only(&[Seen { protocol: "ICMP", destination: IpAddr::from([10, 9, 0, 1]), port: None }], &[]);
}

#[test]
fn a_reload_ends_a_connection_by_a_named_link_that_it_refuses_and_spares_others() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, Way::Up, &profiles);
    let held = [Lab::SERVER_4, Lab::SERVER_6].map(|to| {
        let mut held = router.spawn(words("hold", to, "7"));
        assert_eq!(held.line(), "talking");
        held
    });
    router.verb(&["reload"]).expect_success();
    profiles.user("python", &python(), "endpoints = [\"- *\"]");
    let mut held = held.map(|mut held| {
        assert!(!held.has_ended());
        held
    });
    router.verb(&["reload"]).expect_success();
    for one in &mut held {
        assert_eq!(one.line(), "ECONNABORTED");
    }
}

/// As systemd-resolved asks: by a datagram that names the link of the server, bound or not.
const ASKING: &str = r#"
import socket, struct, sys
how, server = sys.argv[1:]
family = socket.AF_INET6 if ":" in server else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
s.settimeout(5)
index = socket.if_nametoindex("eth0")
if how == "bound": s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
elif family == socket.AF_INET: s.setsockopt(socket.IPPROTO_IP, 50, struct.pack("!I", index))
else: s.setsockopt(socket.IPPROTO_IPV6, 76, struct.pack("!I", index))
s.connect((server, 53))
name = b"".join(bytes([len(label)]) + label.encode() for label in "tracker.example.net".split("."))
s.send(b"\x17\x17\x01\x00\x00\x01" + bytes(6) + name + b"\x00\x00\x01\x00\x01")
answer = s.recv(512)
print(answer[:2] == b"\x17\x17", answer[3] & 15, answer[7] > 0)
"#;

#[test]
fn questions_for_names_by_a_named_link_are_answered_and_streams_of_them_refused() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    for way in [Way::Direct, Way::Up] {
        let router = Router::start(&lab, way, &profiles);
        for server in [Lab::RESOLVER_4, Lab::RESOLVER_6] {
            for how in ["bound", "asked for"] {
                let told = router.run(["/usr/bin/python3", "-c", ASKING, how, server]).expect_success();
                assert_eq!(told, "True 0 True\n", "{way:?}: {how}, {server}");
            }
        }
    }
    let router = Router::start(&lab, Way::Up, &profiles);
    for server in [Lab::RESOLVER_4, Lab::RESOLVER_6] {
        assert_eq!(said(&router, "tcp", server, "53"), "ECONNREFUSED");
    }
}

#[test]
fn a_link_that_appears_under_up_can_be_named() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, Way::Up, &profiles);
    let gateway = lab.gateway();
    for (host, words) in [
        (&gateway, "link add dock1 type veth peer name dock0".to_owned()),
        (&gateway, format!("link set dock0 netns {}", lab.laptop().namespace())),
        (&gateway, "addr add 10.77.0.1/24 dev dock1".to_owned()),
        (&gateway, "link set dock1 up".to_owned()),
        (&lab.laptop(), "addr add 10.77.0.2/24 dev dock0".to_owned()),
        (&lab.laptop(), "link set dock0 up".to_owned()),
    ] {
        host.run(["ip"].into_iter().chain(words.split(' '))).expect_success();
    }
    let ping = || -> Finished { router.run(["ping", "-c1", "-W1", "-q", "-I", "dock0", "10.77.0.1"]) };
    crate::harness::eventually("an answer by the new link", || (ping().code() == 0).then_some(()));
}
