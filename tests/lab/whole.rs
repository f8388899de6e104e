//! `portreeve up` for the whole laptop: one at a time, everything back after `down`, and the traps of policy routing.

use std::ffi::OsString;

use crate::harness::{Capture, Lab, Profiles, Router, Running, Seen, Way, binary, connect, probe};

/// All that `up` may change, as text.
pub(crate) fn state(lab: &Lab) -> String {
    let commands = "ip link; ip -4 address; ip -6 address; ip rule; ip -6 rule; ip route show table all; ip -6 route show table all; \
        nft list ruleset; sysctl -a -r '^net.ipv[46].conf' 2>/dev/null; sysctl -a -r 'early_demux' 2>/dev/null; \
        cat /etc/resolv.conf; ls /sys/class/net";
    lab.laptop().run(["sh", "-c", commands]).expect_success()
}

/// A user's own rules, which must be there afterwards, and the strict reverse-path filter of some distributions.
pub(crate) fn settle(lab: &Lab) {
    let commands = "set -e; ip rule add pref 5000 from 192.0.2.1 lookup 100; ip route add 192.0.2.0/24 dev eth0 table 100; \
        sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.eth0.rp_filter=1; \
        printf 'table inet mine {\\n chain input {\\n type filter hook input priority 0; policy accept;\\n }\\n }\\n' | nft -f -";
    lab.laptop().run(["sh", "-c", commands]).expect_success();
}

#[test]
fn down_restores_everything() {
    let lab = Lab::new();
    settle(&lab);
    let before = state(&lab);
    let profiles = Profiles::accepting();
    let mut router = Router::start(&lab, Way::Up, &profiles);
    router.run(["curl", "-sS", "http://example.com/hello"]).expect_success();
    assert_ne!(state(&lab), before, "`up` changes something, or this test sees nothing");
    router.verb(&["down"]).expect_success();
    let daemon = router.daemon().take().expect("the daemon was started");
    assert!(daemon.finish().0.success());
    assert_eq!(state(&lab), before);
    router.verb(&["status"]).expect_code(3);
    lab.laptop().run(["curl", "-sS", "http://example.com/hello"]).expect_success();
}

#[test]
fn a_caller_that_does_not_wait_for_its_children_gets_up_and_down_too() {
    let lab = Lab::new();
    let before = state(&lab);
    let profiles = Profiles::accepting();
    let [binary, set] = [binary(), profiles.path().to_owned()].map(|path| path.display().to_string());
    let script = "import os, signal, sys\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nos.execvp(sys.argv[1], sys.argv[1:])";
    let call = |words: &[&str]| {
        let python = ["/usr/bin/python3", "-c", script, &binary];
        lab.laptop().run(python.iter().chain(words))
    };
    call(&["up", "--profiles", &set]).expect_code(0);
    let during = state(&lab);
    call(&["down"]).expect_code(0);
    assert_ne!(during, before);
    assert_eq!(state(&lab), before);
}

#[test]
fn sigterm_restores_everything() {
    let lab = Lab::new();
    settle(&lab);
    let before = state(&lab);
    let profiles = Profiles::accepting();
    let mut router = Router::start(&lab, Way::Up, &profiles);
    let daemon = router.daemon().take().expect("the daemon was started");
    daemon.signal(rustix::process::Signal::TERM);
    daemon.finish();
    assert_eq!(state(&lab), before);
}

#[test]
fn up_returns_when_traffic_flows() {
    let lab = Lab::new();
    let before = state(&lab);
    let profiles = Profiles::accepting();
    let words: Vec<OsString> = vec![binary().into(), "up".into(), "--profiles".into(), profiles.path().into()];
    lab.laptop().run(&words).expect_success();
    lab.laptop().run(["curl", "-sS", "http://example.com/hello"]).expect_success();
    let verb = |verb: &str| lab.laptop().run([binary().into_os_string(), verb.into()]);
    assert!(verb("flows").expect_success().contains("curl"));
    verb("down").expect_success();
    assert_eq!(state(&lab), before);
}

