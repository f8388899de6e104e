//! Questions to a person, their answers, and the bounds that keep one program from silencing the others.

use super::*;
use crate::router::prompts::{MAX_OPEN, MAX_OPEN_EACH, MAX_WAITING};

fn deny_or_allow() -> [(Answer, bool); 2] {
    [(Answer::Allow, true), (Answer::Deny, false)]
}

#[test]
fn an_asked_flow_is_held_and_goes_the_way_of_the_answer() {
    for way in ways(443) {
        for (answer, goes_on) in deny_or_allow() {
            let mut bench = Bench::new(ASK);
            let (id, outputs) = bench.judged(&way, "/usr/bin/curl");
            let [question] = questions(&outputs)[..] else { panic!("{outputs:?}") };
            assert_eq!((question.flow, question.deadline), (id, bench.now + Duration::from_secs(60)));
            assert!(opened(&outputs).is_empty() && told(&outputs).is_empty() && records(&outputs).is_empty());
            assert_eq!(bench.router.records(bench.now)[0].verdict, "ask");
            let outputs = bench.input(Input::Answered { prompt: question.id, answer });
            assert_eq!(prompt_ends(&outputs), [PromptEnd::Answered(answer)]);
            assert_eq!(opened(&outputs).len(), usize::from(goes_on), "{way:?}");
            assert_eq!(told(&outputs), if goes_on { vec![] } else { vec![way.prohibited()] }, "{way:?}");
            assert_eq!(records(&outputs).len(), usize::from(!goes_on));
            assert!(bench.input(Input::Answered { prompt: question.id, answer }).is_empty(), "one answer counts");
        }
    }
}

#[test]
fn an_answer_holds_for_the_program_and_the_name_and_for_nobody_else() {
    for v6 in [false, true] {
        for (answer, goes_on) in deny_or_allow() {
            let mut bench = Bench::new(ASK);
            let ask = |bench: &mut Bench, port, path: &str, name: &str| {
                let id = bench.begin(&Way::new(Kindred::Tcp, v6, port, 443));
                let owners = vec![bench.owner_with_name(path, name)];
                bench.input(Input::Identified { flow: id, owners })
            };
            let outputs = ask(&mut bench, 1, "/usr/bin/curl", "example.com");
            let prompt = questions(&outputs)[0].id;
            bench.input(Input::Answered { prompt, answer });
            let same = ask(&mut bench, 2, "/usr/bin/curl", "example.com");
            assert_eq!((opened(&same).len(), questions(&same).len()), (usize::from(goes_on), 0));
            assert_eq!(questions(&ask(&mut bench, 3, "/usr/bin/curl", "example.org")).len(), 1);
            assert_eq!(questions(&ask(&mut bench, 4, "/usr/bin/wget", "example.com")).len(), 1);
        }
    }
}

#[test]
fn an_answer_that_another_router_was_given_holds_here_too() {
    for (answer, goes_on) in deny_or_allow() {
        let mut there = Bench::new(ASK);
        let mut here = Bench::new(ASK);
        let ask = |bench: &mut Bench, port| {
            let id = bench.begin(&Way::new(Kindred::Tcp, false, port, 443));
            let owners = vec![bench.owner_with_name("/usr/bin/curl", "example.com")];
            bench.input(Input::Identified { flow: id, owners })
        };
        let prompt = questions(&ask(&mut there, 1))[0].id;
        assert_eq!(questions(&ask(&mut here, 2)).len(), 1);
        let mut outputs = there.input(Input::Answered { prompt, answer });
        let at = outputs.iter().position(|output| matches!(output, Output::Learned { .. })).expect("the others are told");
        let Output::Learned { key, answer } = outputs.swap_remove(at) else { panic!("{outputs:?}") };
        let outputs = here.input(Input::Learned { key: key.clone(), answer });
        assert_eq!((opened(&outputs).len(), prompt_ends(&outputs).len()), (usize::from(goes_on), 1));
        assert!(!outputs.iter().any(|output| matches!(output, Output::Learned { .. })), "it is told once");
        let next = ask(&mut here, 3);
        assert_eq!((opened(&next).len(), questions(&next).len()), (usize::from(goes_on), 0));
    }
}

#[test]
fn several_flows_of_one_program_to_one_name_are_one_question() {
    let mut bench = Bench::new(ASK);
    let mut asked = Vec::new();
    for (port, v6) in [(1, false), (2, true), (3, false)] {
        let id = bench.begin(&Way::new(Kindred::Tcp, v6, port, 443));
        let owners = vec![bench.owner_with_name("/usr/bin/curl", "example.com")];
        let outputs = bench.input(Input::Identified { flow: id, owners });
        asked.extend(questions(&outputs).iter().map(|question| question.id));
    }
    let [prompt] = asked[..] else { panic!("{asked:?}") };
    let outputs = bench.input(Input::Answered { prompt, answer: Answer::Allow });
    assert_eq!(opened(&outputs).len(), 3);
}

