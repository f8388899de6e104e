//! What an accepted question gets.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::NULL;
use hickory_proto::rr::{RData, Record, RecordType};

use crate::resolver::testing::*;
use crate::resolver::{Dialer, Near, Resolver, Upstreams};
use crate::verdict::Verdict;

/// A zone: `www` is an alias of `edge` in another zone, `two` has an address in each family.
fn zone(question: &Message) -> Option<Message> {
    let query = question.queries.first()?;
    let asked = query.name().to_ascii().to_ascii_lowercase();
    let v6 = query.query_type() == RecordType::AAAA;
    let ip = if v6 { "2001:db8::80" } else { "192.0.2.80" };
    Some(match (asked.as_str(), query.query_type()) {
        ("www.example.", RecordType::A | RecordType::AAAA) => answer(
            question,
            vec![
                Record::from_rdata(query.name().clone(), 300, cname("x.", "Edge.CDN.example.").data),
                cname("edge.cdn.example.", "e7.cdn.example."),
                address("e7.cdn.example.", ip),
                address("stranger.example.", ip),
            ],
        ),
        ("two.example.", RecordType::A | RecordType::AAAA) => {
            answer(question, vec![Record::from_rdata(query.name().clone(), 300, address("x.", ip).data)])
        }
        ("odd.example.", RecordType::Unknown(65_280)) => {
            let rdata = NULL::with(vec![1, 2, 3, 255]);
            let data = RData::Unknown { code: RecordType::Unknown(65_280), rdata };
            answer(question, vec![Record::from_rdata(query.name().clone(), 300, data)])
        }
        ("empty.example.", _) => nothing(question, ResponseCode::NoError),
        _ => nothing(question, ResponseCode::NXDomain),
    })
}

#[tokio::test]
async fn an_accepted_question_is_answered_in_the_case_it_was_asked_in_over_either_family() {
    for ip in LOOPBACKS {
        let upstream = FakeUpstream::start(ip, zone).await;
        let (resolver, judge) = resolver(&[upstream.address], Tables::default());
        for (qtype, wanted) in [(RecordType::A, "192.0.2.80"), (RecordType::AAAA, "2001:db8::80")] {
            let got = ask(&resolver, &question("Two.EXAMPLE.", qtype), 1).await.expect("an answer");
            assert_eq!(got.metadata.response_code, ResponseCode::NoError);
            assert_eq!(got.metadata.id, 4711);
            assert!(got.metadata.recursion_available && got.metadata.recursion_desired && !got.metadata.truncation);
            assert_eq!(addresses(&got), [wanted]);
            let query = got.queries.first().expect("the question is repeated");
            assert!(query.name().eq_case(&wire("Two.EXAMPLE.")));
            assert!(got.answers.iter().all(|record| record.name.eq_case(&wire("Two.EXAMPLE."))));
            assert!(got.edns.is_some());
        }
        let names: Vec<_> = judge.heard().told.into_iter().map(|told| (told.1, told.3.to_string())).collect();
        let wanted = [("two.example".to_owned(), "192.0.2.80".to_owned()), ("two.example".to_owned(), "2001:db8::80".to_owned())];
        assert_eq!(names, wanted);
    }
}

#[tokio::test]
async fn only_the_asked_name_is_learned_and_the_chain_is_in_order() {
    let upstream = FakeUpstream::start(LOOPBACKS[0], zone).await;
    let (resolver, judge) = resolver(&[upstream.address], Tables::default());
    let got = ask(&resolver, &question("www.example.", RecordType::A), 1).await.expect("an answer");
    assert_eq!(addresses(&got), ["192.0.2.80"]);
    let target = |record: &Record| match &record.data {
        RData::CNAME(cname) => Some(cname.0.to_ascii()),
        _ => None,
    };
    let targets: Vec<_> = got.answers.iter().filter_map(target).collect();
    assert_eq!(targets, ["edge.cdn.example.", "e7.cdn.example."]);
    let owners: Vec<_> = got.answers.iter().map(|record| record.name.to_ascii()).collect();
    assert_eq!(owners, ["www.example.", "edge.cdn.example.", "e7.cdn.example."], "a stranger's record is left out");
    let chain = vec!["edge.cdn.example".to_owned(), "e7.cdn.example".to_owned()];
    let heard = judge.heard();
    assert_eq!(heard.chains, std::slice::from_ref(&chain));
    assert_eq!(heard.told, [(1, "www.example".to_owned(), chain, IpAddr::from([192, 0, 2, 80]), 300)]);
}

