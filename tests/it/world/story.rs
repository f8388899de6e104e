//! One story: a router, the world around it, and what happens step by step.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use portreeve::flow::{FlowId, State};
use portreeve::packet::{Checksums, IpPacket, Protocol, Unreachable};
use portreeve::process::Identity;
use portreeve::profile::Policy;
use portreeve::router::{Config, Counter, Failure, Input, Output, Router, Rules};
use portreeve::verdict::{Answer, Epoch};

use super::dice::Dice;
use super::{cast, laws, sender};

const LOOPBACK: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(169, 254, 17, 1), Ipv6Addr::new(0xfd17, 0, 0, 0, 0, 0, 0, 1));
const FAILURES: [Failure; 6] = [
    Failure::Refused,
    Failure::Unreachable(Unreachable::Host),
    Failure::Unreachable(Unreachable::Prohibited),
    Failure::TimedOut,
    Failure::Reset,
    Failure::Exhausted,
];

/// An upstream socket, or the resolver's end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Socket {
    pub is_open: bool,
}

/// What happened, in numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub delivered: u64,
    pub refused: u64,
    pub asked: u64,
    pub cut: u64,
    /// Programs that had more than their share.
    pub crowded: u64,
}

pub(super) struct Story {
    pub(super) seen: Seen,
    pub(super) transcript: Vec<String>,
    dice: Dice,
    config: Config,
    router: Router,
    now: Instant,
    policies: &'static [Arc<Policy>],
    programs: Vec<Arc<Identity>>,
    /// Every flow that began, and those of them that have not ended.
    begun: Vec<FlowId>,
    live: Vec<FlowId>,
    /// Flows that the kernel has not found an owner for.
    unknown: Vec<FlowId>,
    sockets: BTreeMap<FlowId, Socket>,
    prompts: BTreeSet<u64>,
    records: BTreeMap<u64, u32>,
    /// Flows that were allowed to leave or asked about.
    owed_a_record: BTreeSet<u64>,
}

