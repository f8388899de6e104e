//! Who owns a flow: inline where that takes microseconds, else by the attribution thread.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::Shard;
use super::jobs::{Job, Origin};
use super::raw::RawTables;
use super::senders::{Senders, Whose};
use crate::app::shared::locked;
use crate::bpf::ClosedSockets;
use crate::flow::FlowId;
use crate::netlink::{SocketTable, Translations};
use crate::packet::{FiveTuple, IpPacket, Protocol, Transport};
use crate::process::{Confidence, Identity, Socket, Tag};
use crate::procfs::Processes;
use crate::router::{Counter, Input};

/// The kernel's socket tables and /proc.
pub(in crate::app) struct Attributor {
    pub(super) table: Mutex<SocketTable>,
    /// Where this host's own rules act on what comes to us.
    translations: Option<Mutex<Translations>>,
    pub(super) processes: Arc<Processes>,
    /// Whose /proc/PID/net lists the programs' ICMP and raw sockets; None: ours.
    pub(super) netns_of: Option<u32>,
    pub(super) raw: RawTables,
    /// Who made sockets, and who closed UDP and raw ones, where the kernel tells.
    pub(super) closed: Option<ClosedSockets>,
    /// What is not known without them, and why.
    without: Option<String>,
    pub(super) senders: Senders,
    us: u32,
}

impl Attributor {
    /// `ours`: the inodes of our own raw sockets.
    pub(in crate::app) fn new(
        table: SocketTable,
        processes: Arc<Processes>,
        netns_of: Option<u32>,
        ours: Vec<u64>,
        senders: Senders,
    ) -> Self {
        let (closed, without) = match ClosedSockets::watch(table.as_fd()) {
            Ok(closed) => (Some(closed), None),
            Err(error) => (None, Some(format!("UDP sockets that are closed at once and all raw sockets are nobody's: {error}"))),
        };
        without.iter().for_each(|note| tracing::info!("{note}"));
        let translations = if netns_of.is_none() { Translations::open().map(Mutex::new).ok() } else { None };
        let (raw, us) = (RawTables::but_of(ours), std::process::id());
        let senders = senders.count_of(&processes, netns_of);
        Self { table: Mutex::new(table), translations, processes, netns_of, raw, closed, without, senders, us }
    }

    /// What is not known here, for those who ask what is judged.
    pub(in crate::app) fn note(&self) -> Option<String> {
        self.without.clone()
    }

    /// One whom the kernel tells of no closed sockets.
    #[cfg(test)]
    pub(in crate::app) fn for_test(processes: Arc<Processes>) -> Self {
        let table = Mutex::new(SocketTable::open().expect("a socket"));
        Self {
            table,
            translations: None,
            processes,
            netns_of: None,
            raw: RawTables::default(),
            closed: None,
            without: None,
            senders: Senders::watch(None, None, 0),
            us: std::process::id(),
        }
    }

    /// The socket behind a flow, by the kernel's tables. `link`: the one that its program named.
    pub(in crate::app) fn socket(&self, tuple: &FiveTuple, link: Option<u32>) -> Option<Socket> {
        // A table that fails to answer is as good as one without an answer: nobody, which is refused by default.
        self.look(tuple, link).unwrap_or_default()
    }

    /// The same; an error: whether there is one is not known.
    pub(super) fn look(&self, tuple: &FiveTuple, link: Option<u32>) -> io::Result<Option<Socket>> {
        if tuple.protocol.has_ports() {
            let found = locked(&self.table).by_link(link, |table| table.owner(tuple))?;
            let written = if found.is_none() { self.as_written(tuple, link) } else { None };
            written.map_or(Ok(found), |written| locked(&self.table).owner(&written))
        } else {
            Ok(self.processes.ping_owner(tuple, self.netns_of))
        }
    }

    /// Whether the process behind one of these identities is the server at an address of this host. May take a millisecond.
    pub(in crate::app) fn is_server(&self, identities: &[Arc<Identity>], server: SocketAddr) -> bool {
        let at = |protocol| locked(&self.table).server(protocol, server).unwrap_or_default();
        let sockets = [Protocol::UDP, Protocol::TCP].map(at);
        sockets.iter().flatten().any(|socket| identities.iter().any(|identity| self.processes.holds(identity, socket)))
    }

