//! A packet loop: one thread, one TUN queue, one router, one stack. There are as many as the TUN has queues, and the kernel gives all
//! packets of one conversation to one of them.
//!
//! # Theory of operation
//!
//! The thread waits in epoll for the TUN, for upstream sockets and for its inbox. It reads the TUN in batches and runs each packet to
//! completion: parse, router, and whatever the router wants done. Flows that were touched are pumped once a batch, which merges their
//! ACKs. Nothing here waits: who owns a new flow is asked inline where that takes microseconds (the socket table, the programs seen
//! last); else the question goes to the attribution thread by a bounded channel and comes back through the inbox, as do prompts'
//! answers and DNS answers.
//!
//! One rule: a socket is opened only for an `Open` that the router said, with the permit that came with it.
//!
//! `start` makes the loops, `patience` waits, `rush` reads the TUN and lets `newcomers` wait, by `turns`; `lanes` holds what carries a flow,
//! `tcp` and `datagrams` move bytes, `alive` asks peers what programs ask, `identify`, `known`, `senders` and `raw` ask who owns a flow,
//! `search` on a thread of its own, `faults` keeps a fault of our own to one flow; `inbox` is what other threads say, `telling` speaks to people.

mod alive;
mod bound;
mod closed;
mod datagrams;
mod delivery;
mod errors;
mod express;
mod faults;
mod fragments;
mod held;
mod holder;
mod identify;
mod inbox;
mod jobs;
mod known;
mod lanes;
mod last_words;
mod linked;
mod newcomers;
mod patience;
mod ports;
mod raw;
mod runs;
mod rush;
mod search;
mod senders;
mod start;
mod strangers;
mod tcp;
mod tcp_lane;
mod telling;
mod turns;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::dns::Datagram;
use super::shared::Shared;
use crate::egress::Dialer;
use crate::flow::FlowId;
use crate::netlink::BareLinks;
use crate::packet::{
    Arrival, Checksums, FRAME_HEADER_LEN, IpPacket, LinkHeader, Malformed, Transport, VNET_HEADER_LEN, datagrams_together,
    is_unfinished,
};
use crate::router::{Counter, Input, Output, Router};
use crate::stack::{PacketSink, Stack};
use crate::tun::Queue;
use datagrams::Datagrams;
use held::Held;
pub(super) use identify::Attributor;
pub(super) use inbox::{Handles, Message, Snapshot};
pub(super) use jobs::{JobQueue, Jobs, job_queue};
use lanes::{Lane, Lanes};
use newcomers::Newcomers;
use patience::Patience;
pub(super) use ports::Ports;
pub(super) use senders::Senders;
pub(super) use start::{Parts, tolerated};

const TUN: Token = Token(usize::MAX);
const INBOX: Token = Token(usize::MAX - 1);
const GONE: Token = Token(usize::MAX - 2);
/// Largest packet with its header.
const PACKET_MAX: usize = VNET_HEADER_LEN + FRAME_HEADER_LEN + 65_535;
/// A pump of one flow stops after so many bytes, so that one flow does not starve the rest.
const TURN_BYTES: u64 = 2 << 20;

pub(super) struct Shard {
    index: usize,
    others: Handles,
    shared: Arc<Shared>,
    poll: Poll,
    inbox: Receiver<Message>,
    /// There may be more in it, of which no event tells any more.
    inbox_waits: bool,
    turns: Arc<AtomicU32>,
    tun: Queue,
    tun_ready: bool,
    gone_ready: bool,
    express: Option<express::Express>,
    router: Router,
    stack: Stack,
    lanes: Lanes,
    dialer: Dialer,
    attributor: Arc<Attributor>,
    jobs: Jobs,
    dns: tokio::sync::mpsc::Sender<Datagram>,
    streams: tokio::sync::mpsc::Sender<super::dns::Stream>,
    own_addresses: Vec<IpAddr>,
    device_addresses: Arc<[IpAddr]>,
    older: Option<super::older::Handle>,
    dirty: Vec<usize>,
    /// Flows that are to have a turn then.
    later: BTreeSet<(Instant, usize)>,
    unidentified: Vec<FlowId>,
    patience: Patience,
    buffer: Box<[u8]>,
    held: Held,
    out: Vec<u8>,
    /// What stands in front of the packet in hand, if its program named a link.
    came_by: Option<LinkHeader>,
    links: linked::Links,
    bare_links: Arc<BareLinks>,
    datagrams: Datagrams,
    newcomers: Newcomers,
    turn: rush::Turn,
    told: telling::Told,
    older_until: Instant,
    stop_at: Option<Instant>,
    /// When the router was told the time last.
    clock_seen: Instant,
}

