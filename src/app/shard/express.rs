//! Connections that the kernel alone carries on once they are accepted: what comes behind the first segment never reaches us.
//!
//! The kernel tells when a socket is gone, and what it has carried. What somebody makes conntrack forget meanwhile is entered again: soon, by
//! the next segment that the program says; else by a look now and then.
//!
//! Keeps one rule: what is entered, and each packet that is sent on from here, is that of a flow with a permit; and whoever wants to begin a
//! connection on the same ports is judged anew.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::FixedState;
use mio::unix::SourceFd;
use mio::{Interest, Poll};

use super::lanes::Lane;
use super::{GONE, Shard};
use crate::egress::{self, failure_of};
use crate::flow::{EXPRESS, FlowId, Service};
use crate::netlink::{Carried, Destroyed, Entry, MASK, Translations};
use crate::packet::{FiveTuple, IpPacket, Protocol, Transport, finished_tcp};
use crate::router::{Counter, Input};
use crate::verdict::{self, Permit};

/// Sockets whose end is heard of, and connections that conntrack is made to forget, in one turn.
const TURN: usize = 256;

/// Entries are looked for so often, this many in one turn, and so soon after each other.
const LOOK: Duration = Duration::from_secs(10);
const LOOKS: usize = 64;
const NEXT_TURN: Duration = Duration::from_millis(5);

/// Ports that are tried where another connection to the same peer leaves by the program's own.
const PORTS: usize = 8;

/// So long conntrack remembers a connection that is over on both sides, and so often it is looked at whether it is on the peer's.
const LAST_WORD: Duration = Duration::from_secs(1);

/// A flow that the kernel carries on.
#[derive(Clone, Copy)]
pub(super) struct ExpressLane {
    pub(super) id: FlowId,
    tuple: FiveTuple,
    /// Where it leaves from.
    outer: SocketAddr,
    /// Of the program's socket.
    cookie: u64,
}

/// What is known of the other end of a connection that no program has any more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Peer {
    HasEnded,
    /// It was waited for.
    MayStillSpeak,
}

/// What it takes.
pub(super) struct Express {
    way: Arc<egress::Express>,
    conntrack: Translations,
    destroyed: Destroyed,
    /// By the cookies of their sockets.
    flows: HashMap<u64, FlowId, FixedState>,
    /// Connections that no program has any more, and when conntrack may forget them, the next first.
    over: VecDeque<(Instant, ExpressLane, Peer)>,
    /// When to look for what the kernel has forgotten, and what is still to be looked at then.
    next_look: Option<Instant>,
    unseen: Vec<FlowId>,
}

impl Express {
    pub(super) fn new(way: Arc<egress::Express>, poll: &Poll) -> io::Result<Self> {
        let destroyed = Destroyed::listen()?;
        poll.registry().register(&mut SourceFd(&destroyed.as_fd().as_raw_fd()), GONE, Interest::READABLE)?;
        Ok(Self {
            way,
            conntrack: Translations::open()?,
            destroyed,
            flows: HashMap::default(),
            over: VecDeque::new(),
            next_look: None,
            unseen: Vec::new(),
        })
    }

    /// Enters a new connection, whose first segment came by the TUN; from where it leaves: the address that its program is bound to, or
    /// the kernel's choice. `None`: by no port that was tried.
    fn enter(&mut self, tuple: &FiveTuple, bound_to: Option<IpAddr>) -> io::Result<Option<SocketAddr>> {
        let source = bound_to.map_or_else(|| self.way.source(tuple.remote.ip()), Ok)?;
        let own = tuple.local.port();
        // The first time the program may just have sent the segment once more.
        for turn in 0..2 + PORTS {
            let port = if turn < 2 { own } else { self.way.some_port() };
            let outer = SocketAddr::new(source, port);
            let entry = Entry { tuple: *tuple, outer, mark: self.way.mark(), has_begun: false };
            if self.conntrack.enter(&entry)? {
                return Ok(Some(outer));
            }
            self.conntrack.forget(tuple)?;
        }
        Ok(None)
    }

    /// Enters a connection once more, unless it is there; whether it is now.
    fn enter_again(&mut self, lane: &ExpressLane, has_begun: bool) -> io::Result<bool> {
        let ExpressLane { tuple, outer, .. } = *lane;
        let is_ours = |mark: u32| (mark ^ self.way.mark()) & (MASK | EXPRESS) == 0;
        if self.conntrack.mark(&tuple)?.is_some_and(is_ours) {
            return Ok(true);
        }
        // What it made on its way to us leads nowhere.
        self.conntrack.forget(&tuple)?;
        self.conntrack.enter(&Entry { tuple, outer, mark: self.way.mark(), has_begun })
    }

