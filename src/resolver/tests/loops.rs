//! Upstreams that ask back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use tokio::net::UdpSocket;

use crate::resolver::testing::*;
use crate::resolver::{Near, Resolver};

/// The program behind the upstream.
const SERVER: u32 = 2;

fn zone(question: &Message) -> Option<Message> {
    Some(answer(question, vec![address(&question.queries.first()?.name().to_ascii(), "192.0.2.80")]))
}

/// A forwarder that asks `resolver` whatever it is asked, each time anew; counts what it was asked.
async fn forward(socket: Arc<UdpSocket>, resolver: Resolver<Tables>, asked: Arc<AtomicUsize>) {
    let mut buffer = vec![0; 4096];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        asked.fetch_add(1, Ordering::Relaxed);
        let question = buffer.get(..length).unwrap_or_default().to_vec();
        let (socket, resolver) = (Arc::clone(&socket), resolver.clone());
        tokio::spawn(async move {
            if let Some(answer) = resolver.answer(&question, ends().0, ends().1, SERVER).await {
                let _ = socket.send_to(&answer, from).await;
            }
        });
    }
}

#[tokio::test]
async fn a_loop_that_nobody_sees_ends_with_its_question_and_does_not_grow() {
    for ip in LOOPBACKS {
        let socket = Arc::new(UdpSocket::bind((ip, 0)).await.expect("a free port"));
        let (resolver, _) = resolver(&[socket.local_addr().expect("bound")], Tables::default());
        let asked = Arc::new(AtomicUsize::new(0));
        let forwarder = tokio::spawn(forward(socket, resolver.clone(), Arc::clone(&asked)));
        let start = Instant::now();
        let questions = ["one.example.", "two.example."].map(|name| question(name, RecordType::A));
        let [one, two] = &questions;
        let (one, two) = tokio::join!(ask(&resolver, one, 1), ask(&resolver, two, 1));
        for got in [one, two] {
            assert_eq!(got.expect("an answer").metadata.response_code, ResponseCode::ServFail);
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        let count = asked.load(Ordering::Relaxed);
        assert!((2..=24).contains(&count), "{count}");
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(asked.load(Ordering::Relaxed), count, "the loop outlives its question");
        forwarder.abort();
    }
}

#[tokio::test]
async fn a_server_of_this_host_is_not_asked_its_own_question_and_others_are_answered_by_it() {
    for ip in LOOPBACKS {
        let upstream = FakeUpstream::start(ip, zone).await;
        let mut tables = Tables::default();
        tables.servers.insert((SERVER, upstream.address));
        let (resolver, _) = resolver(&[upstream.address], tables);
        resolver.set_near(Near::this_host(&[]));
        let got = ask(&resolver, &question("two.example.", RecordType::A), 1).await.expect("an answer");
        assert_eq!(addresses(&got), ["192.0.2.80"]);
        // It means to ask itself, so there is nobody else.
        let bytes = question("three.example.", RecordType::A).to_vec().expect("encodes");
        let got = resolver.answer(&bytes, ends().0, upstream.address, SERVER).await.expect("an answer");
        assert_eq!(Message::from_vec(&got).expect("parses").metadata.response_code, ResponseCode::ServFail);
        assert_eq!(upstream.count(), 1);
    }
}

#[tokio::test]
async fn where_nothing_is_captured_a_server_is_asked_whoever_asks() {
    let upstream = FakeUpstream::start(LOOPBACKS[0], zone).await;
    let mut tables = Tables::default();
    tables.servers.insert((SERVER, upstream.address));
    let (resolver, _) = resolver(&[upstream.address], tables);
    let got = ask(&resolver, &question("two.example.", RecordType::A), SERVER).await.expect("an answer");
    assert_eq!(addresses(&got), ["192.0.2.80"]);
}

#[tokio::test]
async fn another_address_of_this_host_forgets_no_answer() {
    let upstream = FakeUpstream::start(LOOPBACKS[1], zone).await;
    let (resolver, _) = resolver(&[upstream.address], Tables::default());
    for own in ["10.9.0.2", "fd09::2"] {
        resolver.set_near(Near::this_host(&[own.parse().expect("an address")]));
        ask(&resolver, &question("two.example.", RecordType::A), 1).await.expect("an answer");
    }
    assert_eq!(upstream.count(), 1);
}