impl Shard {
    /// Runs until it is told to stop.
    ///
    /// # Errors
    ///
    /// The TUN is gone, or epoll failed.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        loop {
            self.wait(&mut events)?;
            // Nobody else writes it, so that this is no more than two moves.
            self.turns.store(self.turns.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
            let now = Instant::now();
            self.take_rules(now);
            self.take_clock(now);
            for event in &events {
                match event.token() {
                    TUN => self.tun_ready = true,
                    INBOX => {}
                    GONE => self.gone_ready = true,
                    Token(slot) => self.take_event(slot, event, now),
                }
            }
            self.drain_inbox(now);
            if self.tun_ready {
                self.read_tun(now)?;
            }
            if self.gone_ready {
                self.hear_gone(now);
            }
            self.pump_dirty(now);
            self.let_in(now);
            // After the pump, which has heard by then what programs closed: the next socket takes the same descriptor again.
            self.identify_new(now);
            self.send_runs(now);
            let now = Instant::now();
            self.run_timers(now);
            if self.stop_at.is_some_and(|at| at <= now || !self.has_last_words()) {
                return self.stop(now);
            }
        }
    }

    /// `bare`: what says the link of a packet that has no header.
    fn on_packet(&mut self, bytes: &[u8], bare: Option<LinkHeader>, now: Instant) {
        let Some((header, packet)) = bytes.split_at_checked(VNET_HEADER_LEN) else { return };
        if let Some((header, packet)) = LinkHeader::split(bytes).or(bare.map(|bare| (bare, packet))) {
            return self.on_frame(header, packet, now);
        }
        let checksums = if is_unfinished(header) { Checksums::Unfinished } else { Checksums::Finished };
        match IpPacket::parse(packet, checksums) {
            Ok(packet) => {
                let whole = if checksums == Checksums::Finished { Arrival::Finished } else { Arrival::Whole };
                let arrival = datagrams_together(header).map_or(whole, Arrival::Together);
                self.on_whole(&packet.arrived(arrival), now);
            }
            Err(Malformed::Fragment) => {
                self.held.can_keep = false;
                self.on_fragment(packet, now);
            }
            Err(why) => self.router.count(Counter::Malformed(why)),
        }
    }

    fn on_whole(&mut self, packet: &IpPacket<'_>, now: Instant) {
        if let Transport::Unwanted(tuple) = packet.transport() {
            self.on_unwanted(&tuple, true, now);
        }
        if self.must_wait(packet) {
            return self.keep_waiting(packet);
        }
        self.router.handle(Input::Packet(packet), now);
        self.obey(Some(packet), now);
    }

    /// Hands one input to the router and does what it wants done.
    fn input(&mut self, input: Input<'_>, now: Instant) {
        self.router.handle(input, now);
        self.obey(None, now);
    }

    fn obey(&mut self, packet: Option<&IpPacket<'_>>, now: Instant) {
        while let Some(output) = self.router.poll_output() {
            match output {
                Output::Deliver(id) => {
                    if let Some(packet) = packet {
                        self.deliver(id, packet, now);
                    }
                }
                Output::Identify(id) => {
                    if let Some(header) = self.came_by {
                        self.lanes.note_link(id, header);
                    }
                    self.unidentified.push(id);
                }
                Output::Open { flow, permit, to } => self.open(flow, permit, to, now),
                Output::OpenDns(id) => self.open_dns(id, now),
                Output::Release { flow, packets } => self.release(flow, &packets, now),
                Output::RefusedAgain { flow, reply } => self.refuse_again(flow, packet, &reply, now),
                Output::Reply(reply) => self.reply_by(self.came_by, &reply),
                Output::Cut(id) => self.cut(id, now),
                Output::ReplyTo { flow, reply } => self.reply_by(self.lanes.link(flow), &reply),
                Output::IsThere(id) => self.end_if_gone(id, now),
                Output::Abort { flow, tuple } => {
                    self.attributor.abort(&tuple, self.lanes.link(flow).map(|header| header.link), None);
                }
                Output::Ask(question) => self.tell_prompt(&question, now),
                Output::Learned { key, answer } => {
                    self.others.send_others(self.index, || Message::Learned { key: key.clone(), answer });
                }
                Output::Asked { prompt, how } => self.tell_prompt_end(prompt, how),
                Output::Told(id) => self.tell_flow(id, now),
                Output::Ended(record) => self.shared.tell_end(*record),
                Output::Older { tuple, answer } => self.on_older(tuple, &answer, now),
                Output::Crowded(crowded) => self.tell_crowded(&crowded),
            }
        }
    }

    /// Writes a finished IP packet to the program.
    fn reply(&mut self, packet: &[u8]) {
        self.out.clear();
        self.out.resize(VNET_HEADER_LEN, 0);
        self.out.extend_from_slice(packet);
        self.write_out();
    }

    fn write_out(&mut self) {
        if self.tun.write(&self.out).is_err() {
            self.router.count(Counter::TunFull);
        }
    }

    fn mark(&mut self, slot: usize) {
        if self.lanes.mark_dirty(slot) {
            self.dirty.push(slot);
        }
    }

    fn pump_dirty(&mut self, now: Instant) {
        self.send_runs(now);
        let mut dirty = std::mem::take(&mut self.dirty);
        for slot in dirty.drain(..) {
            self.lanes.clear_dirty(slot);
            self.take_turn_of(slot, now);
        }
        self.held.clear();
        // Flows that did not finish their turn wait for the next round.
        if self.dirty.is_empty() {
            self.dirty = dirty;
        }
    }

    fn on_event(&mut self, slot: usize, event: &mio::event::Event, now: Instant) {
        match self.lanes.lane_mut(slot) {
            Some(Lane::Tcp(lane)) => {
                lane.note(event);
                self.on_tcp_event(slot, now);
            }
            Some(Lane::Udp(_) | Lane::Echo(_)) => self.on_datagram_event(slot, event.is_error(), now),
            Some(Lane::Dns(_) | Lane::Link(_) | Lane::Express(_)) | None => {}
        }
    }

    fn run_timers(&mut self, now: Instant) {
        while let Some(slot) = self.stack.expired(now) {
            self.stack.flush(slot, &mut Sink(&self.tun), now);
            self.mark(slot);
        }
        while self.later.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, slot)) = self.later.pop_first() {
                self.mark(slot);
            }
        }
        self.stack.cool(now);
        if self.router.poll_timeout().is_some_and(|at| at <= now) {
            self.input(Input::Timeout, now);
        }
        self.end_closed(now);
        self.look_for_forgotten(now);
        self.forget_over(now);
    }

    /// Whether bytes of programs may still be on their way to the upstream sockets.
    fn has_last_words(&self) -> bool {
        self.lanes.iter().any(Lane::may_hold_words)
    }

    /// Ends every flow, so that each has its record.
    fn stop(&mut self, now: Instant) -> io::Result<()> {
        for id in self.router.flows() {
            if self.lanes.lane(id.index()).is_some_and(Lane::is_finished_up) {
                // The kernel carries on what it has been given.
                self.lanes.take(id.index());
            }
            self.cut(id, now);
            self.input(Input::Ended { flow: id, outcome: "portreeve ended" }, now);
        }
        Ok(())
    }

    fn register(&self, slot: usize, fd: RawFd, interest: Interest) -> io::Result<()> {
        self.poll.registry().register(&mut SourceFd(&fd), Token(slot), interest)
    }
}

/// The TUN as smoltcp's way out. What the TUN does not take is lost, as on any wire; TCP sends it again.
struct Sink<'a>(&'a Queue);

impl PacketSink for Sink<'_> {
    fn write(&mut self, packet: &[u8]) {
        let _ = self.0.write(packet);
    }

    fn write_both(&mut self, headers: &[u8], bytes: &[u8]) {
        let _ = self.0.write_both(headers, bytes);
    }
}
