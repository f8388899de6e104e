//! With `express` connections are carried on by the kernel alone under `up` once they are accepted: nothing of them passes the router, and nothing more than
//! was accepted passes.

use std::time::Duration;

use portreeve::flow::Record;
use serde_json::Value;

use crate::harness::{Capture, Lab, Profiles, Router, Seen, Way, eventually, hold, probe_by};

/// Binds a port, connects and closes with a reset, which leaves the port to whoever comes next: {"OK", or the name of the error}.
const FROM_A_PORT: &str = "
import errno, socket, struct, sys
address, port = sys.argv[1], int(sys.argv[2])
s = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_STREAM)
s.settimeout(4)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
s.bind(('', port))
try:
    s.connect((address, 7))
    s.sendall(b'ask')
    print('OK' if s.recv(3) == b'ask' else 'another answer')
except OSError as error:
    print(errno.errorcode.get(error.errno, repr(error)))
";

/// Has conntrack forget all that it knows (`IPCTNL_MSG_CT_DELETE` without a tuple).
pub(crate) const FORGET_ALL: &str = "
import socket, struct
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
s.send(struct.pack('=IHHIIBBH', 20, 0x0102, 5, 1, 0, 0, 0, 0))
assert struct.unpack_from('=i', s.recv(100), 16) == (0,)
";

pub(crate) const BOTH: [&str; 2] = [Lab::SERVER_4, Lab::SERVER_6];

fn up<'a>(lab: &Lab, profiles: &'a Profiles, express: bool) -> Router<'a> {
    Router::start_with(lab, Way::Up, profiles, Some(&format!("express = {express}\n")))
}

/// Packets that have left by the TUN for the router so far.
fn seen_by_the_router(lab: &Lab) -> u64 {
    let text = lab.laptop().run(["ip", "-s", "-j", "link", "show", "portreeve0"]).expect_success();
    let links: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    links.pointer("/0/stats64/tx/packets").and_then(Value::as_u64).unwrap_or_else(|| panic!("no packets in {text}"))
}

fn url(address: &str, file: &str) -> String {
    if address.contains(':') { format!("http://[{address}]/{file}") } else { format!("http://{address}/{file}") }
}

#[test]
fn bytes_of_an_accepted_connection_pass_the_kernel_alone_and_are_counted() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    for (express, few) in [(true, true), (false, false)] {
        let router = up(&lab, &profiles, express);
        for address in BOTH {
            let before = seen_by_the_router(&lab);
            let length = router.run(["curl", "-sS", "-o", "/dev/null", "-w", "%{size_download}", &url(address, "100m.bin")]);
            assert_eq!(length.expect_success(), "104857600");
            let seen = seen_by_the_router(&lab) - before;
            assert_eq!(seen < 20, few, "{address}, express {express}: {seen} packets");
            let record = router.record("the download", |record| record.end.is_some() && record.bytes_down > 100 << 20);
            assert_eq!((record.verdict.as_str(), record.outcome.as_deref()), ("accept", Some("closed")));
            assert!(record.bytes_up > 50 && record.rtt_us.is_some(), "{record:?}");
        }
        router.verb(&["down"]).expect_success();
    }
}

#[test]
fn whoever_takes_the_ports_of_an_accepted_connection_over_is_judged_anew() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let [accepted, refused] = ["accepted", "refused"].map(|name| lab.copy_of("/usr/bin/python3", name).display().to_string());
    profiles.user("refused", refused.as_ref(), "endpoints = [\"- *\"]");
    let router = up(&lab, &profiles, true);
    for address in BOTH {
        for (python, said) in
            [(&accepted, "OK\n"), (&refused, "ECONNREFUSED\n"), (&accepted, "OK\n"), (&refused, "ECONNREFUSED\n")]
        {
            assert_eq!(router.run([python, "-c", FROM_A_PORT, address, "40404"]).expect_success(), said, "{address} {python}");
        }
    }
}

