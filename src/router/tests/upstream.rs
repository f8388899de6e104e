//! What becomes of upstream sockets, and idleness.

use super::*;
use crate::packet::{ErrorMessage, Unreachable};

/// What the program is told of a failure: a reset of TCP, and else over IPv4 and over IPv6.
fn failures() -> [(Failure, [Option<Told>; 3]); 9] {
    let icmp = |v4: (u8, u8), v6: (u8, u8)| (Some(Told::Icmp(v4.0, v4.1)), Some(Told::Icmp(v6.0, v6.1)));
    let all = |v4, v6| {
        let (v4, v6) = icmp(v4, v6);
        [None, v4, v6]
    };
    let reset = |v4, v6| {
        let (v4, v6) = icmp(v4, v6);
        [Some(Told::Reset), v4, v6]
    };
    [
        (Failure::Refused, reset((3, 3), (1, 4))),
        (Failure::Reset, reset((3, 3), (1, 4))),
        (Failure::Unreachable(Unreachable::Network), all((3, 0), (1, 0))),
        (Failure::Unreachable(Unreachable::Host), all((3, 1), (1, 3))),
        (Failure::Unreachable(Unreachable::Protocol), all((3, 2), (4, 1))),
        (Failure::Unreachable(Unreachable::Port), all((3, 3), (1, 4))),
        (Failure::Unreachable(Unreachable::Prohibited), all((3, 13), (1, 1))),
        (Failure::TimedOut, [None; 3]),
        (Failure::Exhausted, all((3, 1), (1, 3))),
    ]
}

/// What `way` is told of a failure with these answers.
fn answer_to(way: &Way, [tcp, v4, v6]: [Option<Told>; 3], failure: Failure) -> Vec<Told> {
    let icmp = if way.remote.is_ipv4() { v4 } else { v6 };
    let is_reset = matches!(failure, Failure::Refused | Failure::Reset);
    if way.kind == Kindred::Udp && way.remote.is_ipv4() && failure == Failure::Unreachable(Unreachable::Network) {
        // Told to a connected socket, as the host's own routes would.
        return vec![Told::Icmp(3, 6)];
    }
    (if way.kind == Kindred::Tcp && is_reset { tcp } else { icmp }).into_iter().collect()
}

#[test]
fn a_failure_before_the_flow_is_open_reaches_the_program_as_it_happened() {
    for way in ways(443) {
        for (failure, answers) in failures() {
            let mut bench = Bench::new(ACCEPT);
            let (id, _) = bench.judged(&way, "/usr/bin/curl");
            let outputs = bench.input(Input::Failed { flow: id, failure });
            assert_eq!(told(&outputs), answer_to(&way, answers, failure), "{way:?} {failure:?}");
            assert_eq!(records(&outputs).len(), 1, "{way:?} {failure:?}");
            assert_eq!(records(&outputs)[0].verdict, "accept", "the policy did accept it");
            bench.assert_empty();
        }
    }
}

#[test]
fn an_error_on_an_open_datagram_flow_is_told_and_the_flow_lives_on() {
    for way in ways(443).into_iter().filter(|way| way.kind != Kindred::Tcp) {
        for (failure, answers) in failures() {
            let mut bench = Bench::new(ACCEPT);
            let id = bench.open(&way);
            let outputs = bench.input(Input::Failed { flow: id, failure });
            assert_eq!(told(&outputs), answer_to(&way, answers, failure), "{way:?} {failure:?}");
            assert!(records(&outputs).is_empty() && cut(&outputs).is_empty());
            assert!(delivered(&bench.send(&way.opener())));
        }
    }
}

#[test]
fn an_error_quotes_what_the_program_sent() {
    for way in ways(443).into_iter().filter(|way| way.kind != Kindred::Tcp) {
        let mut bench = Bench::new(ACCEPT);
        let id = bench.open(&way);
        let outputs = bench.input(Input::Failed { flow: id, failure: Failure::Refused });
        let [Output::Reply(bytes)] = &outputs[..] else { panic!("{outputs:?}") };
        let quote = bytes.get(if way.remote.is_ipv4() { 28.. } else { 48.. }).expect("a quote");
        assert_eq!(tuple_of(quote), tuple_of(&way.opener()), "the kernel finds the socket by the quote");
    }
}

#[test]
fn an_icmp_error_that_came_back_is_told_with_its_kind_code_sender_and_hops() {
    for way in ways(443).into_iter().filter(|way| way.kind == Kindred::Tcp) {
        let v4 = way.remote.is_ipv4();
        let hop: IpAddr = if v4 { "10.9.0.1".parse() } else { "fd09::1".parse() }.expect("an address");
        for (kind, code) in if v4 { [(3, 13), (3, 9), (11, 0)] } else { [(1, 1), (1, 5), (3, 0)] } {
            for from in [Some(hop), None] {
                let mut bench = Bench::new(ACCEPT);
                let (id, _) = bench.judged(&way, "/usr/bin/curl");
                let message = ErrorMessage { kind, code, detail: 0, hop_limit: Some(57) };
                let outputs = bench.input(Input::Failed { flow: id, failure: Failure::Message { message, from } });
                assert_eq!(told(&outputs), [Told::Icmp(kind, code)]);
                let sender = if v4 { 12..16 } else { 8..24 };
                let bytes = outputs.iter().find_map(reply_of);
                let expected: Vec<u8> = match from.unwrap_or(way.remote.ip()) {
                    IpAddr::V4(ip) => ip.octets().into(),
                    IpAddr::V6(ip) => ip.octets().into(),
                };
                assert_eq!(bytes.and_then(|bytes| bytes.get(sender)), Some(&expected[..]));
                assert_eq!(bytes.and_then(|bytes| bytes.get(if v4 { 8 } else { 7 })), Some(&57), "what was left of its hops");
                assert_eq!(outcomes(&outputs), ["unreachable"]);
                bench.assert_empty();
            }
        }
    }
}

