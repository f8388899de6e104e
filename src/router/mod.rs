//! The machine that joins the rooms of the ground floor.
//!
//! # Theory of operation
//!
//! [`Router::handle`] takes one [`Input`] and mutates; then [`Router::poll_output`] is called until it gives `None`; then
//! [`Router::poll_timeout`] says when to hand in [`Input::Timeout`]. Nothing else moves it. It has no socket: what it wants done it
//! says as an [`Output`], and what became of it comes back as an input.
//!
//! A new five-tuple is parked and `Identify` goes out. The answer brings owners and the names they know; the decision is taken at
//! once. Accept mints a permit and `Open` goes out with it; only when the upstream socket stands do the parked packets go on
//! (`Release`), so what happens upstream happens to the program. Block is answered from the parked packet. Ask waits for a person,
//! at most [`Config::prompt_deadline`]; silence is Block.
//!
//! One rule: no packet is delivered and no `Open` is said without a permit of the current epoch. Flows to port 53 are the one
//! exception by design: they have no permit and never reach an upstream socket; the resolver judges each question in them.
//!
//! The files are split by kind of input: `packets` (from programs), `judging` (identities, answers, policies), `upstream`
//! (sockets' fates), `crowding` (no room), `telling` (records).
#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

mod counters;
mod crowding;
mod judging;
mod packets;
mod prompts;
mod telling;
#[cfg(test)]
mod tests;
mod upstream;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use counters::{Counter, Counters};
pub use crowding::Crowded;
pub use prompts::{PromptEnd, PromptKey, Question};
pub use upstream::{Failure, answer_to};

use crate::flow::{Amounts, Flow, FlowId, Numbers, Owner, Record, Service, Table};
use crate::packet::{FiveTuple, IpPacket, Kept};
use crate::process::Identity;
use crate::profile::{Level, Policy, Subject};
use crate::verdict::{Answer, Epoch, Permit};

/// What the router is told at construction and never again.
#[derive(Clone, Debug)]
pub struct Config {
    /// A monotonic instant and the Unix time in milliseconds at that instant: records show wall time.
    pub epoch_of_clock: (Instant, u64),
    /// Addresses that stand for this host's own loopback (`exec --host-loopback`).
    pub host_loopback: Option<(Ipv4Addr, Ipv6Addr)>,
    /// All bounds are for all programs together; what one of them may hold follows from what is free (`flow::accounts`).
    pub max_flows: usize,
    /// Bytes parked in all flows together.
    pub max_parked: usize,
    /// Flows that wait for an identity, an answer or an upstream socket.
    pub max_pending: usize,
    pub prompt_deadline: Duration,
    /// Keeps programs from choosing five-tuples that collide.
    pub seed: u64,
    /// What flows and prompts are numbered by.
    pub numbers: Numbers,
}

impl Config {
    /// The limits that ship.
    #[must_use]
    pub fn new(epoch_of_clock: (Instant, u64), seed: u64) -> Self {
        Self {
            epoch_of_clock,
            host_loopback: None,
            max_flows: 16_384,
            max_parked: 8 << 20,
            max_pending: 4096,
            prompt_deadline: Duration::from_secs(60),
            seed,
            numbers: Numbers::default(),
        }
    }
}

/// The rules in force.
#[derive(Clone, Debug)]
pub struct Rules {
    pub policy: Arc<Policy>,
    pub level: Level,
    pub epoch: Epoch,
}

