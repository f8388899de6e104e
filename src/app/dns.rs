//! DNS between the packet loop and the resolver, and the judge of questions.
//!
//! Keeps one rule: a question is judged for the program that asked, under the rules of that moment.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc};

use super::core::unix_ms;
use super::engine::Running;
use super::shard::{Attributor, Handles, Message};
use super::shared::{Shared, locked};
use crate::control::Event;
use crate::flow::{Direction, Flow, FlowId, Record};
use crate::names::{Asker, Name};
use crate::packet::{FiveTuple, Protocol};
use crate::process::Identity;
use crate::resolver::{Judge, Near, Resolver, Upstreams};
use crate::verdict::{Case, Check, Decision, Reason, Target, answer_allowed, chain_allowed, decide};

/// DNS streams served at once at most.
pub(super) const STREAMS: usize = 256;

/// Who asks: every program that holds the socket.
#[derive(Clone)]
pub(super) struct DnsAsker {
    programs: Arc<[(Arc<Identity>, Asker)]>,
    tuple: FiveTuple,
}

impl DnsAsker {
    pub(super) fn of(flow: &Flow) -> Self {
        let programs = flow.owners.iter().map(|owner| (owner.subject.identity.clone(), owner.asker.clone())).collect();
        Self { programs, tuple: flow.tuple }
    }

    fn found(identities: &[Arc<Identity>], tuple: FiveTuple) -> Self {
        let programs = identities.iter().map(|identity| (identity.clone(), super::asker::asker_of(identity))).collect();
        Self { programs, tuple }
    }
}

/// One DNS datagram that the packet loop captured.
pub(super) struct Datagram {
    pub(super) flow: FlowId,
    pub(super) from: SocketAddr,
    pub(super) asked: SocketAddr,
    pub(super) payload: Vec<u8>,
    pub(super) asker: DnsAsker,
}

/// The resolver's end of one captured TCP flow to port 53.
pub(super) struct Stream {
    pub(super) stream: std::os::unix::net::UnixStream,
    pub(super) from: SocketAddr,
    pub(super) asked: SocketAddr,
    pub(super) asker: DnsAsker,
}

/// Has the resolver follow the network, at each call: another network brings other resolvers, and the file that names them changes
/// a moment later at the latest. What became near is a stub. `asked`: what was read of the system, where that is asked.
pub(super) fn follow_resolvers(running: &Arc<Running>, mut asked: Option<Upstreams>) -> impl FnMut(Near) + Send + use<> {
    // Who follows may outlive the router, and must not keep its records open.
    let running = Arc::downgrade(running);
    move |near| {
        let Some(running) = running.upgrade() else { return };
        if let Some(asked) = &mut asked {
            let now = Upstreams::system(&near);
            if now != *asked {
                running.resolver.set_upstreams(&now);
                *asked = now;
            }
        }
        running.resolver.set_near(near);
    }
}

/// Judges questions by the rules in force.
pub(super) struct PolicyJudge {
    shared: Arc<Shared>,
    attributor: Arc<Attributor>,
}

impl PolicyJudge {
    pub(super) fn new(shared: Arc<Shared>, attributor: Arc<Attributor>) -> Self {
        Self { shared, attributor }
    }

    fn record(&self, asker: &DnsAsker, program: Option<usize>, name: &Name, decision: &Decision) -> Record {
        let now = unix_ms();
        let identity = program.and_then(|index| asker.programs.get(index)).map(|(identity, _)| identity);
        let subject = identity.map(|identity| self.shared.subject(identity));
        Record {
            id: self.shared.next_question(),
            start: now,
            end: Some(now),
            direction: Direction::Outbound,
            proto: "dns".to_owned(),
            src: asker.tuple.local.to_string(),
            dst: asker.tuple.remote.to_string(),
            name: Some(name.to_string()),
            exe: identity.and_then(|i| i.exe.as_ref()).map(|exe| exe.path.display().to_string()),
            pid: identity.and_then(|i| i.pid),
            uid: identity.and_then(|i| i.uid),
            profile: subject.as_ref().and_then(|subject| subject.profile_name()).map(str::to_owned),
            confidence: identity.map_or(crate::process::Confidence::None, |i| i.confidence),
            verdict: decision.verdict.to_string(),
            check: decision.reason.check.to_string(),
            rule: decision.reason.rule_text(),
            lane: None,
            bytes_up: 0,
            bytes_down: 0,
            rtt_us: None,
            outcome: None,
        }
    }