#[tokio::test]
async fn a_question_without_opt_gets_an_answer_without_opt() {
    let upstream = FakeUpstream::start(LOOPBACKS[0], zone).await;
    let (resolver, _) = resolver(&[upstream.address], Tables::default());
    let mut plain = question("two.example.", RecordType::A);
    plain.edns = None;
    let got = ask(&resolver, &plain, 1).await.expect("an answer");
    assert!(got.edns.is_none() && addresses(&got) == ["192.0.2.80"]);
}

#[tokio::test]
async fn an_unknown_type_passes_byte_for_byte() {
    let upstream = FakeUpstream::start(LOOPBACKS[0], zone).await;
    let (resolver, judge) = resolver(&[upstream.address], Tables::default());
    let got = ask(&resolver, &question("odd.example.", RecordType::Unknown(65_280)), 1).await.expect("an answer");
    let Some(RData::Unknown { rdata, .. }) = got.answers.first().map(|record| &record.data) else { panic!("{got:?}") };
    assert_eq!(rdata.anything, [1, 2, 3, 255]);
    assert_eq!(judge.heard().questions, [(1, "odd.example".to_owned(), 65_280)]);
}

#[tokio::test]
async fn do_and_cd_reach_the_upstream_and_do_is_repeated() {
    let upstream = FakeUpstream::start(LOOPBACKS[0], zone).await;
    let (resolver, _) = resolver(&[upstream.address], Tables::default());
    for (dnssec_ok, checking_disabled) in [(false, false), (true, false), (true, true), (false, true)] {
        let mut asked = question("two.example.", RecordType::A);
        asked.metadata.checking_disabled = checking_disabled;
        if let Some(edns) = &mut asked.edns {
            edns.set_dnssec_ok(dnssec_ok);
        }
        let got = ask(&resolver, &asked, 1).await.expect("an answer");
        assert_eq!(got.edns.map(|edns| edns.flags().dnssec_ok), Some(dnssec_ok));
        let (seen, _) = upstream.seen().pop().expect("a question of its own for each pair of bits");
        assert_eq!(seen.edns.map(|edns| edns.flags().dnssec_ok), Some(dnssec_ok));
        assert_eq!(seen.metadata.checking_disabled, checking_disabled);
    }
    assert_eq!(upstream.count(), 4);
}

#[tokio::test]
async fn no_such_name_and_no_such_records_keep_their_proof() {
    let upstream = FakeUpstream::start(LOOPBACKS[0], zone).await;
    let (resolver, judge) = resolver(&[upstream.address], Tables::default());
    for (name, code) in [("missing.example.", ResponseCode::NXDomain), ("empty.example.", ResponseCode::NoError)] {
        for _ in 0..2 {
            let got = ask(&resolver, &question(name, RecordType::A), 1).await.expect("an answer");
            assert_eq!(got.metadata.response_code, code);
            assert!(got.answers.is_empty());
            assert_eq!(got.authorities.iter().map(Record::record_type).collect::<Vec<_>>(), [RecordType::SOA]);
        }
    }
    assert_eq!(upstream.count(), 2, "the second answer is remembered");
    assert!(judge.heard().told.is_empty());
}

#[tokio::test]
async fn the_cache_saves_the_upstream_and_never_the_judge() {
    let upstream = FakeUpstream::start(LOOPBACKS[0], zone).await;
    let mut tables = Tables::default();
    tables.verdicts.insert((2, "two.example".to_owned()), Verdict::Block);
    let (resolver, judge) = resolver(&[upstream.address], tables);
    let asked = question("two.example.", RecordType::A);
    for _ in 0..3 {
        let got = ask(&resolver, &asked, 1).await.expect("an answer");
        assert_eq!(addresses(&got), ["192.0.2.80"]);
    }
    let refused = ask(&resolver, &asked, 2).await.expect("an answer");
    assert_eq!(addresses(&refused), ["0.0.0.17"], "what program 1 may know is not told to program 2");
    assert_eq!(upstream.count(), 1);
    assert_eq!(judge.heard().questions.len(), 4);
    assert_eq!(judge.heard().told.len(), 3);
    assert_eq!((resolver.counts().cached, resolver.counts().blocked), (2, 1));
}

