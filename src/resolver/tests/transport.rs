//! TCP from the program; dead, slow and encrypted upstreams.

use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::{TcpListener, UdpSocket};

use crate::resolver::testing::*;
use crate::resolver::{Dialer, Resolver, Upstreams};

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
async fn the_next_upstream_takes_over_and_a_silent_one_is_asked_last_from_then_on() {
    for first_script in [silent as Script, servfail] {
        let first = FakeUpstream::start(LOOPBACKS[0], first_script).await;
        let second = FakeUpstream::start(LOOPBACKS[1], zone).await;
        let (resolver, _) = resolver(&[first.address, second.address], Tables::default());
        let got = ask(&resolver, &question("two.example.", RecordType::A), 1).await.expect("an answer");
        assert_eq!(addresses(&got), ["192.0.2.80"]);
        assert!(first.count() > 0);
        assert_eq!(second.count(), 1);
        let start = Instant::now();
        ask(&resolver, &question("three.example.", RecordType::A), 1).await.expect("an answer");
        assert!(start.elapsed() < Duration::from_secs(1));
    }
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

#[tokio::test]
async fn an_encrypted_upstream_that_fails_is_not_replaced_by_a_plain_one_unless_allowed() {
    let plain = FakeUpstream::start(LOOPBACKS[0], zone).await;
    // Speaks no TLS: whatever connects is answered in plain text and closed.
    let fake_tls = TcpListener::bind((LOOPBACKS[0], 0)).await.expect("a free port");
    let address = fake_tls.local_addr().expect("bound");
    let spied = UdpSocket::bind(address).await.expect("the same port in UDP");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = fake_tls.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let list = [format!("tls://{address}#dns.example"), plain.address.to_string()];
    let upstreams = Upstreams::parse(&list).expect("the test names upstreams");
    let judge = std::sync::Arc::new(Tables::default());
    let resolver = Resolver::new(upstreams, Dialer::default(), std::collections::BTreeMap::new(), judge).expect("starts");

    let got = ask(&resolver, &question("two.example.", RecordType::A), 1).await.expect("an answer");
    assert_eq!(got.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(plain.count(), 0);
    assert!(spied.try_recv(&mut [0; 512]).is_err(), "nothing goes to the encrypted upstream in plain");

    resolver.set_plain_fallback(true);
    let got = ask(&resolver, &question("two.example.", RecordType::A), 1).await.expect("an answer");
    assert_eq!((addresses(&got), plain.count()), (vec!["192.0.2.80".to_owned()], 1));
}
