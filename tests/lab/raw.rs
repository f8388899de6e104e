//! What raw sockets send is the program's that holds them: `tests/data/lab/raw.py` sends a SYN and a datagram.

use portreeve::flow::Record;
use portreeve::process::Confidence;

use crate::harness::{Capture, Lab, Profiles, Router, Seen, Way, executable, python, raw};

through_a_router! {
    what_raw_sockets_send_is_their_programs,
    a_rule_for_the_program_behind_a_raw_socket_refuses,
    what_two_programs_may_have_sent_needs_both_to_be_accepted,
    who_writes_whole_packets_by_a_socket_of_icmp_passes_as_no_other,
    what_is_sent_by_a_socket_that_two_programs_have_needs_both_to_be_accepted,
    who_sends_from_the_port_of_anothers_socket_does_not_pass_as_that_one,
    echo_by_a_raw_socket_needs_all_who_may_have_sent_it_to_be_accepted,
    what_was_sent_before_a_program_was_executed_is_not_that_programs_though_a_raw_socket_is_closed,
    what_a_closed_socket_sent_is_no_raw_sockets,
}

const SERVERS: [&str; 2] = [Lab::SERVER_4, Lab::SERVER_6];
/// Raw sockets of these protocols can send segments and datagrams, too.
const ICMP: [&str; 2] = ["1", "58"];

/// Both records of one run, the segment's first.
fn records(router: &Router<'_>, address: &str, source: u16) -> [Record; 2] {
    [("tcp", source), ("udp", source + 1)].map(|(proto, source)| {
        let ends = format!(":{source}");
        router.record(&format!("{proto} from {source}"), |record| {
            record.proto == proto && record.src.ends_with(&ends) && record.dst.contains(address)
        })
    })
}

/// Without a router both are answered.
fn what_raw_sockets_send_is_their_programs(way: Way) {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, way, &profiles);
    for address in SERVERS {
        let told = router.run(raw(&["send", address])).expect_success();
        assert_eq!(told.trim(), r#"["SYN ACK", "raw!"]"#, "{way:?}, {address}");
        router.run(raw(&["whole", address])).expect_success();
        router.run(raw(&["once", address])).expect_success();
        for record in [40_001, 40_003, 40_005].into_iter().flat_map(|source| records(&router, address, source)) {
            assert_eq!(
                (record.exe.as_deref(), record.confidence),
                (python().to_str(), Confidence::Likely),
                "{way:?}: {record:?}"
            );
            assert_eq!(record.verdict, "accept", "{way:?}: {record:?}");
        }
    }
}

