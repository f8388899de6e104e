//! Datagrams from a port that several sockets have: who sent this one.
//!
//! Theory of operation. The socket tables name the socket that would hear an answer, and any other one of the port may have sent the question
//! (`netlink::sockdiag::ports`). Where the kernel notes who sends by the TUN (`bpf::sent`), that costs one look at memory: mostly the socket of
//! the tables has sent alone, and nothing else is asked. Where another one sent alone, it is that one's flow. Where several sent at about the
//! same time, and where nothing is noted and the port has several sockets, the attribution thread looks for the holders of all, and
//! the strictest verdict holds.
//!
//! Keeps one rule: a flow stays its socket's, or that of its sockets, only as long as nobody else can have sent its datagrams.

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::Shard;
use super::holder::HELD;
use super::identify::{Attributor, unattributed};
use crate::app::shared::locked;
use crate::bpf::{LastSender, Sending};
use crate::flow::FlowId;
use crate::netlink::{MASK, PortUse};
use crate::packet::{Arrival, FiveTuple, IpPacket, Protocol, Signature};
use crate::process::{Identity, Socket};
use crate::procfs::Processes;
use crate::router::Input;

/// Fragments that are sent together come together, give or take; in nanoseconds.
const WAITED: u64 = 2_000_000_000;
/// Sockets of one port that are looked for. A program with more of them is nobody.
const MOST: usize = 64;
/// The counts of a namespace's sockets (net/ipv4/proc.c, `sockstat_seq_show`) are shorter.
const COUNTS_LEN: usize = 1024;

/// Of whom a datagram is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// The socket's that the tables name.
    Found,
    /// Another socket's of this port, which sent alone.
    Last(LastSender),
    /// Of any socket of this port.
    Any,
}

/// How it is known who sends.
pub(in crate::app) struct Senders {
    notes: Option<Sending>,
    /// The counts of UDP sockets of both IP versions in the programs' namespace, and how many of these are ours.
    counts: Option<[File; 2]>,
    ours: usize,
    /// The mark of our own sockets, which may have a program's port.
    mark: Option<u32>,
    ports: Mutex<Option<(Instant, Option<PortUse>)>>,
}

impl Senders {
    /// Of the programs behind a TUN. `ours`: UDP sockets of ours in their namespace, where no others of ours are.
    pub(in crate::app) fn watch(queue: Option<BorrowedFd<'_>>, mark: Option<u32>, ours: usize) -> Self {
        let notes = queue.map(Sending::watch).transpose();
        let notes =
            notes.inspect_err(|error| tracing::info!("who sends from a UDP port that several have is not noted: {error}"));
        Self { notes: notes.ok().flatten(), counts: None, ours, mark, ports: Mutex::default() }
    }

    /// Reads the counts of the namespace of this process.
    pub(super) fn count_of(mut self, processes: &Processes, netns_of: Option<u32>) -> Self {
        if self.notes.is_none() {
            let [v4, v6] = ["sockstat", "sockstat6"].map(|name| File::open(processes.net_dir(netns_of).join(name)).ok());
            self.counts = v4.zip(v6).map(|(v4, v6)| [v4, v6]);
        }
        self
    }

    pub(super) fn is_ours(&self, mark: u32) -> bool {
        self.mark.is_some_and(|ours| mark & MASK == ours)
    }

    /// Whether there is one UDP socket at most beside ours; two reads.
    fn has_one_socket(&self) -> bool {
        let Some([v4, v6]) = &self.counts else { return false };
        let counted = [(v4, "UDP: inuse "), (v6, "UDP6: inuse ")].map(|(file, line)| count(file, line));
        matches!(counted, [Some(v4), Some(v6)] if v4.saturating_add(v6) <= self.ours.saturating_add(1))
    }
}