#[test]
fn what_conntrack_is_made_to_forget_goes_on_and_comes_back_to_the_kernel() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = up(&lab, &profiles, true);
    for address in BOTH {
        let mut talk = router.spawn(hold(address));
        assert_eq!(talk.line(), "talking");
        let carried = || {
            let is_it = |record: &Record| {
                record.dst.starts_with(&url(address, "")[7..url(address, "").len() - 1]) && record.end.is_none()
            };
            router.records().into_iter().filter(is_it).map(|record| record.bytes_down).max().unwrap_or(0)
        };
        for _ in 0..2 {
            router.run(["/usr/bin/python3", "-c", FORGET_ALL]).expect_success();
            let before = carried();
            eventually("the conversation goes on", || (carried() > before + 50).then_some(()));
        }
        let before = seen_by_the_router(&lab);
        std::thread::sleep(Duration::from_millis(500));
        assert!(seen_by_the_router(&lab) - before < 5, "the kernel carries it on again");
        assert!(!talk.has_ended());
    }
}

#[test]
fn refused_open_connection_is_ended_on_both_sides_and_nothing_more_leaves() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let python = lab.copy_of("/usr/bin/python3", "talker");
    let router = up(&lab, &profiles, true);
    let mut talks: Vec<_> = BOTH.map(|address| router.spawn(probe_by(&python.display().to_string(), &["hold", address]))).into();
    for talk in &mut talks {
        assert_eq!(talk.line(), "talking");
    }
    profiles.user("talker", &python, "endpoints = [\"- *\"]");
    router.verb(&["reload"]).expect_success();
    for talk in talks {
        assert_eq!(talk.finish().1, "ECONNABORTED\n");
    }
    let ends = "ss -Htn state established '( sport = :7 )' | wc -l";
    eventually("the servers were told", || (lab.internet().run(["sh", "-c", ends]).expect_success().trim() == "0").then_some(()));
    let capture = Capture::start(&lab, "refused");
    std::thread::sleep(Duration::from_millis(500));
    router.run(["curl", "-sS", "-o", "/dev/null", &url(Lab::OTHER_4, "hello")]).expect_success();
    capture.stop_with_only(&[Seen::tcp(Lab::OTHER_4, 80)], &[]);
}

#[test]
fn next_router_carries_nothing_on_that_it_has_not_judged_even_by_the_same_mark() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let plan = lab.dir().join("fixed.toml");
    let shipped = std::fs::read_to_string(crate::harness::repository().join("routes/default.toml")).expect("the shipped plan");
    std::fs::write(&plan, format!("mark = 0x2a000000\n{shipped}")).expect("the folder is ours");
    let flags = ["--plan", plan.to_str().expect("a plain path")];
    let mut router = Router::start_with(&lab, Way::Direct, &profiles, Some("express = true\n"));
    router.up(&flags);
    let mut talks = BOTH.map(|address| lab.laptop().spawn(hold(address)));
    for talk in &mut talks {
        assert_eq!(talk.line(), "talking");
    }
    router.daemon().take().expect("the daemon was started").kill();
    profiles.user("python", &crate::harness::python(), "endpoints = [\"- *\"]");
    router.up(&flags);
    for talk in talks {
        let said = talk.finish().1;
        assert!(
            ["ECONNABORTED\n", "ECONNRESET\n", "ECONNREFUSED\n", "EPIPE\n", "EHOSTUNREACH\n", "ENETUNREACH\n"]
                .contains(&said.as_str()),
            "{said}"
        );
    }
}

#[test]
fn program_that_is_killed_leaves_no_flow_behind_and_one_that_nobody_answers_is_told_so() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = up(&lab, &profiles, true);
    for (address, silent) in BOTH.iter().zip(Lab::SILENT) {
        let mut talk = router.spawn(hold(address));
        assert_eq!(talk.line(), "talking");
        talk.kill();
        router
            .record("the killed program's", |record| record.dst.contains(address) && record.outcome.as_deref() == Some("closed"));
        router.run(["curl", "-sS", "-m", "1", &url(silent, "")]).expect_code(28);
        router.record("what nobody answers", |record| record.outcome.as_deref() == Some("not answered"));
    }
}

/// Says something every 50 ms for 5 s: "listening", then nothing.
const TALKER: &str = "
import socket, sys, time
address = sys.argv[1]
s = socket.create_server((address, 9555), family=socket.AF_INET6 if ':' in address else socket.AF_INET)
print('listening', flush=True)
c, _ = s.accept()
for _ in range(100):
    c.sendall(b'x' * 100)
    time.sleep(0.05)
