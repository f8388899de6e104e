//! Programs that name a link under `up`: they are heard as without a router, judged like the rest, and told what was refused.

use std::net::IpAddr;

use crate::harness::{Capture, Finished, Lab, Profiles, Router, Running, Seen, Way, python};

/// Talks by the link `argv[1]` in the way that `argv[2]` names, to `argv[3]` with port `argv[4]`. Prints what came back, or the error's name.
const NAMING: &str = r#"
import errno, socket, sys
link, how, to, port = *sys.argv[1:4], int(sys.argv[4])
family, kind, _, _, end = socket.getaddrinfo(to, port, type=socket.SOCK_STREAM if how in ("tcp", "hold") else socket.SOCK_DGRAM)[0]
s = socket.socket(family, kind)
s.settimeout(5)
if how not in ("scope", "broadcast", "route"): s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.encode())
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
pub(crate) const ECHO: &str = r#"
import socket, threading
def answer(one):
    with one:
        while said := one.recv(65535): one.sendall(said)
def talk(server):
    while True: threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()
stream = socket.create_server(("", 9020), family=socket.AF_INET6, dualstack_ipv6=True)
threading.Thread(target=talk, args=(stream,), daemon=True).start()
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.bind(("", 9020))
print("ready", flush=True)
while True: s.sendto(*s.recvfrom(65535))
"#;

/// The words of a program that talks by this link.
pub(crate) fn naming<'a>(link: &'a str, how: &'a str, to: &'a str, port: &'a str) -> [&'a str; 7] {
    ["/usr/bin/python3", "-c", NAMING, link, how, to, port]
}

fn words<'a>(how: &'a str, to: &'a str, port: &'a str) -> [&'a str; 7] {
    naming("eth0", how, to, port)
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
fn a_link_that_appears_under_up_can_be_named_and_so_can_one_that_is_renamed() {
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
    let ping = |link: &str| -> Finished { router.run(["ping", "-c1", "-W1", "-q", "-I", link, "10.77.0.1"]) };
    crate::harness::eventually("an answer by the new link", || (ping("dock0").code() == 0).then_some(()));
    for words in ["link set dock0 down", "link set dock0 name usb0", "link set usb0 up"] {
        lab.laptop().run(["ip"].into_iter().chain(words.split(' '))).expect_success();
    }
    crate::harness::eventually("an answer by its new name", || (ping("usb0").code() == 0).then_some(()));
}

/// Takes one connection at port 9021 slowly, and closes it a while after its end. Prints how much came.
const SLOW: &str = r#"
import socket, sys, time
server = socket.create_server(("", 9021), family=socket.AF_INET6, dualstack_ipv6=True)
server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
print("ready", flush=True)
for _ in range(2):
    one, _ = server.accept()
    one.settimeout(10)
    time.sleep(0.5)
    came = 0
    while said := one.recv(65536): came += len(said)
    time.sleep(1.5)
    one.close()
    print(came, flush=True)
"#;

/// Writes more to `argv[1]` than its peer takes at once, and closes.
const HASTY: &str = r#"
import socket, sys
family, kind, _, _, end = socket.getaddrinfo(sys.argv[1], 9021, type=socket.SOCK_STREAM)[0]
s = socket.socket(family, kind)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
s.connect(end)
s.sendall(b"x" * 3000000)
s.close()
"#;

#[test]
fn what_was_written_to_a_connection_by_a_named_link_before_it_was_closed_arrives_and_so_does_its_end() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, Way::Up, &profiles);
    let mut slow = lab.gateway().spawn(["/usr/bin/python3", "-c", SLOW]);
    assert_eq!(slow.line(), "ready");
    for to in ["10.9.0.1", "fd09::1"] {
        router.run(["/usr/bin/python3", "-c", HASTY, to]).expect_success();
        assert_eq!(slow.line(), "3000000", "{to}");
    }
    crate::harness::eventually("the end of both connections", || {
        let left = lab.gateway().run(["ss", "-tanH", "state", "last-ack"]).expect_success();
        left.trim().is_empty().then_some(())
    });
}

