//! Identities and what follows from them: permits, refusals and their records.

use super::*;
use crate::process::Tag;
use crate::verdict::{Check, Decision, Reason, Verdict};

#[test]
fn an_accepted_flow_opens_with_a_permit_of_this_epoch_and_then_gets_what_was_parked() {
    for way in ways(443) {
        let mut bench = Bench::new(ACCEPT);
        let (id, outputs) = bench.judged(&way, "/usr/bin/curl");
        let [(flow, permit, to)] = opened(&outputs)[..] else { panic!("{way:?}: {outputs:?}") };
        assert_eq!((flow, permit.epoch()), (id, Epoch(1)));
        assert_eq!(to.ip(), way.remote.ip());
        assert!(records(&outputs).is_empty() && told(&outputs).is_empty());
        let outputs = bench.input(Input::Opened(id));
        let [Output::Release { flow, packets }, Output::Told(_)] = &outputs[..] else { panic!("{outputs:?}") };
        assert_eq!((*flow, &*packets[0]), (id, &way.opener()[..]));
        assert!(delivered(&bench.send(&way.opener())));
        let outputs = bench.input(Input::Ended { flow: id, outcome: "closed" });
        assert_eq!(outcomes(&outputs), ["closed"]);
        bench.assert_empty();
    }
}

#[test]
fn a_blocked_flow_is_told_at_once_and_leaves_one_record() {
    for way in ways(443) {
        let mut bench = Bench::new(BLOCK);
        let (_, outputs) = bench.judged(&way, "/usr/bin/curl");
        assert_eq!(told(&outputs), [way.prohibited()], "{way:?}");
        assert!(opened(&outputs).is_empty() && !delivered(&outputs));
        let [record] = records(&outputs)[..] else { panic!("{outputs:?}") };
        assert_eq!((&*record.verdict, &*record.check, record.lane.as_deref()), ("block", "mode", None));
        assert_eq!(record.rule.as_deref(), Some("mode = \"whitelist\" (fallback.toml:2)"));
        assert!(records(&bench.pass(Duration::from_secs(60))).is_empty());
        bench.assert_empty();
    }
}

#[test]
fn a_refused_program_that_sends_again_is_told_again_without_another_record() {
    for way in ways(443) {
        let mut bench = Bench::new(BLOCK);
        bench.judged(&way, "/usr/bin/curl");
        let outputs = bench.send(&way.opener());
        if way.kind == Kindred::Tcp {
            assert!(matches!(outputs[..], [Output::Identify(_)]), "a new SYN is a new connection");
        } else {
            assert_eq!(told(&outputs), [way.prohibited()], "{way:?}");
            assert_eq!((outputs.len(), bench.value(Counter::RefusedAgain)), (1, 1));
        }
    }
}

#[test]
fn what_another_program_sends_on_a_refused_flow_is_judged_as_its_own_and_an_open_flow_is_not_forgotten() {
    for way in ways(443).into_iter().filter(|way| way.kind != Kindred::Tcp) {
        let mut bench = Bench::new(BLOCK);
        bench.judged(&way, "/usr/bin/curl");
        let again = bench.send(&way.opener());
        let [Output::RefusedAgain { flow, .. }] = again[..] else { panic!("{again:?}") };
        bench.router.handle(Input::Forgotten(flow), bench.now);
        let outputs = bench.send(&way.opener());
        assert!(matches!(outputs[..], [Output::Identify(_)]), "{way:?}: {outputs:?}");
        let [Output::Identify(pending)] = outputs[..] else { panic!("{outputs:?}") };
        bench.router.handle(Input::Forgotten(pending), bench.now);
        assert!(bench.router.flow(pending).is_some());
    }
}

#[test]
fn a_dropped_flow_is_dropped_in_silence() {
    for way in ways(443) {
        let mut bench = Bench::new(BLOCK);
        let id = bench.begin(&way);
        let decision = Decision::for_test(Verdict::Drop, Reason::of(Check::Mode));
        bench.router.enact(id, decision, 0, bench.now);
        let outputs: Vec<Output> = std::iter::from_fn(|| bench.router.poll_output()).collect();
        assert_eq!((told(&outputs), records(&outputs).len()), (vec![], 1), "{way:?}");
        assert_eq!(bench.value(Counter::Dropped), 1);
        if way.kind != Kindred::Tcp {
            assert_eq!(told(&bench.send(&way.opener())), [], "{way:?}");
        }
    }
}

