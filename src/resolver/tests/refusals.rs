//! What a refused question gets, and what never happens then.

use std::net::IpAddr;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::svcb::{IpHint, Mandatory, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{A, HTTPS, SVCB};
use hickory_proto::rr::{RData, Record, RecordType};

use crate::resolver::testing::*;
use crate::verdict::Verdict;

/// Every name is an alias of a tracker; addresses are one private and one public of the asked family.
fn zone(question: &Message) -> Option<Message> {
    let query = question.queries.first()?;
    let own = |data: RData| Record::from_rdata(query.name().clone(), 300, data);
    let asked = query.name().to_ascii().to_ascii_lowercase();
    Some(match (asked.as_str(), query.query_type()) {
        ("cloaked.example.", _) => {
            answer(question, vec![own(cname("x.", "t.tracker.example.").data), address("t.tracker.example.", "192.0.2.80")])
        }
        ("strange.example.", _) => {
            let target = RData::CNAME(hickory_proto::rr::rdata::CNAME(wire("a\\.b.example.")));
            answer(question, vec![own(target)])
        }
        ("loop.example.", _) => {
            answer(question, vec![own(cname("x.", "loop2.example.").data), cname("loop2.example.", "loop.example.")])
        }
        ("service.example.", RecordType::HTTPS) => answer(question, vec![own(service(".", false))]),
        ("cloakedservice.example.", RecordType::HTTPS) => answer(question, vec![own(service("t.tracker.example.", false))]),
        ("needy.example.", RecordType::HTTPS) => answer(question, vec![own(service(".", true))]),
        ("rebind.example.", RecordType::A) => answer(question, vec![own(address("x.", "10.0.0.1").data)]),
        ("rebind.example.", RecordType::AAAA) => answer(question, vec![own(address("x.", "fd00::1").data)]),
        (_, RecordType::A) => answer(question, vec![own(address("x.", "10.0.0.1").data), own(address("x.", "192.0.2.80").data)]),
        (_, RecordType::AAAA) => {
            answer(question, vec![own(address("x.", "fd00::1").data), own(address("x.", "2001:db8::80").data)])
        }
        (_, RecordType::TXT) => answer(question, vec![own(text("x.", "hello").data)]),
        _ => nothing(question, ResponseCode::NoError),
    })
}

/// An HTTPS record whose only hint is a private address.
fn service(target: &str, mandatory: bool) -> RData {
    let hint = (SvcParamKey::Ipv4Hint, SvcParamValue::Ipv4Hint(IpHint(vec![A::new(10, 0, 0, 1)])));
    let needs = (SvcParamKey::Mandatory, SvcParamValue::Mandatory(Mandatory(vec![SvcParamKey::Ipv4Hint])));
    let params = if mandatory { vec![needs, hint] } else { vec![hint] };
    RData::HTTPS(HTTPS(SVCB::new(1, wire(target), params)))
}

fn tables() -> Tables {
    let mut tables = Tables::default();
    tables.refused_addresses.extend([IpAddr::from([10, 0, 0, 1]), "fd00::1".parse::<IpAddr>().expect("an address")]);
    tables.denied_targets.insert("t.tracker.example".to_owned());
    for (name, verdict) in [("no", Verdict::Block), ("quiet", Verdict::Drop), ("later", Verdict::Ask)] {
        tables.verdicts.insert((1, format!("{name}.blocked.example")), verdict);
    }
    tables
}

#[tokio::test]
async fn a_blocked_question_is_refused_with_its_reason_and_never_asked_upstream() {
    let upstream = FakeUpstream::start(LOOPBACKS[0], zone).await;
    let (resolver, judge) = resolver(&[upstream.address], tables());
    for name in ["No.Blocked.Example.", "later.blocked.example."] {
        for (qtype, code, wanted) in [
            (RecordType::A, ResponseCode::NoError, vec!["0.0.0.17"]),
            (RecordType::AAAA, ResponseCode::NoError, vec!["::17"]),
            (RecordType::TXT, ResponseCode::NXDomain, vec![]),
            (RecordType::HTTPS, ResponseCode::NXDomain, vec![]),
            (RecordType::ANY, ResponseCode::NXDomain, vec![]),
        ] {
            let got = ask(&resolver, &question(name, qtype), 1).await.expect("an answer");
            assert_eq!((got.metadata.response_code, addresses(&got)), (code, wanted.iter().map(ToString::to_string).collect()));
            assert!(got.answers.iter().all(|record| record.ttl == 1 && record.name.eq_case(&wire(name))));
            let error = extended_error(&got).expect("an extended error");
            assert_eq!(error, (15, "endpoints `- .blocked.example`".to_owned()), "{name} {qtype}");
        }
    }
    assert_eq!(upstream.count(), 0);
    assert!(judge.heard().told.is_empty());
    let allowed = ask(&resolver, &question("no.blocked.example.", RecordType::TXT), 2).await.expect("an answer");
    assert_eq!((allowed.answers.len(), upstream.count()), (1, 1), "another program's question reaches the upstream");
}

#[tokio::test]
async fn a_refusal_without_opt_has_no_opt_and_the_same_address() {
    let (resolver, _) = resolver(&[closed(LOOPBACKS[0]).await], tables());
    let mut asked = question("no.blocked.example.", RecordType::A);
    asked.edns = None;
    let got = ask(&resolver, &asked, 1).await.expect("an answer");
    assert!(got.edns.is_none() && addresses(&got) == ["0.0.0.17"]);
}

#[tokio::test]
async fn a_dropped_question_gets_no_answer() {
    let upstream = FakeUpstream::start(LOOPBACKS[0], zone).await;
    let (resolver, _) = resolver(&[upstream.address], tables());
    assert!(ask(&resolver, &question("quiet.blocked.example.", RecordType::A), 1).await.is_none());
    assert_eq!((upstream.count(), resolver.counts().dropped), (0, 1));
}

#[tokio::test]
async fn refused_addresses_are_taken_out_and_the_rest_is_told_and_learned() {
    for ip in LOOPBACKS {
        let upstream = FakeUpstream::start(ip, zone).await;
        let (resolver, judge) = resolver(&[upstream.address], tables());
        for (qtype, wanted) in [(RecordType::A, "192.0.2.80"), (RecordType::AAAA, "2001:db8::80")] {
            let got = ask(&resolver, &question("mixed.example.", qtype), 1).await.expect("an answer");
            assert_eq!(addresses(&got), [wanted]);
        }
        let told: Vec<_> = judge.heard().told.iter().map(|told| told.3.to_string()).collect();
        assert_eq!(told, ["192.0.2.80", "2001:db8::80"]);
    }
}

#[tokio::test]
async fn an_answer_of_which_nothing_is_left_is_a_filtered_refusal_and_teaches_nothing() {
    let upstream = FakeUpstream::start(LOOPBACKS[0], zone).await;
    let (resolver, judge) = resolver(&[upstream.address], tables());
    for (qtype, wanted) in [(RecordType::A, "0.0.0.17"), (RecordType::AAAA, "::17")] {
        let got = ask(&resolver, &question("rebind.example.", qtype), 1).await.expect("an answer");
        assert_eq!(addresses(&got), [wanted]);
        assert_eq!(extended_error(&got), Some((17, "scope `rebinding`".to_owned())));
    }
    assert!(judge.heard().told.is_empty());
    let why = (1, "rebind.example".to_owned(), "scope `rebinding`".to_owned());
    assert_eq!(judge.heard().withheld, [why.clone(), why]);
    assert_eq!(resolver.counts().filtered, 2);
}

#[tokio::test]
async fn a_deny_of_a_cname_target_blocks_the_name_that_hides_it() {
    let upstream = FakeUpstream::start(LOOPBACKS[0], zone).await;
    let (resolver, judge) = resolver(&[upstream.address], tables());
    let got = ask(&resolver, &question("cloaked.example.", RecordType::A), 1).await.expect("an answer");
    assert_eq!(addresses(&got), ["0.0.0.17"]);
    assert_eq!(extended_error(&got), Some((15, "endpoints `- t.tracker.example`".to_owned())));
    assert!(judge.heard().told.is_empty());
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_chain_that_cannot_be_judged_is_blocked_and_a_loop_ends() {
    let upstream = FakeUpstream::start(LOOPBACKS[0], zone).await;
    let (resolver, judge) = resolver(&[upstream.address], tables());
    let strange = ask(&resolver, &question("strange.example.", RecordType::A), 1).await.expect("an answer");
    assert_eq!(addresses(&strange), ["0.0.0.17"]);
    let looped = ask(&resolver, &question("loop.example.", RecordType::A), 1).await.expect("an answer");
    assert!(addresses(&looped).is_empty());
    assert!(judge.heard().told.is_empty());
}

#[tokio::test]
async fn address_hints_are_filtered_and_hidden_service_targets_judged() {
    let upstream = FakeUpstream::start(LOOPBACKS[0], zone).await;
    let (resolver, judge) = resolver(&[upstream.address], tables());
    let got = ask(&resolver, &question("service.example.", RecordType::HTTPS), 1).await.expect("an answer");
    let Some(RData::HTTPS(HTTPS(svcb))) = got.answers.first().map(|record| &record.data) else { panic!("{got:?}") };
    assert!(svcb.svc_params.is_empty());
    let needy = ask(&resolver, &question("needy.example.", RecordType::HTTPS), 1).await.expect("an answer");
    assert!(needy.answers.is_empty(), "a record whose mandatory hint is gone is malformed");
    let hidden = ask(&resolver, &question("cloakedservice.example.", RecordType::HTTPS), 1).await.expect("an answer");
    assert_eq!(hidden.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(extended_error(&hidden).map(|error| error.0), Some(15));
    assert!(judge.heard().told.is_empty());
}
