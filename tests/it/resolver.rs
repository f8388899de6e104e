//! The resolver through its public door, with a judge that trusts nobody.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name as WireName, RecordType};
use portreeve::names::Name;
use portreeve::resolver::{Dialer, Judge, Resolver, Upstreams};
use portreeve::verdict::{Check, Decision, Reason};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Refuses everything; learning anything is a fault.
struct Nobody;

impl Judge for Nobody {
    type Asker = ();

    fn question(&self, _: &(), _: &Name, _: u16) -> Decision {
        Decision::refused(Reason::of(Check::Mode))
    }

    fn chain(&self, _: &(), _: &Name, _: &[Name]) -> Option<Reason> {
        panic!("nothing was asked upstream")
    }

    fn address(&self, _: &(), _: &Name, _: IpAddr) -> Result<(), Reason> {
        panic!("nothing was asked upstream")
    }

    fn learned(&self, _: &(), _: &Name, _: &Arc<[Name]>, _: IpAddr, _: Duration) {
        panic!("nothing was told")
    }

    fn withheld(&self, _: &(), _: &Name, _: &Reason) {
        panic!("nothing was accepted")
    }
}

fn resolver() -> Resolver<Nobody> {
    // Nobody listens on the discard port of a documentation address, and nobody is asked.
    let upstreams = Upstreams::parse(&["192.0.2.1:9".to_owned(), "[2001:db8::1]:9".to_owned()]).expect("two upstreams");
    let host = "host.portreeve.internal".parse().expect("a name");
    let fixed = BTreeMap::from([(host, vec![IpAddr::from([169, 254, 17, 1])])]);
    Resolver::new(upstreams, Dialer::default(), fixed, Arc::new(Nobody)).expect("the resolver starts")
}

fn question(name: &str, qtype: RecordType) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(WireName::from_ascii(name).expect("a name"), qtype));
    message.to_vec().expect("encodes")
}

fn ends() -> (SocketAddr, SocketAddr) {
    (SocketAddr::from(([10, 0, 0, 2], 40_000)), SocketAddr::from(([127, 0, 0, 53], 53)))
}

#[tokio::test]
async fn a_judge_that_refuses_everything_lets_nothing_be_asked_told_or_learned() {
    let resolver = resolver();
    let (from, asked) = ends();
    for name in ["example.com.", "localhost.", "host.portreeve.internal.", "x.invalid."] {
        for (qtype, wanted) in [(RecordType::A, "0.0.0.17"), (RecordType::AAAA, "::17")] {
            let got = resolver.answer(&question(name, qtype), from, asked, ()).await.expect("a refusal");
            let got = Message::from_vec(&got).expect("parses");
            let told: Vec<_> = got.answers.iter().filter_map(|record| record.data.ip_addr()).map(|ip| ip.to_string()).collect();
            assert_eq!(told, [wanted], "{name}");
        }
        let got = resolver.answer(&question(name, RecordType::MX), from, asked, ()).await.expect("a refusal");
        assert_eq!(Message::from_vec(&got).expect("parses").metadata.response_code, ResponseCode::NXDomain);
    }
    assert_eq!((resolver.counts().questions, resolver.counts().blocked), (12, 12));
}

#[tokio::test]
async fn a_refusal_comes_over_tcp_too() {
    let resolver = resolver();
    let (mut program, ours) = tokio::io::duplex(1024);
    let (from, asked) = ends();
    let served = tokio::spawn(async move { resolver.serve_stream(ours, from, asked, ()).await });
    let bytes = question("example.com.", RecordType::A);
    program.write_u16(u16::try_from(bytes.len()).expect("small")).await.expect("written");
    program.write_all(&bytes).await.expect("written");
    let mut got = vec![0; usize::from(program.read_u16().await.expect("an answer"))];
    program.read_exact(&mut got).await.expect("a whole answer");
    assert_eq!(Message::from_vec(&got).expect("parses").answers.len(), 1);
    drop(program);
    served.await.expect("the stream ends");
}
