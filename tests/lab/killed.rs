//! After SIGKILL of the router: closed, then `cleanup` makes everything as it was.

use crate::harness::{Capture, Lab, Profiles, Router, Seen, Way, connect, eventually, hold};
use crate::whole::{settle, state};

#[test]
fn a_killed_router_lets_nothing_out() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let mut router = Router::start(&lab, Way::Up, &profiles);
    let mut talks: Vec<_> = [Lab::SERVER_4, Lab::SERVER_6].iter().map(|address| lab.laptop().spawn(hold(address))).collect();
    for talk in &mut talks {
        assert_eq!(talk.line(), "talking");
    }
    router.daemon().take().expect("the daemon was started").kill();
    // What the kernel had taken over from the router may still leave: FIN or RST of its own sockets.
    std::thread::sleep(std::time::Duration::from_millis(500));
    let capture = Capture::start(&lab, "killed");
    for address in [Lab::OTHER_4, Lab::OTHER_6] {
        assert_ne!(connect(&router, address, 80).said, "OK", "{address}");
    }
    router.run(["dig", "+tries=1", "+time=1", "example.com"]);
    router.run(["ping", "-c1", "-W1", Lab::OTHER_4]);
    router.run(["ping", "-c1", "-W1", Lab::OTHER_6]);
    // The positive control comes last: `cleanup` opens the way again.
    router.verb(&["cleanup"]).expect_success();
    lab.laptop().run(["curl", "-sS", "http://198.51.100.10/hello"]).expect_success();
    // Nor do the old conversations' sockets try again then.
    capture.stop_with_only(&[Seen::tcp("198.51.100.10", 80)], &[]);
    for talk in talks {
        let said = talk.finish().1;
        assert!(["ECONNABORTED\n", "ECONNRESET\n"].contains(&said.as_str()), "{said}");
    }
}

/// An echo conversation that says "talking". By TCP only listens from then on, by UDP goes on: what ends it, or "goes on" where nothing
/// has after it was disturbed.
const WAITER: &str = "
import errno, socket, sys, time
kind, address = sys.argv[1:]
family = socket.AF_INET6 if ':' in address else socket.AF_INET
s = socket.socket(family, socket.SOCK_STREAM if kind == 'tcp' else socket.SOCK_DGRAM)
s.settimeout(20 if kind == 'tcp' else 0.1)
s.connect((address, 7))
s.send(b'x')
assert s.recv(1) == b'x'
print('talking', flush=True)
def attempt(call):
    try:
        return call()
    except OSError as error:
        if error.errno in (errno.ECONNABORTED, errno.ECONNRESET):
            raise SystemExit(print(errno.errorcode[error.errno]))
until, disturbed = time.monotonic() + 20, False
while time.monotonic() < until:
    if kind == 'udp':
        attempt(lambda: s.send(b'x'))
    if not attempt(lambda: s.recv(1)):
        disturbed = True
    elif disturbed:
        raise SystemExit(print('goes on'))
    time.sleep(0.02)
print('silence')
";

#[test]
fn programs_hear_at_once_that_nobody_carries_on_what_they_say_from_the_tuns_addresses() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    for (end, tcp, udp) in [
        ("cleanup", "ECONNABORTED\n", "ECONNABORTED\n"),
        ("up", "ECONNABORTED\n", "goes on\n"),
        // The stack's own words, before the device goes.
        ("down", "ECONNRESET\n", "ECONNABORTED\n"),
    ] {
        let mut router = Router::start(&lab, Way::Up, &profiles);
        let waiter =
            |kind| [Lab::SERVER_4, Lab::SERVER_6].map(|ip| lab.laptop().spawn(["/usr/bin/python3", "-c", WAITER, kind, ip]));
        let mut waiters = ["tcp", "udp"].map(waiter);
        waiters.as_flattened_mut().iter_mut().for_each(|waiter| assert_eq!(waiter.line(), "talking"));
        if end != "down" {
            router.daemon().take().expect("the daemon was started").kill();
            std::thread::sleep(std::time::Duration::from_millis(300));
        }
        if end == "up" {
            router.up(&[]);
        } else {
            router.verb(&[end]).expect_success();
        }
        let capture = Capture::start(&lab, end);
        let [by_tcp, by_udp] = waiters;
        for (waiter, said) in by_tcp.into_iter().map(|waiter| (waiter, tcp)).chain(by_udp.into_iter().map(|waiter| (waiter, udp)))
        {
            assert_eq!(waiter.finish().1, said, "{end}");
        }
        router.run(["curl", "-sS", "http://203.0.113.11/hello"]).expect_success();
        // The next router carries datagrams on.
        let goes_on = [Seen::udp(Lab::SERVER_4, 7), Seen::udp(Lab::SERVER_6, 7)];
        capture.stop_with_only(&[Seen::tcp(Lab::OTHER_4, 80)], if end == "up" { &goes_on } else { &[] });
    }
}

