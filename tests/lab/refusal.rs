//! A refused program is told at once, and nothing of it reaches the wire.

use crate::harness::{Capture, Connect, Lab, Profiles, Router, Seen, Way, connect, executable, probe, probe_by, python, told};

through_a_router! {
    a_refused_connection_is_refused_at_once,
    a_refused_datagram_is_refused_at_once,
    nothing_of_a_refused_program_reaches_the_wire,
    an_empty_profile_set_refuses_everything,
    one_program_at_two_paths_has_two_profiles,
    a_port_rule_refuses_the_other_port,
}

/// Far above the 50 ms that are aimed at: a slow machine must not decide a test.
const AT_ONCE_MS: f64 = 500.0;

/// Demands this answer of three programs, and of one of them that it came at once: others may keep the machine busy meanwhile.
fn refused_at_once(errno: &str, what: &str, ask: impl Fn() -> Connect) {
    let answers = [(); 3].map(|()| ask());
    eprintln!("{what}: {answers:?}");
    assert!(answers.iter().all(|answer| answer.said == errno), "{what}: {answers:?}");
    assert!(answers.iter().any(|answer| answer.milliseconds < AT_ONCE_MS), "{what}: {answers:?}");
}

/// Everything is accepted but Python.
fn refusing_python() -> Profiles {
    let profiles = Profiles::accepting();
    profiles.user("python", &python(), "endpoints = [\"- *\"]");
    profiles
}

fn a_refused_connection_is_refused_at_once(way: Way) {
    let lab = Lab::new();
    let profiles = refusing_python();
    let router = Router::start(&lab, way, &profiles);
    for address in [Lab::SERVER_4, Lab::SERVER_6] {
        refused_at_once("ECONNREFUSED", &format!("{way:?}, {address}"), || connect(&router, address, 80));
    }
    let flow = router.record("Python's refused flow", |record| record.proto == "tcp");
    assert_eq!((flow.verdict.as_str(), flow.profile.as_deref()), ("block", Some("python")), "{way:?}");
    assert!(flow.rule.as_deref().is_some_and(|rule| rule.contains("- *")), "{way:?}: {flow:?}");
}

fn a_refused_datagram_is_refused_at_once(way: Way) {
    let lab = Lab::new();
    let profiles = refusing_python();
    let router = Router::start(&lab, way, &profiles);
    // ICMP administratively prohibited: EHOSTUNREACH (net/ipv4/icmp.c, icmp_err_convert), ICMPv6: EACCES (tab_unreach).
    for (address, errno) in [(Lab::SERVER_4, "EHOSTUNREACH"), (Lab::SERVER_6, "EACCES")] {
        let ask = || told(router.run(probe(&["datagram", address, "7"])));
        refused_at_once(errno, &format!("{way:?}, {address}"), ask);
    }
}

fn nothing_of_a_refused_program_reaches_the_wire(way: Way) {
    let lab = Lab::new();
    let profiles = refusing_python();
    let router = Router::start(&lab, way, &profiles);
    let capture = Capture::start(&lab, "refused");
    for address in [Lab::OTHER_4, Lab::OTHER_6] {
        assert_eq!(connect(&router, address, 80).said, "ECONNREFUSED", "{way:?}");
        assert_ne!(told(router.run(probe(&["datagram", address, "7"]))).said, "OK", "{way:?}");
    }
    let by_name = connect(&router, "other.example.com", 80);
    assert_ne!(by_name.said, "OK", "{way:?}");
    for url in ["http://203.0.113.10/hello", "http://[2001:db8::10]/hello"] {
        router.run(["curl", "-sS", url]).expect_success();
    }
    // The name that Python asked for may have been resolved: a rule for everything cannot be decided by a name alone.
    capture.stop_with_only(&[Seen::tcp(Lab::SERVER_4, 80), Seen::tcp(Lab::SERVER_6, 80)], &Seen::questions());
}

fn an_empty_profile_set_refuses_everything(way: Way) {
    let lab = Lab::new();
    let profiles = Profiles::empty();
    let capture = Capture::start(&lab, "empty-set");
    lab.laptop().run(["curl", "-sS", "http://203.0.113.10/hello"]).expect_success();
    let router = Router::start(&lab, way, &profiles);
    for address in [Lab::OTHER_4, Lab::OTHER_6] {
        assert_eq!(connect(&router, address, 80).said, "ECONNREFUSED", "{way:?}");
    }
    let told = router.run(["dig", "+tries=1", "+time=10", "+short", "A", "example.com"]);
    assert_eq!(told.stdout, "0.0.0.17\n", "{way:?}");
    capture.stop_with_only(&[Seen::tcp(Lab::SERVER_4, 80)], &[]);
}

fn one_program_at_two_paths_has_two_profiles(way: Way) {
    let lab = Lab::new();
    let [trusted, stranger] = ["trusted", "stranger"].map(|name| lab.copy_of("curl", name));
    let profiles = Profiles::empty();
    profiles.user("trusted", &trusted, "mode = \"blacklist\"\n[scope]\ninternet = true\n[flags]\npeer_to_peer = true");
    profiles.user("stranger", &stranger, "mode = \"whitelist\"\n[scope]\ninternet = true\n[flags]\npeer_to_peer = true");
    let router = Router::start(&lab, way, &profiles);
    for url in ["http://203.0.113.10/hello", "http://[2001:db8::10]/hello"] {
        let words = |program: &std::path::Path| [program.display().to_string(), "-sS".to_owned(), url.to_owned()];
        assert_eq!(router.run(words(&trusted)).expect_success(), "hello from the lab\n", "{way:?}");
        // 7: curl could not connect.
        router.run(words(&stranger)).expect_code(7);
    }
    for (program, verdict) in [(&trusted, "accept"), (&stranger, "block")] {
        let path = program.display().to_string();
        let flow = router.record(&path, |record| record.proto == "tcp" && record.exe.as_deref() == Some(&path));
        assert_eq!(flow.verdict, verdict, "{way:?}");
    }
}

#[test]
fn the_program_behind_a_script_is_its_interpreter() {
    let lab = Lab::new();
    let copy = lab.copy_of("/usr/bin/python3", "other-python");
    let profiles = refusing_python();
    profiles.user("copy", &copy, "endpoints = [\"+ *\"]");
    let router = Router::start(&lab, Way::Exec, &profiles);
    let refused = told(router.run(probe(&["connect", Lab::SERVER_4, "80"])));
    let accepted = told(router.run(probe_by(&copy.display().to_string(), &["connect", Lab::SERVER_4, "80"])));
    assert_eq!((refused.said.as_str(), accepted.said.as_str()), ("ECONNREFUSED", "OK"));
}

fn a_port_rule_refuses_the_other_port(way: Way) {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    profiles.user("curl", &executable("curl"), "endpoints = [\"+ * TCP/80\", \"- *\"]");
    let router = Router::start(&lab, way, &profiles);
    for host in ["203.0.113.10", "[2001:db8::10]", "example.com"] {
        router.run(["curl", "-sS", &format!("http://{host}/hello")]).expect_success();
        router.run(["curl", "-sS", &format!("http://{host}:8080/hello")]).expect_code(7);
    }
}