/// What happened outside.
pub enum Input<'a> {
    /// A program sent a packet.
    Packet(&'a IpPacket<'a>),
    /// A program that named a link sent a packet. Answers come past us, so any segment may be the first that we see of a flow.
    Linked(&'a IpPacket<'a>),
    /// The answer to [`Output::Identify`]: who holds the socket; at least one owner, the unattributed one if nobody else.
    Identified { flow: FlowId, owners: Vec<Owner> },
    /// The upstream socket of an `Open` is connected, or the resolver took the flow.
    Opened(FlowId),
    /// The kernel alone carries on the TCP flow of an `Open`, which goes where it was written to. What it does is told by [`Router::account`]
    /// and `Ended`.
    Express(FlowId),
    /// The upstream socket failed, before or after it was connected.
    Failed { flow: FlowId, failure: Failure },
    /// A refused flow is one of another program by now.
    Forgotten(FlowId),
    /// Both ends are done with an open flow.
    Ended { flow: FlowId, outcome: &'static str },
    /// A person answered a prompt.
    Answered { prompt: u64, answer: Answer },
    /// A person's answer that another router was given.
    Learned { key: PromptKey, answer: Answer },
    /// Other rules hold from now on. `subject` makes a program's subject under them.
    Rules { rules: Rules, subject: &'a dyn Fn(&Arc<Identity>) -> Subject },
    /// This host's own addresses.
    Addresses(Vec<IpAddr>),
    /// Milliseconds since the Unix epoch, which may be set anew, and which go on while a machine sleeps.
    Clock(u64),
    /// The time of [`Router::poll_timeout`] has come.
    Timeout,
}

/// What the router wants done.
#[derive(Debug)]
pub enum Output {
    /// Find out who owns the flow.
    Identify(FlowId),
    /// Open an upstream socket to this address.
    Open { flow: FlowId, permit: Permit, to: SocketAddr },
    /// Give the flow to the embedded DNS server.
    OpenDns(FlowId),
    /// The packet in hand belongs to this open flow.
    Deliver(FlowId),
    /// These packets, parked until now, belong to this flow, which is open now.
    Release { flow: FlowId, packets: Vec<Kept> },
    /// An IP packet for the program whose packet is in hand.
    Reply(Vec<u8>),
    /// The packet in hand is of a flow that was refused before, and this is the answer for its program, empty where none is due.
    RefusedAgain { flow: FlowId, reply: Vec<u8> },
    /// The same for the program of a flow, by the way that its packets come: who named a link hears nothing that comes in by another.
    ReplyTo { flow: FlowId, reply: Vec<u8> },
    /// Such a program's TCP flow is silent: without its socket it has ended.
    IsThere(FlowId),
    /// An open TCP flow of such a program is cut. No packet of ours could break it in time, so its socket must be ended.
    Abort { flow: FlowId, tuple: FiveTuple },
    /// End the flow at both ends at once; its record is written already.
    Cut(FlowId),
    /// Ask a person.
    Ask(Question),
    /// What a person answered, for the routers beside this one.
    Learned { key: PromptKey, answer: Answer },
    /// The prompt is over.
    Asked { prompt: u64, how: PromptEnd },
    /// An accepted flow is open, or a flow waits for an answer.
    Told(FlowId),
    /// A flow has ended, or never was allowed to begin.
    Ended(Box<Record>),
    /// A segment of a TCP flow of which nobody knows a first one. `answer` is the reset for its program, empty where none is due;
    /// whoever finds that the flow is older than the router keeps it back.
    Older { tuple: FiveTuple, answer: Vec<u8> },
    /// A bound was reached; said once per program and bound in a while.
    Crowded(Crowded),
}

/// The machine. See the room's head for the contract.
#[derive(Debug)]
pub struct Router {
    config: Config,
    rules: Rules,
    table: Table,
    own: Vec<IpAddr>,
    timers: BTreeSet<(Instant, FlowId)>,
    prompts: BTreeMap<u64, prompts::Open>,
    answers: BTreeMap<PromptKey, Answer>,
    prompt_numbers: Numbers,
    told: crowding::Told,
    outputs: VecDeque<Output>,
    counters: Counters,
}

impl Router {
    #[must_use]
    pub fn new(config: Config, rules: Rules) -> Self {
        let limits = Amounts { flows: config.max_flows, pending: config.max_pending, parked: config.max_parked };
        let numbers = config.numbers;
        let table = Table::new(limits, config.seed).numbered(numbers);
        Self {
            config,
            rules,
            table,
            own: Vec::new(),
            timers: BTreeSet::new(),
            prompts: BTreeMap::new(),
            answers: BTreeMap::new(),
            prompt_numbers: numbers,
            told: crowding::Told::default(),
            outputs: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Takes one input. Drain [`Router::poll_output`] afterwards, before the next input.
    pub fn handle(&mut self, input: Input<'_>, now: Instant) {
        match input {
            Input::Packet(packet) => self.on_packet(packet, Service::Relay, now),
            Input::Linked(packet) => self.on_packet(packet, Service::Link, now),
            Input::Identified { flow, owners } => self.on_identified(flow, owners, now),
            Input::Opened(flow) => self.on_opened(flow, now),
            Input::Express(flow) => self.on_express(flow, now),
            Input::Failed { flow, failure } => self.on_failed(flow, failure, now),
            Input::Forgotten(flow) => self.on_forgotten(flow),
            Input::Ended { flow, outcome } => self.finish(flow, outcome, now),
            Input::Answered { prompt, answer } => self.on_answer(prompt, answer, now),
            Input::Learned { key, answer } => self.on_learned(key, answer, now),
            Input::Rules { rules, subject } => self.on_rules(rules, subject, now),
            Input::Addresses(own) => self.own = own,
            Input::Clock(unix_ms) => self.config.epoch_of_clock = (now, unix_ms),
            Input::Timeout => self.on_timeout(now),
        }
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to hand in [`Input::Timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    #[must_use]
    pub fn flow(&self, id: FlowId) -> Option<&Flow> {
        self.table.flow(id)
    }

    /// The flow of this five-tuple.
    #[must_use]
    pub fn find(&self, tuple: &FiveTuple) -> Option<FlowId> {
        self.table.find(tuple)
    }

    /// Every flow that has not ended.
    #[must_use]
    pub fn flows(&self) -> Vec<FlowId> {
        self.table.iter().map(|flow| flow.id).collect()
    }

    /// Adds bytes that an open flow carried and notes that it lives.
    pub fn account(&mut self, id: FlowId, up: u64, down: u64, now: Instant) {
        if let Some(flow) = self.table.flow_mut(id) {
            flow.bytes_up += up;
            flow.bytes_down += down;
            flow.last_active = now;
        }
    }

    /// Notes the smoothed round-trip time to the remote.
    pub fn note_rtt(&mut self, id: FlowId, rtt_us: u32) {
        if let Some(flow) = self.table.flow_mut(id) {
            flow.rtt_us = Some(rtt_us);
        }
    }

    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    pub fn count(&mut self, counter: Counter) {
        self.counters.add(counter);
    }

    /// Open flows, and flows that wait for a verdict.
    #[must_use]
    pub fn population(&self) -> (usize, usize) {
        let Amounts { flows, pending, parked: _ } = self.table.used();
        (flows - pending, pending)
    }

    fn say(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    /// The address that a packet to `address` really goes to.
    fn translated(&self, address: SocketAddr) -> SocketAddr {
        let Some((v4, v6)) = self.config.host_loopback else { return address };
        match address {
            SocketAddr::V4(a) if *a.ip() == v4 => (Ipv4Addr::LOCALHOST, a.port()).into(),
            SocketAddr::V6(a) if *a.ip() == v6 => (Ipv6Addr::LOCALHOST, a.port()).into(),
            _ => address,
        }
    }
}
