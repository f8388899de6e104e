//! The router by kind of input, with programs, policies and packets made by hand.
//!
//! Keeps one rule: after every input the router's own counts agree with its table ([`Bench::check`]).

mod crowding;
mod judging;
mod linked;
mod packets;
mod prompting;
mod rules;
mod upstream;

use std::path::PathBuf;

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};

use super::*;
use crate::flow::State;
use crate::names::{Asker, Sighting};
use crate::packet::{Checksums, FiveTuple, echo_request, udp_datagram};
use crate::process::{Confidence, Exe};
use crate::profile::{File, Kind, Layer, Setup};

/// Every program may reach everything.
const ACCEPT: &str =
    "mode = \"blacklist\"\n[scope]\ninternet = true\nlan = true\nlocalhost = true\n[flags]\npeer_to_peer = true\n";
/// Every program is asked about.
const ASK: &str = "mode = \"prompt\"\n[scope]\ninternet = true\nlan = true\nlocalhost = true\n[flags]\npeer_to_peer = true\n";
/// Nothing is allowed.
const BLOCK: &str = "mode = \"whitelist\"\n[scope]\ninternet = true\n[flags]\npeer_to_peer = true\n";

/// What a packet is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kindred {
    Tcp,
    Udp,
    Echo,
}

const KINDS: [Kindred; 3] = [Kindred::Tcp, Kindred::Udp, Kindred::Echo];

/// One program's way to one remote port.
#[derive(Clone, Copy, Debug)]
struct Way {
    kind: Kindred,
    local: SocketAddr,
    remote: SocketAddr,
}

impl Way {
    fn new(kind: Kindred, v6: bool, port: u16, to: u16) -> Self {
        let (local, remote) = if v6 { ("fd00::2", "2001:db8::10") } else { ("10.9.0.2", "203.0.113.10") };
        Self::between(kind, (local, port), (remote, to))
    }

    fn between(kind: Kindred, local: (&str, u16), remote: (&str, u16)) -> Self {
        let end = |(ip, port): (&str, u16)| SocketAddr::new(ip.parse().expect("an address"), port);
        Self { kind, local: end(local), remote: end(remote) }
    }

    /// The packet that opens the flow.
    fn opener(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.kind {
            Kindred::Tcp => return self.segment(true, false, false),
            Kindred::Udp => udp_datagram(self.local, self.remote, 64, b"hello", &mut bytes),
            Kindred::Echo => echo_request(self.local.ip(), self.remote.ip(), self.local.port(), 1, &[], &mut bytes),
        }
        bytes
    }

    fn segment(&self, syn: bool, ack: bool, rst: bool) -> Vec<u8> {
        let mut builder = match (self.local.ip(), self.remote.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
            (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64),
            (_, _) => panic!("one family"),
        }
        .tcp(self.local.port(), self.remote.port(), 1000, 64_240);
        builder = if syn { builder.syn() } else { builder };
        builder = if ack { builder.ack(1) } else { builder };
        builder = if rst { builder.rst() } else { builder };
        let mut bytes = Vec::new();
        builder.write(&mut bytes, &[]).expect("writing to memory");
        bytes
    }

    /// What a program is told when this is refused by policy.
    fn prohibited(&self) -> Told {
        match (self.kind, self.remote.is_ipv4()) {
            (Kindred::Tcp, _) => Told::Reset,
            (_, true) => Told::Icmp(3, 13),
            (_, false) => Told::Icmp(1, 1),
        }
    }
}

/// Every kind in both families, on distinct ports.
fn ways(to: u16) -> Vec<Way> {
    let all = [false, true].into_iter().flat_map(|v6| KINDS.map(|kind| (kind, v6)));
    all.zip(40_000..).map(|((kind, v6), port)| Way::new(kind, v6, port, to)).collect()
}

/// What a reply tells the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Reset,
    Icmp(u8, u8),
}

fn told(outputs: &[Output]) -> Vec<Told> {
    let replies = outputs.iter().filter_map(reply_of);
    replies
        .map(|bytes| match SlicedPacket::from_ip(bytes).expect("etherparse reads it").transport {
            Some(TransportSlice::Tcp(tcp)) if tcp.rst() => Told::Reset,
            Some(TransportSlice::Icmpv4(icmp)) => Told::Icmp(icmp.type_u8(), icmp.code_u8()),
            Some(TransportSlice::Icmpv6(icmp)) => Told::Icmp(icmp.type_u8(), icmp.code_u8()),
            other => panic!("neither a reset nor an error: {other:?}"),
        })
        .collect()
}