c.close()
";

/// Only listens: "listening", then how many bytes came.
const LISTENER: &str = "
import socket, sys
s = socket.create_connection((sys.argv[1], 9555), 20)
came = len(s.recv(100))
print('listening', flush=True)
while more := s.recv(10000): came += len(more)
print(came)
";

#[test]
fn who_only_listens_goes_on_to_hear_when_the_address_of_this_host_comes_back() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let python = |code, address| ["/usr/bin/python3", "-c", code, address];
    let away = "ip addr del 10.9.0.2/24 dev eth0; ip addr del fd09::2/64 dev eth0; sleep 1; \
                ip addr add 10.9.0.2/24 dev eth0; ip addr add fd09::2/64 dev eth0 nodad; sleep 0.2; \
                ip route replace default via 10.9.0.1; ip -6 route replace default via fd09::1";
    for way in [Way::Direct, Way::Up] {
        let router = Router::start_with(&lab, way, &profiles, Some("express = true\n"));
        let mut talkers = BOTH.map(|address| lab.internet().spawn(python(TALKER, address)));
        talkers.iter_mut().for_each(|talker| assert_eq!(talker.line(), "listening"));
        let mut listeners = BOTH.map(|address| router.spawn(python(LISTENER, address)));
        listeners.iter_mut().for_each(|listener| assert_eq!(listener.line(), "listening"));
        lab.laptop().run(["sh", "-c", away]);
        for listener in listeners {
            assert_eq!(listener.finish().1, "10000\n", "{way:?}");
        }
    }
}

#[test]
fn who_only_listens_goes_on_to_hear_when_conntrack_is_emptied() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let python = |code, address| ["/usr/bin/python3", "-c", code, address];
    let router = up(&lab, &profiles, true);
    let mut talkers = BOTH.map(|address| lab.internet().spawn(python(TALKER, address)));
    talkers.iter_mut().for_each(|talker| assert_eq!(talker.line(), "listening"));
    let mut listeners = BOTH.map(|address| router.spawn(python(LISTENER, address)));
    listeners.iter_mut().for_each(|listener| assert_eq!(listener.line(), "listening"));
    router.run(["/usr/bin/python3", "-c", FORGET_ALL]).expect_success();
    for listener in listeners {
        assert_eq!(listener.finish().1, "10000\n");
    }
}

/// Says that there is no more to come from it, then hears what a peer says after three seconds of silence.
const HALF_CLOSED: &str = "
import socket, sys, time
if sys.argv[2:]:
    s = socket.create_server((sys.argv[1], 9556), family=socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET)
    print('listening', flush=True)
    c, _ = s.accept()
    while c.recv(100): pass
    time.sleep(3)
    c.sendall(b'late')
else:
    s = socket.create_connection((sys.argv[1], 9556), 20)
    s.shutdown(socket.SHUT_WR)
    print(s.recv(100).decode())
";

#[test]
fn silence_after_a_half_close_ends_nothing() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = up(&lab, &profiles, true);
    for state in ["close_wait", "fin_wait", "last_ack", "established", "syn_sent", "syn_recv"] {
        let short = format!("net.netfilter.nf_conntrack_tcp_timeout_{state}=1");
        lab.laptop().run(["sysctl", "-qw", &short]).expect_success();
    }
    let mut servers = BOTH.map(|address| lab.internet().spawn(["/usr/bin/python3", "-c", HALF_CLOSED, address, "serve"]));
    servers.iter_mut().for_each(|server| assert_eq!(server.line(), "listening"));
    for address in BOTH {
        assert_eq!(router.run(["/usr/bin/python3", "-c", HALF_CLOSED, address]).expect_success(), "late\n");
    }
}

