//! Whose socket a flow is, as far as was seen.

use std::time::{Duration, Instant};

use super::raw::RawKey;
use crate::flow::FlowId;
use crate::packet::Signature;
use crate::process::{Confidence, Socket};

/// How long an attribution of datagrams is believed. Another program may take over a port that the first has left; a look costs
/// microseconds.
pub(super) const HELD: Duration = Duration::from_millis(250);
/// How long after the last look datagrams still count as those of a socket that is closed by now: its last ones wait in the TUN.
pub(super) const CLOSED: Duration = Duration::from_secs(1);

/// The socket that a flow was attributed to, and when that was last seen to hold.
pub(super) struct Holder {
    pub(super) id: FlowId,
    /// Cookie and inode; None: nobody's.
    pub(super) socket: Option<(u64, u64)>,
    /// The program's socket has one peer alone.
    pub(super) connected: bool,
    /// It is bound to a link, by which alone it hears.
    pub(super) names_link: bool,
    pub(super) seen: Instant,
    /// Of the last datagram.
    pub(super) signature: Option<Signature>,
    /// Without a socket: who may have sent it by raw ones.
    pub(super) raw: Box<[RawKey]>,
    /// Since when they were told, in nanoseconds since boot.
    pub(super) raw_since: u64,
    /// The cookies of all that may have sent it from its port; none: the socket alone.
    pub(super) senders: Box<[u64]>,
    /// When its first packets were sent, as [`super::rush::Turn::sent_after`].
    pub(super) sent_after: u64,
    /// The socket was closed when the flow was attributed to it.
    pub(super) closed: bool,
    /// See [`super::lanes::Lanes::goes_by_main`].
    pub(super) by_main: bool,
}

impl Holder {
    pub(super) fn new(id: FlowId, socket: Option<&Socket>, now: Instant) -> Self {
        Self {
            id,
            socket: socket.map(|socket| (socket.cookie, socket.inode)),
            connected: socket.is_none_or(|socket| socket.confidence == Confidence::Exact),
            names_link: socket.is_some_and(|socket| socket.link != 0),
            seen: now,
            signature: None,
            raw: [].into(),
            raw_since: 0,
            senders: [].into(),
            sent_after: 0,
            closed: false,
            by_main: socket.is_some_and(|socket| socket.mark != 0),
        }
    }

    /// Whether a datagram of its flow lacks what this socket writes into its own.
    pub(super) fn is_signed_by_another(&self, signature: Option<Signature>) -> bool {
        self.signs().is_some_and(|last| !signature.is_some_and(|this| this.may_follow(last)))
    }

    /// The last signature, where this socket signs what it sends.
    pub(super) fn signs(&self) -> Option<Signature> {
        self.signature.filter(|_| self.connected && self.socket.is_some())
    }
}