fn reply_of(output: &Output) -> Option<&Vec<u8>> {
    match output {
        Output::Reply(reply) | Output::ReplyTo { reply, .. } => Some(reply),
        Output::RefusedAgain { reply, .. } => Some(reply).filter(|reply| !reply.is_empty()),
        _ => None,
    }
}

fn records(outputs: &[Output]) -> Vec<&Record> {
    outputs.iter().filter_map(|output| if let Output::Ended(record) = output { Some(&**record) } else { None }).collect()
}

fn outcomes(outputs: &[Output]) -> Vec<&str> {
    records(outputs).into_iter().filter_map(|record| record.outcome.as_deref()).collect()
}

fn opened(outputs: &[Output]) -> Vec<(FlowId, Permit, SocketAddr)> {
    let open = |output: &Output| if let Output::Open { flow, permit, to } = output { Some((*flow, *permit, *to)) } else { None };
    outputs.iter().filter_map(open).collect()
}

fn questions(outputs: &[Output]) -> Vec<&Question> {
    outputs.iter().filter_map(|output| if let Output::Ask(question) = output { Some(question) } else { None }).collect()
}

fn prompt_ends(outputs: &[Output]) -> Vec<PromptEnd> {
    outputs.iter().filter_map(|output| if let Output::Asked { how, .. } = output { Some(*how) } else { None }).collect()
}

fn cut(outputs: &[Output]) -> Vec<FlowId> {
    outputs.iter().filter_map(|output| if let Output::Cut(id) = output { Some(*id) } else { None }).collect()
}

fn delivered(outputs: &[Output]) -> bool {
    outputs.iter().any(|output| matches!(output, Output::Deliver(_)))
}

/// A policy of one Fallback profile, and of User profiles for programs of these paths.
fn policy(fallback: &str, programs: &[(&str, &str)]) -> Arc<Policy> {
    let file = |layer, name: &str, text: String| File { kind: Kind::Profile(layer), path: PathBuf::from(name), text };
    let mut files = vec![file(Layer::Fallback, "fallback.toml", format!("name = \"fallback\"\n{fallback}"))];
    for (place, (path, text)) in programs.iter().enumerate() {
        let text = format!("name = \"user {place}\"\n{text}\n[match]\npath = [\"{path}\"]\n");
        files.push(file(Layer::User, &format!("user/{place}.toml"), text));
    }
    Arc::new(Policy::compile(&files, Setup::default()).expect("valid profiles"))
}

fn rules(policy: Arc<Policy>, epoch: u64) -> Rules {
    Rules { policy, level: Level::Dynamic, epoch: Epoch(epoch) }
}

/// A router with a clock of its own.
struct Bench {
    router: Router,
    now: Instant,
}

impl Bench {
    fn new(fallback: &str) -> Self {
        Self::with(policy(fallback, &[]), |_| {})
    }

    fn with(policy: Arc<Policy>, change: impl FnOnce(&mut Config)) -> Self {
        let now = Instant::now();
        let mut config = Config::new((now, 1_000_000), 7);
        change(&mut config);
        Self { router: Router::new(config, rules(policy, 1)), now }
    }

    /// Hands in one input and drains what the router says.
    fn input(&mut self, input: Input<'_>) -> Vec<Output> {
        self.router.handle(input, self.now);
        let outputs = std::iter::from_fn(|| self.router.poll_output()).collect();
        self.check();
        outputs
    }

    fn send(&mut self, bytes: &[u8]) -> Vec<Output> {
        let packet = IpPacket::parse(bytes, Checksums::Finished).expect("well-formed");
        self.input(Input::Packet(&packet))
    }

    /// Sends the opener and gives the flow that waits for an identity.
    fn begin(&mut self, way: &Way) -> FlowId {
        let outputs = self.send(&way.opener());
        let [Output::Identify(id)] = *outputs else { panic!("{way:?}: {outputs:?}") };
        id
    }

