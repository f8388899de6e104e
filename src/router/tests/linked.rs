//! Flows by a link that their program named: answers come past the router.

use super::*;

impl Bench {
    fn send_linked(&mut self, bytes: &[u8]) -> Vec<Output> {
        let packet = IpPacket::parse(bytes, Checksums::Finished).expect("well-formed");
        self.input(Input::Linked(&packet))
    }

    fn open_linked(&mut self, way: &Way, first: &[u8]) -> FlowId {
        let outputs = self.send_linked(first);
        let [Output::Identify(id)] = *outputs else { panic!("{way:?}: {outputs:?}") };
        let owners = vec![self.owner("/usr/bin/curl")];
        assert_eq!(opened(&self.input(Input::Identified { flow: id, owners })).len(), 1, "{way:?}");
        let outputs = self.input(Input::Opened(id));
        assert!(matches!(&outputs[..], [Output::Release { .. }, Output::Told(_)]), "{outputs:?}");
        id
    }
}

fn tcp_ways() -> [Way; 2] {
    [false, true].map(|v6| Way::new(Kindred::Tcp, v6, 40_000, 443))
}

#[test]
fn any_segment_may_be_the_first_that_is_seen_but_not_of_a_flow_through_the_tun() {
    for way in tcp_ways() {
        let mut bench = Bench::new(ACCEPT);
        bench.open_linked(&way, &way.segment(false, true, false));
        assert!(delivered(&bench.send_linked(&way.segment(false, true, false))));
        let mut bench = Bench::new(ACCEPT);
        assert!(matches!(&bench.send(&way.segment(false, true, false))[..], [Output::Older { .. }]));
    }
}

#[test]
fn what_became_of_a_waiting_flow_is_told_by_the_way_that_its_packets_come() {
    let is_for = |outputs: &[Output], id| matches!(outputs, [Output::ReplyTo { flow, .. }, ..] if *flow == id);
    for way in ways(443) {
        let mut bench = Bench::new(BLOCK);
        let outputs = bench.send_linked(&way.opener());
        let [Output::Identify(id)] = *outputs else { panic!("{way:?}: {outputs:?}") };
        let owners = vec![bench.owner("/usr/bin/curl")];
        let outputs = bench.input(Input::Identified { flow: id, owners });
        assert!(is_for(&outputs, id) && told(&outputs) == [way.prohibited()], "{way:?}: refused: {outputs:?}");

        let mut bench = Bench::new(ACCEPT);
        let outputs = bench.send_linked(&way.opener());
        let [Output::Identify(id)] = *outputs else { panic!("{way:?}: {outputs:?}") };
        let owners = vec![bench.owner("/usr/bin/curl")];
        bench.input(Input::Identified { flow: id, owners });
        let outputs = bench.input(Input::Failed { flow: id, failure: Failure::Exhausted });
        assert!(is_for(&outputs, id) && told(&outputs).len() == 1, "{way:?}: no way out: {outputs:?}");
    }
}

#[test]
fn rules_that_refuse_an_open_connection_have_its_socket_ended() {
    for way in tcp_ways() {
        let mut bench = Bench::new(ACCEPT);
        let id = bench.open_linked(&way, &way.opener());
        let outputs = bench.change(policy(BLOCK, &[]));
        assert!(outputs.iter().any(|output| matches!(output, Output::Abort { flow, .. } if *flow == id)), "{outputs:?}");
        assert_eq!((cut(&outputs), outcomes(&outputs)), (vec![id], vec!["cut by policy"]));
        bench.assert_empty();
    }
}

#[test]
fn a_silent_connection_is_asked_after_and_stays_until_its_socket_is_gone() {
    for way in tcp_ways() {
        let mut bench = Bench::new(ACCEPT);
        let id = bench.open_linked(&way, &way.opener());
        for _ in 0..3 {
            let outputs = bench.pass(Duration::from_secs(30));
            assert!(matches!(&outputs[..], [Output::IsThere(of)] if *of == id), "{outputs:?}");
        }
        assert_eq!(outcomes(&bench.input(Input::Ended { flow: id, outcome: "closed" })), ["closed"]);
        bench.assert_empty();
    }
}

#[test]
fn streams_of_questions_for_names_are_refused_and_datagrams_of_them_go_to_the_resolver() {
    for v6 in [false, true] {
        let mut bench = Bench::new(ACCEPT);
        assert_eq!(told(&bench.send_linked(&Way::new(Kindred::Tcp, v6, 40_000, 53).opener())), [Told::Reset]);
        bench.assert_empty();
        let outputs = bench.send_linked(&Way::new(Kindred::Udp, v6, 40_000, 53).opener());
        let [Output::Identify(id)] = *outputs else { panic!("{outputs:?}") };
        let owners = vec![bench.owner("/usr/bin/dig")];
        assert!(matches!(&bench.input(Input::Identified { flow: id, owners })[..], [Output::OpenDns(_)]));
    }
}