    /// The same with its holder, where that can be said in microseconds. We are nobody: what we send does not come by the TUN, but an
    /// upstream socket of ours may have got the port of a program's closed one.
    pub(super) fn look_with_holder(
        &self,
        tuple: &FiveTuple,
        link: Option<u32>,
        sent: Instant,
    ) -> io::Result<Option<(Socket, Option<Arc<Identity>>)>> {
        let Some(socket) = self.look(tuple, link)? else { return Ok(None) };
        let holder = self.quick(&socket, sent);
        Ok((!holder.as_deref().is_some_and(|holder| self.is_us(holder))).then_some((socket, holder)))
    }

    /// Whether a flow's socket is still there, as far as is known.
    pub(in crate::app) fn is_there(&self, tuple: &FiveTuple, link: Option<u32>) -> bool {
        let is_there = locked(&self.table).by_link(link, |table| table.is_there(tuple)).unwrap_or(true);
        let written = || self.as_written(tuple, link);
        is_there || written().is_some_and(|written| locked(&self.table).is_there(&written).unwrap_or(true))
    }

    /// The ends that a program wrote, where rules of this host have changed them since. Of TCP alone, whose sockets have both ends: the
    /// port of a datagram from behind this host may be that of any program here.
    fn as_written(&self, tuple: &FiveTuple, link: Option<u32>) -> Option<FiveTuple> {
        let translations = self.translations.as_ref().filter(|_| link.is_none() && tuple.protocol == Protocol::TCP);
        locked(translations?).as_written(tuple).ok().flatten()
    }

    /// Whether a datagram that seems to be of this socket was sent from behind this host: a rule gave it an address of ours, and the port
    /// may be that of any program here.
    fn is_from_behind(&self, tuple: &FiveTuple, link: Option<u32>, socket: &Socket, own: &[IpAddr]) -> bool {
        let is_sure = link.is_some() || tuple.protocol != Protocol::UDP || socket.confidence == Confidence::Exact;
        let Some(translations) = self.translations.as_ref().filter(|_| !is_sure) else { return false };
        // What is not known is not ours.
        let written = locked(translations).as_written(tuple);
        !written.is_ok_and(|written| written.is_none_or(|written| is_among(own, written.local.ip())))
    }

    /// Has conntrack forget the conversation that a program's UDP port had with the other end of a flow before it came by us; whether there
    /// was one. What a socket still says to that end alone goes on beside the TUN.
    pub(super) fn forget_older(&self, tuple: &FiveTuple, own: &[IpAddr]) -> bool {
        let Some(translations) = &self.translations else { return false };
        let forget = |address: &IpAddr| -> io::Result<bool> {
            let before = FiveTuple { local: SocketAddr::new(*address, tuple.local.port()), ..*tuple };
            let is_connected = |socket: Socket| socket.confidence == Confidence::Exact;
            if locked(&self.table).owner(&before)?.is_some_and(is_connected) {
                return Ok(false);
            }
            let mut translations = locked(translations);
            let is_older = translations.mark(&before)?.is_some_and(|mark| !self.senders.is_ours(mark));
            Ok(is_older && translations.forget(&before)?)
        };
        let same_family = own.iter().filter(|address| address.is_ipv4() == tuple.local.is_ipv4());
        same_family.filter(|address| **address != tuple.local.ip()).any(|address| forget(address).unwrap_or(false))
    }

    /// Ends the socket of a TCP flow that comes by this link, if it is named, and has this cookie, if one is named.
    pub(super) fn abort(&self, tuple: &FiveTuple, link: Option<u32>, cookie: Option<u64>) {
        let destroyed = locked(&self.table).by_link(link, |table| match cookie {
            Some(cookie) => table.destroy_one(tuple, cookie),
            None => table.destroy(tuple),
        });
        if let Err(error) = destroyed {
            tracing::debug!("the program is not told that {tuple} is refused: {error}");
        }
    }

