//! Flows that raw sockets send: `traceroute -T`, `mtr -u`, `nmap -sS`. No TCP or UDP socket owns them.
//!
//! Whoever holds a raw socket of a packet's protocol, or one for whole packets (`IPPROTO_RAW`), can send it under any address and port,
//! and so could whoever closed one just now (nmap makes one for each IPv6 packet; `bpf` notes it). All of them are asked about: one program's
//! flow is that program's, of several the strictest verdict holds. A raw ICMP socket is taken to send no segments and no datagrams, which
//! one with `IP_HDRINCL` could.
//!
//! Keeps one rule: what a TCP or UDP socket sent that has been closed since is no raw socket's, whatever raw sockets there are. Such
//! a socket leaves the checksum to the device; a raw one cannot. Not told apart are datagrams whose checksum the kernel finishes before the
//! device: of `MSG_MORE` and `SO_NO_CHECK`. Fragments are finished in either case and stay nobody's.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::Shard;
use super::identify::{Attributor, unattributed};
use super::jobs::Origin;
use crate::app::shared::locked;
use crate::bpf::{RawNotes, RawSender, since_boot};
use crate::flow::FlowId;
use crate::packet::{Arrival, FiveTuple, IpPacket, Protocol};
use crate::process::{Identity, Socket};
use crate::procfs::{Processes, RawTable};

/// An answer to a raw datagram may come so late: so long traceroute(8) waits. No socket tells whether it is still waited for.
pub(super) const WAITED_FOR: Duration = Duration::from_secs(5);

/// Times that those who can have sent a packet are searched for while they close their sockets.
const LOOKS: usize = 3;

/// All who can have sent a packet by a raw socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RawSenders {
    open: Vec<Socket>,
    closed: Vec<RawSender>,
    /// As [`Sent::after`].
    sent_after: u64,
}

/// When a packet was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    /// In nanoseconds since boot; 0: that is not known.
    pub(super) after: u64,
    pub(super) by: Instant,
}

/// One of them, as it is told from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RawKey {
    /// By its inode.
    Open(u64),
    /// A process, and when it became the program that it is.
    Closed { pid: u32, executed: u64 },
}

impl RawSenders {
    fn is_empty(&self) -> bool {
        self.open.is_empty() && self.closed.is_empty()
    }

    pub(super) fn keys(&self) -> Box<[RawKey]> {
        let open = self.open.iter().map(|socket| RawKey::Open(socket.inode));
        let of = |closed: &RawSender| RawKey::Closed { pid: closed.sender.pid, executed: closed.executed };
        open.chain(self.closed.iter().map(of)).collect()
    }

    /// The user of one of them.
    pub(super) fn uid(&self) -> u32 {
        self.open.first().map(|socket| socket.uid).or(self.closed.first().map(|closed| closed.sender.uid)).unwrap_or_default()
    }
}

/// The raw sockets of both families as last read: once for all packets of a batch.
#[derive(Default)]
pub(super) struct RawTables {
    v4: Mutex<Option<(Instant, Option<RawSockets>)>>,
    v6: Mutex<Option<(Instant, Option<RawSockets>)>>,
}

/// The open ones of a family, and then who closed some.
#[derive(Default)]
pub(super) struct RawSockets {
    table: RawTable,
    notes: RawNotes,
}

impl RawSockets {
    fn senders(&self, tuple: &FiveTuple, sent: Sent) -> Option<RawSenders> {
        let closed = self.notes.senders(tuple.local.is_ipv4(), tuple.protocol, sent.after)?;
        Some(RawSenders { open: self.table.senders(tuple.protocol)?, closed, sent_after: sent.after })
    }
}

impl RawTables {
    /// Who can have sent a packet; `read` looks at the family's sockets. None: that is uncertain.
    fn senders(&self, tuple: &FiveTuple, sent: Sent, read: impl FnOnce() -> Option<RawSockets>) -> Option<RawSenders> {
        let place = if tuple.local.is_ipv4() { &self.v4 } else { &self.v6 };
        if let Some((at, sockets)) = &*locked(place)
            && *at >= sent.by
        {
            return sockets.as_ref()?.senders(tuple, sent);
        }
        let (at, sockets) = (Instant::now(), read());
        let senders = sockets.as_ref().and_then(|sockets| sockets.senders(tuple, sent));
        *locked(place) = Some((at, sockets));
        senders
    }
}

impl Attributor {
    /// Who may have sent a packet by a raw socket. None: that is uncertain.
    fn raw_senders(&self, tuple: &FiveTuple, sent: Sent) -> Option<RawSenders> {
        self.raw.senders(tuple, sent, || {
            let table = self.processes.raw_table(tuple.local.is_ipv4(), self.netns_of)?;
            // After the table.
            let notes = self.closed.as_ref().map_or_else(|| Ok(RawNotes::default()), crate::bpf::ClosedSockets::raw_notes);
            Some(RawSockets { table, notes: notes.ok()? })
        })
    }