#[tokio::test]
async fn names_of_our_own_are_judged_learned_and_never_asked_upstream() {
    let upstream = FakeUpstream::start(LOOPBACKS[0], zone).await;
    let mut tables = Tables::default();
    tables.refused_addresses.extend([IpAddr::from([169, 254, 17, 1]), IpAddr::from([127, 0, 0, 1])]);
    tables.verdicts.insert((2, "host.portreeve.internal".to_owned()), Verdict::Block);
    let (resolver, judge) = resolver(&[upstream.address], tables);
    for (name, qtype, wanted) in [
        ("host.portreeve.internal.", RecordType::A, vec!["169.254.17.1"]),
        ("host.portreeve.internal.", RecordType::AAAA, vec!["fd17::1"]),
        ("host.portreeve.internal.", RecordType::TXT, vec![]),
        ("localhost.", RecordType::A, vec!["127.0.0.1"]),
        ("a.localhost.", RecordType::AAAA, vec!["::1"]),
    ] {
        let got = ask(&resolver, &question(name, qtype), 1).await.expect("an answer");
        assert_eq!(got.metadata.response_code, ResponseCode::NoError);
        assert_eq!(addresses(&got), wanted, "{name} {qtype}");
    }
    assert_eq!(judge.heard().told.len(), 4);
    let refused = ask(&resolver, &question("host.portreeve.internal.", RecordType::A), 2).await.expect("an answer");
    assert_eq!(addresses(&refused), ["0.0.0.17"]);
    for name in ["x.invalid.", "x.onion.", "other.portreeve.internal."] {
        let none = ask(&resolver, &question(name, RecordType::A), 1).await.expect("an answer");
        assert_eq!(none.metadata.response_code, ResponseCode::NXDomain, "{name}");
    }
    assert_eq!(judge.heard().questions.len(), 9);
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn without_upstreams_the_asked_address_is_the_upstream_but_never_one_on_this_host() {
    for ip in LOOPBACKS {
        let upstream = FakeUpstream::start(ip, zone).await;
        let bytes = question("two.example.", RecordType::A).to_vec().expect("encodes");
        for (near, wanted) in [(Near::nothing(), ResponseCode::NoError), (Near::this_host(&[]), ResponseCode::ServFail)] {
            let judge = std::sync::Arc::new(Tables::default());
            let fixed = std::collections::BTreeMap::new();
            let resolver = Resolver::new(Upstreams::asked(), Dialer::default(), fixed, judge).expect("the resolver starts");
            resolver.set_near(near);
            let got = resolver.answer(&bytes, ends().0, upstream.address, 1).await.expect("an answer");
            let got = Message::from_vec(&got).expect("parses");
            assert_eq!(got.metadata.response_code, wanted);
        }
        assert_eq!(upstream.count(), 1);
    }
}

#[tokio::test]
async fn a_cached_answer_takes_well_under_a_millisecond() {
    let upstream = FakeUpstream::start(LOOPBACKS[0], zone).await;
    let (resolver, _) = resolver(&[upstream.address], Tables::default());
    let asked = question("www.example.", RecordType::A);
    ask(&resolver, &asked, 1).await.expect("an answer");
    let bytes = asked.to_vec().expect("encodes");
    let (from, to) = ends();
    let mut times = Vec::new();
    for _ in 0..1000 {
        let start = Instant::now();
        resolver.answer(&bytes, from, to, 1).await.expect("an answer");
        times.push(start.elapsed());
    }
    times.sort();
    let p50 = times.get(500).copied().unwrap_or(Duration::MAX);
    println!("cached answer: p50 {p50:?}, p99 {:?}", times.get(990));
    assert!(p50 < Duration::from_millis(1), "{p50:?}");
    assert_eq!(upstream.count(), 1);
}
