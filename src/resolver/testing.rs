//! A judge and an upstream for tests: both remember what they were asked.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{CNAME, SOA, TXT};
use hickory_proto::rr::{Name as WireName, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};

use super::{Dialer, Judge, Resolver, Upstreams};
use crate::names::Name;
use crate::verdict::{Check, Decision, Reason, Verdict};

/// Loopback of both families, where fake upstreams live.
pub(super) const LOOPBACKS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// What a program was told: name, chain, address, TTL in seconds.
pub(super) type Told = (u32, String, Vec<String>, IpAddr, u64);

/// A judge by tables; programs are numbers. What no table names is accepted.
#[derive(Default)]
pub(super) struct Tables {
    pub(super) verdicts: BTreeMap<(u32, String), Verdict>,
    refuse_all: bool,
    pub(super) denied_targets: BTreeSet<String>,
    pub(super) refused_addresses: BTreeSet<IpAddr>,
    /// Programs that are servers.
    pub(super) servers: BTreeSet<(u32, SocketAddr)>,
    heard: Mutex<Heard>,
}

#[derive(Clone, Default)]
pub(super) struct Heard {
    pub(super) questions: Vec<(u32, String, u16)>,
    pub(super) chains: Vec<Vec<String>>,
    pub(super) told: Vec<Told>,
    pub(super) withheld: Vec<(u32, String, String)>,
}

impl Tables {
    pub(super) fn refusing_all() -> Self {
        Self { refuse_all: true, ..Self::default() }
    }