#[test]
fn of_several_owners_the_strictest_verdict_holds_whatever_their_order() {
    let policy = policy(ACCEPT, &[("/usr/bin/asked", "mode = \"prompt\""), ("/usr/bin/bad", "endpoints = [\"- *\"]")]);
    for way in ways(443) {
        for (programs, verdict, by) in [
            (["/usr/bin/good", "/usr/bin/bad"], "block", "user 1"),
            (["/usr/bin/bad", "/usr/bin/good"], "block", "user 1"),
            (["/usr/bin/asked", "/usr/bin/bad"], "block", "user 1"),
            (["/usr/bin/good", "/usr/bin/asked"], "ask", "user 0"),
            (["/usr/bin/good", "/usr/bin/fine"], "accept", "fallback"),
        ] {
            let mut bench = Bench::with(policy.clone(), |_| {});
            let id = bench.begin(&way);
            let owners = programs.map(|path| bench.owner(path)).into();
            let outputs = bench.input(Input::Identified { flow: id, owners });
            let record = bench.router.record(id, bench.now).or_else(|| records(&outputs).first().copied().cloned());
            let record = record.expect("a flow that waits, or its record");
            assert_eq!((&*record.verdict, record.profile.as_deref()), (verdict, Some(by)), "{way:?} {programs:?}");
            assert_eq!(opened(&outputs).len(), usize::from(verdict == "accept"));
        }
    }
}

#[test]
fn nobody_and_no_owner_at_all_are_refused() {
    for way in ways(443) {
        for is_empty in [true, false] {
            let mut bench = Bench::new(ACCEPT);
            let id = bench.begin(&way);
            let identity = Arc::new(Identity::tagged(Tag::UNATTRIBUTED, None));
            let nobody = Owner { subject: bench.subject(&identity), asker: Asker::Unattributed { uid: None }, names: Vec::new() };
            let owners = if is_empty { vec![] } else { vec![nobody] };
            let outputs = bench.input(Input::Identified { flow: id, owners });
            assert_eq!(told(&outputs), [way.prohibited()], "{way:?}");
            assert_eq!(records(&outputs)[0].check, "identity");
        }
    }
}

#[test]
fn an_owner_that_is_not_found_in_time_is_nobody() {
    for way in ways(443).into_iter().chain(ways(53)) {
        let mut bench = Bench::new(ACCEPT);
        let id = bench.begin(&way);
        let outputs = bench.pass(Duration::from_secs(6));
        assert_eq!(told(&outputs), [way.prohibited()], "{way:?}");
        assert_eq!(outcomes(&outputs), ["owner not found in time"]);
        let owners = vec![bench.owner("/usr/bin/curl")];
        assert!(bench.input(Input::Identified { flow: id, owners }).is_empty(), "an answer that comes late changes nothing");
        assert_eq!(bench.router.population(), (0, 0));
        assert!(bench.pass(Duration::from_secs(60)).is_empty());
        bench.assert_empty();
    }
}

#[test]
fn a_program_that_goes_on_sending_is_looked_up_again_where_nobody_was_found_in_time() {
    for v6 in [false, true] {
        let way = Way::new(Kindred::Udp, v6, 40_000, 443);
        let mut bench = Bench::new(ACCEPT);
        bench.begin(&way);
        bench.pass(Duration::from_secs(5));
        let asked_again = (0..30).any(|_| {
            bench.pass(Duration::from_secs(1));
            bench.send(&way.opener()).iter().any(|output| matches!(output, Output::Identify(_)))
        });
        assert!(asked_again);
    }
}