    /// Whether the socket at these very ends is the one with this cookie, be it nobody's any more.
    pub(super) fn is_at(&self, tuple: &FiveTuple, cookie: u64) -> bool {
        locked(&self.table).owner(tuple).is_ok_and(|socket| socket.is_some_and(|socket| socket.cookie == cookie))
    }

    /// Whether a program still has the connection with this cookie.
    pub(super) fn holds(&self, tuple: &FiveTuple, cookie: u64) -> bool {
        locked(&self.table).holds(tuple, cookie).unwrap_or(true)
    }

    pub(super) fn is_us(&self, identity: &Identity) -> bool {
        identity.pid == Some(self.us)
    }

    /// The program closes this socket: its descriptor is the next that the program gets.
    pub(super) fn closing(&self, cookie: u64) {
        self.processes.closing(cookie);
    }

    /// The program got an answer at this socket, or all that its peer has to say, and may close it now.
    pub(super) fn answered(&self, cookie: u64) {
        self.processes.answered(cookie);
    }
}

impl Shard {
    /// Asks who owns a flow whose packet had been sent by the time of `sent`.
    pub(super) fn identify(&mut self, id: FlowId, sent: Instant, now: Instant) {
        let Some(tuple) = self.router.flow(id).map(|flow| flow.tuple) else { return };
        let link = self.lanes.link(id).map(|header| header.link);
        // What names a link is led here on its way out of a socket of this host, by whatever address: it may have it since just now.
        if link.is_none() && !self.is_own(tuple.local.ip()) {
            self.lanes.note_holder(id, None, now);
            let forwarded = Arc::new(Identity::tagged(Tag::FORWARDED, None));
            return self.identified(id, &[forwarded], now);
        }
        let looked = self.attributor.look_with_holder(&tuple, link, sent);
        if let Ok(Some((socket, _))) = &looked
            && self.attributor.is_from_behind(&tuple, link, socket, &self.own_addresses)
        {
            self.lanes.note_holder(id, None, now);
            return self.identified(id, &[unattributed(None)], now);
        }
        let last_word = match &looked {
            Ok(Some(_)) => None,
            Ok(None) => self.likely_sender_of_last_word(id, &tuple),
            Err(_) => self.noted_sender_of_last_word(id, &tuple),
        };
        if let Some((sender, socket)) = last_word {
            self.lanes.note_holder(id, Some(&socket), now);
            self.note_when_sent(id);
            self.lanes.note_closed(id);
            return match self.attributor.known_maker(&sender, sent) {
                Some(maker) => self.identified(id, &[maker], now),
                None => self.search_for(id, Origin::Closed(sender), tuple, now),
            };
        }
        let (socket, holder) = looked.unwrap_or_default().unzip();
        self.lanes.note_holder(id, socket.as_ref(), now);
        if let Some(socket) = socket {
            let whose = self.whose(id, &tuple, &socket, sent);
            match (self.note_raw_beside(id, &tuple, &socket, sent), whose) {
                (Some(sent), whose) => return self.search_for(id, Origin::Either(socket, whose, sent), tuple, now),
                (None, Whose::Last(_) | Whose::Any) => return self.search_for(id, Origin::Port(socket, whose), tuple, now),
                (None, Whose::Found) => {}
            }
        }
        if let Some(holder) = holder.flatten() {
            return self.identified(id, &[holder], now);
        }
        match socket {
            Some(socket) => self.search_for(id, Origin::Socket(socket), tuple, now),
            // Without a socket of its own it is a raw one's, or nobody's.
            None => self.identify_raw(id, &tuple, sent, now),
        }
    }

    /// Has the attribution thread search for a flow's owner.
    pub(super) fn search_for(&mut self, id: FlowId, of: Origin, tuple: FiveTuple, now: Instant) {
        let link = self.lanes.link(id).map(|header| header.link);
        if !self.jobs.push(Job { flow: id, of, tuple, link }) {
            // As if lost in a full queue: what is worth saying is said again, and may find a place then.
            self.router.count(Counter::HandOverFull);
            self.tell_hand_over();
            self.router.handle(Input::Ended { flow: id, outcome: "not attributed" }, now);
        }
    }

