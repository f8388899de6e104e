//! What is no question, what is too much, and what is too large.

use std::net::SocketAddr;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Record, RecordType};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::resolver::limits::PER_ASKER;
use crate::resolver::testing::*;

/// Forty texts of sixty bytes under every name; no answer for `silent`.
fn large(question: &Message) -> Option<Message> {
    let query = question.queries.first()?;
    if query.name().to_ascii().to_ascii_lowercase().starts_with("silent") {
        return None;
    }
    let long = |n: usize| text("x.", &format!("{n:060}")).data;
    Some(answer(question, (0..40).map(|n| Record::from_rdata(query.name().clone(), 300, long(n))).collect()))
}

#[tokio::test]
async fn an_answer_larger_than_the_asker_can_take_goes_empty_with_the_tc_bit() {
    let upstream = FakeUpstream::start(LOOPBACKS[0], large).await;
    let (resolver, _) = resolver(&[upstream.address], Tables::default());
    let (from, asked) = ends();
    for (edns, limit) in [(None, 512), (Some(512), 512), (Some(1232), 1232), (Some(65_535), 1232)] {
        let mut message = question("Big.example.", RecordType::TXT);
        match (edns, &mut message.edns) {
            (Some(size), Some(opt)) => {
                opt.set_max_payload(size);
            }
            _ => message.edns = None,
        }
        let bytes = message.to_vec().expect("encodes");
        let got = resolver.answer(&bytes, from, asked, 1).await.expect("an answer");
        assert!(got.len() <= limit);
        let got = Message::from_vec(&got).expect("parses");
        assert!(got.metadata.truncation && got.answers.is_empty());
        assert_eq!(got.edns.is_some(), edns.is_some());
        assert!(got.queries.first().is_some_and(|query| query.name().eq_case(&wire("Big.example."))));
    }
    let seen = upstream.seen();
    assert_eq!(seen.iter().map(|(_, tcp)| *tcp).collect::<Vec<_>>(), [false, true], "what UDP cut was fetched over TCP, once");
}

#[tokio::test]
async fn answers_and_rubbish_get_silence() {
    let (resolver, judge) = resolver(&[closed(LOOPBACKS[0]).await], Tables::default());
    let (from, asked) = ends();
    let mut response = question("a.example.", RecordType::A);
    response.metadata.message_type = MessageType::Response;
    let response = response.to_vec().expect("encodes");
    for payload in [&response[..], b"", b"\0", b"eleven byte"] {
        assert_eq!(resolver.answer(payload, from, asked, 1).await, None);
    }
    assert!(judge.heard().questions.is_empty());
    assert_eq!(resolver.counts().malformed, 4);
}

#[tokio::test]
async fn what_is_not_one_question_of_class_in_is_refused_unjudged() {
    let (resolver, judge) = resolver(&[closed(LOOPBACKS[0]).await], Tables::default());
    let edit = |edit: fn(&mut Message)| {
        let mut message = question("a.example.", RecordType::A);
        edit(&mut message);
        message
    };
    let second = |message: &mut Message| {
        message.add_query(Query::query(wire("b.example."), RecordType::A));
    };
    for (message, code) in [
        (edit(second), ResponseCode::FormErr),
        (edit(|message| message.queries.clear()), ResponseCode::FormErr),
        (edit(|message| message.insert_answers(vec![address("a.example.", "192.0.2.1")])), ResponseCode::FormErr),
        (edit(|message| message.metadata.op_code = OpCode::Update), ResponseCode::NotImp),
        (edit(|message| message.metadata.op_code = OpCode::Notify), ResponseCode::NotImp),
        (
            edit(|message| {
                message.queries.iter_mut().for_each(|query| {
                    query.set_query_class(DNSClass::CH);
                });
            }),
            ResponseCode::Refused,
        ),
        (question("a.example.", RecordType::AXFR), ResponseCode::Refused),
        (question("a.example.", RecordType::IXFR), ResponseCode::Refused),
        (question(".", RecordType::NS), ResponseCode::Refused),
        (question("a\\.b.example.", RecordType::A), ResponseCode::Refused),
        (
            edit(|message| {
                if let Some(edns) = &mut message.edns {
                    edns.set_version(1);
                }
            }),
            ResponseCode::BADVERS,
        ),
    ] {
        let got = ask(&resolver, &message, 1).await.expect("a refusal");
        assert_eq!(u16::from(got.metadata.response_code), u16::from(code), "{message}");
        assert_eq!((got.metadata.id, got.answers.len()), (4711, 0));
    }
    assert!(judge.heard().questions.is_empty());
}