#[test]
fn silence_until_the_deadline_is_a_refusal_of_every_flow_that_waits() {
    for way in ways(443) {
        let mut bench = Bench::new(ASK);
        bench.judged(&way, "/usr/bin/curl");
        bench.pass(Duration::from_secs(30));
        bench.judged(&Way { local: SocketAddr::new(way.local.ip(), 9), ..way }, "/usr/bin/curl");
        assert!(bench.pass(Duration::from_secs(29)).is_empty(), "{way:?}");
        let outputs = bench.pass(Duration::from_secs(1));
        assert_eq!(prompt_ends(&outputs), [PromptEnd::Expired]);
        assert_eq!(outcomes(&outputs), ["prompt expired"; 2]);
        assert_eq!(told(&outputs), [way.prohibited(); 2]);
        assert!(records(&outputs).iter().all(|record| (&*record.verdict, &*record.check) == ("block", "prompt")));
        bench.pass(Duration::from_secs(30));
        bench.assert_empty();
    }
}

#[test]
fn a_program_that_gives_up_takes_its_question_back() {
    for v6 in [false, true] {
        let way = Way::new(Kindred::Tcp, v6, 40_000, 443);
        let mut bench = Bench::new(ASK);
        bench.judged(&way, "/usr/bin/curl");
        let outputs = bench.send(&way.segment(false, false, true));
        assert_eq!(prompt_ends(&outputs), [PromptEnd::Gone]);
        assert_eq!(outcomes(&outputs), ["abandoned"]);
        bench.assert_empty();
    }
}

#[test]
fn an_answer_is_also_for_what_was_refused_before_it_came() {
    for v6 in [false, true] {
        let (old, new) = (Way::new(Kindred::Udp, v6, 1, 443), Way::new(Kindred::Udp, v6, 2, 443));
        let mut bench = Bench::new(ASK);
        bench.judged(&old, "/usr/bin/curl");
        bench.pass(Duration::from_secs(60));
        let (_, outputs) = bench.judged(&new, "/usr/bin/curl");
        let prompt = questions(&outputs)[0].id;
        assert_eq!(told(&bench.send(&old.opener())), [old.prohibited()]);
        bench.input(Input::Answered { prompt, answer: Answer::Allow });
        let (_, outputs) = bench.judged(&old, "/usr/bin/curl");
        assert_eq!(opened(&outputs).len(), 1);
    }
}

#[test]
fn a_flood_of_questions_is_refused_and_other_programs_are_still_asked_about() {
    let mut bench = Bench::new(ASK);
    let flow_to = |host: usize| {
        let host = u8::try_from(host).expect("few");
        Way::between(Kindred::Tcp, ("10.9.0.2", 40_000), (&format!("203.0.113.{host}"), 443))
    };
    for host in 1..=MAX_OPEN_EACH {
        let (_, outputs) = bench.judged(&flow_to(host), "/usr/bin/scanner");
        assert_eq!(questions(&outputs).len(), 1, "{host}");
    }
    let (_, outputs) = bench.judged(&flow_to(MAX_OPEN_EACH + 1), "/usr/bin/scanner");
    assert_eq!((told(&outputs), &*records(&outputs)[0].check), (vec![Told::Reset], "limit"));
    for program in MAX_OPEN_EACH..MAX_OPEN {
        let (_, outputs) = bench.judged(&flow_to(100 + program), &format!("/usr/bin/{program}"));
        assert_eq!(questions(&outputs).len(), 1, "{program}");
    }
    let (_, outputs) = bench.judged(&flow_to(250), "/usr/bin/one-more");
    assert_eq!((told(&outputs), &*records(&outputs)[0].check), (vec![Told::Reset], "limit"));
}

#[test]
fn no_more_than_so_many_flows_wait_for_one_answer() {
    let mut bench = Bench::new(ASK);
    let way = |place: usize| Way::new(Kindred::Tcp, false, u16::try_from(place + 1).expect("few"), 443);
    for place in 0..MAX_WAITING {
        let (_, outputs) = bench.judged(&way(place), "/usr/bin/curl");
        assert!(records(&outputs).is_empty(), "{place}");
    }
    let (_, outputs) = bench.judged(&way(MAX_WAITING), "/usr/bin/curl");
    assert_eq!((told(&outputs), &*records(&outputs)[0].check), (vec![Told::Reset], "limit"));
    let outputs = bench.pass(Duration::from_secs(60));
    assert_eq!((records(&outputs).len(), prompt_ends(&outputs).len()), (MAX_WAITING, 1));
    bench.assert_empty();
}

#[test]
fn where_two_owners_are_asked_about_both_must_be_allowed() {
    let mut bench = Bench::new(ASK);
    let id = bench.begin(&Way::new(Kindred::Tcp, false, 1, 443));
    let owners = vec![bench.owner("/usr/bin/a"), bench.owner("/usr/bin/b")];
    let outputs = bench.input(Input::Identified { flow: id, owners });
    let prompt = questions(&outputs)[0].id;
    let outputs = bench.input(Input::Answered { prompt, answer: Answer::Allow });
    assert!(opened(&outputs).is_empty());
    let prompt = questions(&outputs)[0].id;
    let outputs = bench.input(Input::Answered { prompt, answer: Answer::Allow });
    assert_eq!(opened(&outputs).len(), 1);
}