    /// An answer goes to the program. With the first one most flows of datagrams are over, and the program closes its socket.
    pub(super) fn note_answer(&self, id: FlowId) {
        if self.router.flow(id).is_some_and(|flow| flow.bytes_down == 0)
            && let Some(cookie) = self.lanes.cookie(id.index())
        {
            self.attributor.answered(cookie);
        }
    }

    /// Whether datagrams of a flow still come from the socket that it was attributed to. What another socket sends is another flow.
    /// `is_in_hand`: see [`Self::is_still_raw`].
    pub(super) fn is_still_held(&mut self, id: FlowId, packet: Option<&IpPacket<'_>>, is_in_hand: bool, now: Instant) -> bool {
        let Some(tuple) = self.router.flow(id).map(|flow| flow.tuple) else { return false };
        if self.lanes.is_raw(id) {
            if packet.is_some_and(|packet| self.is_of_another(id, packet)) {
                return false;
            }
            return self.is_still_raw(id, &tuple, packet, is_in_hand, now);
        }
        if let Some(closed) = self.lanes.closed(id) {
            let after = packet.filter(|_| is_in_hand).map(|packet| self.noted_after(Some(packet.arrival())));
            let parked = || self.lanes.holder(id).map_or(0, |holder| holder.sent_after);
            return self.is_last_word_of(closed, &tuple, packet, after.unwrap_or_else(parked), now);
        }
        if packet.is_some_and(|packet| self.may_be_raw(id, &tuple, packet.arrival(), is_in_hand, now)) {
            return false;
        }
        let signature = packet.and_then(IpPacket::signature);
        if let Some(is_still_sent) = self.is_still_sent(id, &tuple, packet.filter(|_| is_in_hand), signature, now) {
            return is_still_sent;
        }
        let link = self.lanes.link(id).map(|header| header.link);
        let forwarded = link.is_none() && !self.is_own(tuple.local.ip());
        let (attributor, own) = (&self.attributor, &self.own_addresses);
        let ask = || attributor.socket(&tuple, link).filter(|socket| !attributor.is_from_behind(&tuple, link, socket, own));
        let held = self.lanes.still_held(id, signature, now, || if forwarded { None } else { ask() });
        // Nobody else can have the ends of a connection that is in TIME-WAIT without a SYN.
        let goes_on = || packet.is_some_and(|packet| matches!(packet.transport(), Transport::Tcp(segment) if !segment.opens()));
        held || goes_on() && matches!(attributor.look(&tuple, link), Ok(None)) && attributor.is_there(&tuple, link)
    }

    pub(super) fn is_own(&self, address: IpAddr) -> bool {
        is_among(&self.own_addresses, address)
    }

    pub(super) fn on_identities(&mut self, id: FlowId, identities: &[Arc<Identity>], is_closed: bool, now: Instant) {
        if is_closed {
            self.lanes.note_closed(id);
        } else {
            self.note_if_closed(id);
        }
        let is_kernel = |identity: &Arc<Identity>| identity.tags.iter().any(|tag| tag.0 == Tag::KERNEL);
        if identities.iter().any(is_kernel) && self.router.flow(id).is_some_and(|flow| flow.tuple.protocol == Protocol::UDP) {
            self.lanes.note_tunnel(id);
        }
        self.identified(id, identities, now);
        self.obey(None, now);
    }

    pub(super) fn identified(&mut self, id: FlowId, identities: &[Arc<Identity>], now: Instant) {
        let Some(remote) = self.router.flow(id).map(|flow| flow.tuple.remote.ip()) else { return };
        let owners = self.shared.owners(identities, remote, now);
        self.router.handle(Input::Identified { flow: id, owners }, now);
    }
}

/// Nothing is known of the host's addresses before the first report; then nothing is called forwarded.
fn is_among(own: &[IpAddr], address: IpAddr) -> bool {
    own.is_empty() || own.contains(&address) || address.is_loopback()
}

pub(super) fn unattributed(uid: Option<u32>) -> Arc<Identity> {
    Arc::new(Identity::tagged(Tag::UNATTRIBUTED, uid))
}