#[tokio::test]
async fn a_lying_header_and_cut_questions_are_refused_without_a_panic() {
    let (resolver, judge) = resolver(&[closed(LOOPBACKS[0]).await], Tables::default());
    let (from, asked) = ends();
    let whole = question("a.example.", RecordType::A).to_vec().expect("encodes");
    for end in 12..whole.len() {
        let got = resolver.answer(whole.get(..end).unwrap_or_default(), from, asked, 1).await.expect("a refusal");
        assert_eq!(Message::from_vec(&got).expect("parses").metadata.response_code, ResponseCode::FormErr, "{end}");
    }
    let mut lying = whole.clone();
    lying.splice(4..6, [255, 255]);
    let got = resolver.answer(&lying, from, asked, 1).await.expect("a refusal");
    assert_eq!(Message::from_vec(&got).expect("parses").metadata.response_code, ResponseCode::FormErr);
    // A name that points to itself.
    let looped = [&whole[..12], &[0xc0, 12, 0, 1, 0, 1]].concat();
    assert!(resolver.answer(&looped, from, asked, 1).await.is_some());
    assert!(judge.heard().questions.is_empty());
}

#[tokio::test]
async fn one_asker_beyond_its_bound_gets_servfail_while_another_is_answered() {
    let upstream = FakeUpstream::start(LOOPBACKS[0], large).await;
    let (resolver, _) = resolver(&[upstream.address], Tables::default());
    let waiting: Vec<_> = (0..PER_ASKER)
        .map(|n| {
            let resolver = resolver.clone();
            tokio::spawn(async move { ask(&resolver, &question(&format!("silent{n}.example."), RecordType::A), 1).await })
        })
        .collect();
    while upstream.count() < PER_ASKER {
        tokio::task::yield_now().await;
    }
    let refused = ask(&resolver, &question("two.example.", RecordType::TXT), 1).await.expect("an answer");
    assert_eq!(refused.metadata.response_code, ResponseCode::ServFail);
    let other = ask(&resolver, &question("two.example.", RecordType::TXT), 2).await.expect("an answer");
    assert!(other.metadata.truncation, "the other program's question was asked");
    assert_eq!(resolver.counts().over_limit, 1);
    for task in waiting {
        task.abort();
        let _ = task.await;
    }
    let again = ask(&resolver, &question("two.example.", RecordType::TXT), 1).await.expect("an answer");
    assert!(again.metadata.truncation, "abandoned questions give their places back");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_payload_makes_a_panic_and_every_answer_parses(mut bytes in vec(any::<u8>(), 0..200), kind in 0_u8..3) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let whole = question("fuzz.blocked.example.", RecordType::A).to_vec().expect("encodes");
        match kind {
            0 => {}
            // A sound header and question, then rubbish.
            1 => bytes.splice(..0, whole).for_each(drop),
            // A sound message with some bytes turned.
            _ => {
                let turned = bytes;
                bytes = whole;
                for (byte, turn) in bytes.iter_mut().skip(2).zip(turned) {
                    *byte ^= if turn % 8 == 0 { turn } else { 0 };
                }
            }
        }
        runtime.block_on(async {
            let (resolver, _) = resolver(&[SocketAddr::from(([127, 0, 0, 1], 1))], Tables::refusing_all());
            let (from, asked) = ends();
            if let Some(answer) = resolver.answer(&bytes, from, asked, 1).await {
                let answer = Message::from_vec(&answer).expect("the answer parses");
                assert_eq!(answer.metadata.message_type, MessageType::Response);
            }
        });
    }
}
