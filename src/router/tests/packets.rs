//! Packets from programs: new flows, flows that wait, what is never answered, and full tables.

use super::*;

#[test]
fn a_new_flow_is_parked_until_its_owner_is_known() {
    for way in ways(443) {
        let mut bench = Bench::new(ACCEPT);
        let id = bench.begin(&way);
        let flow = bench.router.flow(id).expect("a flow");
        assert_eq!(flow.tuple, tuple_of(&way.opener()), "{way:?}");
        assert_eq!(flow.parked().first(), Some(&way.opener()[..]), "{way:?}");
        assert_eq!(bench.router.population(), (0, 1));
    }
}

#[test]
fn a_repeated_syn_is_ignored_and_repeated_datagrams_wait_too() {
    for way in ways(443) {
        let mut bench = Bench::new(ACCEPT);
        let id = bench.begin(&way);
        assert!(bench.send(&way.opener()).is_empty(), "{way:?}");
        let parked = bench.router.flow(id).expect("a flow").parked().bytes();
        let times = if way.kind == Kindred::Tcp { 1 } else { 2 };
        assert_eq!(parked, way.opener().len() * times, "{way:?}");
    }
}

#[test]
fn a_reset_ends_a_flow_that_waits_and_nothing_else_does() {
    for v6 in [false, true] {
        let way = Way::new(Kindred::Tcp, v6, 40_000, 443);
        let mut bench = Bench::new(ACCEPT);
        let (id, _) = bench.judged(&way, "/usr/bin/curl");
        assert!(bench.send(&way.segment(false, true, false)).is_empty());
        assert!(bench.router.flow(id).is_some());
        let outputs = bench.send(&way.segment(false, true, true));
        assert_eq!((cut(&outputs), outcomes(&outputs)), (vec![id], vec!["abandoned"]));
        bench.assert_empty();
        assert!(bench.input(Input::Opened(id)).is_empty(), "the socket comes too late");
    }
}

#[test]
fn a_flow_that_is_reset_before_anyone_was_found_has_nothing_to_record() {
    let way = Way::new(Kindred::Tcp, false, 40_000, 443);
    let mut bench = Bench::new(ACCEPT);
    let id = bench.begin(&way);
    let outputs = bench.send(&way.segment(false, false, true));
    assert!(records(&outputs).is_empty());
    let owners = vec![bench.owner("/usr/bin/curl")];
    assert!(bench.input(Input::Identified { flow: id, owners }).is_empty());
    bench.assert_empty();
}

#[test]
fn a_segment_of_an_older_flow_is_reset_and_a_stray_reset_is_not() {
    for v6 in [false, true] {
        let way = Way::new(Kindred::Tcp, v6, 40_000, 443);
        let mut bench = Bench::new(ACCEPT);
        let outputs = bench.send(&way.segment(false, true, false));
        let [Output::Older { tuple, answer }] = outputs.as_slice() else { panic!("one output: {outputs:?}") };
        assert_eq!((tuple.local.port(), tuple.remote.port()), (40_000, 443));
        assert_eq!(told(&[Output::Reply(answer.clone())]), [Told::Reset]);
        assert!(bench.send(&way.segment(false, true, true)).is_empty());
        assert_eq!(bench.value(Counter::OlderFlow), 2);
        bench.assert_empty();
    }
}

#[test]
fn packets_to_several_hosts_are_never_answered() {
    for (local, remote) in [("10.9.0.2", "224.0.0.251"), ("10.9.0.2", "255.255.255.255"), ("fd00::2", "ff02::fb")] {
        for kind in KINDS {
            let way = Way::between(kind, (local, 40_000), (remote, 5353));
            let mut bench = Bench::new(BLOCK);
            let (_, outputs) = bench.judged(&way, "/usr/bin/curl");
            assert_eq!(told(&outputs), [], "{way:?}");
            assert_eq!(records(&outputs).len(), 1, "{way:?}");
            assert_eq!(told(&bench.send(&way.opener())), [], "{way:?}");
        }
    }
}