/// Talks to itself from an address of this host, says so, and does it again when it is told to by SIGUSR1.
const OWNER: &str = "
import signal, socket, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
address, other = sys.argv[1:]
family = socket.AF_INET6 if ':' in address else socket.AF_INET
listener = socket.create_server((other, 0), family=family)
s = socket.create_connection(listener.getsockname()[:2], 20, (address, 0))
peer, _ = listener.accept()
for said in 'talking', 'goes on':
    s.sendall(b'x')
    assert peer.recv(1) == b'x'
    print(said, flush=True)
    signal.sigwait([signal.SIGUSR1])
";

#[test]
fn program_of_a_host_that_had_such_an_address_before_goes_on() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let own = "ip addr add 198.18.0.1/32 dev lo; ip addr add 2001:2::1/128 dev lo nodad";
    lab.laptop().run(["sh", "-c", own]).expect_success();
    let owners = [("198.18.0.1", Lab::LAPTOP_4), ("2001:2::1", Lab::LAPTOP_6)];
    let mut owners = owners.map(|(ip, other)| lab.laptop().spawn(["/usr/bin/python3", "-c", OWNER, ip, other]));
    owners.iter_mut().for_each(|owner| assert_eq!(owner.line(), "talking"));
    let mut router = Router::start(&lab, Way::Up, &profiles);
    router.daemon().take().expect("the daemon was started").kill();
    router.verb(&["cleanup"]).expect_success();
    for owner in &mut owners {
        owner.signal(rustix::process::Signal::USR1);
        assert_eq!(owner.line(), "goes on");
    }
}

#[test]
fn cleanup_restores_everything_byte_for_byte() {
    let lab = Lab::new();
    settle(&lab);
    let before = state(&lab);
    let profiles = Profiles::accepting();
    let mut router = Router::start(&lab, Way::Up, &profiles);
    router.run(["curl", "-sS", "http://example.com/hello"]).expect_success();
    router.daemon().take().expect("the daemon was started").kill();
    router.verb(&["cleanup"]).expect_success();
    assert_eq!(state(&lab), before);
    router.verb(&["cleanup"]).expect_success();
    assert_eq!(state(&lab), before, "a second cleanup changes nothing");
    router.verb(&["status"]).expect_code(3);
}

#[test]
fn status_says_that_a_killed_router_left_the_machine_closed_until_it_is_cleaned_up() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let mut router = Router::start(&lab, Way::Up, &profiles);
    let json = |router: &Router<'_>| router.verb(&["status", "--json"]).stdout;
    router.daemon().take().expect("the daemon was started").kill();
    eventually("nobody listens any more", || (router.verb(&["status"]).code() == 3).then_some(()));
    let told = router.verb(&["status"]).stdout;
    assert!(told.contains("machine is closed") && told.contains("portreeve up") && told.contains("portreeve cleanup"), "{told}");
    assert_eq!(json(&router), "{\"state\":\"inactive\",\"left_behind\":true,\"closed\":true}\n");
    assert_ne!(connect(&router, Lab::SERVER_4, 80).said, "OK", "and so it is");
    router.verb(&["cleanup"]).expect_success();
    assert_eq!(json(&router), "{\"state\":\"inactive\",\"left_behind\":false,\"closed\":false}\n");
    assert!(!router.verb(&["status"]).stdout.contains("closed"));
    assert_eq!(connect(&router, Lab::SERVER_4, 80).said, "OK");
}

#[test]
fn up_after_a_kill_takes_over() {
    let lab = Lab::new();
    settle(&lab);
    let before = state(&lab);
    let profiles = Profiles::accepting();
    let mut router = Router::start(&lab, Way::Up, &profiles);
    router.daemon().take().expect("the daemon was started").kill();
    router.up(&[]);
    eventually("traffic flows again", || (router.run(["curl", "-sS", "http://example.com/hello"]).code() == 0).then_some(()));
    router.verb(&["down"]).expect_success();
    router.daemon().take().expect("the daemon was started").finish();
    assert_eq!(state(&lab), before);
}
