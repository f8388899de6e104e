//! Names: what is refused by name, how that looks to a program, and who answers questions.

use crate::harness::{Capture, Lab, Profiles, Router, Seen, Way, executable};

through_a_router! {
    a_refused_name_is_answered_by_an_address_that_says_so,
    a_refused_name_stays_refused_behind_an_alias,
    a_rule_by_name_holds_for_the_flow,
    a_private_address_for_a_public_name_is_filtered,
    a_private_address_is_told_below_a_zone_that_is_excepted_and_nowhere_else,
    questions_are_answered_whatever_address_is_asked,
}

/// Everything is accepted but the trackers' names.
fn without_trackers() -> Profiles {
    let profiles = Profiles::accepting();
    profiles.write("global.toml", "name = \"Global\"\nendpoints = [\"- .tracker.example.net\"]\n");
    profiles
}

fn a_refused_name_is_answered_by_an_address_that_says_so(way: Way) {
    let lab = Lab::new();
    let profiles = without_trackers();
    let capture = Capture::start(&lab, "names");
    let router = Router::start(&lab, way, &profiles);
    let ask = |kind: &str| router.run(["dig", "+tries=1", "+time=20", kind, "tracker.example.net"]).expect_success();
    let (four, six, text) = (ask("A"), ask("AAAA"), ask("TXT"));
    assert!(four.lines().any(|line| line.contains("\tA\t0.0.0.17") && line.contains("\t1\t")), "{way:?}: {four}");
    assert!(six.lines().any(|line| line.contains("\tAAAA\t::17")), "{way:?}: {six}");
    assert!(text.contains("status: NXDOMAIN"), "{way:?}: {text}");
    assert!(four.contains("EDE: ") && text.contains("EDE: "), "{way:?}: no reason given: {four}\n{text}");
    // 7: curl could not connect, which is what a program makes of 0.0.0.17.
    router.run(["curl", "-sS", "--max-time", "30", "http://tracker.example.net/hello"]).expect_code(7);
    router.run(["curl", "-sS", "http://203.0.113.10/hello"]).expect_success();
    let question = router.record("the refused question", |record| record.proto == "dns" && record.verdict == "block");
    assert!(question.rule.as_deref().is_some_and(|rule| rule.contains(".tracker.example.net")), "{way:?}: {question:?}");
    capture.stop_with_only(&[Seen::tcp("203.0.113.10", 80)], &[]);
}

fn a_refused_name_stays_refused_behind_an_alias(way: Way) {
    let lab = Lab::new();
    let profiles = without_trackers();
    let router = Router::start(&lab, way, &profiles);
    let told = router.run(["dig", "+short", "+tries=1", "+time=20", "A", "cloaked.example.net"]).expect_success();
    assert_eq!(told, "0.0.0.17\n", "{way:?}");
    let control = router.run(["dig", "+short", "+tries=1", "+time=20", "A", "ask.example.net"]).expect_success();
    assert_eq!(control, "203.0.113.11\n", "{way:?}");
}

fn a_rule_by_name_holds_for_the_flow(way: Way) {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    profiles.user("curl", &executable("curl"), "endpoints = [\"+ .example.com TCP/80\", \"- *\"]");
    let router = Router::start(&lab, way, &profiles);
    assert_eq!(router.run(["curl", "-sS", "http://other.example.com/hello"]).expect_success(), "hello from the lab\n");
    // An address that the program did not learn as a name of example.com.
    router.run(["curl", "-sS", "http://198.51.100.10/hello"]).expect_code(7);
    router.run(["curl", "-sS", "--max-time", "30", "http://two.example.test/hello"]).expect_code(7);
}

fn a_private_address_for_a_public_name_is_filtered(way: Way) {
    let lab = Lab::new();
    let control = lab.laptop().run(["dig", "+short", "private.example.com"]).expect_success();
    assert_eq!(control, "192.168.77.10\n");
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, way, &profiles);
    for kind in ["A", "AAAA"] {
        let told = router.run(["dig", "+short", "+tries=1", "+time=20", kind, "private.example.com"]).expect_success();
        assert!(!told.contains("192.168.77.10") && !told.contains("fd77::10"), "{way:?}: {told}");
    }
    let why = |rule: &str| rule.contains("rebinding") && rule.contains("portreeve.toml");
    router.record("the name that is withheld", |record| {
        record.proto == "dns" && record.verdict == "block" && record.rule.as_deref().is_some_and(why)
    });
}

/// A company's own names, and the login page of a hotel.
fn a_private_address_is_told_below_a_zone_that_is_excepted_and_nowhere_else(way: Way) {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    for (zone, told) in
        [("private.example.com", Lab::PRIVATE), ("example.com", Lab::PRIVATE), ("other.example.com", ["0.0.0.17", "::17"])]
    {
        let router = Router::start_with(&lab, way, &profiles, Some(&format!("[dns]\nprivate = [\"{zone}\"]\n")));
        for (kind, address) in ["A", "AAAA"].iter().zip(told) {
            let answer = router.run(["dig", "+short", "+tries=1", "+time=20", kind, "private.example.com"]).expect_success();
            assert_eq!(answer.trim(), address, "{way:?}, {zone}");
        }
    }
}

fn questions_are_answered_whatever_address_is_asked(way: Way) {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let capture = Capture::start(&lab, "asked");
    let router = Router::start(&lab, way, &profiles);
    for asked in ["@192.0.2.53", "@2001:db8:ffff::53", "@203.0.113.66"] {
        for flag in ["+notcp", "+tcp"] {
            let told = router.run(["dig", asked, flag, "+short", "+tries=1", "+time=20", "A", "v4.example.com"]).expect_success();
            assert_eq!(told, "203.0.113.10\n", "{way:?}, {asked} {flag}");
        }
    }
    let [udp, ..] = Seen::questions();
    capture.stop_with_only(&[udp], &Seen::questions());
}

#[test]
fn loopback_resolvers_answer_inside() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, Way::Exec, &profiles);
    for asked in ["@127.0.0.53", "@127.0.0.1"] {
        for flag in ["+notcp", "+tcp"] {
            let told = router.run(["dig", asked, flag, "+short", "+tries=1", "+time=20", "A", "v4.example.com"]).expect_success();
            assert_eq!(told, "203.0.113.10\n", "{asked} {flag}");
        }
    }
}

#[test]
fn a_dead_upstream_is_a_server_failure_not_an_open_door() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, Way::Exec, &profiles);
    lab.gateway().run(["ip", "route", "add", "blackhole", "198.51.100.53/32"]).expect_success();
    lab.gateway().run(["ip", "route", "add", "blackhole", "2001:db8::53/128"]).expect_success();
    let told = router.run(["dig", "+tries=1", "+time=10", "A", "fresh.example.test"]);
    assert!(told.stdout.contains("status: SERVFAIL"), "{told:?}");
}