#[test]
fn a_connection_that_breaks_ends_with_one_record() {
    for v6 in [false, true] {
        for (failure, _) in failures() {
            let mut bench = Bench::new(ACCEPT);
            let id = bench.open(&Way::new(Kindred::Tcp, v6, 40_000, 443));
            let outputs = bench.input(Input::Failed { flow: id, failure });
            assert_eq!((records(&outputs).len(), told(&outputs)), (1, vec![]), "its own socket in the stack tells the program");
            bench.assert_empty();
        }
    }
}

#[test]
fn a_failure_that_comes_while_the_flow_waits_is_of_another_time() {
    for way in ways(443) {
        let mut bench = Bench::new(ASK);
        let id = bench.begin(&way);
        assert!(bench.input(Input::Failed { flow: id, failure: Failure::Refused }).is_empty());
        let owners = vec![bench.owner("/usr/bin/curl")];
        bench.input(Input::Identified { flow: id, owners });
        assert!(bench.input(Input::Failed { flow: id, failure: Failure::Refused }).is_empty());
        assert!(bench.input(Input::Opened(id)).is_empty(), "nobody said open");
        assert_eq!(bench.router.population(), (0, 1));
    }
}

#[test]
fn an_idle_datagram_flow_ends_and_one_that_was_answered_lives_longer() {
    for way in ways(443).into_iter().filter(|way| way.kind != Kindred::Tcp) {
        for (down, life) in [(0, 30), (1, 180)] {
            let mut bench = Bench::new(ACCEPT);
            let id = bench.open(&way);
            bench.router.account(id, 1, down, bench.now);
            assert!(bench.pass(Duration::from_secs(life - 1)).is_empty(), "{way:?}");
            let outputs = bench.pass(Duration::from_secs(1));
            assert_eq!((cut(&outputs), outcomes(&outputs)), (vec![id], vec!["idle"]), "{way:?}");
            bench.assert_empty();
        }
    }
}

#[test]
fn traffic_either_way_keeps_a_datagram_flow_alive() {
    for way in ways(443).into_iter().filter(|way| way.kind != Kindred::Tcp) {
        let mut bench = Bench::new(ACCEPT);
        let id = bench.open(&way);
        for round in 0..10 {
            assert!(bench.pass(Duration::from_secs(29)).is_empty(), "{way:?}");
            if round % 2 == 0 {
                assert!(delivered(&bench.send(&way.opener())));
            } else {
                bench.router.account(id, 0, 0, bench.now);
            }
        }
    }
}

#[test]
fn an_open_connection_may_be_silent_for_hours() {
    for v6 in [false, true] {
        let mut bench = Bench::new(ACCEPT);
        bench.open(&Way::new(Kindred::Tcp, v6, 40_000, 443));
        assert_eq!(bench.router.poll_timeout(), None);
        assert!(bench.pass(Duration::from_secs(86_400)).is_empty());
        assert_eq!(bench.router.population(), (1, 0));
    }
}

#[test]
fn a_refused_datagram_flow_is_forgotten_when_the_program_stops() {
    for way in ways(443).into_iter().filter(|way| way.kind != Kindred::Tcp) {
        let mut bench = Bench::new(BLOCK);
        bench.judged(&way, "/usr/bin/curl");
        for _ in 0..5 {
            bench.pass(Duration::from_secs(9));
            assert_eq!(told(&bench.send(&way.opener())), [way.prohibited()]);
        }
        assert_eq!(bench.router.population(), (0, 0), "it is neither open nor waiting");
        assert!(bench.pass(Duration::from_secs(10)).is_empty());
        bench.assert_empty();
    }
}

#[test]
fn records_show_wall_time_and_both_ends() {
    let mut bench = Bench::new(ACCEPT);
    let id = bench.open(&Way::new(Kindred::Tcp, true, 40_000, 443));
    bench.router.note_rtt(id, 1500);
    bench.pass(Duration::from_secs(2));
    let outputs = bench.input(Input::Ended { flow: id, outcome: "closed" });
    let record = records(&outputs)[0];
    assert_eq!((record.start, record.end), (1_000_000, Some(1_002_000)));
    assert_eq!((&*record.proto, &*record.src, &*record.dst), ("tcp", "[fd00::2]:40000", "[2001:db8::10]:443"));
    assert_eq!((record.uid, record.pid, record.rtt_us), (Some(1000), Some(99), Some(1500)));
    assert_eq!(record.lane.as_deref(), Some("direct"));
}
