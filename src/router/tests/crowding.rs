//! Too little room: one program's flood is that program's trouble.

use super::*;
use crate::flow::Bound;

/// A program that wants more than there is.
const GREEDY: &str = "/usr/bin/scanner";

fn crowded(outputs: &[Output]) -> Vec<&Crowded> {
    outputs.iter().filter_map(|output| if let Output::Crowded(crowded) = output { Some(crowded) } else { None }).collect()
}

/// Begins flows of one program to silent hosts until the first is refused; gives how many there are, and what was said then.
fn flood(bench: &mut Bench, path: &str, kind: Kindred, v6: bool) -> (usize, Vec<Output>) {
    let from = 1000 * (1 + u16::try_from(path.len()).expect("a short path"));
    for port in 0..1000 {
        let outputs = bench.send(&Way::new(kind, v6, from + port, 443).opener());
        let identify = |output: &Output| if let Output::Identify(id) = output { Some(*id) } else { None };
        let Some(flow) = outputs.iter().find_map(identify) else { return (usize::from(port), outputs) };
        let owners = vec![bench.owner(path)];
        let outputs = bench.input(Input::Identified { flow, owners });
        if opened(&outputs).is_empty() {
            return (usize::from(port), outputs);
        }
    }
    panic!("nothing bounds {path}");
}

#[test]
fn a_program_whose_flows_wait_is_refused_at_half_of_the_places_and_others_are_not() {
    for v6 in [false, true] {
        for kind in KINDS {
            let mut bench = Bench::with(policy(ACCEPT, &[]), |config| config.max_pending = 64);
            let (begun, outputs) = flood(&mut bench, GREEDY, kind, v6);
            assert_eq!(begun, 32);
            assert_eq!(told(&outputs), [Way::new(kind, v6, 1, 443).prohibited()], "it is told at once");
            assert_eq!(outcomes(&outputs), ["too many waiting flows of this program"]);
            assert_eq!(records(&outputs)[0].check, "limit");
            assert_eq!(bench.value(Counter::ProgramPendingOut), 1);
            let other = Way::new(kind, v6, 1, 443);
            let (id, outputs) = bench.judged(&other, "/usr/bin/curl");
            assert_eq!(opened(&outputs).len(), 1, "{other:?}");
            bench.input(Input::Opened(id));
        }
    }
}

#[test]
fn however_many_programs_are_greedy_the_next_one_finds_room() {
    let mut bench = Bench::with(policy(ACCEPT, &[]), |config| config.max_pending = 640);
    let shares: Vec<usize> =
        (1..20).map(|n| flood(&mut bench, &format!("/{}", "x".repeat(n)), Kindred::Tcp, n % 2 == 0).0).collect();
    assert_eq!(shares.get(..5), Some(&[320, 160, 80, 40, 20][..]));
    assert!(shares.iter().all(|share| *share >= 10), "{shares:?}");
    assert!(bench.value(Counter::EvictedHalfOpen) > 0, "the last places are taken back from the first");
}

#[test]
fn a_program_may_hold_most_of_the_open_flows_and_not_all() {
    let mut bench = Bench::with(policy(ACCEPT, &[]), |config| config.max_flows = 100);
    let mut open = 0;
    let outputs = loop {
        let (id, outputs) = bench.judged(&Way::new(Kindred::Tcp, open % 2 == 0, 1000 + open, 443), GREEDY);
        if opened(&outputs).is_empty() {
            break outputs;
        }
        bench.input(Input::Opened(id));
        open += 1;
    };
    assert_eq!((open, outcomes(&outputs), told(&outputs)), (75, vec!["too many flows of this program"], vec![Told::Reset]));
    assert_eq!(bench.value(Counter::ProgramFlowsOut), 1);
    bench.open(&Way::new(Kindred::Tcp, false, 1, 443));
}

#[test]
fn a_bound_is_named_once_per_program_and_again_after_a_while() {
    let mut bench = Bench::with(policy(ACCEPT, &[]), |config| config.max_pending = 4);
    let (_, outputs) = flood(&mut bench, GREEDY, Kindred::Tcp, false);
    let [said] = crowded(&outputs)[..] else { panic!("{outputs:?}") };
    assert_eq!((said.program.as_deref(), said.bound), (Some(GREEDY), Bound::Pending));
    assert_eq!(
        said.to_string(),
        "/usr/bin/scanner has as many flows that wait for an answer as one program may have; more are refused"
    );
    let again = Way::new(Kindred::Tcp, false, 9, 443);
    assert!(crowded(&bench.judged(&again, GREEDY).1).is_empty(), "once is enough");
    bench.now += Duration::from_secs(600);
    assert_eq!(crowded(&bench.judged(&again, GREEDY).1).len(), 1);
    assert_eq!(bench.value(Counter::ProgramPendingOut), 3);
}