    /// Has conntrack forget what began with these ends, where it knows of it.
    fn forget(&mut self, tuple: &FiveTuple) {
        if let Err(error) = self.conntrack.forget(tuple) {
            tracing::debug!("conntrack still knows {tuple}: {error}");
        }
    }
}

impl Shard {
    /// Leaves an accepted connection to the kernel; false where it must go through us.
    pub(super) fn open_express(&mut self, id: FlowId, permit: Permit, to: SocketAddr, now: Instant) -> bool {
        // What comes back natively comes by another link than the TUN.
        let names_link = self.lanes.holder(id).is_some_and(|holder| holder.names_link);
        let is_simple = self.lanes.is_connected(id) && !self.lanes.goes_by_main(id) && !names_link;
        let cookie = self.lanes.cookie(id.index()).filter(|_| is_simple);
        let (Some(flow), Some(cookie)) = (self.router.flow(id), cookie) else { return false };
        let (tuple, service) = (flow.tuple, flow.service);
        let goes_on_as_it_is = service == Service::Relay && tuple.protocol == Protocol::TCP && tuple.remote == to;
        if !goes_on_as_it_is || permit.lane() != verdict::Lane::Direct || !self.is_own(tuple.local.ip()) {
            return false;
        }
        let bound_to = self.bound_to(id);
        // Where more than a plain header stands in front of it, the stack knows better.
        let Some(first) = flow.parked().first().and_then(finished_tcp) else { return false };
        // What conntrack does not know by these ends has been translated by rules of others, which the answers need.
        let Some(express) = &mut self.express else { return false };
        if !matches!(express.conntrack.forget(&tuple), Ok(true)) {
            return false;
        }
        let outer = match express.enter(&tuple, bound_to) {
            Ok(Some(outer)) => outer,
            Ok(None) => return false,
            // Its table is full, or it cannot; or there is no way, which the stack tells the program.
            Err(error) => {
                tracing::debug!("{tuple} is not left to the kernel: {error}");
                return false;
            }
        };
        if let Err(error) = express.way.send(tuple.remote.ip(), &first) {
            express.forget(&tuple);
            self.router.handle(Input::Failed { flow: id, failure: failure_of(&error) }, now);
            return true;
        }
        express.next_look.get_or_insert(now + LOOK);
        let before = express.flows.insert(cookie, id);
        self.lanes.put(Lane::Express(ExpressLane { id, tuple, outer, cookie }));
        self.router.handle(Input::Express(id), now);
        if let Some(before) = before {
            // The same socket connects once more.
            self.end_express(before, &Carried::default(), now);
        }
        true
    }

    /// Sends on what belongs to such a flow and came to us all the same: its first segment once more, or what conntrack has been made to
    /// forget, which makes it known again.
    pub(super) fn send_express(&mut self, lane: ExpressLane, packet: &IpPacket<'_>, now: Instant) {
        let ExpressLane { id, tuple, outer: _, cookie } = lane;
        let opens = matches!(packet.transport(), Transport::Tcp(segment) if segment.opens());
        let is_another = || self.attributor.socket(&tuple, None).is_none_or(|socket| socket.cookie != cookie);
        if opens && is_another() {
            self.abandon(id, now);
            return self.router.handle(Input::Packet(packet), now);
        }
        let Some(express) = &mut self.express else { return };
        if !matches!(express.conntrack.as_written(&tuple), Ok(None)) {
            // Somebody behind this host was given the same ends by a rule of others; or it is not known who.
            return self.router.count(Counter::Stranger);
        }
        let is_entered = express.enter_again(&lane, !opens);
        let sent = finished_tcp(packet.bytes()).map(|packet| express.way.send(tuple.remote.ip(), &packet));
        if !matches!(is_entered, Ok(true)) || !matches!(sent, Some(Ok(()))) {
            // What is too large comes again in smaller pieces.
            self.router.count(Counter::UpstreamFull);
        }
    }

    /// The kernel stops to carry a flow on; its socket is ended where it is still there.
    pub(super) fn cut_express(&mut self, lane: ExpressLane) {
        let ExpressLane { id, tuple, outer: _, cookie } = lane;
        // Before conntrack forgets it, so that the peer is told.
        self.attributor.abort(&tuple, None, Some(cookie));
        let Some(express) = &mut self.express else { return };
        if express.flows.get(&cookie) == Some(&id) {
            express.flows.remove(&cookie);
        }
        express.forget(&tuple);
    }

