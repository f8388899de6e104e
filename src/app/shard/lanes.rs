//! What carries a flow on, by the flow's slot in the router's table.

use std::time::Instant;

use super::express::ExpressLane;
use super::holder::{CLOSED, HELD, Holder};
use super::linked::LinkLane;
use super::raw::RawKey;
pub(super) use super::tcp_lane::{TcpLane, Upstream};
use crate::egress::{Datagrams, Pings};
use crate::flow::FlowId;
use crate::packet::{LinkHeader, Signature};
use crate::process::Socket;

/// The upstream side of one flow. Dropping it closes the socket, which also ends its place in epoll.
pub(super) enum Lane {
    Tcp(TcpLane),
    Udp(UdpLane),
    Echo(EchoLane),
    /// DNS datagrams; the resolver has the socket.
    Dns(FlowId),
    /// The link that the program named.
    Link(LinkLane),
    /// The kernel alone.
    Express(ExpressLane),
}

impl Lane {
    pub(super) fn id(&self) -> FlowId {
        match self {
            Self::Tcp(lane) => lane.id,
            Self::Udp(lane) => lane.id,
            Self::Echo(lane) => lane.id,
            Self::Dns(id) => *id,
            Self::Link(lane) => lane.id,
            Self::Express(lane) => lane.id,
        }
    }

    /// What the kernel carries on.
    pub(super) fn express(&self) -> Option<ExpressLane> {
        if let Self::Express(lane) = self { Some(*lane) } else { None }
    }

    /// A connection whose program may have said what the upstream socket has not been given yet.
    pub(super) fn may_hold_words(&self) -> bool {
        matches!(self, Self::Tcp(TcpLane { upstream: Upstream::Open(_), answered: Some(_), finished_up: false, .. }))
    }

    /// A connection whose upstream socket has been given the program's last byte.
    pub(super) fn is_finished_up(&self) -> bool {
        matches!(self, Self::Tcp(TcpLane { finished_up: true, .. }))
    }
}

pub(super) struct UdpLane {
    pub(super) id: FlowId,
    pub(super) socket: Datagrams,
    /// Its part in the port that it shares with other flows of the same socket.
    pub(super) lease: Option<super::ports::Lease>,
}

pub(super) struct EchoLane {
    pub(super) id: FlowId,
    pub(super) socket: Pings,
}

#[derive(Default)]
struct Place {
    lane: Option<Lane>,
    dirty: bool,
    holder: Option<Holder>,
    /// What stands in front of the packets of a flow by a link that its program named.
    link: Option<(FlowId, LinkHeader)>,
}

/// All lanes of one shard.
#[derive(Default)]
pub(super) struct Lanes(Vec<Place>);