#[test]
fn connection_goes_on_after_the_default_route_led_elsewhere_for_a_moment() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let elsewhere = "ip link add other type veth peer name nowhere; ip link set nowhere up; ip link set other up; \
                     ip addr add 10.44.0.2/24 dev other; ip addr add fd44::2/64 dev other nodad; sleep 0.3; \
                     ip route replace default via 10.44.0.1 dev other; ip -6 route replace default via fd44::1 dev other; sleep 1; \
                     ip route replace default via 10.9.0.1 dev eth0; ip -6 route replace default via fd09::1 dev eth0; \
                     ip link del other";
    for way in [Way::Direct, Way::Up] {
        let router = Router::start_with(&lab, way, &profiles, Some("express = true\n"));
        let mut talks = BOTH.map(|address| router.spawn(hold(address)));
        talks.iter_mut().for_each(|talk| assert_eq!(talk.line(), "talking"));
        lab.laptop().run(["sh", "-c", elsewhere]).expect_success();
        std::thread::sleep(Duration::from_secs(4));
        for talk in &mut talks {
            assert!(!talk.has_ended(), "{way:?}");
        }
        let alive = "ss -Htn state established '( sport = :7 )' | wc -l";
        assert_eq!(lab.internet().run(["sh", "-c", alive]).expect_success().trim(), "2", "{way:?}");
    }
}

/// Two sockets with one port and different addresses, connected to one peer: how many connections conntrack knows then, and what each hears.
const TWICE: &str = "
import socket, subprocess, sys
peer, own, marked = sys.argv[1:]
held = []
for address in own, '':
    s = socket.socket(socket.AF_INET6 if ':' in peer else socket.AF_INET)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((address, 45678))
    s.settimeout(10)
    s.connect((peer, 80))
    held.append(s)
subprocess.run([sys.executable, '-c', marked], check=True)
for s in held:
    s.sendall(b'GET /hello HTTP/1.0\\r\\n\\r\\n')
print(*(b''.join(iter(lambda: s.recv(1000), b'')).endswith(b'hello from the lab\\n') for s in held))
";

#[test]
fn two_connections_of_one_port_leave_by_two() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = up(&lab, &profiles, true);
    for (peer, own) in BOTH.into_iter().zip([Lab::LAPTOP_4, Lab::LAPTOP_6]) {
        let marked = || lab.laptop().run(["/usr/bin/python3", "-c", MARKED]).expect_success();
        eventually("conntrack has forgotten those before", || (marked() == "0\n").then_some(()));
        assert_eq!(router.run(["/usr/bin/python3", "-c", TWICE, peer, own, MARKED]).expect_success(), "2\nTrue True\n");
    }
}

/// How many connections conntrack knows, with a mark.
pub(crate) const MARKED: &str = "
import socket, struct
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
mark = struct.pack('=HH', 8, 8) + struct.pack('>I', 0x200000) + struct.pack('=HH', 8, 21) + struct.pack('>I', 0x200000)
s.send(struct.pack('=IHHIIBBH', 20 + len(mark), 0x0101, 0x301, 1, 0, 0, 0, 0) + mark)
found = 0
while True:
    data = s.recv(65536)
    while data:
        length, kind = struct.unpack_from('=IH', data)
        if kind == 3:
            raise SystemExit(print(found))
        found, data = found + 1, data[(length + 3) & ~3:]
";

#[test]
fn entries_of_a_killed_router_are_forgotten_by_cleanup_and_by_the_next_one_and_an_ended_one_leaves_none() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let marked = || lab.laptop().run(["/usr/bin/python3", "-c", MARKED]).expect_success().trim().to_owned();
    for end in ["cleanup", "up", "down"] {
        let mut router = up(&lab, &profiles, true);
        let mut talks = BOTH.map(|address| router.spawn(hold(address)));
        talks.iter_mut().for_each(|talk| assert_eq!(talk.line(), "talking"));
        assert_eq!(marked(), "2", "{end}");
        if end == "down" {
            router.verb(&["down"]).expect_success();
            assert_eq!(marked(), "0", "{end}");
            continue;
        }
        router.daemon().take().expect("the daemon was started").kill();
        assert_eq!(marked(), "2", "{end}");
        if end == "cleanup" {
            router.verb(&["cleanup"]).expect_success();
        } else {
            router.up(&[]);
        }
        assert_eq!(marked(), "0", "{end}");
        drop(talks);
    }
}