#[test]
fn what_policy_refuses_takes_no_place_and_is_not_called_a_flood() {
    let mut bench = Bench::with(policy(BLOCK, &[]), |config| config.max_pending = 4);
    for port in 1..=100 {
        let (_, outputs) = bench.judged(&Way::new(Kindred::Tcp, port % 2 == 0, port, 443), GREEDY);
        assert_eq!((outcomes(&outputs), crowded(&outputs).len()), (vec!["refused by policy"], 0));
    }
    bench.assert_empty();
}

#[test]
fn a_datagram_flow_without_room_is_tried_again_a_second_later_though_its_program_never_rests() {
    for v6 in [false, true] {
        let mut bench = Bench::with(policy(ACCEPT, &[]), |config| config.max_pending = 4);
        let waiting = [1, 2].map(|port| bench.judged(&Way::new(Kindred::Tcp, v6, port, 443), GREEDY).0);
        let way = Way::new(Kindred::Udp, v6, 3, 443);
        bench.judged(&way, GREEDY);
        bench.pass(Duration::from_millis(500));
        assert_eq!(told(&bench.send(&way.opener())), [way.prohibited()]);
        for id in waiting {
            bench.input(Input::Opened(id));
        }
        bench.pass(Duration::from_millis(500));
        assert_eq!(opened(&bench.judged(&way, GREEDY).1).len(), 1);
    }
}

#[test]
fn where_all_places_are_taken_the_oldest_half_open_flow_of_the_program_with_most_gives_way() {
    for v6 in [false, true] {
        let mut bench = Bench::with(policy(ACCEPT, &[]), |config| config.max_pending = 4);
        let way = |port| Way::new(Kindred::Tcp, v6, port, 443);
        let [oldest, _] = [1, 2].map(|port| bench.judged(&way(port), GREEDY).0);
        for (port, path) in [(3, "/usr/bin/curl"), (4, "/usr/bin/ssh")] {
            bench.judged(&way(port), path);
        }
        let outputs = bench.send(&way(5).opener());
        let unreachable = if v6 { Told::Icmp(1, 3) } else { Told::Icmp(3, 1) };
        assert_eq!((cut(&outputs), outcomes(&outputs), told(&outputs)), (vec![oldest], vec!["evicted"], vec![unreachable]));
        let Some(Output::Identify(id)) = outputs.last() else { panic!("{outputs:?}") };
        let owners = vec![bench.owner("/usr/bin/git")];
        assert_eq!(opened(&bench.input(Input::Identified { flow: *id, owners })).len(), 1);
        assert_eq!(bench.value(Counter::EvictedHalfOpen), 1);
    }
}

#[test]
fn an_idle_datagram_flow_of_the_program_with_most_flows_gives_way_first() {
    for v6 in [false, true] {
        let mut bench = Bench::with(policy(ACCEPT, &[]), |config| config.max_flows = 7);
        let mut open = |port: u16, path: &str| {
            let (id, _) = bench.judged(&Way::new(Kindred::Udp, v6, port, 443), path);
            bench.input(Input::Opened(id));
            id
        };
        let _modest = open(1, "/usr/bin/dig");
        let greedy = [2, 3, 4, 5].map(|port| open(port, GREEDY));
        let _others = [open(6, "/usr/bin/ssh"), open(7, "/usr/bin/git")];
        bench.pass(Duration::from_secs(6));
        let outputs = bench.send(&Way::new(Kindred::Tcp, v6, 99, 443).opener());
        assert_eq!(cut(&outputs), [greedy[0]]);
        assert_eq!((outcomes(&outputs), bench.value(Counter::EvictedIdle)), (vec!["evicted"], 1));
    }
}

#[test]
fn parked_bytes_are_shared_out_as_well() {
    for v6 in [false, true] {
        let way = Way::new(Kindred::Udp, v6, 1, 443);
        let len = way.opener().len();
        let mut bench = Bench::with(policy(ASK, &[]), |config| config.max_parked = 4 * len);
        bench.judged(&way, GREEDY);
        bench.send(&way.opener());
        let outputs = bench.send(&way.opener());
        assert_eq!(crowded(&outputs).len(), 1, "the third would be more than half");
        assert_eq!((bench.value(Counter::ProgramParkedOut), bench.router.table.used().parked), (1, 2 * len));
        assert_eq!(questions(&bench.judged(&Way::new(Kindred::Udp, v6, 2, 443), "/usr/bin/curl").1).len(), 1);
    }
}

#[test]
fn resolver_flows_count_like_others() {
    let mut bench = Bench::with(policy(ACCEPT, &[]), |config| config.max_pending = 4);
    let ask = |port| Way::new(Kindred::Tcp, false, port, 53);
    for port in [1, 2] {
        assert!(matches!(bench.judged(&ask(port), GREEDY).1[..], [Output::OpenDns(_)]));
    }
    assert_eq!(told(&bench.judged(&ask(3), GREEDY).1), [Told::Reset]);
    assert!(matches!(bench.judged(&ask(4), "/usr/bin/dig").1[..], [Output::OpenDns(_)]));
}
