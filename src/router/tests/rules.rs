//! Other rules: open flows are judged again, waiting ones too, refused ones forgotten.

use super::*;

#[test]
fn rules_that_refuse_an_open_flow_cut_it_with_one_record() {
    for way in ways(443) {
        for other in [BLOCK, ASK] {
            let mut bench = Bench::new(ACCEPT);
            let id = bench.open(&way);
            bench.router.account(id, 10, 20, bench.now);
            let outputs = bench.change(policy(other, &[]));
            assert_eq!((cut(&outputs), outcomes(&outputs)), (vec![id], vec!["cut by policy"]), "{way:?}");
            assert_eq!((records(&outputs)[0].bytes_up, records(&outputs)[0].bytes_down), (10, 20));
            bench.assert_empty();
            assert!(bench.input(Input::Ended { flow: id, outcome: "closed" }).is_empty(), "the end is told once");
        }
    }
}

#[test]
fn rules_that_still_accept_give_the_flow_a_permit_of_the_new_epoch() {
    for way in ways(443) {
        let mut bench = Bench::new(ACCEPT);
        let id = bench.open(&way);
        assert!(bench.change(policy(ACCEPT, &[])).is_empty());
        let permit = bench.router.flow(id).and_then(|flow| flow.permit);
        assert_eq!(permit.map(|permit| permit.epoch()), Some(Epoch(2)));
        assert!(delivered(&bench.send(&way.opener())));
    }
}

#[test]
fn a_flow_without_a_permit_of_this_epoch_is_not_delivered() {
    for way in ways(443) {
        let mut bench = Bench::new(ACCEPT);
        bench.open(&way);
        bench.router.rules.epoch = Epoch(9);
        assert!(!delivered(&bench.send(&way.opener())), "{way:?}");
    }
}

#[test]
fn a_flow_that_is_being_opened_is_told_of_its_refusal_at_once() {
    for way in ways(443) {
        let mut bench = Bench::new(ACCEPT);
        let (id, _) = bench.judged(&way, "/usr/bin/curl");
        let outputs = bench.change(policy(BLOCK, &[]));
        assert_eq!((cut(&outputs), told(&outputs)), (vec![id], vec![way.prohibited()]), "{way:?}");
        assert_eq!(records(&outputs).len(), 1);
        assert!(bench.input(Input::Opened(id)).is_empty(), "the socket comes too late");
        bench.pass(Duration::from_secs(60));
        bench.assert_empty();
    }
}

#[test]
fn a_flow_that_is_being_opened_waits_again_where_a_person_must_be_asked_now() {
    for way in ways(443) {
        let mut bench = Bench::new(ACCEPT);
        let (id, _) = bench.judged(&way, "/usr/bin/curl");
        let outputs = bench.change(policy(ASK, &[]));
        assert_eq!(cut(&outputs), [id], "{way:?}");
        assert!(records(&outputs).is_empty() && told(&outputs).is_empty());
        let prompt = questions(&outputs)[0].id;
        let outputs = bench.input(Input::Answered { prompt, answer: Answer::Allow });
        assert_eq!(opened(&outputs)[0].1.epoch(), Epoch(2));
        let outputs = bench.input(Input::Opened(id));
        assert!(matches!(&outputs[0], Output::Release { packets, .. } if packets.len() == 1));
    }
}

#[test]
fn waiting_flows_are_judged_again_and_their_question_is_taken_back() {
    for way in ways(443) {
        for (other, accepts) in [(ACCEPT, true), (BLOCK, false)] {
            let mut bench = Bench::new(ASK);
            bench.judged(&way, "/usr/bin/curl");
            let outputs = bench.change(policy(other, &[]));
            assert_eq!(prompt_ends(&outputs), [PromptEnd::Gone], "{way:?}");
            assert_eq!(opened(&outputs).len(), usize::from(accepts));
            assert_eq!(records(&outputs).len(), usize::from(!accepts));
            assert_eq!(told(&outputs), if accepts { vec![] } else { vec![way.prohibited()] });
        }
    }
}

#[test]
fn a_question_stays_open_where_other_rules_ask_it_too() {
    for way in ways(443) {
        let mut bench = Bench::new(ASK);
        let (_, outputs) = bench.judged(&way, "/usr/bin/curl");
        let prompt = questions(&outputs)[0].id;
        assert!(bench.change(policy(ASK, &[("/usr/bin/curl", "mode = \"prompt\"")])).is_empty(), "{way:?}");
        let record = bench.router.records(bench.now).remove(0);
        assert!(record.rule.expect("a rule").contains("user/0.toml"), "the record names the rule in force");
        assert_eq!(opened(&bench.input(Input::Answered { prompt, answer: Answer::Allow })).len(), 1);
    }
}

#[test]
fn other_rules_may_ask_about_another_owner_of_the_same_flow() {
    let asked = |path| policy(ACCEPT, &[(path, "mode = \"prompt\"")]);
    let mut bench = Bench::with(asked("/usr/bin/a"), |_| {});
    let id = bench.begin(&Way::new(Kindred::Tcp, false, 1, 443));
    let owners = vec![bench.owner("/usr/bin/a"), bench.owner("/usr/bin/b")];
    let outputs = bench.input(Input::Identified { flow: id, owners });
    let first = questions(&outputs)[0].id;
    let outputs = bench.change(asked("/usr/bin/b"));
    assert_eq!(prompt_ends(&outputs), [PromptEnd::Gone]);
    let second = questions(&outputs)[0].id;
    assert!(bench.input(Input::Answered { prompt: first, answer: Answer::Allow }).is_empty());
    assert_eq!(opened(&bench.input(Input::Answered { prompt: second, answer: Answer::Allow })).len(), 1);
}

#[test]
fn flows_whose_owner_is_still_looked_for_are_judged_by_the_rules_of_that_moment() {
    for way in ways(443) {
        let mut bench = Bench::new(BLOCK);
        let id = bench.begin(&way);
        assert!(bench.change(policy(ACCEPT, &[])).is_empty());
        let owners = vec![bench.owner("/usr/bin/curl")];
        let outputs = bench.input(Input::Identified { flow: id, owners });
        assert_eq!(opened(&outputs)[0].1.epoch(), Epoch(2), "{way:?}");
    }
}

#[test]
fn refused_flows_are_forgotten_so_that_the_next_packet_is_judged_anew() {
    for way in ways(443) {
        for is_found in [true, false] {
            let mut bench = Bench::new(BLOCK);
            if is_found {
                bench.judged(&way, "/usr/bin/curl");
            } else {
                bench.begin(&way);
                bench.pass(Duration::from_secs(5));
            }
            assert!(records(&bench.change(policy(ACCEPT, &[]))).is_empty(), "its record is written already");
            bench.assert_empty();
            let (_, outputs) = bench.judged(&way, "/usr/bin/curl");
            assert_eq!(opened(&outputs).len(), 1, "{way:?}");
        }
    }
}
