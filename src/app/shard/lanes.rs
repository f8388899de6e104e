//! What carries a flow on, by the flow's slot in the router's table.

use std::time::Instant;

use mio::event::Event;

use crate::egress::{Connecting, Datagrams, Pings, Stream};
use crate::flow::FlowId;
use crate::router::Failure;

/// The upstream side of one flow. Dropping it closes the socket, which also ends its place in epoll.
pub(super) enum Lane {
    Tcp(TcpLane),
    Udp(UdpLane),
    Echo(EchoLane),
    /// DNS datagrams; the resolver has the socket.
    Dns(FlowId),
}

impl Lane {
    pub(super) fn id(&self) -> FlowId {
        match self {
            Self::Tcp(lane) => lane.id,
            Self::Udp(lane) => lane.id,
            Self::Echo(lane) => lane.id,
            Self::Dns(id) => *id,
        }
    }
}

pub(super) enum Upstream {
    Connecting(Connecting),
    Open(Stream),
    /// Between the two, and after a reset.
    Gone,
}

pub(super) struct TcpLane {
    pub(super) id: FlowId,
    pub(super) upstream: Upstream,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The peer has said its last word: read until the end even after a short read.
    pub(super) hung_up: bool,
    /// The program has said its last word; what it said before may still wait for the upstream socket.
    pub(super) program_finished: bool,
    /// The program has finished and the upstream socket was told.
    pub(super) finished_up: bool,
    /// The peer has finished and the program was told.
    pub(super) finished_down: bool,
    /// The upstream connection is broken; what it said before still goes to the program, then the program
    /// is told.
    pub(super) broken: Option<(Failure, Instant)>,
    pub(super) carried: u64,
}

impl TcpLane {
    pub(super) fn new(id: FlowId, upstream: Upstream) -> Self {
        Self {
            id,
            upstream,
            readable: false,
            writable: false,
            hung_up: false,
            program_finished: false,
            finished_up: false,
            finished_down: false,
            broken: None,
            carried: 0,
        }
    }

    /// Notes what epoll said; its edges come once.
    pub(super) fn note(&mut self, event: &Event) {
        self.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        self.writable |= event.is_writable() || event.is_error();
        self.hung_up |= event.is_read_closed() || event.is_error();
    }
}

pub(super) struct UdpLane {
    pub(super) id: FlowId,
    pub(super) socket: Datagrams,
}

pub(super) struct EchoLane {
    pub(super) id: FlowId,
    pub(super) socket: Pings,
}

#[derive(Default)]
struct Place {
    lane: Option<Lane>,
    dirty: bool,
}

/// All lanes of one shard.
#[derive(Default)]
pub(super) struct Lanes(Vec<Place>);

impl Lanes {
    pub(super) fn put(&mut self, lane: Lane) {
        let slot = lane.id().index();
        if self.0.len() <= slot {
            self.0.resize_with(slot + 1, Place::default);
        }
        if let Some(place) = self.0.get_mut(slot) {
            place.lane = Some(lane);
        }
    }

    pub(super) fn take(&mut self, slot: usize) -> Option<Lane> {
        self.0.get_mut(slot)?.lane.take()
    }

    pub(super) fn lane(&self, slot: usize) -> Option<&Lane> {
        self.0.get(slot)?.lane.as_ref()
    }

    pub(super) fn lane_mut(&mut self, slot: usize) -> Option<&mut Lane> {
        self.0.get_mut(slot)?.lane.as_mut()
    }

    /// True when the flow was clean before.
    pub(super) fn mark_dirty(&mut self, slot: usize) -> bool {
        self.0.get_mut(slot).is_some_and(|place| !std::mem::replace(&mut place.dirty, true))
    }

    pub(super) fn clear_dirty(&mut self, slot: usize) {
        if let Some(place) = self.0.get_mut(slot) {
            place.dirty = false;
        }
    }
}