/// Sends 100 datagrams from one address and port by the link `argv[1]`, saying `argv[2]`, one each 20 ms.
const SAME_PORT: &str = r#"
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, sys.argv[1].encode())
s.bind(("10.9.0.2", 5031))
for _ in range(100):
    try: s.sendto(sys.argv[2].encode(), ("10.9.0.1", 9021))
    except OSError: pass
    time.sleep(0.02)
"#;

/// Prints which of these words came by the link `argv[1]` within 4 s.
const OVERHEARD: &str = r#"
import socket, sys, time
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind((sys.argv[1], 0))
s.settimeout(0.5)
print("ready", flush=True)
heard, end = set(), time.monotonic() + 4
while time.monotonic() < end:
    try: frame = s.recv(65536)
    except OSError: continue
    heard |= {word for word in ("permitted", "refused") if frame[42:] == word.encode()}
print(*sorted(heard), flush=True)
"#;

#[test]
fn programs_that_share_a_port_by_different_links_are_judged_each_for_itself() {
    let lab = Lab::new();
    let (gateway, laptop) = (lab.gateway(), lab.laptop());
    for (host, words) in [
        (&gateway, "link add dock1 type veth peer name dock0".to_owned()),
        (&gateway, format!("link set dock0 netns {}", laptop.namespace())),
        (&gateway, "addr add 10.77.0.1/24 dev dock1".to_owned()),
        (&gateway, "link set dock1 up".to_owned()),
        (&laptop, "addr add 10.77.0.2/24 dev dock0".to_owned()),
        (&laptop, "link set dock0 up".to_owned()),
        (&laptop, "route add default via 10.77.0.1 dev dock0 metric 500".to_owned()),
    ] {
        host.run(["ip"].into_iter().chain(words.split(' '))).expect_success();
    }
    let dir = tempfile::tempdir().expect("a folder");
    let other = dir.path().join("other");
    std::fs::copy(python(), &other).expect("a copy");
    let other = other.to_str().expect("a name");
    let profiles = Profiles::accepting();
    profiles.user("other", std::path::Path::new(other), "endpoints = [\"- *\"]");
    let router = Router::start(&lab, Way::Up, &profiles);
    let mut heard = ["lan0", "dock1"].map(|link| gateway.spawn(["/usr/bin/python3", "-c", OVERHEARD, link]));
    for one in &mut heard {
        assert_eq!(one.line(), "ready");
    }
    let both = [("/usr/bin/python3", "eth0", "permitted"), (other, "dock0", "refused")]
        .map(|(exe, link, word)| router.spawn([exe, "-c", SAME_PORT, link, word]));
    assert_eq!(heard.map(|mut one| one.line()), ["permitted", ""]);
    drop(both);
}

/// Talks by eth0 from its second address to the echo at port 7. Prints the address and what came back, or the error's name.
const SECOND: &str = r#"
import errno, socket, sys
s = socket.socket()
s.settimeout(5)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
s.bind(("10.9.0.3", 0))
try:
    s.connect((sys.argv[1], 7))
    s.sendall(b"hello")
    print(s.getsockname()[0], s.recv(9).decode())
except socket.timeout: print("silence")
except OSError as error: print(errno.errorcode[error.errno])
"#;

/// Podman and Kubernetes masquerade what has a mark of theirs.
#[test]
fn what_a_link_is_named_for_has_no_mark_by_which_others_masquerade() {
    let lab = Lab::new();
    lab.laptop().run(["ip", "addr", "add", "10.9.0.3/24", "dev", "eth0"]).expect_success();
    let rules = [0x2000, 0x4000].map(|bit| format!("meta mark & {bit} == {bit} masquerade;")).concat();
    let script = format!("table ip podman {{ chain post {{ type nat hook postrouting priority srcnat; {rules} }}; }}");
    lab.laptop().run(["nft", &script]).expect_success();
    let profiles = Profiles::accepting();
    for way in [Way::Direct, Way::Up] {
        let router = Router::start(&lab, way, &profiles);
        assert_eq!(router.run(["/usr/bin/python3", "-c", SECOND, Lab::SERVER_4]).expect_success(), "10.9.0.3 hello\n", "{way:?}");
    }
}
