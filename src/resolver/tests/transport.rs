//! TCP from the program; dead and slow upstreams, and which one is asked.

use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use crate::resolver::Upstreams;
use crate::resolver::testing::*;

/// Forty texts under `big`, an address under all else.
fn zone(question: &Message) -> Option<Message> {
    let query = question.queries.first()?;
    let own = |data| Record::from_rdata(query.name().clone(), 300, data);
    Some(match query.query_type() {
        RecordType::TXT => answer(question, (0..40).map(|n| own(text("x.", &format!("{n:060}")).data)).collect()),
        RecordType::A => answer(question, vec![own(address("x.", "192.0.2.80").data)]),
        _ => answer(question, vec![own(address("x.", "2001:db8::80").data)]),
    })
}

fn servfail(question: &Message) -> Option<Message> {
    Some(nothing(question, ResponseCode::ServFail))
}

fn silent(_: &Message) -> Option<Message> {
    None
}

/// Knows no EDNS.
fn ancient(question: &Message) -> Option<Message> {
    if question.edns.is_some() {
        let mut refusal = nothing(question, ResponseCode::FormErr);
        refusal.edns = None;
        return Some(refusal);
    }
    zone(question)
}

/// Behind a router that throws EDNS away.
fn deaf(question: &Message) -> Option<Message> {
    if question.edns.is_some() { None } else { zone(question) }
}

/// Repeats the question in lower case, which over UDP is the answer of a stranger.
fn lower_case(question: &Message) -> Option<Message> {
    let mut answer = zone(question)?;
    answer.queries.iter_mut().for_each(|query| query.name = query.name.to_lowercase());
    Some(answer)
}

async fn send(stream: &mut DuplexStream, message: &Message) {
    let bytes = message.to_vec().expect("encodes");
    stream.write_u16(u16::try_from(bytes.len()).expect("small")).await.expect("written");
    stream.write_all(&bytes).await.expect("written");
}

async fn receive(stream: &mut DuplexStream) -> Message {
    let length = stream.read_u16().await.expect("an answer");
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).await.expect("a whole answer");
    Message::from_vec(&bytes).expect("parses")
}

#[tokio::test]
async fn a_stream_carries_several_questions_and_large_answers_and_ends_with_the_program() {
    let upstream = FakeUpstream::start(LOOPBACKS[0], zone).await;
    let (resolver, judge) = resolver(&[upstream.address], Tables::default());
    let (mut program, ours) = tokio::io::duplex(64);
    let (from, asked) = ends();
    let served = tokio::spawn(async move { resolver.serve_stream(ours, from, asked, 7).await });
    let mut first = question("big.example.", RecordType::TXT);
    first.metadata.id = 1;
    let mut second = question("two.example.", RecordType::A);
    second.metadata.id = 2;
    send(&mut program, &first).await;
    send(&mut program, &second).await;
    let mut got = [receive(&mut program).await, receive(&mut program).await];
    got.sort_by_key(|message| message.metadata.id);
    let [big, two] = got;
    assert_eq!((big.metadata.id, big.answers.len(), big.metadata.truncation), (1, 40, false));
    assert_eq!((two.metadata.id, addresses(&two)), (2, vec!["192.0.2.80".to_owned()]));
    program.shutdown().await.expect("the program has asked all");
    served.await.expect("the stream ends");
    assert!(judge.heard().questions.iter().all(|question| question.0 == 7));
}

#[tokio::test]
async fn a_question_before_half_close_is_still_answered_and_rubbish_is_not() {
    let upstream = FakeUpstream::start(LOOPBACKS[0], zone).await;
    let (resolver, _) = resolver(&[upstream.address], Tables::default());
    let (mut program, ours) = tokio::io::duplex(4096);
    let (from, asked) = ends();
    let served = tokio::spawn(async move { resolver.serve_stream(ours, from, asked, 7).await });
    program.write_all(&[0, 3, 1, 2, 3]).await.expect("written");
    send(&mut program, &question("two.example.", RecordType::AAAA)).await;
    program.shutdown().await.expect("half closed");
    assert_eq!(addresses(&receive(&mut program).await), ["2001:db8::80"]);
    assert_eq!(program.read(&mut [0; 1]).await.expect("the end"), 0);
    served.await.expect("the stream ends");
}