    pub(super) fn heard(&self) -> Heard {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, note: impl FnOnce(&mut Heard)) {
        note(&mut self.heard.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn reason(check: Check, rule: &str) -> Reason {
    Reason { rule: Some(rule.into()), ..Reason::of(check) }
}

impl Judge for Tables {
    type Asker = u32;

    fn question(&self, asker: &u32, name: &Name, qtype: u16) -> Decision {
        self.note(|heard| heard.questions.push((*asker, name.to_string(), qtype)));
        let verdict = self.verdicts.get(&(*asker, name.to_string())).copied();
        let verdict = verdict.unwrap_or(if self.refuse_all { Verdict::Block } else { Verdict::Accept });
        Decision::for_test(verdict, reason(Check::Endpoints, "- .blocked.example"))
    }

    fn chain(&self, _: &u32, _: &Name, chain: &[Name]) -> Option<Reason> {
        self.note(|heard| heard.chains.push(chain.iter().map(ToString::to_string).collect()));
        let denied = chain.iter().find(|target| self.denied_targets.contains(target.as_str()))?;
        Some(reason(Check::Endpoints, &format!("- {denied}")))
    }

    fn address(&self, _: &u32, _: &Name, address: IpAddr) -> Result<(), Reason> {
        if self.refused_addresses.contains(&address) { Err(reason(Check::Scope, "rebinding")) } else { Ok(()) }
    }

    fn learned(&self, asker: &u32, name: &Name, chain: &Arc<[Name]>, address: IpAddr, ttl: Duration) {
        let chain = chain.iter().map(ToString::to_string).collect();
        self.note(|heard| heard.told.push((*asker, name.to_string(), chain, address, ttl.as_secs())));
    }

    fn withheld(&self, asker: &u32, name: &Name, reason: &Reason) {
        self.note(|heard| heard.withheld.push((*asker, name.to_string(), reason.to_string())));
    }

    fn account(&self, asker: &u32) -> Option<u64> {
        Some(u64::from(*asker))
    }

    async fn is_server(&self, asker: &u32, server: SocketAddr) -> bool {
        self.servers.contains(&(*asker, server))
    }
}

/// How a fake upstream answers; None is silence.
pub(super) type Script = fn(&Message) -> Option<Message>;

/// A name server on loopback, UDP and TCP on one port.
pub(super) struct FakeUpstream {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Vec<(Message, bool)>>>,
}

impl FakeUpstream {
    pub(super) async fn start(ip: IpAddr, script: Script) -> Self {
        let (udp, tcp, address) = sockets(ip).await;
        let seen = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn(serve_udp(udp, script, Arc::clone(&seen)));
        tokio::spawn(serve_tcp(tcp, script, Arc::clone(&seen)));
        Self { address, seen }
    }

    /// The questions that arrived, and whether over TCP.
    pub(super) fn seen(&self) -> Vec<(Message, bool)> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn count(&self) -> usize {
        self.seen().len()
    }
}

/// The same port in UDP and TCP.
pub(super) async fn sockets(ip: IpAddr) -> (UdpSocket, TcpListener, SocketAddr) {
    for _ in 0..20 {
        let udp = UdpSocket::bind((ip, 0)).await.expect("loopback has a free UDP port");
        let address = udp.local_addr().expect("a bound socket has an address");
        if let Ok(tcp) = TcpListener::bind(address).await {
            return (udp, tcp, address);
        }
    }
    panic!("no port is free for UDP and TCP")
}

fn note(seen: &Mutex<Vec<(Message, bool)>>, message: &Message, tcp: bool) {
    seen.lock().unwrap_or_else(PoisonError::into_inner).push((message.clone(), tcp));
}

async fn serve_udp(socket: UdpSocket, script: Script, seen: Arc<Mutex<Vec<(Message, bool)>>>) {
    let mut buffer = vec![0; 4096];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let Some(Ok(message)) = buffer.get(..length).map(Message::from_vec) else { continue };
        note(&seen, &message, false);
        let Some(answer) = script(&message) else { continue };
        let bytes = answer.to_vec().expect("a test's answer encodes");
        let limit = usize::from(message.max_payload());
        let bytes = if bytes.len() > limit { answer.truncate().to_vec().expect("a short answer encodes") } else { bytes };
        let _ = socket.send_to(&bytes, from).await;
    }
}

async fn serve_tcp(listener: TcpListener, script: Script, seen: Arc<Mutex<Vec<(Message, bool)>>>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let seen = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok(length) = stream.read_u16().await {
                let mut bytes = vec![0; usize::from(length)];
                let Ok(_) = stream.read_exact(&mut bytes).await else { return };
                let Ok(message) = Message::from_vec(&bytes) else { return };
                note(&seen, &message, true);
                let Some(answer) = script(&message) else { continue };
                let bytes = answer.to_vec().expect("a test's answer encodes");
                let length = u16::try_from(bytes.len()).expect("a test's answer fits a frame");
                if stream.write_u16(length).await.is_err() || stream.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// An address that refuses: a port that was free a moment ago.
pub(super) async fn closed(ip: IpAddr) -> SocketAddr {
    sockets(ip).await.2
}

/// A resolver that asks `upstreams` in their order.
pub(super) fn resolver(upstreams: &[SocketAddr], judge: Tables) -> (Resolver<Tables>, Arc<Tables>) {
    let list: Vec<_> = upstreams.iter().map(ToString::to_string).collect();
    let upstreams = Upstreams::parse(&list).expect("the test names upstreams");
    let judge = Arc::new(judge);
    let fixed = BTreeMap::from([(
        "host.portreeve.internal".parse().expect("a name"),
        vec![IpAddr::from([169, 254, 17, 1]), "fd17::1".parse().expect("an address")],
    )]);
    let resolver = Resolver::new(upstreams, Dialer::default(), fixed, Arc::clone(&judge)).expect("the resolver starts");
    (resolver, judge)
}

pub(super) fn wire(name: &str) -> WireName {
    WireName::from_ascii(name).expect("the test writes a name")
}

/// A question with OPT (1232 bytes) as dig sends it.
pub(super) fn question(name: &str, qtype: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(wire(name), qtype));
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    message.set_edns(edns);
    message
}

/// The answer to `question` that holds `records`; hickory's names keep the case of the question.
pub(super) fn answer(question: &Message, records: Vec<Record>) -> Message {
    let mut message = question.clone().into_response();
    message.metadata.recursion_available = true;
    message.insert_answers(records);
    message
}

/// No such records, with the SOA that says for how long.
pub(super) fn nothing(question: &Message, code: ResponseCode) -> Message {
    let mut message = answer(question, Vec::new());
    message.metadata.response_code = code;
    let soa = SOA::new(wire("ns.example."), wire("admin.example."), 1, 60, 60, 60, 30);
    message.add_authority(Record::from_rdata(wire("example."), 30, RData::SOA(soa)));
    message
}

pub(super) fn address(name: &str, ip: &str) -> Record {
    let data = match ip.parse().expect("the test writes an address") {
        IpAddr::V4(v4) => RData::A(v4.into()),
        IpAddr::V6(v6) => RData::AAAA(v6.into()),
    };
    Record::from_rdata(wire(name), 300, data)
}

pub(super) fn cname(name: &str, target: &str) -> Record {
    Record::from_rdata(wire(name), 300, RData::CNAME(CNAME(wire(target))))
}

pub(super) fn text(name: &str, text: &str) -> Record {
    Record::from_rdata(wire(name), 300, RData::TXT(TXT::new(vec![text.to_owned()])))
}

/// Where the program's own socket is, and whom it asked.
pub(super) fn ends() -> (SocketAddr, SocketAddr) {
    (SocketAddr::from(([10, 0, 0, 2], 40_000)), SocketAddr::from(([192, 0, 2, 53], 53)))
}

/// Asks over UDP as program `asker`.
pub(super) async fn ask(resolver: &Resolver<Tables>, message: &Message, asker: u32) -> Option<Message> {
    let (from, asked) = ends();
    let bytes = message.to_vec().expect("the test's question encodes");
    let answer = resolver.answer(&bytes, from, asked, asker).await?;
    Some(Message::from_vec(&answer).expect("the answer parses"))
}

/// The addresses in the answer section.
pub(super) fn addresses(message: &Message) -> Vec<String> {
    message.answers.iter().filter_map(|record| record.data.ip_addr()).map(|ip| ip.to_string()).collect()
}

/// INFO-CODE and text of the Extended DNS Error.
pub(super) fn extended_error(message: &Message) -> Option<(u16, String)> {
    use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
    let option = message.edns.as_ref()?.option(EdnsCode::Unknown(15))?;
    let EdnsOption::Unknown(_, bytes) = option else { return None };
    let (code, text) = bytes.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*code), String::from_utf8_lossy(text).into_owned()))
}
