//! What conntrack is told of the connections of the express lane: peers hear what they would hear without us.

use std::time::Duration;

use crate::express::{BOTH, FORGET_ALL, MARKED};
use crate::harness::{Capture, Lab, Profiles, Router, Seen, Way, eventually, hold};

const EXPRESS: Option<&str> = Some("express = true\n");

/// Goes on to speak to who has closed, three seconds after it has heard of that: what it is told.
const SPEAKER: &str = "
import socket, sys, time
s = socket.create_server((sys.argv[1], 9557), family=socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET)
print('listening', flush=True)
c, _ = s.accept()
while c.recv(100): pass
time.sleep(3)
try:
    for _ in range(20):
        c.sendall(b'late')
        time.sleep(0.5)
    print('nothing')
except OSError as error:
    print(type(error).__name__)
";

/// Says something, and closes.
const CLOSER: &str = "
import socket, sys
s = socket.create_connection((sys.argv[1], 9557), 20)
s.sendall(b'hi')
";

#[test]
fn who_speaks_long_after_a_program_has_closed_is_told_that_nobody_listens() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    for way in [Way::Direct, Way::Up] {
        let router = Router::start_with(&lab, way, &profiles, EXPRESS);
        let mut speakers = BOTH.map(|address| lab.internet().spawn(["/usr/bin/python3", "-c", SPEAKER, address]));
        speakers.iter_mut().for_each(|speaker| assert_eq!(speaker.line(), "listening"));
        for address in BOTH {
            router.run(["/usr/bin/python3", "-c", CLOSER, address]).expect_success();
        }
        for speaker in speakers {
            assert_eq!(speaker.finish().1, "BrokenPipeError\n", "{way:?}");
        }
        eventually("conntrack has forgotten them", || {
            let marked = lab.laptop().run(["/usr/bin/python3", "-c", MARKED]).expect_success();
            (marked == "0\n").then_some(())
        });
    }
}

/// Hears that its peer has closed, and speaks when it is told to by SIGUSR1: what it is told. Speaks to the next one for 5 s.
const LATE: &str = "
import signal, socket, sys, time
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
s = socket.create_server((sys.argv[1], 9559), family=socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET)
print('listening', flush=True)
c, _ = s.accept()
while c.recv(100): pass
print('closed', flush=True)
signal.sigwait([signal.SIGUSR1])
try:
    for _ in range(20):
        c.sendall(b'late')
        time.sleep(0.5)
    print('nothing', flush=True)
except OSError as error:
    print(type(error).__name__, flush=True)
c, _ = s.accept()
for _ in range(100):
    c.sendall(b'x' * 100)
    time.sleep(0.05)
";

/// From one port: says something and closes, or hears to the end how many bytes come.
const ONE_PORT: &str = "
import socket, sys
s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('', 19559))
s.settimeout(20)
s.connect((sys.argv[1], 9559))
if sys.argv[2:]:
    came = len(s.recv(100))
    print('listening', flush=True)
    while more := s.recv(10000): came += len(more)
    print(came)
else:
    s.sendall(b'hi')
";

#[test]
fn who_speaks_when_the_closed_connection_is_long_forgotten_is_told_so_and_the_next_one_on_its_ports_is_not_ended_by_that() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let python = |code, words: &[&'static str]| [&["/usr/bin/python3", "-c", code], words].concat();
    lab.laptop().run(["sysctl", "-qw", "net.ipv4.tcp_fin_timeout=3"]).expect_success();
    for way in [Way::Direct, Way::Up] {
        let router = Router::start_with(&lab, way, &profiles, EXPRESS);
        let mut speakers = BOTH.map(|address| lab.internet().spawn(python(LATE, &[address])));
        for (speaker, address) in speakers.iter_mut().zip(BOTH) {
            assert_eq!(speaker.line(), "listening");
            router.run(python(ONE_PORT, &[address])).expect_success();
            assert_eq!(speaker.line(), "closed");
        }
        eventually("nobody here knows of them any more", || {
            let marked = lab.laptop().run(["/usr/bin/python3", "-c", MARKED]).expect_success();
            let sockets = lab.laptop().run(["ss", "-Htan", "dport = 9559"]).expect_success();
            (marked == "0\n" && sockets.is_empty()).then_some(())
        });
        for (speaker, address) in speakers.iter_mut().zip(BOTH) {
            speaker.signal(rustix::process::Signal::USR1);
            assert_eq!(speaker.line(), "BrokenPipeError", "{way:?} {address}");
        }
        let mut listeners = BOTH.map(|address| router.spawn(python(ONE_PORT, &[address, "listen"])));
        listeners.iter_mut().for_each(|listener| assert_eq!(listener.line(), "listening"));
        router.run(["/usr/bin/python3", "-c", FORGET_ALL]).expect_success();
        for listener in listeners {
            assert_eq!(listener.finish().1, "10000\n", "{way:?}");
        }
    }
}

