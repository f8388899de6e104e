//! Encrypted upstreams: DoT, DoH and DoQ, the certificate, and no way down to plain.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use hickory_proto::op::{Message, Metadata, ResponseCode};
use hickory_proto::rr::{Record, RecordType};
use hickory_resolver::TlsConfig;
use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::AsyncWriteExt as _;

use crate::resolver::testing::*;
use crate::resolver::{Dialer, Resolver, Upstreams};

/// Self-signed for `dns.example`, valid for a century; made by openssl for these tests alone.
const CERTIFICATE: &[u8] = include_bytes!("../../../tests/data/dns.example.crt");
const KEY: &[u8] = include_bytes!("../../../tests/data/dns.example.key");
const HANDSHAKE: Duration = Duration::from_secs(2);

/// Answers every A question with 192.0.2.80 and counts.
#[derive(Clone, Default)]
struct Zone(Arc<Mutex<usize>>);

impl Zone {
    fn count(&self) -> usize {
        self.0.lock().map_or(0, |count| *count)
    }
}

#[async_trait]
impl RequestHandler for Zone {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut out: R) -> ResponseInfo {
        if let Ok(mut count) = self.0.lock() {
            *count += 1;
        }
        let query = request.request_info().expect("one question").query.original().clone();
        let record = Record::from_rdata(query.name().clone(), 300, address("x.", "192.0.2.80").data);
        let metadata = Metadata::response_from_request(&request.metadata);
        let builder = MessageResponseBuilder::new(&request.queries, request.edns.as_ref());
        out.send_response(builder.build(metadata, [&record], None, None, None)).await.expect("sent")
    }
}

/// A server for `scheme` on loopback; it lives as long as the returned handle.
async fn serve(scheme: &str, zone: Zone) -> (Server<Zone>, SocketAddr) {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(KEY));
    let key = any_supported_type(&key).expect("a key that ring knows");
    let certified = CertifiedKey::new(vec![CertificateDer::from(CERTIFICATE)], key);
    let certified = Arc::new(SingleCertAndKey::from(certified));
    let mut server = Server::new(zone);
    let (udp, tcp, address) = sockets(LOOPBACKS[0]).await;
    match scheme {
        "tls" => server.register_tls_listener(tcp, HANDSHAKE, certified),
        "https" => server.register_https_listener(tcp, HANDSHAKE, certified, None, "/dns-query".to_owned()),
        _ => server.register_quic_listener(udp, HANDSHAKE, certified),
    }
    .expect("a server");
    (server, address)
}

/// Trusts nothing but the certificate of these tests.
fn trusting_the_test() -> TlsConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(CERTIFICATE)).expect("a certificate");
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("TLS 1.3");
    TlsConfig { config: builder.with_root_certificates(roots).with_no_client_auth() }
}

fn resolver_for(tls: TlsConfig, list: &[String]) -> Resolver<Tables> {
    let upstreams = Upstreams::parse(list).expect("the test names upstreams");
    Resolver::trusting(tls, &upstreams, Dialer::default(), BTreeMap::new(), Arc::new(Tables::default()))
}

fn plain_zone(question: &Message) -> Option<Message> {
    let name = question.queries.first()?.name().clone();
    Some(answer(question, vec![Record::from_rdata(name, 300, address("x.", "192.0.2.80").data)]))
}

async fn code_of(resolver: &Resolver<Tables>, name: &str) -> ResponseCode {
    let got: Message = ask(resolver, &question(name, RecordType::A), 1).await.expect("an answer");
    got.metadata.response_code
}

#[tokio::test]
async fn each_encrypted_transport_answers_and_keeps_its_connection() {
    for scheme in ["tls", "https", "quic"] {
        let zone = Zone::default();
        let (_server, address) = serve(scheme, zone.clone()).await;
        let resolver = resolver_for(trusting_the_test(), &[format!("{scheme}://{address}#dns.example")]);
        for name in ["a.example.", "b.example."] {
            let got = ask(&resolver, &question(name, RecordType::A), 1).await.expect("an answer");
            assert_eq!(addresses(&got), ["192.0.2.80"], "{scheme}");
        }
        assert_eq!(zone.count(), 2, "{scheme}");
    }
}

#[tokio::test]
async fn a_certificate_of_another_name_or_of_nobody_known_gets_no_question() {
    for scheme in ["tls", "https", "quic"] {
        let zone = Zone::default();
        let (_server, address) = serve(scheme, zone.clone()).await;
        let other = resolver_for(trusting_the_test(), &[format!("{scheme}://{address}#other.example")]);
        assert_eq!(code_of(&other, "a.example.").await, ResponseCode::ServFail, "{scheme}");
        let unnamed = resolver_for(trusting_the_test(), &[format!("{scheme}://{address}")]);
        assert_eq!(code_of(&unnamed, "a.example.").await, ResponseCode::ServFail, "{scheme}");
        let public = TlsConfig::new().expect("public roots");
        let stranger = resolver_for(public, &[format!("{scheme}://{address}#dns.example")]);
        assert_eq!(code_of(&stranger, "a.example.").await, ResponseCode::ServFail, "{scheme}");
        assert_eq!(zone.count(), 0, "{scheme}");
    }
}

#[tokio::test]
async fn an_encrypted_upstream_that_fails_is_not_replaced_by_a_plain_one_unless_allowed() {
    let plain = FakeUpstream::start(LOOPBACKS[0], plain_zone).await;
    // Speaks no TLS: whatever connects is answered in plain text and closed.
    let (spied, fake_tls, address) = sockets(LOOPBACKS[0]).await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = fake_tls.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let list = [format!("tls://{address}#dns.example"), plain.address.to_string()];
    let resolver = resolver_for(trusting_the_test(), &list);

    let got = ask(&resolver, &question("two.example.", RecordType::A), 1).await.expect("an answer");
    assert_eq!(got.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(plain.count(), 0);
    assert!(spied.try_recv(&mut [0; 512]).is_err(), "nothing goes to the encrypted upstream in plain");

    resolver.set_plain_fallback(true);
    let got = ask(&resolver, &question("two.example.", RecordType::A), 1).await.expect("an answer");
    assert_eq!((addresses(&got), plain.count()), (vec!["192.0.2.80".to_owned()], 1));
}