fn a_rule_for_the_program_behind_a_raw_socket_refuses(way: Way) {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    profiles.user("python", &python(), "endpoints = [\"- *\"]");
    let router = Router::start(&lab, way, &profiles);
    let capture = Capture::start(&lab, "raw");
    for address in SERVERS {
        let told = router.run(raw(&["send", address])).expect_success();
        assert_eq!(told.trim(), r#"["RST ACK", null]"#, "{way:?}, {address}");
        router.run(raw(&["whole", address])).expect_success();
        router.run(raw(&["once", address])).expect_success();
        for record in [40_001, 40_003, 40_005].into_iter().flat_map(|source| records(&router, address, source)) {
            assert_eq!((record.verdict.as_str(), record.profile.as_deref()), ("block", Some("python")), "{way:?}: {record:?}");
        }
    }
    // The control: the laptop's echo reply.
    lab.gateway().run(["ping", "-c1", "-q", Lab::LAPTOP_4]).expect_success();
    let control = Seen { protocol: "ICMP", destination: std::net::IpAddr::from([10, 9, 0, 1]), port: None };
    capture.stop_with_only(&[control], &[]);
}

fn what_two_programs_may_have_sent_needs_both_to_be_accepted(way: Way) {
    let lab = Lab::new();
    for refused in [false, true] {
        let profiles = Profiles::accepting();
        if refused {
            profiles.user("sleep", &executable("sleep"), "endpoints = [\"- *\"]");
        }
        let router = Router::start(&lab, way, &profiles);
        for (address, held) in SERVERS.into_iter().zip(ICMP) {
            let told = router.run(raw(&["send", address, held])).expect_success();
            let wanted = if refused { r#"["RST ACK", null]"# } else { r#"["SYN ACK", "raw!"]"# };
            assert_eq!(told.trim(), wanted, "{way:?}, {address}");
            router.run(raw(&["once", address, held])).expect_success();
            for record in [40_001, 40_005].into_iter().flat_map(|source| records(&router, address, source)) {
                assert_eq!(record.confidence, Confidence::Ambiguous, "{way:?}: {record:?}");
                assert_eq!(record.profile.as_deref() == Some("sleep"), refused, "{way:?}: {record:?}");
            }
        }
    }
}

fn who_writes_whole_packets_by_a_socket_of_icmp_passes_as_no_other(way: Way) {
    let lab = Lab::new();
    for refused in [false, true] {
        let profiles = Profiles::accepting();
        if refused {
            profiles.user("python", &python(), "endpoints = [\"- *\"]");
        }
        let router = Router::start(&lab, way, &profiles);
        for address in SERVERS {
            router.run(raw(&["disguised", address, "255"])).expect_success();
            for record in records(&router, address, 40_009) {
                assert_eq!(record.confidence, Confidence::Ambiguous, "{way:?}: {record:?}");
                assert_eq!(record.verdict, if refused { "block" } else { "accept" }, "{way:?}: {record:?}");
                assert_eq!(record.profile.as_deref() == Some("python"), refused, "{way:?}: {record:?}");
            }
        }
    }
}

/// A search that ends at the first who has it finds python alone.
fn what_is_sent_by_a_socket_that_two_programs_have_needs_both_to_be_accepted(way: Way) {
    let lab = Lab::new();
    for refused in [false, true] {
        let profiles = Profiles::accepting();
        if refused {
            profiles.user("sleep", &executable("sleep"), "endpoints = [\"- *\"]");
        }
        let router = Router::start(&lab, way, &profiles);
        for address in SERVERS {
            let told = router.run(raw(&["shared", address])).expect_success();
            let wanted = if refused { r#"["RST ACK", null]"# } else { r#"["SYN ACK", "raw!"]"# };
            assert_eq!(told.trim(), wanted, "{way:?}, {address}");
            for record in records(&router, address, 40_011) {
                assert_eq!(record.confidence, Confidence::Ambiguous, "{way:?}: {record:?}");
                assert_eq!(record.profile.as_deref() == Some("sleep"), refused, "{way:?}: {record:?}");
            }
        }
    }
}

/// The datagram alone: whoever has the very ends of a connection carries it on.
fn who_sends_from_the_port_of_anothers_socket_does_not_pass_as_that_one(way: Way) {
    let lab = Lab::new();
    for refused in [None, Some("python"), Some("sleep")] {
        let profiles = Profiles::accepting();
        if let Some(name) = refused {
            let program = if name == "python" { python() } else { executable("sleep") };
            profiles.user(name, &program, "endpoints = [\"- *\"]");
        }
        let router = Router::start(&lab, way, &profiles);
        for address in SERVERS {
            router.run(raw(&["beside", address])).expect_success();
            let [_, record] = records(&router, address, 40_013);
            assert_eq!(record.confidence, Confidence::Ambiguous, "{way:?}: {record:?}");
            assert_eq!(record.verdict, if refused.is_some() { "block" } else { "accept" }, "{way:?}: {record:?}");
            assert_eq!(record.profile.as_deref().filter(|name| Some(*name) == refused), refused, "{way:?}: {record:?}");
        }
    }
}

fn echo_by_a_raw_socket_needs_all_who_may_have_sent_it_to_be_accepted(way: Way) {
    let lab = Lab::new();
    for (refused, held, told) in [(None, false, true), (Some("python"), false, false), (Some("sleep"), true, false)] {
        let profiles = Profiles::accepting();
        if let Some(name) = refused {
            let program = if name == "python" { python() } else { executable("sleep") };
            profiles.user(name, &program, "endpoints = [\"- *\"]");
        }
        let router = Router::start(&lab, way, &profiles);
        for (address, icmp) in SERVERS.into_iter().zip(ICMP) {
            let words = if held { &["echo", address, icmp][..] } else { &["echo", address] };
            let wanted = if told { "\"a reply\"" } else { "\"no reply\"" };
            assert_eq!(router.run(raw(words)).expect_success().trim(), wanted, "{way:?}, {address}, {refused:?}");
        }
        let of = |proto: &str| router.record(proto, |record| record.proto == proto);
        for record in ["icmp", "icmp6"].map(of) {
            assert_eq!(record.profile.as_deref().filter(|name| Some(*name) == refused), refused, "{way:?}: {record:?}");
        }
    }
}

/// Without the look at who executed, the accepted program that it became is taken for its sender.
fn what_was_sent_before_a_program_was_executed_is_not_that_programs_though_a_raw_socket_is_closed(way: Way) {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    profiles.user("python", &python(), "endpoints = [\"- *\"]");
    let router = Router::start(&lab, way, &profiles);
    for address in SERVERS {
        router.run(raw(&["become", address])).expect_success();
        for record in records(&router, address, 40_007) {
            assert_eq!(record.verdict, "block", "{way:?}: {record:?}");
            assert!(record.exe.is_none() || record.exe.as_deref() == python().to_str(), "{way:?}: {record:?}");
        }
    }
}

/// Some are found before they are closed, some are nobody's.
fn what_a_closed_socket_sent_is_no_raw_sockets(way: Way) {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, way, &profiles);
    for address in SERVERS {
        router.run(raw(&["closed", address])).expect_success();
        let records = router.records();
        let mine: Vec<_> = records.iter().filter(|record| record.proto == "udp" && record.dst.contains(address)).collect();
        let nobodys = mine.iter().filter(|record| record.exe.is_none()).count();
        eprintln!("{way:?}, {address}: {nobodys} of {} are nobody's", mine.len());
        assert!(mine.len() > 50, "{way:?}: {records:#?}");
        let others: Vec<_> =
            mine.iter().filter(|record| record.exe.as_deref().is_some_and(|exe| Some(exe) != python().to_str())).collect();
        assert!(others.is_empty(), "{way:?}: {others:#?}");
    }
}