/// Says something far out of the window: what it hears to it.
const STRAY: &str = "
import socket, struct, sys
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
raw = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_TCP)
raw.bind((sys.argv[1], 0))
raw.settimeout(3)
s = socket.create_server((sys.argv[1], 9558), family=family)
print('listening', flush=True)
c, peer = s.accept()
c.recv(10)
def heard():
    while True:
        segment = raw.recv(2000)[20 if family == socket.AF_INET else 0:]
        if struct.unpack_from('!HH', segment) == (peer[1], 9558):
            return segment
while len(segment := heard()) <= segment[12] >> 2: pass
theirs, ours = struct.unpack_from('!II', segment, 4)
stray = struct.pack('!HHIIBBHHH', 9558, peer[1], (ours + 200_000_000) % 2**32, theirs + 2, 5 << 4, 0x10, 1000, 0, 0) + b'zz'
covered = b''.join(socket.inet_pton(family, end) for end in (sys.argv[1], peer[0])) + struct.pack('!HH', 6, len(stray)) + stray
total = sum(struct.unpack(f'!{len(covered) // 2}H', covered))
while total >> 16: total = (total & 0xffff) + (total >> 16)
raw.sendto(stray[:16] + struct.pack('!H', ~total & 0xffff) + stray[18:], (peer[0], 0))
try:
    print('ACK' if heard()[13] == 0x10 else 'something else')
except TimeoutError:
    print('nothing')
";

/// Says something, and listens.
const HEARER: &str = "
import socket, sys
s = socket.create_connection((sys.argv[1], 9558), 20)
s.sendall(b'hi')
print(s.recv(10))
";

#[test]
fn segment_out_of_the_window_is_answered_by_the_socket_that_it_is_for() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    for way in [Way::Direct, Way::Up] {
        let router = Router::start_with(&lab, way, &profiles, EXPRESS);
        for address in BOTH {
            let mut stray = lab.internet().spawn(["/usr/bin/python3", "-c", STRAY, address]);
            assert_eq!(stray.line(), "listening");
            let hearer = router.spawn(["/usr/bin/python3", "-c", HEARER, address]);
            assert_eq!(stray.finish().1, "ACK\n", "{way:?} {address}");
            assert_eq!(hearer.finish().1, "b''\n", "{way:?} {address}");
        }
    }
}

#[test]
fn rules_can_be_listed_while_connections_are_open() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start_with(&lab, Way::Up, &profiles, EXPRESS);
    for address in BOTH {
        let mut talks = [address; 2].map(|address| router.spawn(hold(address)));
        talks.iter_mut().for_each(|talk| assert_eq!(talk.line(), "talking"));
        assert!(lab.laptop().run(["nft", "list", "ruleset"]).expect_success().contains("elements = "), "{address}");
    }
}

#[test]
fn nothing_leaves_with_an_address_that_this_host_has_no_more() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start_with(&lab, Way::Up, &profiles, EXPRESS);
    let mut talks = BOTH.map(|address| router.spawn(hold(address)));
    talks.iter_mut().for_each(|talk| assert_eq!(talk.line(), "talking"));
    let others = "ip addr del 10.9.0.2/24 dev eth0; ip addr del fd09::2/64 dev eth0; \
                  ip addr add 10.9.0.7/24 dev eth0; ip addr add fd09::7/64 dev eth0 nodad; \
                  ip route replace default via 10.9.0.1; ip -6 route replace default via fd09::1";
    lab.laptop().run(["sh", "-c", others]).expect_success();
    let capture = Capture::start(&lab, "moved");
    std::thread::sleep(Duration::from_secs(2));
    for url in ["http://203.0.113.11/hello", "http://[2001:db8::11]/hello"] {
        let hello = || router.run(["curl", "-sS", "--max-time", "5", url]);
        eventually("another connection leaves with the new one", || (hello().code() == 0).then_some(()));
    }
    capture.stop_with_only(&[Seen::tcp(Lab::OTHER_4, 80), Seen::tcp(Lab::OTHER_6, 80)], &[]);
}

/// Hears by the TUN alone, and says what it heard.
const BOUND: &str = "
import socket, sys
s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'portreeve0')
s.settimeout(5)
s.connect((sys.argv[1], 80))
s.sendall(b'GET /hello HTTP/1.0\\r\\n\\r\\n')
print(b''.join(iter(lambda: s.recv(1000), b'')).endswith(b'hello from the lab\\n'))
";

#[test]
fn program_that_binds_itself_to_the_tun_is_heard_and_hears() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start_with(&lab, Way::Up, &profiles, EXPRESS);
    for address in BOTH {
        assert_eq!(router.run(["/usr/bin/python3", "-c", BOUND, address]).expect_success(), "True\n", "{address}");
    }
}