impl Lanes {
    pub(super) fn put(&mut self, lane: Lane) {
        let slot = lane.id().index();
        self.place(slot).lane = Some(lane);
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

    /// Whose socket a flow was attributed to.
    pub(super) fn note_holder(&mut self, id: FlowId, socket: Option<&Socket>, now: Instant) {
        self.place(id.index()).holder = Some(Holder::new(id, socket, now));
    }

    pub(super) fn holder(&self, id: FlowId) -> Option<&Holder> {
        self.0.get(id.index())?.holder.as_ref().filter(|holder| holder.id == id)
    }

    pub(super) fn holder_mut(&mut self, id: FlowId) -> Option<&mut Holder> {
        self.place(id.index()).holder.as_mut().filter(|holder| holder.id == id)
    }

    /// Remembers who may have sent a flow from its port; nobody: the socket that it was attributed to.
    pub(super) fn note_senders(&mut self, id: FlowId, senders: Box<[u64]>) {
        if let Some(holder) = self.holder_mut(id) {
            holder.senders = senders;
        }
    }

    /// Remembers by which link a flow's packets come.
    pub(super) fn note_link(&mut self, id: FlowId, header: LinkHeader) {
        self.place(id.index()).link = Some((id, header));
    }

    /// By which link a flow's packets came last, if its program named one.
    pub(super) fn link(&self, id: FlowId) -> Option<LinkHeader> {
        self.0.get(id.index())?.link.filter(|(of, _)| *of == id).map(|(_, header)| header)
    }

    /// Remembers that the socket which a flow was attributed to was closed by then.
    pub(super) fn note_closed(&mut self, id: FlowId) {
        if let Some(holder) = self.holder_mut(id) {
            holder.closed = true;
        }
    }

    /// Remembers that a flow is that of a tunnel which the kernel itself holds.
    pub(super) fn note_tunnel(&mut self, id: FlowId) {
        if let Some(holder) = self.holder_mut(id) {
            holder.by_main = true;
        }
    }

    /// Whether a flow's socket is told apart by a mark, or the kernel's: a rule may keep it out of the tunnel that it carries.
    pub(super) fn goes_by_main(&self, id: FlowId) -> bool {
        let holder = self.0.get(id.index()).and_then(|place| place.holder.as_ref());
        holder.is_some_and(|holder| holder.id == id && holder.by_main)
    }

    /// The cookie of a flow's socket that was closed when the flow was attributed to it, and when it was noted.
    pub(super) fn closed(&self, id: FlowId) -> Option<(u64, Instant)> {
        let holder = self.0.get(id.index())?.holder.as_ref().filter(|holder| holder.id == id && holder.closed)?;
        Some((holder.socket?.0, holder.seen))
    }

    /// Remembers the raw sockets that may have sent a flow of no other socket after `since`.
    pub(super) fn note_raw(&mut self, id: FlowId, raw: Box<[RawKey]>, since: u64) {
        if let Some(holder) = self.holder_mut(id) {
            (holder.raw, holder.raw_since) = (raw, since);
        }
    }

    /// Whether a flow is that of raw sockets.
    pub(super) fn is_raw(&self, id: FlowId) -> bool {
        let holder = self.0.get(id.index()).and_then(|place| place.holder.as_ref());
        holder.is_some_and(|holder| holder.id == id && !holder.raw.is_empty())
    }

    /// Whether those who may have sent a flow by raw sockets are the same; `ask` looks. Last words are a closed one's for a moment.
    pub(super) fn still_raw(&mut self, id: FlowId, now: Instant, ask: impl FnOnce(u64) -> Option<Box<[RawKey]>>) -> bool {
        let Some(holder) = self.holder_mut(id) else { return false };
        let age = now.saturating_duration_since(holder.seen);
        if age < HELD {
            return true;
        }
        let Some(after) = ask(holder.raw_since) else { return false };
        if after == holder.raw {
            holder.seen = now;
        }
        after == holder.raw || after.is_empty() && age < CLOSED
    }

    /// The socket that the flow in this slot was attributed to.
    pub(super) fn cookie(&self, slot: usize) -> Option<u64> {
        Some(self.0.get(slot)?.holder.as_ref()?.socket?.0)
    }

    /// Whether the program's socket talks to this flow's remote end alone, as far as is known.
    pub(super) fn is_connected(&self, id: FlowId) -> bool {
        let holder = self.0.get(id.index()).and_then(|place| place.holder.as_ref());
        holder.is_none_or(|holder| holder.id != id || holder.connected)
    }

    /// Whether a datagram with this signature is still the socket's that its flow was attributed to; `ask` looks the socket up.
    ///
    /// A socket that is gone has sent it where its signature goes on. Without one only a socket that was seen a moment ago is believed
    /// to: another program may have had the port since.
    pub(super) fn still_held(
        &mut self,
        id: FlowId,
        signature: Option<Signature>,
        now: Instant,
        ask: impl FnOnce() -> Option<Socket>,
    ) -> bool {
        let Some(holder) = self.holder_mut(id) else { return false };
        let age = now.saturating_duration_since(holder.seen);
        let last = holder.signs();
        let compared = |by: fn(Signature, Signature) -> bool| last.map(|last| signature.is_some_and(|this| by(this, last)));
        let held = age < HELD && compared(Signature::may_follow) != Some(false) || {
            // The inode is gone where a program closed a TCP socket, which goes on saying what was written to it.
            let found = ask();
            // Who marks its socket leaves by another way from then on.
            let same_way = holder.by_main || found.is_none_or(|socket| socket.mark == 0);
            let [before, after] = [holder.socket.map(|(cookie, _)| cookie), found.map(|socket| socket.cookie)];
            if before == after {
                holder.seen = now;
            }
            let is_last = || holder.socket.is_some() && after.is_none() && compared(Signature::follows).unwrap_or(age < CLOSED);
            same_way && (before == after || is_last())
        };
        if held {
            holder.signature = signature;
        }
        held
    }

    fn place(&mut self, slot: usize) -> &mut Place {
        if self.0.len() <= slot {
            self.0.resize_with(slot + 1, Place::default);
        }
        self.0.get_mut(slot).expect("the table was made that long just now")
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Lane> {
        self.0.iter().filter_map(|place| place.lane.as_ref())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Confidence;

    const SOCKET: Socket =
        Socket { inode: 5, uid: 0, cookie: 6, cgroup_id: None, mark: 0, link: 0, confidence: Confidence::Exact };

    fn held_by(socket: Option<Socket>, said: &[Option<Signature>], now: Instant) -> (Lanes, FlowId) {
        let (mut lanes, id) = (Lanes::default(), FlowId::for_test(0, 1));
        lanes.note_holder(id, socket.as_ref(), now);
        for signature in said {
            assert!(lanes.still_held(id, *signature, now, || socket));
        }
        (lanes, id)
    }

    #[test]
    fn last_words_of_a_closed_socket_are_its_own_where_its_signature_goes_on() {
        let now = Instant::now();
        let late = now + 20 * CLOSED;
        for [first, next] in [[Signature::Count(7), Signature::Count(8)], [Signature::Label(9), Signature::Label(9)]] {
            let (mut lanes, id) = held_by(Some(SOCKET), &[Some(first)], now);
            assert!(lanes.still_held(id, Some(next), late, || None), "{first:?}");
        }
    }

    #[test]
    fn datagram_of_another_socket_is_not_taken_for_a_closed_ones_last() {
        let now = Instant::now();
        let (known, other) = (Some(Signature::Count(7)), Some(Signature::Count(9999)));
        for at in [now, now + HELD, now + 20 * CLOSED] {
            for stranger in [other, None, Some(Signature::Label(8))] {
                let (mut lanes, id) = held_by(Some(SOCKET), &[known], now);
                assert!(!lanes.still_held(id, stranger, at, || None), "{stranger:?}");
            }
        }
        let shared = Socket { confidence: Confidence::Likely, ..SOCKET };
        let (mut lanes, id) = held_by(Some(shared), &[known], now);
        assert!(!lanes.still_held(id, Some(Signature::Count(8)), now + CLOSED, || None), "its counts are everybody's");
        let (mut lanes, id) = held_by(None, &[known], now);
        assert!(!lanes.still_held(id, Some(Signature::Count(8)), now + HELD, || Some(SOCKET)), "nobody signs");
    }

    #[test]
    fn socket_that_gets_a_mark_keeps_no_flow_from_before() {
        let now = Instant::now();
        let marked = Socket { mark: 0xca6c, ..SOCKET };
        let held = |before| {
            let (mut lanes, id) = held_by(Some(before), &[None], now);
            lanes.still_held(id, None, now + HELD, || Some(marked))
        };
        assert!(!held(SOCKET) && held(marked));
    }

    #[test]
    fn datagrams_without_a_signature_are_a_closed_sockets_for_a_moment() {
        let now = Instant::now();
        let (mut lanes, id) = held_by(Some(SOCKET), &[None], now);
        assert!(lanes.still_held(id, None, now + HELD, || None));
        assert!(!lanes.still_held(id, None, now + CLOSED, || None));
    }

    #[test]
    fn open_socket_keeps_its_flow_whatever_its_signature_and_another_one_never_gets_it() {
        let now = Instant::now();
        let (mut lanes, id) = held_by(Some(SOCKET), &[Some(Signature::Count(7))], now);
        let late = now + 20 * CLOSED;
        assert!(lanes.still_held(id, Some(Signature::Count(999)), late, || Some(SOCKET)), "many of it were lost");
        assert!(lanes.still_held(id, Some(Signature::Count(1000)), late, || panic!("it was seen just now")));
        let successor = Socket { cookie: 7, ..SOCKET };
        assert!(!lanes.still_held(id, Some(Signature::Count(1)), late, || Some(successor)));
        assert!(!lanes.still_held(id, Some(Signature::Count(1001)), late + HELD, || Some(successor)));
    }

    #[test]
    fn flow_of_raw_sockets_is_theirs_until_another_may_have_sent_it_too() {
        let now = Instant::now();
        let keys = |inodes: &[u64]| inodes.iter().map(|inode| RawKey::Open(*inode)).collect();
        let raw_of = |raw: &[u64]| {
            let (mut lanes, id) = held_by(None, &[], now);
            lanes.note_raw(id, keys(raw), 7);
            assert!(lanes.is_raw(id) && !lanes.is_raw(FlowId::for_test(0, 2)));
            (lanes, id)
        };
        for (after, at, held) in [
            (&[5][..], HELD, true),
            (&[5][..], 20 * CLOSED, true),
            (&[5, 6], HELD, false),
            (&[6], HELD, false),
            (&[], HELD, true),
            (&[], CLOSED, false),
        ] {
            let (mut lanes, id) = raw_of(&[5]);
            assert!(lanes.still_raw(id, now, |_| panic!("it was seen just now")));
            assert_eq!(lanes.still_raw(id, now + at, |since| (since == 7).then(|| keys(after))), held, "{after:?} after {at:?}");
        }
    }

    #[test]
    fn only_an_open_connection_that_its_program_answered_and_has_not_finished_may_hold_words() {
        let open = || {
            let (ours, _) = std::os::unix::net::UnixStream::pair().expect("two descriptors");
            TcpLane::new(FlowId::for_test(0, 1), Upstream::Open(ours.into()))
        };
        let answered = Some(Instant::now());
        assert!(Lane::Tcp(TcpLane { answered, ..open() }).may_hold_words());
        assert!(!Lane::Tcp(open()).may_hold_words(), "its SYN-ACK was never answered");
        assert!(!Lane::Tcp(TcpLane { answered, finished_up: true, ..open() }).may_hold_words());
        assert!(!Lane::Tcp(TcpLane { answered, upstream: Upstream::Gone, ..open() }).may_hold_words());
    }
}