#[test]
fn up_refuses_to_run_twice() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, Way::Up, &profiles);
    let during = state(&lab);
    let set = profiles.path().display().to_string();
    let second = router.verb(&["up", "--profiles", &set]);
    assert_ne!(second.code(), 0);
    assert!(!second.stderr.trim().is_empty(), "it says why");
    assert_eq!(state(&lab), during);
    router.run(["curl", "-sS", "http://example.com/hello"]).expect_success();
}

#[test]
fn a_local_server_keeps_answering() {
    let lab = Lab::new();
    settle(&lab);
    let mut servers: Vec<Running> = Vec::new();
    for address in [Lab::LAPTOP_4, Lab::LAPTOP_6] {
        let mut server = lab.laptop().spawn(probe(&["serve", address, "2000"]));
        assert_eq!(server.line(), "serving");
        servers.push(server);
    }
    let ask = |address: &str| lab.internet().run(probe(&["connect", address, "2000"])).expect_success();
    let echo = |address: &str| {
        let bracketed = if address.contains(':') { format!("TCP6:[{address}]:2000") } else { format!("TCP4:{address}:2000") };
        lab.internet().run(["sh", "-c", &format!("echo inbound | socat -t30 - '{bracketed}'")]).expect_success()
    };
    let profiles = Profiles::empty();
    for address in [Lab::LAPTOP_4, Lab::LAPTOP_6] {
        assert!(ask(address).contains("\"OK\""), "{address}, before");
    }
    let router = Router::start(&lab, Way::Up, &profiles);
    for address in [Lab::LAPTOP_4, Lab::LAPTOP_6] {
        assert!(ask(address).contains("\"OK\""), "{address}, under `up`");
        assert_eq!(echo(address), "inbound\n", "{address}, under `up`");
    }
    // The same laptop may open nothing itself.
    assert_eq!(connect(&router, Lab::SERVER_4, 80).said, "ECONNREFUSED");
}

#[test]
fn neighbours_are_still_found() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, Way::Up, &profiles);
    lab.laptop().run(["ip", "neigh", "flush", "dev", "eth0"]).expect_success();
    for address in [Lab::SERVER_4, Lab::SERVER_6] {
        assert_eq!(connect(&router, address, 80).said, "OK", "{address}");
    }
}

#[test]
fn a_program_that_names_the_link_gets_no_way_around() {
    let lab = Lab::new();
    let profiles = Profiles::empty();
    let capture = Capture::start(&lab, "around");
    lab.laptop().run(["curl", "-sS", "--interface", "eth0", "http://203.0.113.10/hello"]).expect_success();
    let _router = Router::start(&lab, Way::Up, &profiles);
    for url in ["http://203.0.113.11/hello", "http://[2001:db8::11]/hello"] {
        let told = lab.laptop().run(["curl", "-sS", "--max-time", "3", "--interface", "eth0", url]);
        assert_ne!(told.code(), 0, "{url}");
    }
    let ping = lab.laptop().run(["ping", "-c1", "-W1", "-I", "eth0", Lab::OTHER_4]);
    assert_ne!(ping.code(), 0);
    capture.stop_with_only(&[Seen::tcp(Lab::SERVER_4, 80)], &[]);
}

#[test]
fn a_loopback_stub_is_no_upstream() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    // The laptop's own resolv.conf is replaced for the daemon and for dig alone: a stub that nobody serves.
    let stub = lab.dir().join("stub.conf");
    std::fs::write(&stub, "nameserver 127.0.0.53\n").expect("the lab's folder is ours");
    let script = |rest: &str| format!("mount --bind {} /etc/resolv.conf; exec {rest}", stub.display());
    let up = script(&format!("{} up --foreground --profiles {}", binary().display(), profiles.path().display()));
    let mut daemon = lab.laptop().spawn(["sh", "-c", &up]);
    crate::harness::eventually("`portreeve up` is active", || {
        assert!(!daemon.has_ended(), "`portreeve up` ended at once");
        (lab.laptop().run([binary().into_os_string(), "status".into()]).code() == 0).then_some(())
    });
    // No upstream is known, so the address that was asked is.
    let asked =
        lab.laptop().run(["dig", "@198.51.100.53", "+short", "+tries=1", "+time=20", "A", "v4.example.com"]).expect_success();
    assert_eq!(asked, "203.0.113.10\n");
    lab.laptop().run([binary().into_os_string(), "down".into()]).expect_success();
}