fn count(file: &File, line: &str) -> Option<usize> {
    let mut text = [0; COUNTS_LEN];
    let len = file.read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(text.get(..len)?).ok()?;
    let counts = text.lines().find_map(|counts| counts.strip_prefix(line))?;
    counts.split(' ').next()?.parse().ok()
}

/// A closed socket, by its cookie, and who made it.
type Closer = (u64, Arc<Identity>);

impl Attributor {
    /// Of whom a datagram is that was sent after `after` (0: that is not known) and by `sent`, where the tables name this socket.
    pub(super) fn whose(&self, tuple: &FiveTuple, socket: &Socket, after: u64, sent: Instant) -> Whose {
        if tuple.protocol != Protocol::UDP {
            return Whose::Found;
        }
        let Some(notes) = &self.senders.notes else {
            return if self.has_one_sender(tuple, sent) { Whose::Found } else { Whose::Any };
        };
        let last = notes.last(tuple.local);
        match (is_alone(last, after), last.is(socket.cookie)) {
            (true, true) => Whose::Found,
            (true, false) if !last.is_nobody() => Whose::Last(last),
            (_, _) => Whose::Any,
        }
    }

    /// Whether it is noted that the socket with this cookie, and nobody else, has sent from a flow's port since `after`; 0: that is not known.
    pub(super) fn has_sent_alone(&self, tuple: &FiveTuple, cookie: u64, after: u64) -> bool {
        let last = self.senders.notes.as_ref().filter(|_| tuple.protocol == Protocol::UDP).map(|notes| notes.last(tuple.local));
        last.is_some_and(|last| last.is(cookie) && is_alone(last, after))
    }

    /// Whether one of these sockets may have sent a flow's packet, as far as is noted: no other socket of the port has sent since.
    pub(super) fn may_have_sent(&self, tuple: &FiveTuple, cookies: &[u64]) -> bool {
        let last = self.senders.notes.as_ref().filter(|_| tuple.protocol == Protocol::UDP).map(|notes| notes.last(tuple.local));
        last.is_none_or(|last| last.is_nobody() || cookies.iter().any(|cookie| last.is(*cookie)))
    }

    /// Whether the port of a flow had one socket at most at `sent` or later. All ports are looked at together, once for all packets of a batch.
    fn has_one_sender(&self, tuple: &FiveTuple, sent: Instant) -> bool {
        if self.senders.has_one_socket() {
            return true;
        }
        let mut known = locked(&self.senders.ports);
        if known.as_ref().is_none_or(|(at, _)| *at < sent) {
            let now = Instant::now();
            *known = Some((now, locked(&self.table).ports(|mark| self.senders.is_ours(mark)).ok()));
        }
        known.as_ref().and_then(|(_, ports)| ports.as_ref()).is_some_and(|ports| ports.is_ones(tuple.local.port()))
    }

    /// All sockets that may have sent a flow. None: these are not known, or too many.
    fn at_port(&self, tuple: &FiveTuple) -> Option<Vec<Socket>> {
        let mut sockets = locked(&self.table).owners(tuple).ok()?;
        sockets.retain(|socket| !self.senders.is_ours(socket.mark));
        sockets.sort_unstable_by_key(|socket| socket.cookie);
        (sockets.len() <= MOST).then_some(sockets)
    }

    /// The sockets that may have sent a datagram from a port that others have too, and, where it is closed, that which sent last, by its
    /// cookie, and who made it. `found`: the one that the tables name.
    pub(super) fn senders_of(&self, tuple: &FiveTuple, found: &Socket, whose: Whose) -> (Vec<Socket>, Option<Closer>) {
        let mut sockets = self.at_port(tuple).unwrap_or_default();
        let last = match whose {
            Whose::Last(last) => Some(last),
            Whose::Found | Whose::Any => self.senders.notes.as_ref().map(|notes| notes.last(tuple.local)),
        };
        let last = last.filter(|last| !last.is_nobody());
        let is_last = |socket: &Socket| last.is_some_and(|last| last.is(socket.cookie));
        let closed = last.filter(|_| !sockets.iter().any(is_last));
        if matches!(whose, Whose::Last(_)) {
            sockets.retain(is_last);
        }
        let closer = closed.map(|last| last.cookie_near(found.cookie)).map(|cookie| (cookie, self.closer(cookie)));
        (sockets, closer)
    }

