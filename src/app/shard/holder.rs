//! Whose socket a flow is, as far as was seen.

use std::time::{Duration, Instant};

use super::raw::RawKey;
use crate::flow::FlowId;
use crate::packet::Signature;

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
    pub(super) seen: Instant,
    /// Of the last datagram.
    pub(super) signature: Option<Signature>,
    /// Without a socket: who may have sent it by raw ones.
    pub(super) raw: Box<[RawKey]>,
    /// Since when they were told, in nanoseconds since boot.
    pub(super) raw_since: u64,
    /// The socket was closed when the flow was attributed to it.
    pub(super) closed: bool,
    /// See [`super::lanes::Lanes::goes_by_main`].
    pub(super) by_main: bool,
}

impl Holder {
    /// The last signature, where this socket signs what it sends.
    pub(super) fn signs(&self) -> Option<Signature> {
        self.signature.filter(|_| self.connected && self.socket.is_some())
    }
}