    fn tell(&self, asker: &DnsAsker, program: Option<usize>, name: &Name, decision: &Decision) {
        let record = self.record(asker, program, name, decision);
        self.shared.tell(|| Some(Event::Question(record.clone())));
        self.shared.keep(record);
    }
}

impl Judge for PolicyJudge {
    type Asker = DnsAsker;

    fn question(&self, asker: &DnsAsker, name: &Name, qtype: u16) -> Decision {
        let rules = self.shared.rules();
        let judged = asker.programs.iter().enumerate().map(|(index, (identity, _))| {
            let subject = self.shared.subject(identity);
            let case = Case { subject: &subject, level: rules.level, target: Target::Question { name, qtype }, answer: None };
            (index, decide(&rules.policy, &case))
        });
        let strictest = judged.max_by_key(|(index, decision)| (decision.verdict, std::cmp::Reverse(*index)));
        let (program, decision) = match strictest {
            Some((index, decision)) => (Some(index), decision),
            None => (None, Decision::refused(Reason::of(Check::Identity))),
        };
        self.tell(asker, program, name, &decision);
        decision
    }

    fn chain(&self, asker: &DnsAsker, name: &Name, chain: &[Name]) -> Option<Reason> {
        let rules = self.shared.rules();
        asker.programs.iter().find_map(|(identity, _)| {
            let subject = self.shared.subject(identity);
            chain_allowed(&rules.policy, &subject, rules.level, name, chain).err()
        })
    }

    fn address(&self, asker: &DnsAsker, name: &Name, address: IpAddr) -> Result<(), Reason> {
        let rules = self.shared.rules();
        asker.programs.iter().try_for_each(|(identity, _)| {
            let subject = self.shared.subject(identity);
            answer_allowed(&rules.policy, &subject, rules.level, name, address)
        })
    }

    fn learned(&self, asker: &DnsAsker, name: &Name, chain: &Arc<[Name]>, address: IpAddr, ttl: Duration) {
        let now = Instant::now();
        let mut sightings = locked(&self.shared.sightings);
        for (_, key) in &*asker.programs {
            sightings.learn(key, name, chain, address, ttl, now);
        }
    }

    fn withheld(&self, asker: &DnsAsker, name: &Name, reason: &Reason) {
        let program = (!asker.programs.is_empty()).then_some(0);
        self.tell(asker, program, name, &Decision::refused(reason.clone()));
    }

    fn account(&self, asker: &DnsAsker) -> Option<u64> {
        let (_, key) = asker.programs.first()?;
        match key {
            Asker::Program { inode, .. } => Some(*inode),
            Asker::ResolverService | Asker::Unattributed { .. } => None,
        }
    }

    async fn is_server(&self, asker: &DnsAsker, server: SocketAddr) -> bool {
        let (attributor, programs) = (self.attributor.clone(), asker.programs.clone());
        let is_server = move || {
            let identities: Vec<_> = programs.iter().map(|(identity, _)| identity.clone()).collect();
            attributor.is_server(&identities, server)
        };
        // A look that panics finds nobody; then the loop ends by itself.
        tokio::task::spawn_blocking(is_server).await.unwrap_or_default()
    }
}

/// Answers captured datagrams until the packet loop is gone.
pub(super) async fn serve_datagrams(
    mut datagrams: mpsc::Receiver<Datagram>,
    resolver: Arc<Resolver<PolicyJudge>>,
    shards: Handles,
) {
    while let Some(Datagram { flow, from, asked, payload, asker }) = datagrams.recv().await {
        let (resolver, shards) = (resolver.clone(), shards.clone());
        tokio::spawn(async move {
            if let Some(payload) = resolver.answer(&payload, from, asked, asker).await {
                // An answer that the packet loop cannot take is lost like any datagram; the program asks again.
                let _ = shards.send(flow, Message::Answered { flow, payload });
            }
        });
    }
}