    /// Hears which sockets are gone.
    pub(super) fn hear_gone(&mut self, now: Instant) {
        for _ in 0..TURN {
            let Some(express) = &mut self.express else { return };
            match express.destroyed.hear() {
                Ok(Some(gone)) => {
                    if let Some(id) = express.flows.remove(&gone.cookie) {
                        // The program's next socket takes its descriptor.
                        self.attributor.closing(gone.cookie);
                        self.end_express(id, &gone.carried, now);
                    }
                }
                Ok(None) => return self.gone_ready = false,
                Err(_) => self.look_for_gone(now),
            }
        }
    }

    fn end_express(&mut self, id: FlowId, carried: &Carried, now: Instant) {
        let is_it = |lane: &ExpressLane| lane.id == id;
        let Some(lane) = self.lanes.lane(id.index()).and_then(Lane::express).filter(is_it) else { return };
        self.lanes.take(id.index());
        match &mut self.express {
            // Whoever closed last may have to say so again.
            Some(express) if carried.was_answered() => express.over.push_back((now + LAST_WORD, lane, Peer::HasEnded)),
            Some(express) => express.forget(&lane.tuple),
            None => {}
        }
        self.router.account(id, carried.up(), carried.down(), now);
        if let Some(rtt) = carried.rtt_us() {
            self.router.note_rtt(id, rtt);
        }
        let outcome = if carried.was_answered() { "closed" } else { "not answered" };
        self.input(Input::Ended { flow: id, outcome }, now);
    }

    /// The network has changed, and with it perhaps rules of others, whose authors like to empty conntrack.
    pub(super) fn refresh_express(&mut self, now: Instant) {
        if let Some(express) = self.express.as_mut().filter(|express| express.next_look.is_some()) {
            (express.next_look, express.unseen) = (Some(now), Vec::new());
        }
    }

    /// When connections are looked at that the kernel may have forgotten.
    pub(super) fn express_timeout(&self) -> Option<Instant> {
        let express = self.express.as_ref()?;
        let looks = [express.next_look, express.over.front().map(|(at, ..)| *at)];
        looks.into_iter().flatten().min()
    }

    /// Has conntrack forget what is over: the next connection with these ends begins anew, and nobody else sends as this one.
    pub(super) fn forget_over(&mut self, now: Instant) {
        for _ in 0..TURN {
            let Some(express) = &mut self.express else { return };
            let Some((_, lane, peer)) = express.over.pop_front_if(|(at, ..)| *at <= now) else { return };
            // Its peer may still have something to say, to which the kernel alone answers.
            if self.attributor.is_at(&lane.tuple, lane.cookie) {
                express.over.push_back((now + LAST_WORD, lane, Peer::MayStillSpeak));
            } else if self.router.find(&lane.tuple).is_none() {
                if peer == Peer::MayStillSpeak {
                    // The guard takes what says so, which is told as an error.
                    let _ = express.way.note_ended(lane.outer, lane.tuple.remote);
                }
                express.forget(&lane.tuple);
            }
        }
    }

    /// Enters again what is missing.
    pub(super) fn look_for_forgotten(&mut self, now: Instant) {
        let Some(express) = self.express.as_mut().filter(|express| express.next_look.is_some_and(|at| at <= now)) else { return };
        if express.unseen.is_empty() {
            express.unseen.extend(self.lanes.iter().filter_map(Lane::express).map(|lane| lane.id));
        }
        for id in express.unseen.split_off(express.unseen.len().saturating_sub(LOOKS)) {
            let lane = self.lanes.lane(id.index()).and_then(Lane::express).filter(|lane| lane.id == id);
            if let Some(Err(error)) = lane.map(|lane| express.enter_again(&lane, true)) {
                tracing::debug!("conntrack does not tell of a connection: {error}");
            }
        }
        let pause = if express.unseen.is_empty() { LOOK } else { NEXT_TURN };
        express.next_look = (!express.flows.is_empty()).then_some(now + pause);
    }

    /// The kernel could not tell of all.
    fn look_for_gone(&mut self, now: Instant) {
        let lanes: Vec<ExpressLane> = self.lanes.iter().filter_map(Lane::express).collect();
        lanes.into_iter().for_each(|lane| self.end_express_if_gone(lane, now));
    }

    /// A flow ends with its socket, of which nobody has told.
    pub(super) fn end_express_if_gone(&mut self, lane: ExpressLane, now: Instant) {
        if self.attributor.holds(&lane.tuple, lane.cookie) {
            return;
        }
        self.lanes.take(lane.id.index());
        self.cut_express(lane);
        self.input(Input::Ended { flow: lane.id, outcome: "closed" }, now);
    }
}