#[test]
fn a_socket_with_the_port_of_one_that_closed_too_soon_to_be_found_is_looked_up() {
    for way in ways(443).into_iter().filter(|way| way.kind != Kindred::Tcp) {
        let mut bench = Bench::new(ACCEPT);
        let id = bench.begin(&way);
        let identity = Arc::new(Identity::tagged(Tag::UNATTRIBUTED, None));
        let nobody = Owner { subject: bench.subject(&identity), asker: Asker::Unattributed { uid: None }, names: Vec::new() };
        bench.input(Input::Identified { flow: id, owners: vec![nobody] });
        bench.pass(Duration::from_millis(600));
        assert_eq!(told(&bench.send(&way.opener())), [way.prohibited()], "at once it is the same");
        bench.pass(Duration::from_millis(600));
        let outputs = bench.send(&way.opener());
        assert!(matches!(outputs[..], [Output::Identify(_)]), "{outputs:?}");
    }
}

#[test]
fn the_answer_of_another_flow_in_the_same_place_is_ignored() {
    let way = Way::new(Kindred::Tcp, false, 40_000, 443);
    let mut bench = Bench::new(ACCEPT);
    let first = bench.begin(&way);
    bench.send(&way.segment(false, false, true));
    let second = bench.begin(&way);
    assert_eq!(first.index(), second.index());
    let owners = vec![bench.owner("/usr/bin/curl")];
    assert!(bench.input(Input::Identified { flow: first, owners }).is_empty());
    assert!(bench.input(Input::Opened(first)).is_empty());
    assert!(bench.input(Input::Failed { flow: first, failure: Failure::Refused }).is_empty());
    assert!(bench.input(Input::Ended { flow: first, outcome: "closed" }).is_empty());
    assert_eq!(bench.router.flow(second).map(Flow::state), Some(State::Identifying));
}

#[test]
fn the_address_that_stands_for_this_host_is_translated_before_the_case_is_built() {
    let loopback = (Ipv4Addr::new(169, 254, 17, 1), Ipv6Addr::new(0xfd17, 0, 0, 0, 0, 0, 0, 1));
    let localhost_only = "mode = \"blacklist\"\n[scope]\nlocalhost = true\n[flags]\npeer_to_peer = true\n";
    for (local, remote, is) in [("10.9.0.2", "169.254.17.1", "127.0.0.1:80"), ("fd00::2", "fd17::1", "[::1]:80")] {
        let way = Way::between(Kindred::Tcp, (local, 40_000), (remote, 80));
        let mut bench = Bench::with(policy(localhost_only, &[]), |config| config.host_loopback = Some(loopback));
        let (id, outputs) = bench.judged(&way, "/usr/bin/curl");
        let [(_, _, to)] = opened(&outputs)[..] else { panic!("{outputs:?}") };
        assert_eq!(to.to_string(), is);
        let record = bench.router.record(id, bench.now).expect("a flow");
        assert_eq!(record.dst, way.remote.to_string(), "the record shows what the program asked for");
        let mut bench = Bench::with(policy(localhost_only, &[]), |_| {});
        let (_, outputs) = bench.judged(&way, "/usr/bin/curl");
        assert!(opened(&outputs).is_empty(), "without translation it is LAN, which this profile refuses");
    }
}

#[test]
fn a_clock_that_is_set_or_a_machine_that_slept_moves_the_times_of_records_and_no_deadline() {
    for (was, is) in [(1_000_000, 1_000_000 + 8 * 3_600_000), (8 * 3_600_000, 1_000_000)] {
        let mut bench = Bench::with(policy(ASK, &[]), |config| config.epoch_of_clock.1 = was);
        let way = Way::new(Kindred::Tcp, false, 40_000, 443);
        let (_, outputs) = bench.judged(&way, "/usr/bin/curl");
        let deadline = questions(&outputs)[0].deadline;
        assert_eq!(deadline, bench.now + bench.router.config.prompt_deadline);
        bench.pass(Duration::from_secs(5));
        assert!(bench.input(Input::Clock(is)).is_empty());
        assert_eq!(bench.router.wall(bench.now), is, "the time now");
        assert_eq!(bench.router.wall(bench.now - Duration::from_secs(5)), is - 5000, "and of what was before it was set");
        let outputs = bench.pass(deadline - bench.now);
        let [record] = records(&outputs)[..] else { panic!("{outputs:?}") };
        assert_eq!((record.start, record.end), (is - 5000, Some(is + 55_000)));
        assert_eq!(record.outcome.as_deref(), Some("prompt expired"));
    }
}