    /// All who hold one of these sockets, and who closed one.
    pub(super) fn holders_of_all(&self, sockets: &[Socket], closer: Option<Closer>) -> Vec<Arc<Identity>> {
        let closer = closer.map(|(_, identity)| identity);
        let found = Processes::one_of(sockets.iter().flat_map(|socket| self.holders(socket)).chain(closer));
        if found.is_empty() { vec![unattributed(None)] } else { found }
    }

    /// Who made a socket that is closed by now; nobody where another process closed it.
    fn closer(&self, cookie: u64) -> Arc<Identity> {
        let sender = self.closed.as_ref().and_then(|closed| closed.maker(cookie));
        sender.map_or_else(|| unattributed(None), |sender| self.maker_of(&sender))
    }
}

fn is_alone(last: LastSender, after: u64) -> bool {
    after != 0 && last.is_alone_since(after)
}

impl Shard {
    /// When a packet in hand was sent at the earliest; 0: that is not known.
    pub(super) fn noted_after(&self, arrival: Option<Arrival>) -> u64 {
        // The first fragment may have waited for the others.
        let waited = if arrival == Some(Arrival::Fragments) { WAITED } else { 0 };
        self.turn.sent_after().saturating_sub(waited)
    }

    /// Of whom the first packet of a flow is, where the tables name this socket.
    pub(super) fn whose(&mut self, id: FlowId, tuple: &FiveTuple, socket: &Socket, sent: Instant) -> Whose {
        let after = self.note_when_sent(id);
        self.attributor.whose(tuple, socket, after, sent)
    }

    /// Remembers when the first packets of a flow were sent at the earliest, and says so.
    pub(super) fn note_when_sent(&mut self, id: FlowId) -> u64 {
        let arrival = self.router.flow(id).and_then(|flow| flow.parked().arrival());
        let after = self.noted_after(arrival);
        if let Some(holder) = self.lanes.holder_mut(id) {
            holder.sent_after = after;
        }
        after
    }

    /// Whether a datagram of a flow is still of those that it was attributed to; without one in hand it was parked. None: the tables are to
    /// be asked.
    pub(super) fn is_still_sent(
        &mut self,
        id: FlowId,
        tuple: &FiveTuple,
        in_hand: Option<&IpPacket<'_>>,
        signature: Option<Signature>,
        now: Instant,
    ) -> Option<bool> {
        let noted = in_hand.map(|packet| self.noted_after(Some(packet.arrival())));
        let attributor = &self.attributor;
        let holder = self.lanes.holder_mut(id).filter(|_| tuple.protocol == Protocol::UDP)?;
        let (socket, _) = holder.socket?;
        // What is parked came at any time since the first.
        let after = noted.unwrap_or(holder.sent_after);
        let is_due = now.saturating_duration_since(holder.seen) >= HELD;
        let last = attributor.senders.notes.as_ref().map(|notes| notes.last(tuple.local));
        if holder.senders.is_empty() {
            let alone = match last {
                Some(last) => is_alone(last, after) && last.is(socket),
                None if holder.is_signed_by_another(signature) => attributor.has_one_sender(tuple, now),
                None => !is_due || attributor.has_one_sender(tuple, now.checked_sub(HELD)?),
            };
            return if alone { None } else { Some(false) };
        }
        let is_one = last.is_none_or(|last| holder.senders.iter().any(|sender| last.is(*sender)));
        if is_one && last.is_some_and(|last| is_alone(last, after)) {
            return Some(true);
        }
        if !is_one && last.is_some_and(|last| !last.is_nobody()) {
            return Some(false);
        }
        if is_due {
            let cookies = attributor.at_port(tuple)?.iter().map(|socket| socket.cookie).collect::<Box<[u64]>>();
            if cookies != holder.senders {
                return Some(false);
            }
            holder.seen = now;
        }
        Some(true)
    }
}

