//! Flows that raw sockets send: `traceroute -T`, `mtr -u`, `nmap -sS`, pings of root. No TCP, UDP or ping socket owns them.
//!
//! Whoever holds a raw socket of a packet's family can send it under any protocol, address and port (`IP_HDRINCL`), and so could whoever has
//! closed one since (nmap makes one for each IPv6 packet; `bpf` notes it). All of them are asked about: one program's flow is that
//! program's, of several the strictest verdict holds. Where `bpf` is not to be had, nobody knows who closed one, and the flow is nobody's.
//!
//! Keeps one rule: what a TCP or UDP socket sent that has been closed since is no raw socket's, whatever raw sockets there are. Such
//! a socket leaves the checksum to the device; a raw one cannot. Not told apart are datagrams whose checksum the kernel finishes before the
//! device: of `MSG_MORE` and `SO_NO_CHECK`. Fragments are finished in either case and stay nobody's.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::Shard;
use super::holder::HELD;
use super::identify::{Attributor, unattributed};
use super::jobs::Origin;
use crate::app::shared::locked;
use crate::bpf::{RawNotes, RawSender, since_boot};
use crate::flow::FlowId;
use crate::packet::{Arrival, FiveTuple, IpPacket, Kept, Protocol};
use crate::process::{Identity, Socket};
use crate::procfs::{Effort, Holders, Processes, RawTable};

/// An answer to a raw datagram may come so late: so long traceroute(8) waits. No socket tells whether it is still waited for.
pub(super) const WAITED_FOR: Duration = Duration::from_secs(5);

/// Times that those who can have sent a packet are searched for while they close their sockets.
const LOOKS: usize = 5;

/// What names a link waits for its neighbour to answer at most: three questions, a second apart (`mcast_solicit`, `retrans_time_ms` in
/// net/ipv4/arp.c and net/ipv6/ndisc.c), and some.
const NEIGHBOUR: Duration = Duration::from_secs(4);

/// All who can have sent a packet by a raw socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RawSenders {
    open: Vec<Socket>,
    closed: Vec<RawSender>,
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
    /// The socket at the flow's end, by its cookie: it can have sent it, too.
    Owner(u64),
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
    /// Who held those that were searched for last.
    held: Mutex<Option<Arc<Holders>>>,
    /// The inodes of our own, by which no program sends.
    ours: Vec<u64>,
}

/// The open ones of a family, and then who closed some.
#[derive(Default)]
pub(super) struct RawSockets {
    table: RawTable,
    notes: RawNotes,
}

impl RawSockets {
    fn senders(&self, tuple: &FiveTuple, sent: Sent) -> Option<RawSenders> {
        let closed = self.notes.senders(tuple.local.is_ipv4(), sent.after)?;
        Some(RawSenders { open: self.table.senders(tuple.protocol)?, closed })
    }
}