impl Story {
    pub(super) fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let now = Instant::now();
        let policies = cast::policies();
        let mut config = Config::new((now, 1_000_000), seed);
        config.host_loopback = Some(LOOPBACK);
        config.max_flows = [8, 64, 4096][dice.index(3)];
        config.max_pending = [4, 32, 4096][dice.index(3)];
        config.max_parked = [5000, 200_000, 8 << 20][dice.index(3)];
        let policy = dice.pick(policies).expect("a policy");
        let rules = Rules { policy, level: cast::level(&mut dice), epoch: Epoch(1) };
        Self {
            seen: Seen::default(),
            transcript: Vec::new(),
            router: Router::new(config.clone(), rules),
            programs: cast::programs(),
            dice,
            config,
            now,
            policies,
            begun: Vec::new(),
            live: Vec::new(),
            unknown: Vec::new(),
            sockets: BTreeMap::new(),
            prompts: BTreeSet::new(),
            records: BTreeMap::new(),
            owed_a_record: BTreeSet::new(),
        }
    }

    /// Something happens.
    pub(super) fn step(&mut self) {
        match self.dice.below(100) {
            0..=39 => self.a_program_sends(),
            40..=59 => self.the_kernel_answers(),
            60..=74 => self.an_upstream_socket_moves(),
            75..=79 => self.a_person_answers(),
            80..=83 => self.the_rules_change(),
            84..=86 => self.something_comes_too_late(),
            87..=88 => self.handle(Input::Addresses(vec![IpAddr::from([10, 9, 0, 2]), IpAddr::from([192, 168, 1, 1])]), None),
            _ => self.time_passes(),
        }
    }

    /// Everything comes to its end.
    pub(super) fn end(&mut self) {
        self.advance(Duration::from_secs(120));
        while let Some((id, socket)) = self.sockets.pop_first() {
            if socket.is_open {
                self.handle(Input::Ended { flow: id, outcome: "closed" }, None);
            } else {
                self.handle(Input::Failed { flow: id, failure: Failure::TimedOut }, None);
            }
        }
        self.advance(Duration::from_secs(600));
        assert!(self.live.is_empty(), "flows that nothing ends: {:?}", self.live);
        assert_eq!((self.router.population(), self.router.poll_timeout()), ((0, 0), None));
        assert!(self.prompts.is_empty(), "questions that nobody waits for: {:?}", self.prompts);
        for serial in &self.owed_a_record {
            assert_eq!(self.records.get(serial), Some(&1), "records of flow {serial}");
        }
    }

    fn a_program_sends(&mut self) {
        let flow = if self.dice.chance(40) { self.dice.pick(&self.live) } else { None };
        let bytes = sender::packet(&mut self.dice, flow.map(|id| laws::alive(&self.router, id).tuple));
        let checksums = if self.dice.chance(90) { Checksums::Finished } else { Checksums::Unfinished };
        match IpPacket::parse(&bytes, checksums) {
            Ok(packet) if self.dice.chance(10) => self.handle(Input::Linked(&packet), Some(&bytes)),
            Ok(packet) => self.handle(Input::Packet(&packet), Some(&bytes)),
            Err(why) => self.router.count(Counter::Malformed(why)),
        }
    }

    fn the_kernel_answers(&mut self) {
        if self.unknown.is_empty() {
            return;
        }
        let place = self.dice.index(self.unknown.len());
        let flow = self.unknown.swap_remove(place);
        // Some are never answered; their deadline is.
        if self.dice.chance(95) {
            let policy = self.router.rules().policy.clone();
            let owners = cast::owners(&self.programs, &policy, &mut self.dice, self.now);
            self.handle(Input::Identified { flow, owners }, None);
        }
    }

    fn an_upstream_socket_moves(&mut self) {
        let ids: Vec<FlowId> = self.sockets.keys().copied().collect();
        let Some(id) = self.dice.pick(&ids) else { return };
        let is_open = self.sockets.get(&id).is_some_and(|socket| socket.is_open);
        let failure = self.dice.pick(&FAILURES).expect("a failure");
        match (is_open, self.dice.below(10)) {
            (false, 0..=6) => {
                self.sockets.insert(id, Socket { is_open: true });
                self.handle(Input::Opened(id), None);
            }
            (true, 0..=6) => self.router.account(id, 100, self.dice.below(2) * 1000, self.now),
            (true, 7) => {
                self.sockets.remove(&id);
                self.handle(Input::Ended { flow: id, outcome: "closed" }, None);
            }
            (_, _) => {
                let outlives = is_open && self.router.flow(id).is_some_and(|flow| flow.tuple.protocol != Protocol::TCP);
                if !outlives {
                    self.sockets.remove(&id);
                }
                self.handle(Input::Failed { flow: id, failure }, None);
            }
        }
    }

    fn a_person_answers(&mut self) {
        let open: Vec<u64> = self.prompts.iter().copied().collect();
        // Also questions that are over, or never were.
        let prompt = if self.dice.chance(90) { self.dice.pick(&open) } else { Some(self.dice.below(50)) };
        let answer = if self.dice.chance(50) { Answer::Allow } else { Answer::Deny };
        if let Some(prompt) = prompt {
            self.handle(Input::Answered { prompt, answer }, None);
        }
    }

    fn the_rules_change(&mut self) {
        let policy = self.dice.pick(self.policies).expect("a policy");
        let epoch = Epoch(self.router.rules().epoch.0 + 1);
        let rules = Rules { policy: policy.clone(), level: cast::level(&mut self.dice), epoch };
        let is_refused = |id: &FlowId| self.router.flow(*id).is_some_and(|flow| flow.state() == State::Refused);
        let refused: Vec<FlowId> = self.live.iter().copied().filter(is_refused).collect();
        self.handle(Input::Rules { rules, subject: &|identity| policy.subject(identity.clone(), &|_| true) }, None);
        for id in &self.live {
            let flow = laws::alive(&self.router, *id);
            assert!(!refused.contains(id), "a refusal outlived its rules: {}", flow.tuple);
            assert!(flow.permit.is_none_or(|permit| permit.epoch() == epoch), "an older permit: {}", flow.tuple);
        }
    }

    /// Answers about flows that have ended.
    fn something_comes_too_late(&mut self) {
        let ended: Vec<FlowId> = self.begun.iter().copied().filter(|id| self.router.flow(*id).is_none()).collect();
        let Some(flow) = self.dice.pick(&ended) else { return };
        let owners = cast::owners(&self.programs, &self.router.rules().policy.clone(), &mut self.dice, self.now);
        let before = self.transcript.len();
        match self.dice.below(4) {
            0 => self.handle(Input::Identified { flow, owners }, None),
            1 => self.handle(Input::Opened(flow), None),
            2 => self.handle(Input::Failed { flow, failure: Failure::Refused }, None),
            _ => self.handle(Input::Ended { flow, outcome: "closed" }, None),
        }
        assert_eq!(self.transcript.len(), before, "a flow that has ended spoke");
    }

    fn time_passes(&mut self) {
        let seconds = [0, 0, 0, 1, 5, 31, 61, 7200][self.dice.index(8)];
        let time = Duration::from_secs(seconds) + Duration::from_millis(self.dice.below(50));
        if self.dice.chance(80) {
            self.advance(time);
        } else {
            // The laptop slept: all timers run out at once.
            self.now += time;
            self.ring();
        }
    }

    fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.router.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.ring();
        }
        self.now = end;
    }

    fn ring(&mut self) {
        self.handle(Input::Timeout, None);
        assert!(self.router.poll_timeout().is_none_or(|at| at > self.now), "a timer that stays would spin");
    }

    /// Hands in one input, does what the router says, and looks whether the laws hold.
    fn handle(&mut self, input: Input<'_>, packet: Option<&[u8]>) {
        self.router.handle(input, self.now);
        while let Some(output) = self.router.poll_output() {
            self.obey(output, packet);
        }
        self.live.retain(|id| self.router.flow(*id).is_some());
        for (id, socket) in &self.sockets {
            let state = laws::alive(&self.router, *id).state();
            assert_eq!(state, if socket.is_open { State::Open } else { State::Opening }, "a socket without its flow");
        }
        let is_asking = |id: &&FlowId| laws::alive(&self.router, **id).state() == State::Asking;
        let asking = self.live.iter().filter(is_asking).count();
        assert!(self.prompts.len() <= asking.min(50), "questions that nobody waits for: {:?}", self.prompts);
        laws::is_bounded(&self.router, &self.config, &self.live);
    }

    fn obey(&mut self, output: Output, packet: Option<&[u8]>) {
        self.transcript.push(line_of(&output));
        match output {
            Output::Identify(id) => {
                self.begun.push(id);
                self.live.push(id);
                self.unknown.push(id);
            }
            Output::Open { flow, permit, to } => {
                self.may_open(flow);
                laws::may_leave(&self.router, laws::alive(&self.router, flow), permit, to.ip());
                assert_eq!(to, translated(laws::alive(&self.router, flow).tuple.remote));
                self.owed_a_record.insert(flow.serial());
            }
            Output::OpenDns(flow) => self.may_open(flow),
            // For the routers beside this one; here there is none.
            Output::Learned { .. } => {}
            Output::Deliver(id) => {
                self.seen.delivered += 1;
                laws::may_pass(&self.router, &self.sockets, id, packet.expect("a packet is in hand"));
            }
            Output::Release { flow, packets } => {
                assert!(!packets.is_empty(), "an open flow without the packet that opened it");
                packets.iter().for_each(|bytes| laws::may_pass(&self.router, &self.sockets, flow, bytes));
            }
            Output::Reply(bytes) | Output::ReplyTo { reply: bytes, .. } => laws::is_sound_reply(&bytes),
            Output::RefusedAgain { reply, .. } => {
                if !reply.is_empty() {
                    laws::is_sound_reply(&reply);
                }
            }
            Output::Cut(id) => {
                self.seen.cut += 1;
                self.sockets.remove(&id);
            }
            Output::Ask(question) => {
                self.seen.asked += 1;
                assert!(self.prompts.insert(question.id), "a question twice");
                assert_eq!(question.deadline, self.now + self.config.prompt_deadline);
                self.owed_a_record.insert(question.flow.serial());
            }
            Output::Asked { prompt, .. } => assert!(self.prompts.remove(&prompt), "the end of no question"),
            Output::Told(id) => assert!(self.router.flow(id).is_some()),
            Output::Ended(record) => {
                self.seen.refused += u64::from(record.verdict != "accept");
                assert!(record.end.is_some_and(|end| end >= record.start) && record.outcome.is_some(), "{record:?}");
                let times = self.records.entry(record.id).or_default();
                *times += 1;
                assert_eq!(*times, 1, "a second record: {record:?}");
            }
            Output::Older { .. } | Output::IsThere(_) => {}
            Output::Abort { tuple, .. } => assert_eq!(tuple.protocol, Protocol::TCP, "nothing else has an end"),
            Output::Crowded(crowded) => {
                self.seen.crowded += u64::from(crowded.program.is_some());
                assert!(!crowded.to_string().is_empty());
            }
        }
    }

    fn may_open(&mut self, id: FlowId) {
        let before = self.sockets.insert(id, Socket { is_open: false });
        assert_eq!(before, None, "a second socket for one flow");
    }
}

fn translated(to: SocketAddr) -> SocketAddr {
    match to.ip() {
        IpAddr::V4(ip) if ip == LOOPBACK.0 => (Ipv4Addr::LOCALHOST, to.port()).into(),
        IpAddr::V6(ip) if ip == LOOPBACK.1 => (Ipv6Addr::LOCALHOST, to.port()).into(),
        _ => to,
    }
}

/// What an output says, without instants, which differ from run to run, and without every byte.
fn line_of(output: &Output) -> String {
    let sum = |bytes: &[u8]| bytes.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    match output {
        Output::Reply(bytes) | Output::RefusedAgain { reply: bytes, .. } => format!("reply {:x}", sum(bytes)),
        Output::Release { flow, packets } => {
            format!("release {flow:?} {:x?}", packets.iter().map(|bytes| sum(bytes)).collect::<Vec<_>>())
        }
        Output::Ask(question) => format!("ask {} {:?}", question.id, question.flow),
        Output::Ended(record) => format!("ended {record:?}"),
        other => format!("{other:?}"),
    }
}