impl Shard {
    /// A datagram of a flow that was refused: nobody who shares its port is refused for what another one sent.
    pub(super) fn refuse_again(&mut self, id: FlowId, packet: Option<&IpPacket<'_>>, reply: &[u8], now: Instant) {
        let Some(packet) = packet.filter(|packet| self.is_anothers(id, packet)) else {
            if !reply.is_empty() {
                self.reply_by(self.came_by, reply);
            }
            return;
        };
        self.router.handle(Input::Forgotten(id), now);
        self.handle_anew(packet, now);
    }

    /// Whether it is noted that another socket sent this than those that its flow was attributed to, and alone.
    fn is_anothers(&self, id: FlowId, packet: &IpPacket<'_>) -> bool {
        let last = self.attributor.senders.notes.as_ref().map(|notes| notes.last(packet.tuple().local));
        self.is_of_another(id, packet) && last.is_some_and(|last| is_alone(last, self.noted_after(Some(packet.arrival()))))
    }

    /// Whether another socket of the port than those that a flow was attributed to sent last.
    pub(super) fn is_of_another(&self, id: FlowId, packet: &IpPacket<'_>) -> bool {
        let tuple = packet.tuple();
        let Some((holder, notes)) = self.lanes.holder(id).zip(self.attributor.senders.notes.as_ref()) else { return false };
        let Some((socket, _)) = holder.socket.filter(|_| tuple.protocol == Protocol::UDP) else { return false };
        let last = notes.last(tuple.local);
        let is_known =
            if holder.senders.is_empty() { last.is(socket) } else { holder.senders.iter().any(|sender| last.is(*sender)) };
        !is_known && !last.is_nobody()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_counted_by_their_own_line_and_a_count_that_cannot_be_read_is_none() {
        let read = |text: &str, line| {
            let mut file = tempfile::tempfile().expect("a file");
            std::io::Write::write_all(&mut file, text.as_bytes()).expect("written");
            count(&file, line)
        };
        let text = "sockets: used 9\nTCP: inuse 1 orphan 0 tw 0 alloc 1 mem 0\nUDP: inuse 3 mem 2\nUDPLITE: inuse 8\n";
        assert_eq!(read(text, "UDP: inuse "), Some(3));
        assert_eq!(read(text, "UDP6: inuse "), None);
        assert_eq!(read("UDP: inuse many\n", "UDP: inuse "), None);
    }

    #[test]
    fn a_datagram_is_the_sockets_alone_only_where_nobody_else_may_have_the_port() {
        let senders = |counts: [&str; 2], ours| {
            let files = counts.map(|text| {
                let mut file = tempfile::tempfile().expect("a file");
                std::io::Write::write_all(&mut file, text.as_bytes()).expect("written");
                file
            });
            Senders { counts: Some(files), ..Senders::watch(None, None, ours) }
        };
        assert!(senders(["UDP: inuse 3\n", "UDP6: inuse 0\n"], 2).has_one_socket());
        assert!(!senders(["UDP: inuse 3\n", "UDP6: inuse 1\n"], 2).has_one_socket());
        assert!(!senders(["UDP: inuse 1\n", ""], 2).has_one_socket(), "half of them are not known");
        assert!(!Senders::watch(None, None, 5).has_one_socket(), "nothing is known");
        let ours = Senders::watch(None, Some(0x2a00_0000), 0);
        assert!(ours.is_ours(0x2a10_0001) && !ours.is_ours(0x2b00_0000) && !ours.is_ours(0));
        assert!(!Senders::watch(None, None, 0).is_ours(0));
    }
}