#[tokio::test]
async fn a_dropped_question_on_a_stream_is_silence_and_the_next_one_is_answered() {
    let upstream = FakeUpstream::start(LOOPBACKS[0], zone).await;
    let mut tables = Tables::default();
    tables.verdicts.insert((7, "quiet.example".to_owned()), crate::verdict::Verdict::Drop);
    let (resolver, _) = resolver(&[upstream.address], tables);
    let (mut program, ours) = tokio::io::duplex(4096);
    let (from, asked) = ends();
    let served = tokio::spawn(async move { resolver.serve_stream(ours, from, asked, 7).await });
    send(&mut program, &question("quiet.example.", RecordType::A)).await;
    send(&mut program, &question("two.example.", RecordType::A)).await;
    program.shutdown().await.expect("half closed");
    let got = receive(&mut program).await;
    assert!(got.queries.first().is_some_and(|query| *query.name() == wire("two.example.")));
    assert_eq!(program.read(&mut [0; 1]).await.expect("the end"), 0);
    served.await.expect("the stream ends");
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn dead_upstreams_end_in_servfail_within_five_seconds() {
    for ip in LOOPBACKS {
        let mute = FakeUpstream::start(ip, silent).await;
        for (upstream, most) in [(mute.address, Duration::from_secs(5)), (closed(ip).await, Duration::from_secs(1))] {
            let (resolver, judge) = resolver(&[upstream], Tables::default());
            let start = Instant::now();
            let got = ask(&resolver, &question("two.example.", RecordType::A), 1).await.expect("an answer");
            assert!(start.elapsed() < most, "{:?}", start.elapsed());
            assert_eq!(got.metadata.response_code, ResponseCode::ServFail);
            assert_eq!(extended_error(&got).map(|error| error.0), Some(22));
            assert_eq!(got.queries.len(), 1);
            assert!(judge.heard().told.is_empty());
            assert_eq!(resolver.counts().unanswered, 1);
        }
    }
}

#[tokio::test]
async fn an_upstream_that_hears_nothing_with_edns_is_asked_without_and_soon_at_once() {
    for ip in LOOPBACKS {
        let upstream = FakeUpstream::start(ip, deaf).await;
        let (resolver, _) = resolver(&[upstream.address], Tables::default());
        let names = ["one.example.", "two.example.", "three.example."].map(|name| question(name, RecordType::A));
        let [one, two, three] = &names;
        let (one, two, three) = tokio::join!(ask(&resolver, one, 1), ask(&resolver, two, 1), ask(&resolver, three, 1));
        for got in [one, two, three] {
            assert_eq!(addresses(&got.expect("an answer")), ["192.0.2.80"]);
        }
        let before = upstream.seen().len();
        let got = ask(&resolver, &question("four.example.", RecordType::A), 1).await.expect("an answer");
        assert_eq!(addresses(&got), ["192.0.2.80"]);
        let since: Vec<_> = upstream.seen().into_iter().skip(before).collect();
        assert!(!since.is_empty() && since.iter().all(|(message, _)| message.edns.is_none()), "it waits for nothing any more");
    }
}

#[tokio::test]
async fn who_wants_signatures_is_never_asked_for_without_edns() {
    let upstream = FakeUpstream::start(LOOPBACKS[0], deaf).await;
    let (resolver, _) = resolver(&[upstream.address], Tables::default());
    let mut asked = question("one.example.", RecordType::A);
    let mut edns = hickory_proto::op::Edns::new();
    edns.set_dnssec_ok(true);
    asked.set_edns(edns);
    let got = ask(&resolver, &asked, 1).await.expect("an answer");
    assert_eq!(got.metadata.response_code, ResponseCode::ServFail);
    assert!(upstream.seen().iter().all(|(message, _)| message.edns.is_some()));
}

#[tokio::test]
async fn an_upstream_that_answers_nothing_is_named_and_one_that_answers_is_not() {
    for ip in LOOPBACKS {
        let (mute, living) = (FakeUpstream::start(ip, silent).await, FakeUpstream::start(ip, zone).await);
        let closed = closed(ip).await;
        for (upstream, named) in [(mute.address, true), (closed, true), (living.address, false)] {
            let (resolver, _) = resolver(&[upstream], Tables::default());
            assert!(resolver.silent().is_empty(), "nothing was asked yet");
            let questions = ["one.example.", "two.example.", "three.example."].map(|name| question(name, RecordType::A));
            let [one, two, three] = &questions;
            let _ = tokio::join!(ask(&resolver, one, 1), ask(&resolver, two, 1), ask(&resolver, three, 1));
            assert_eq!(resolver.silent().contains(&upstream), named, "{upstream}");
        }
    }
}

#[tokio::test]
async fn the_next_upstream_takes_over_when_one_refuses_fails_or_is_closed() {
    let failing = FakeUpstream::start(LOOPBACKS[0], servfail).await;
    for first in [failing.address, closed(LOOPBACKS[0]).await, closed(LOOPBACKS[1]).await] {
        let second = FakeUpstream::start(LOOPBACKS[1], zone).await;
        let (resolver, _) = resolver(&[first, second.address], Tables::default());
        let start = Instant::now();
        for name in ["two.example.", "three.example."] {
            let got = ask(&resolver, &question(name, RecordType::A), 1).await.expect("an answer");
            assert_eq!(addresses(&got), ["192.0.2.80"]);
        }
        assert!(start.elapsed() < Duration::from_secs(1));
        assert_eq!(second.count(), 2);
    }
    assert_eq!(failing.count(), 2, "who speaks is asked first the next time too");
}

#[tokio::test]
async fn an_upstream_that_stays_silent_is_asked_last_and_one_slow_name_is_no_silence() {
    let first = FakeUpstream::start(LOOPBACKS[0], silent).await;
    let second = FakeUpstream::start(LOOPBACKS[1], zone).await;
    let (resolver, _) = resolver(&[first.address, second.address], Tables::default());
    let asked = ["a.example.", "b.example.", "c.example."].map(|name| question(name, RecordType::A));
    let [a, b, c] = &asked;
    let start = Instant::now();
    let (a, b) = tokio::join!(ask(&resolver, a, 1), ask(&resolver, b, 1));
    assert!(a.is_some_and(|got| addresses(&got) == ["192.0.2.80"]) && b.is_some_and(|got| addresses(&got) == ["192.0.2.80"]));
    assert!(start.elapsed() > Duration::from_secs(1) && start.elapsed() < Duration::from_secs(4));
    let tried = first.count();
    ask(&resolver, c, 1).await.expect("an answer");
    assert!(first.count() > tried, "two silences are not death");
    let (tried, start) = (first.count(), Instant::now());
    ask(&resolver, &question("d.example.", RecordType::A), 1).await.expect("an answer");
    assert!(first.count() == tried && start.elapsed() < Duration::from_secs(1), "three are");
}

#[tokio::test]
async fn an_upstream_that_changes_letters_is_believed_over_tcp_alone() {
    let upstream = FakeUpstream::start(LOOPBACKS[0], lower_case).await;
    let (resolver, _) = resolver(&[upstream.address], Tables::default());
    let name = "a-name-with-enough-letters-to-be-changed.example.";
    let got = ask(&resolver, &question(name, RecordType::A), 1).await.expect("an answer");
    assert_eq!(addresses(&got), ["192.0.2.80"]);
    assert_eq!(upstream.seen().iter().map(|(_, tcp)| *tcp).collect::<Vec<_>>(), [false, true]);
}

#[tokio::test]
async fn the_networks_names_go_to_the_networks_resolver_unless_that_is_switched_off() {
    let own = FakeUpstream::start(LOOPBACKS[0], zone).await;
    let network = FakeUpstream::start(LOOPBACKS[1], zone).await;
    let list = |address: std::net::SocketAddr| Upstreams::parse(&[address.to_string()]).expect("an upstream");
    let (resolver, _) = resolver(&[own.address], Tables::default());
    resolver.set_upstreams(&list(own.address).with_network(list(network.address)));
    for (name, allowed, wanted) in [
        ("www.example.com.", true, (1, 0)),
        ("nas.local.", true, (1, 1)),
        ("printer.", true, (1, 2)),
        ("other.local.", false, (2, 2)),
    ] {
        resolver.set_network_resolvers(allowed);
        ask(&resolver, &question(name, RecordType::A), 1).await.expect("an answer");
        assert_eq!((own.count(), network.count()), wanted, "{name}");
    }
}

#[tokio::test]
async fn new_upstreams_are_asked_at_once_and_old_answers_forgotten() {
    let old = FakeUpstream::start(LOOPBACKS[0], zone).await;
    let new = FakeUpstream::start(LOOPBACKS[0], zone).await;
    let (resolver, _) = resolver(&[old.address], Tables::default());
    let asked = question("two.example.", RecordType::A);
    ask(&resolver, &asked, 1).await.expect("an answer");
    resolver.set_upstreams(&Upstreams::parse(&[new.address.to_string()]).expect("an upstream"));
    ask(&resolver, &asked, 1).await.expect("an answer");
    assert_eq!((old.count(), new.count()), (1, 1));
}

#[tokio::test]
async fn while_the_first_upstream_answers_the_second_is_not_asked() {
    let first = FakeUpstream::start(LOOPBACKS[1], zone).await;
    let second = FakeUpstream::start(LOOPBACKS[0], zone).await;
    let (resolver, _) = resolver(&[first.address, second.address], Tables::default());
    for name in ["a.example.", "b.example.", "c.example."] {
        ask(&resolver, &question(name, RecordType::A), 1).await.expect("an answer");
    }
    assert_eq!((first.count(), second.count()), (3, 0));
}

#[tokio::test]
async fn an_upstream_without_edns_is_asked_again_without() {
    let upstream = FakeUpstream::start(LOOPBACKS[0], ancient).await;
    let (resolver, _) = resolver(&[upstream.address], Tables::default());
    let got = ask(&resolver, &question("two.example.", RecordType::A), 1).await.expect("an answer");
    assert_eq!(addresses(&got), ["192.0.2.80"]);
}