impl RawTables {
    pub(super) fn but_of(ours: Vec<u64>) -> Self {
        Self { ours, ..Self::default() }
    }

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
        let noted = self.closed.as_ref()?;
        self.raw.senders(tuple, sent, || {
            let table = self.processes.raw_table(tuple.local.is_ipv4(), self.netns_of)?.but_of(&self.raw.ours);
            // After the table.
            Some(RawSockets { table, notes: noted.raw_notes().ok()? })
        })
    }

    /// The one of whom alone a raw flow can be, where that can be said in microseconds or there is nobody to search for.
    fn only_raw_sender(&self, senders: &RawSenders, sent: Instant) -> Option<Arc<Identity>> {
        match (&*senders.open, &*senders.closed) {
            ([socket], []) => self.only_raw_holder(socket, sent),
            ([], [closed]) => self.known_maker(&closed.sender, sent),
            _ => None,
        }
    }

    /// The one that alone held a socket a moment ago, if it has begun no process since, which would have inherited it.
    fn only_raw_holder(&self, socket: &Socket, sent: Instant) -> Option<Arc<Identity>> {
        let held = locked(&self.raw.held).clone()?;
        let (age, now) = (held.began().elapsed(), since_boot());
        let mut pids = held.pids(socket);
        let (pid, None) = (pids.next()?, pids.next()) else { return None };
        let effort = Effort::Known(&|pid, since| self.is_same(pid, since));
        let programs = (age < HELD).then(|| self.processes.programs_of(&held, socket, sent, effort))?;
        let began = now.saturating_sub(u64::try_from(age.as_nanos()).unwrap_or(u64::MAX));
        let is_sure = self.closed.as_ref()?.has_begun_none(pid, began);
        programs.into_iter().next().filter(|program| is_sure && program.pid.is_some())
    }

    /// Everybody of whom a raw flow may be. A socket that is closed while its holder is searched for is among the closed ones by then.
    pub(super) fn search_raw(&self, tuple: &FiveTuple, mut sent: Sent) -> Vec<Arc<Identity>> {
        let mut found = Vec::new();
        for _ in 0..LOOKS {
            let Some(RawSenders { open, closed }) = self.raw_senders(tuple, sent) else { return vec![unattributed(None)] };
            let Some(holders) = self.raw_holders(&open, sent.by) else { return vec![unattributed(None)] };
            let programs: Vec<_> = open.iter().flat_map(|socket| self.raw_programs(&holders, socket, sent.by)).collect();
            // Who cannot be told may have closed it since the table was read, before or after it was seen to hold it.
            let is_settled = programs.iter().all(|program| program.pid.is_some());
            let closers = closed.iter().map(|closed| self.raw_closer(closed, sent.by));
            found = Processes::one_of(programs.into_iter().chain(closers));
            if is_settled {
                break;
            }
            sent.by = Instant::now();
        }
        if found.is_empty() { vec![unattributed(None)] } else { found }
    }

    /// Who held these sockets when a packet had been sent. One look serves all that waited for it. None: too many may have.
    fn raw_holders(&self, open: &[Socket], sent: Instant) -> Option<Arc<Holders>> {
        let known = locked(&self.raw.held).clone().filter(|known| known.are_of(open, sent));
        if known.is_some() {
            return known;
        }
        let found = Arc::new(self.processes.all_holders(open)?);
        *locked(&self.raw.held) = Some(Arc::clone(&found));
        Some(found)
    }

    /// The programs that hold a socket; we are none, since what we send does not come by the TUN.
    fn raw_programs(&self, holders: &Holders, socket: &Socket, sent: Instant) -> Vec<Arc<Identity>> {
        let programs = self.processes.programs_of(holders, socket, sent, Effort::Read);
        if programs.is_empty() {
            return vec![unattributed(Some(socket.uid))];
        }
        programs.into_iter().filter(|program| !self.is_us(program)).collect()
    }

    fn raw_closer(&self, closed: &RawSender, sent: Instant) -> Arc<Identity> {
        let alive = self.identity_of(&closed.sender, sent, Effort::Read);
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
        let is_finished = || self.router.flow(id).and_then(|flow| flow.parked().arrival()) == Some(Arrival::Finished);
        let is_raw = !tuple.protocol.has_ports() || !(is_led && tuple.protocol == Protocol::UDP) && is_finished();
        let sent = Sent { after: self.sent_after(is_led), by: sent };
        let senders = is_raw.then(|| self.attributor.raw_senders(tuple, sent)).flatten().unwrap_or_default();
        self.lanes.note_raw(id, senders.keys(), sent.after);
        if senders.is_empty() {
            return self.identified(id, &[unattributed(None)], now);
        }
        match self.attributor.only_raw_sender(&senders, sent.by) {
            Some(identity) => self.identified(id, &[identity], now),
            None => self.search_for(id, Origin::Raw(senders, sent), *tuple, now),
        }
    }

    /// Notes who can have sent a flow by raw sockets in the name of `owner`, the socket at its end, and says when: its first packet has its
    /// checksum finished, as a raw one must have and few others.
    pub(super) fn note_raw_beside(&mut self, id: FlowId, tuple: &FiveTuple, owner: &Socket, sent: Instant) -> Option<Sent> {
        let arrival = self.router.flow(id)?.parked().arrival()?;
        let sent = Sent { after: self.turn.sent_after(), by: sent };
        let senders = self.raw_beside(id, tuple, arrival, sent)?;
        let keys = std::iter::once(RawKey::Owner(owner.cookie)).chain(senders.keys());
        self.lanes.note_raw(id, keys.collect(), sent.after);
        Some(sent)
    }

    /// Whether a packet of a flow that was attributed to a socket may be a raw one's.
    pub(super) fn may_be_raw(&self, id: FlowId, tuple: &FiveTuple, arrival: Arrival, is_in_hand: bool, now: Instant) -> bool {
        let after = if is_in_hand { self.turn.sent_after() } else { 0 };
        self.raw_beside(id, tuple, arrival, Sent { after, by: now }).is_some()
    }

    /// Who can have sent a packet by raw sockets that seems to be of a socket's; None: nobody. Without notes of closed sockets that is not
    /// asked: every datagram that came in parts (`MSG_MORE`) would be nobody's.
    fn raw_beside(&self, id: FlowId, tuple: &FiveTuple, arrival: Arrival, sent: Sent) -> Option<RawSenders> {
        let is_led = self.lanes.link(id).is_some();
        if is_led || arrival != Arrival::Finished || !tuple.protocol.has_ports() || self.attributor.closed.is_none() {
            return None;
        }
        let senders = self.attributor.raw_senders(tuple, sent);
        senders.map_or(Some(RawSenders::default()), |senders| (!senders.is_empty()).then_some(senders))
    }

    /// The last of a flow's packets, or of those that came in another way than the flow's do: with their checksums finished, or without.
    pub(super) fn most_telling<'a>(&self, id: FlowId, packets: &'a [Kept]) -> Option<&'a Kept> {
        let is_raw = self.lanes.is_raw(id);
        packets.iter().rfind(|kept| (kept.arrival() == Arrival::Finished) != is_raw).or(packets.last())
    }

    /// When the packets in hand were sent at the earliest, in nanoseconds since boot.
    fn sent_after(&self, is_led: bool) -> u64 {
        let after = self.turn.sent_after();
        let waited = u64::try_from(NEIGHBOUR.as_nanos()).unwrap_or(u64::MAX);
        if is_led { after.min(since_boot().saturating_sub(waited)) } else { after }
    }

    /// Whether a datagram of a raw sockets' flow may be theirs, and theirs alone. `is_in_hand`: it came just now; else it may have been parked
    /// since the flow began.
    pub(super) fn is_still_raw(
        &mut self,
        id: FlowId,
        tuple: &FiveTuple,
        packet: Option<&IpPacket<'_>>,
        is_in_hand: bool,
        now: Instant,
    ) -> bool {
        let (attributor, came) = (&self.attributor, self.sent_after(self.lanes.link(id).is_some()));
        let has_owner = self.lanes.cookie(id.index()).is_some();
        let owner = || attributor.socket(tuple, None).map(|socket| RawKey::Owner(socket.cookie)).filter(|_| has_owner);
        packet.is_some_and(|packet| !tuple.protocol.has_ports() || packet.arrival() == Arrival::Finished)
            && self.lanes.still_raw(id, now, |began| {
                let after = if is_in_hand { came } else { began };
                let senders = attributor.raw_senders(tuple, Sent { after, by: now })?;
                Some(owner().into_iter().chain(senders.keys()).collect())
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::Options;

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

    #[test]
    fn where_closed_sockets_are_not_noted_nobody_is_known_to_have_sent_by_a_raw_one() {
        let attributor = Attributor::for_test(Arc::new(Processes::new(Options::default())));
        for (local, remote) in [("10.9.0.2:5", "192.0.2.1:80"), ("[fd09::2]:5", "[2001:db8::1]:80")] {
            let [local, remote] = [local, remote].map(|end| end.parse().expect("an address"));
            for protocol in [Protocol::TCP, Protocol::UDP, Protocol::ICMP] {
                let (tuple, sent) = (FiveTuple { protocol, local, remote }, Sent { after: 0, by: Instant::now() });
                assert_eq!(attributor.raw_senders(&tuple, sent), None);
                assert_eq!(attributor.search_raw(&tuple, sent), [unattributed(None)]);
            }
        }
    }
}
