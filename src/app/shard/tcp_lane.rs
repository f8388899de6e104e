//! The upstream side of one connection, and what both ends have said so far.

use std::time::Instant;

use mio::event::Event;

use crate::egress::{Connecting, Stream};
use crate::flow::FlowId;
use crate::router::Failure;

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
    /// An error was reported.
    pub(super) troubled: bool,
    /// When the program answered the SYN-ACK.
    pub(super) answered: Option<Instant>,
    /// The program has said its last word; what it said before may still wait for the upstream socket.
    pub(super) program_finished: bool,
    /// The program has finished and the upstream socket was told.
    pub(super) finished_up: bool,
    /// The peer has finished and the program was told.
    pub(super) finished_down: bool,
    /// The upstream connection is broken; what it said before still goes to the program, then the program
    /// is told.
    pub(super) broken: Option<(Failure, Instant)>,
    /// The program asks whether the peer is still there.
    pub(super) probe: Option<Box<super::alive::Probe>>,
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
            troubled: false,
            answered: None,
            program_finished: false,
            finished_up: false,
            finished_down: false,
            broken: None,
            probe: None,
            carried: 0,
        }
    }

    /// Notes what epoll said; its edges come once.
    pub(super) fn note(&mut self, event: &Event) {
        self.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        self.writable |= event.is_writable() || event.is_error();
        self.hung_up |= event.is_read_closed() || event.is_error();
        self.troubled |= event.is_error();
    }
}