    /// The one of whom alone a raw flow can be, where that can be said in microseconds or there is nobody to search for.
    fn only_raw_sender(&self, senders: &RawSenders, sent: Instant) -> Option<Arc<Identity>> {
        match (&*senders.open, &*senders.closed) {
            ([socket], []) => self.quick(socket, sent),
            ([], [closed]) => Some(self.raw_closer(closed, sent)),
            _ => None,
        }
    }

    /// Everybody of whom a raw flow may be. A socket that is closed while its holder is searched for is among the closed ones by then.
    pub(super) fn search_raw(&self, tuple: &FiveTuple, senders: &RawSenders) -> Vec<Arc<Identity>> {
        let mut found = Vec::new();
        for _ in 0..LOOKS {
            let now = Sent { after: senders.sent_after, by: Instant::now() };
            let Some(RawSenders { open, closed, .. }) = self.raw_senders(tuple, now) else { return vec![unattributed(None)] };
            let holders: Vec<_> = match (&*open, &*closed) {
                // Another search may have found the program meanwhile.
                ([socket], []) => self.holders(socket),
                _ => open.iter().flat_map(|socket| self.processes.find(socket)).collect(),
            };
            let are_found = holders.iter().all(|holder| holder.pid.is_some());
            let closers = closed.iter().map(|closed| self.raw_closer(closed, now.by));
            found = Processes::one_of(holders.into_iter().chain(closers));
            if are_found {
                break;
            }
        }
        if found.is_empty() { vec![unattributed(None)] } else { found }
    }

    fn raw_closer(&self, closed: &RawSender, sent: Instant) -> Arc<Identity> {
        let alive = self.identity_of(&closed.sender, sent).map(|(_, identity)| identity);
        alive.or_else(|| self.ended_closer(closed)).unwrap_or_else(|| unattributed(Some(closed.sender.uid)))
    }

    /// One that has ended, as the program that it was last seen as: it executed none after the one of the note.
    fn ended_closer(&self, closed: &RawSender) -> Option<Arc<Identity>> {
        let executed = Duration::from_nanos(since_boot().saturating_sub(closed.executed));
        let since = Instant::now().checked_sub(executed)?;
        let seen = self.processes.seen_lately(closed.sender.pid, closed.sender.uid, since)?;
        self.closed.as_ref()?.is_same_program(&closed.sender).then_some(seen)
    }
}

impl Shard {
    /// Attributes a flow that has no other socket to those who can have sent it by raw ones.
    pub(super) fn identify_raw(&mut self, id: FlowId, tuple: &FiveTuple, sent: Instant, now: Instant) {
        // Many a link leaves it to the UDP socket to finish its checksum.
        let is_led = self.lanes.link(id).is_some();
        let is_raw = !(is_led && tuple.protocol == Protocol::UDP)
            && self.router.flow(id).and_then(|flow| flow.parked().arrival()) == Some(Arrival::Finished);
        // What names a link may have waited for its neighbour to answer.
        let sent_at = Sent { after: if is_led { 0 } else { self.turn.sent_after() }, by: sent };
        let senders = is_raw.then(|| self.attributor.raw_senders(tuple, sent_at)).flatten().unwrap_or_default();
        self.lanes.note_raw(id, senders.keys());
        if senders.is_empty() {
            return self.identified(id, &[unattributed(None)], now);
        }
        match self.attributor.only_raw_sender(&senders, sent) {
            Some(identity) => self.identified(id, &[identity], now),
            None => self.search_for(id, Origin::Raw(senders), *tuple, now),
        }
    }

    /// Whether a datagram of a raw sockets' flow may be theirs, and theirs alone.
    pub(super) fn is_still_raw(&mut self, id: FlowId, tuple: &FiveTuple, packet: Option<&IpPacket<'_>>, now: Instant) -> bool {
        let attributor = &self.attributor;
        packet.is_some_and(|packet| packet.arrival() == Arrival::Finished)
            // It may have been parked since it was sent.
            && self.lanes.still_raw(id, now, || Some(attributor.raw_senders(tuple, Sent { after: 0, by: now })?.keys()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_read_once_for_what_had_been_sent_before_and_again_for_what_was_sent_later() {
        for (local, remote) in [("10.9.0.2:5", "192.0.2.1:80"), ("[fd09::2]:5", "[2001:db8::1]:80")] {
            let [local, remote] = [local, remote].map(|end| end.parse().expect("an address"));
            let tuple = FiveTuple { protocol: Protocol::TCP, local, remote };
            let (tables, before) = (RawTables::default(), Sent { after: 0, by: Instant::now() });
            let nobody = Some(RawSenders::default());
            assert_eq!(tables.senders(&tuple, before, || Some(RawSockets::default())), nobody);
            assert_eq!(tables.senders(&tuple, before, || panic!("it is known")), nobody);
            let later = Sent { after: 0, by: Instant::now() + Duration::from_secs(1) };
            assert_eq!(tables.senders(&tuple, later, || None), None, "it cannot be read");
        }
    }
}