#[test]
fn what_the_kernel_sends_by_itself_is_counted_and_other_protocols_are_refused() {
    let mut bench = Bench::new(ACCEPT);
    for (protocol, v6, expected) in [(2, false, vec![]), (47, false, vec![Told::Icmp(3, 2)]), (47, true, vec![Told::Icmp(4, 1)])]
    {
        let mut bytes = Way::new(Kindred::Udp, v6, 40_000, 443).opener();
        if v6 {
            bytes[6] = protocol;
        } else {
            bytes[9] = protocol;
            bytes[10..12].fill(0);
            let sum = !smoltcp::wire::checksum::data(&bytes[..20]);
            bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        assert_eq!(told(&bench.send(&bytes)), expected, "protocol {protocol}");
    }
    assert_eq!((bench.value(Counter::Chatter), bench.value(Counter::OtherProtocol)), (1, 2));
    bench.assert_empty();
}

#[test]
fn a_full_table_refuses_at_once_and_leaves_the_flows_in_it_alone() {
    for way in ways(443) {
        let mut bench = Bench::with(policy(ACCEPT, &[]), |config| config.max_flows = 1);
        let first = bench.open(&Way::new(Kindred::Udp, false, 1, 443));
        assert_eq!(told(&bench.send(&way.opener())), [way.prohibited()], "{way:?}");
        assert!(bench.router.flow(first).is_some());
        assert_eq!(bench.value(Counter::FlowsOut), 1);
    }
}

#[test]
fn what_is_only_remembered_as_refused_makes_room_for_a_new_flow() {
    let mut bench = Bench::with(policy(BLOCK, &[("/usr/bin/good", ACCEPT)]), |config| config.max_flows = 4);
    for port in 1..=20 {
        let (_, outputs) = bench.judged(&Way::new(Kindred::Udp, false, port, 443), "/usr/bin/scanner");
        assert_eq!(records(&outputs).len(), 1, "port {port}");
    }
    let (_, outputs) = bench.judged(&Way::new(Kindred::Tcp, true, 99, 443), "/usr/bin/good");
    assert_eq!(opened(&outputs).len(), 1);
    assert_eq!(bench.value(Counter::FlowsOut), 0);
}

#[test]
fn too_many_undecided_flows_refuse_the_next() {
    for way in ways(443) {
        let mut bench = Bench::with(policy(ACCEPT, &[]), |config| config.max_pending = 4);
        bench.begin(&Way::new(Kindred::Udp, false, 1, 443));
        let second = bench.begin(&Way::new(Kindred::Tcp, true, 2, 443));
        assert_eq!(told(&bench.send(&way.opener())), [way.prohibited()], "{way:?}");
        let owners = vec![bench.owner("/usr/bin/curl")];
        bench.input(Input::Identified { flow: second, owners });
        bench.input(Input::Opened(second));
        bench.begin(&way);
    }
}

#[test]
fn a_flow_whose_first_packet_cannot_wait_is_refused_and_not_opened_without_it() {
    for way in ways(443) {
        let mut bench = Bench::with(policy(ACCEPT, &[]), |config| config.max_parked = 150);
        bench.begin(&Way::new(Kindred::Tcp, false, 1, 443));
        bench.begin(&Way::new(Kindred::Tcp, false, 2, 443));
        let big = Way { kind: Kindred::Tcp, ..way };
        assert_eq!(told(&bench.send(&big.opener())), [Told::Reset], "{way:?}");
        assert_eq!((bench.value(Counter::ParkedOut), bench.router.population()), (1, (0, 2)));
    }
}

#[test]
fn one_flow_parks_no_more_than_its_share() {
    let way = Way::new(Kindred::Udp, false, 40_000, 443);
    let mut bench = Bench::new(ACCEPT);
    let id = bench.begin(&way);
    (0..200).for_each(|_| assert!(bench.send(&way.opener()).is_empty()));
    assert_eq!(bench.router.flow(id).expect("a flow").parked().bytes(), 128 * way.opener().len());
    assert_eq!(bench.value(Counter::ParkedOut), 73);
}

#[test]
fn flows_to_the_resolver_have_no_permit_and_reach_no_upstream() {
    for kind in [Kindred::Tcp, Kindred::Udp] {
        for v6 in [false, true] {
            let way = Way::new(kind, v6, 40_000, 53);
            let mut bench = Bench::new(BLOCK);
            let (id, outputs) = bench.judged(&way, "/usr/bin/dig");
            assert!(matches!(outputs[..], [Output::OpenDns(_)]), "{outputs:?}");
            let outputs = bench.input(Input::Opened(id));
            assert!(opened(&outputs).is_empty() && bench.router.flow(id).is_some_and(|flow| flow.permit.is_none()));
            assert!(delivered(&bench.send(&way.opener())));
            assert!(cut(&bench.change(policy(BLOCK, &[]))).is_empty(), "its questions are judged, not the flow");
            let outputs = bench.input(Input::Ended { flow: id, outcome: "closed" });
            assert!(records(&outputs).is_empty(), "its questions have records, the flow has none");
            bench.assert_empty();
        }
    }
}

#[test]
fn an_echo_identifier_that_looks_like_the_port_of_dns_is_an_echo() {
    let mut bench = Bench::new(ACCEPT);
    let (_, outputs) = bench.judged(&Way::new(Kindred::Echo, false, 53, 0), "/usr/bin/ping");
    assert_eq!(opened(&outputs).len(), 1);
}