/// Answers captured streams, so many at once, until the packet loop is gone.
pub(super) async fn serve_streams(mut streams: mpsc::Receiver<Stream>, resolver: Arc<Resolver<PolicyJudge>>, places: usize) {
    let places = Arc::new(Semaphore::new(places));
    while let Some(Stream { stream, from, asked, asker }) = streams.recv().await {
        let (Ok(stream), Ok(place)) = (tokio::net::UnixStream::from_std(stream), places.clone().try_acquire_owned()) else {
            continue;
        };
        let resolver = resolver.clone();
        tokio::spawn(async move {
            resolver.serve_stream(stream, from, asked, asker).await;
            drop(place);
        });
    }
}

/// Finds out who asks on a loopback socket.
#[derive(Clone)]
pub(super) struct Askers {
    pub(super) attributor: Arc<Attributor>,
    /// The addresses that programs ask where a redirect brings their questions here; none: the socket's own.
    pub(super) stubs: Arc<[SocketAddr]>,
    /// How many are served at once.
    pub(super) places: usize,
}

impl Askers {
    async fn find(&self, from: SocketAddr, here: SocketAddr, protocol: Protocol) -> DnsAsker {
        let tuple = |remote| FiveTuple { protocol, local: from, remote };
        let candidates = self.stubs.iter().filter(|stub| stub.is_ipv4() == from.is_ipv4()).map(|stub| tuple(*stub));
        for asked in candidates.chain([tuple(here)]) {
            let Some(socket) = self.attributor.socket(&asked, None) else { continue };
            let attributor = self.attributor.clone();
            // A search that panics finds nobody, which is refused by default.
            let identities = tokio::task::spawn_blocking(move || attributor.holders(&socket)).await.unwrap_or_default();
            return DnsAsker::found(&identities, asked);
        }
        DnsAsker::found(&[Arc::new(Identity::tagged(crate::process::Tag::UNATTRIBUTED, None))], tuple(here))
    }
}

/// Answers on a loopback UDP socket of the enclosure.
pub(super) async fn serve_loopback_udp(socket: UdpSocket, resolver: Arc<Resolver<PolicyJudge>>, askers: Askers) {
    let Ok(socket) = tokio::net::UdpSocket::from_std(socket) else { return };
    let Ok(asked) = socket.local_addr() else { return };
    let socket = Arc::new(socket);
    let places = Arc::new(Semaphore::new(askers.places));
    let mut buffer = vec![0; 65_535];
    loop {
        // The errors that a UDP socket reports here are those of answers that nobody waited for.
        let Ok((len, from)) = socket.recv_from(&mut buffer).await else { continue };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let payload = buffer.get(..len).unwrap_or(&[]).to_vec();
        let (socket, resolver, askers) = (socket.clone(), resolver.clone(), askers.clone());
        tokio::spawn(async move {
            let asker = askers.find(from, asked, Protocol::UDP).await;
            if let Some(answer) = resolver.answer(&payload, from, asked, asker).await {
                let _ = socket.send_to(&answer, from).await;
            }
            drop(place);
        });
    }
}

/// Answers on a loopback TCP socket of the enclosure.
pub(super) async fn serve_loopback_tcp(listener: TcpListener, resolver: Arc<Resolver<PolicyJudge>>, askers: Askers) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let Ok(asked) = listener.local_addr() else { return };
    let places = Arc::new(Semaphore::new(askers.places));
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let (resolver, askers) = (resolver.clone(), askers.clone());
        tokio::spawn(async move {
            let asker = askers.find(from, asked, Protocol::TCP).await;
            resolver.serve_stream(stream, from, asked, asker).await;
            drop(place);
        });
    }
}