    /// Begins a flow of the program `path`.
    fn judged(&mut self, way: &Way, path: &str) -> (FlowId, Vec<Output>) {
        let id = self.begin(way);
        let owners = vec![self.owner(path)];
        (id, self.input(Input::Identified { flow: id, owners }))
    }

    /// Opens a flow all the way.
    fn open(&mut self, way: &Way) -> FlowId {
        let (id, outputs) = self.judged(way, "/usr/bin/curl");
        assert_eq!(opened(&outputs).len(), 1, "{way:?}: {outputs:?}");
        let outputs = self.input(Input::Opened(id));
        assert!(matches!(&outputs[..], [Output::Release { .. }, Output::Told(_)]), "{outputs:?}");
        id
    }

    fn subject(&self, identity: &Arc<Identity>) -> Subject {
        self.router.rules.policy.subject(identity.clone(), &|_| true)
    }

    /// The program at `path`; the same path is the same program.
    fn owner(&self, path: &str) -> Owner {
        let inode = path.bytes().fold(17, |sum: u64, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
        let exe = Exe { path: path.into(), device: 1, inode, path_is_ours: true };
        let unknown = Identity::tagged("test:program", Some(1000));
        let identity =
            Arc::new(Identity { exe: Some(exe), pid: Some(99), tags: vec![], confidence: Confidence::Exact, ..unknown });
        Owner { subject: self.subject(&identity), asker: Asker::Program { device: 1, inode, uid: 1000 }, names: Vec::new() }
    }

    fn owner_with_name(&self, path: &str, name: &str) -> Owner {
        let until = self.now + Duration::from_secs(600);
        let sighting = Sighting::new(name.parse().expect("a name"), Arc::from([]), until);
        Owner { names: vec![sighting], ..self.owner(path) }
    }

    /// Puts other rules in force.
    fn change(&mut self, policy: Arc<Policy>) -> Vec<Output> {
        let rules = rules(policy.clone(), self.router.rules.epoch.0 + 1);
        self.input(Input::Rules { rules, subject: &|identity| policy.subject(identity.clone(), &|_| true) })
    }

    /// Lets time pass, timer by timer.
    fn pass(&mut self, time: Duration) -> Vec<Output> {
        let end = self.now + time;
        let mut outputs = Vec::new();
        while let Some(at) = self.router.poll_timeout().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            outputs.extend(self.input(Input::Timeout));
            assert!(self.router.poll_timeout().is_none_or(|next| next > self.now), "a timer that stays would spin");
        }
        self.now = end;
        outputs
    }

    /// The counts that are kept beside the table agree with it.
    fn check(&self) {
        let router = &self.router;
        let pending = |flow: &&Flow| matches!(flow.state(), State::Identifying | State::Asking | State::Opening);
        assert_eq!(router.table.used().pending, router.table.iter().filter(pending).count(), "pending flows");
        assert_eq!(
            router.table.used().parked,
            router.table.iter().map(|flow| flow.parked().bytes()).sum::<usize>(),
            "parked bytes"
        );
        let armed: BTreeSet<_> = router.table.iter().filter_map(|flow| Some((flow.deadline?, flow.id))).collect();
        assert_eq!(router.timers, armed, "timers");
        let waiting: BTreeSet<FlowId> = router.prompts.values().flat_map(|open| open.flows.iter().copied()).collect();
        let asking: BTreeSet<FlowId> = router.table.iter().filter(|f| f.state() == State::Asking).map(|f| f.id).collect();
        assert_eq!(waiting, asking, "flows that wait for a prompt");
        assert!(router.prompts.values().all(|open| !open.flows.is_empty()), "a prompt for nobody");
    }

    /// Nothing is left: no flow, no timer, no prompt, nothing parked.
    fn assert_empty(&self) {
        let router = &self.router;
        assert!(router.table.is_empty() && router.timers.is_empty() && router.prompts.is_empty(), "{router:?}");
        assert_eq!(router.table.used(), Amounts::default());
    }

    fn value(&self, counter: Counter) -> u64 {
        self.router.counters().value(counter)
    }
}

/// The five-tuple as the table has it.
fn tuple_of(bytes: &[u8]) -> FiveTuple {
    IpPacket::parse(bytes, Checksums::Finished).expect("well-formed").tuple()
}
