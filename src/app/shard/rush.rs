//! A rush of new flows: their first packets wait, those of flows that are known do not.
//!
//! To judge a new flow costs as much as to carry twenty packets on, so a scan or a flood of one program would fill the TUN's queue, and
//! everybody's packets would be lost in it. Here the queue is emptied first. Keeps one rule: newcomers take turns by the network that they
//! are for, and within it by the host, so that those who scan one host or one network wait for each other; and a network whose newcomers go
//! on crowding is let in at a measured pace, which leaves the machine's cores to the others.

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::Shard;
use super::turns::{Load, Turns};
use crate::packet::{FiveTuple, IpPacket, Kept, Transport};
use crate::router::{Counter, Input};

/// Packets read in a row before the flows that they touched are pumped.
pub(super) const BATCH: usize = 32;
/// As many more may be read in a rush, of first packets that have to wait.
const MOST_PUT_OFF: usize = 512;
/// New flows in one batch that make a rush: more than programs begin at a time.
const MANY: usize = 128;
/// In a rush, those that are judged before other packets have their turn again.
const AT_ONCE: usize = 8;
/// First packets that wait, and their bytes together.
const PLACES: usize = 2048;
const MAX_BYTES: usize = 4 << 20;

/// Newcomers for one host, or hosts of one network that newcomers are for, that are a crowd.
const CROWD: usize = 64;
/// The crowds' pace, one newcomer after the other: to judge one may cost 30 µs.
const CROWDS_PACE: Duration = Duration::from_micros(250);
/// What crowds may be ahead of it: a program may begin two thousand connections at once and wait for nothing.
const CROWDS_START: Duration = Duration::from_millis(500);

/// First packets of new flows, by the host that they are for.
pub(super) struct Rush {
    /// When the next newcomer of a crowd would be due if none had come early.
    crowds_due: Option<Instant>,
    newcomers: Turns<IpNet, IpAddr, Kept>,
    /// How many packets wait of a flow that others of it are not to overtake.
    of_flow: HashMap<FiveTuple, usize>,
    bytes: usize,
    put_off: usize,
}

impl Default for Rush {
    fn default() -> Self {
        Self { crowds_due: None, newcomers: Turns::new(PLACES), of_flow: HashMap::new(), bytes: 0, put_off: 0 }
    }
}

impl Rush {
    pub(super) fn is_on(&self) -> bool {
        !self.newcomers.is_empty()
    }

    /// When the next newcomer may be let in; None where nobody waits, or somebody need not.
    pub(super) fn next(&self) -> Option<Instant> {
        let only_crowds = self.is_on() && !self.newcomers.has(is_no_crowd);
        self.crowds_due.filter(|_| only_crowds).and_then(|due| due.checked_sub(CROWDS_START))
    }

    /// Whether one may be let in at once.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.is_on() && self.next().is_none_or(|at| at <= now)
    }

    /// How many newcomers have not been let in at once since the start.
    pub(super) fn put_off(&self) -> usize {
        self.put_off
    }

    /// False where there is no place.
    fn push(&mut self, packet: &IpPacket<'_>) -> bool {
        let (len, tuple) = (packet.bytes().len(), packet.tuple());
        self.put_off += 1;
        // Half of what is free, as with the places.
        if 2 * len > MAX_BYTES.saturating_sub(self.bytes) {
            return false;
        }
        let remote = tuple.remote.ip();
        let is_in = self.newcomers.push(network_of(remote), remote, Kept::new(packet.bytes(), packet.arrival()));
        if is_in {
            self.bytes += len;
            *self.of_flow.entry(tuple).or_default() += 1;
        }
        is_in
    }

    fn pop(&mut self, now: Instant) -> Option<Kept> {
        let due = self.crowds_due.map_or(now, |due| due.max(now));
        let crowds_may = due <= now + CROWDS_START;
        let is_crowd = Cell::new(false);
        let kept = self.newcomers.pop(|load| {
            is_crowd.set(!is_no_crowd(load));
            crowds_may || !is_crowd.get()
        })?;
        if is_crowd.get() {
            self.crowds_due = Some(due + CROWDS_PACE);
        }
        self.bytes = self.bytes.saturating_sub(kept.len());
        if let Ok(tuple) = kept.parse().map(|packet| packet.tuple())
            && let Some(waiting) = self.of_flow.get_mut(&tuple)
        {
            *waiting -= 1;
            if *waiting == 0 {
                self.of_flow.remove(&tuple);
            }
        }
        Some(kept)
    }

    /// Whether earlier packets of the same flow wait.
    fn holds(&self, tuple: &FiveTuple) -> bool {
        self.of_flow.contains_key(tuple)
    }
}

impl Shard {
    /// Reads a batch from the TUN.
    pub(super) fn read_tun(&mut self, now: Instant) -> io::Result<()> {
        // Newcomers cost little before they are judged, and those that are put off nothing; the queue is emptied of them.
        let (mut reads, before) = (0, self.rush.put_off());
        while reads < BATCH + self.unidentified.len().min(MANY) + self.rush.put_off().saturating_sub(before).min(MOST_PUT_OFF) {
            reads += 1;
            let mut buffer = self.held.buffer();
            let read = self.tun.read(&mut buffer);
            let len = *read.as_ref().unwrap_or(&0);
            if read.is_ok() {
                self.held.can_keep = true;
                self.take_packet(buffer.get(..len).unwrap_or(&[]), now);
                self.held.can_keep = false;
            }
            self.held.give_back(buffer, len);
            if self.held.is_full() {
                self.send_all_held(now);
            }
            match read {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.tun_ready = false;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether a packet begins a flow that others are before.
    pub(super) fn must_wait(&self, packet: &IpPacket<'_>) -> bool {
        let is_rush = self.rush.is_on() || self.unidentified.len() >= MANY;
        is_rush && may_begin(packet) && (self.rush.holds(&packet.tuple()) || self.router.find(&packet.tuple()).is_none())
    }

    /// Keeps the first packet of a new flow until its turn comes. Without a place it is lost; its program will send another, as after
    /// any loss.
    pub(super) fn keep_waiting(&mut self, packet: &IpPacket<'_>) {
        if !self.rush.push(packet) {
            self.router.count(Counter::RushOut);
        }
    }

    /// Lets the next newcomers in.
    pub(super) fn let_in(&mut self, now: Instant) {
        // Those that are turned down at once count, too.
        for _ in self.unidentified.len()..AT_ONCE {
            let Some(kept) = self.rush.pop(now) else { return };
            self.take_kept(&kept, now);
        }
    }

    pub(super) fn on_kept(&mut self, kept: &Kept, now: Instant) {
        let Ok(packet) = kept.parse() else { return };
        self.router.handle(Input::Packet(&packet), now);
        self.obey(Some(&packet), now);
    }
}

/// What one scan mostly stays within: 256 IPv4 addresses, or one site's IPv6 ones.
fn network_of(host: IpAddr) -> IpNet {
    IpNet::new(host, if host.is_ipv4() { 24 } else { 48 }).map_or_else(|_| host.into(), |net| net.trunc())
}

fn is_no_crowd(load: Load) -> bool {
    load.matters < CROWD && load.alike < CROWD
}

fn may_begin(packet: &IpPacket<'_>) -> bool {
    match packet.transport() {
        Transport::Tcp(segment) => segment.opens(),
        Transport::Udp(_) | Transport::Echo(_) => true,
        Transport::Icmp { .. } | Transport::Other => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Checksums, udp_datagram};

    fn datagram(to: &str, len: usize) -> Vec<u8> {
        let (to, mut bytes): (std::net::SocketAddr, _) = (to.parse().expect("literal"), Vec::new());
        let from = if to.is_ipv4() { "10.9.0.2:4000" } else { "[fd00::1]:4000" };
        udp_datagram(from.parse().expect("literal"), to, 64, &vec![7; len], &mut bytes);
        bytes
    }

    fn push(rush: &mut Rush, bytes: &[u8]) -> bool {
        rush.push(&IpPacket::parse(bytes, Checksums::Unfinished).expect("well-formed"))
    }

    #[test]
    fn a_scan_of_one_host_leaves_places_and_turns_to_other_hosts() {
        for (scanned, other) in [("203.0.113.66:80", "198.51.100.10:443"), ("[2001:db8::66]:80", "[2001:db9::10]:443")] {
            let mut rush = Rush::default();
            let (one, last) = (datagram(scanned, 20), datagram(other, 20));
            assert_eq!((0..3 * PLACES).filter(|_| push(&mut rush, &one)).count(), PLACES / 4);
            assert!(push(&mut rush, &last));
            let order: Vec<bool> = (0..3).filter_map(|_| rush.pop(Instant::now())).map(|kept| *kept == *last).collect();
            assert_eq!(order, [false, true, false]);
            while rush.pop(Instant::now()).is_some() {}
            assert!(!rush.is_on() && rush.bytes == 0 && rush.of_flow.is_empty());
        }
    }

    #[test]
    fn what_waits_is_bounded_in_bytes_too() {
        let mut rush = Rush::default();
        let large = datagram("203.0.113.66:80", 60_000);
        assert_eq!((0..PLACES).filter(|_| push(&mut rush, &large)).count(), MAX_BYTES / large.len() - 1);
        assert!(push(&mut rush, &datagram("203.0.113.66:80", 20)) && rush.bytes <= MAX_BYTES, "small ones still find a place");
    }

    #[test]
    fn only_what_may_begin_a_flow_is_kept_waiting() {
        let of = |bytes: &[u8]| may_begin(&IpPacket::parse(bytes, Checksums::Unfinished).expect("well-formed"));
        assert!(of(&datagram("203.0.113.66:80", 20)));
        for (syn, ack) in [(true, false), (false, true), (true, true)] {
            let builder = etherparse::PacketBuilder::ipv4([10, 9, 0, 2], [203, 0, 113, 10], 64).tcp(4000, 443, 7, 1000);
            let builder = if syn { builder.syn() } else { builder };
            let builder = if ack { builder.ack(1) } else { builder };
            let mut bytes = Vec::new();
            builder.write(&mut bytes, &[]).expect("a vector takes everything");
            assert_eq!(of(&bytes), syn && !ack);
        }
    }

    #[test]
    fn a_scan_of_a_network_has_one_share_and_one_turn() {
        let mut rush = Rush::default();
        let scanned = |n: usize| datagram(&format!("203.0.113.{}:{}", n % 250 + 1, n / 250 + 1), 20);
        let taken = (0..2 * PLACES).filter(|n| push(&mut rush, &scanned(*n))).count();
        assert!((PLACES / 3..=PLACES / 2).contains(&taken), "{taken}");
        let other = datagram("198.51.100.10:443", 20);
        assert!(push(&mut rush, &other));
        assert_eq!(
            (0..2).filter_map(|_| rush.pop(Instant::now())).map(|kept| *kept == *other).collect::<Vec<_>>(),
            [false, true]
        );
    }

    #[test]
    fn datagrams_of_a_flow_that_waits_are_not_overtaken() {
        let mut rush = Rush::default();
        let one = datagram("203.0.113.66:80", 20);
        let tuple = IpPacket::parse(&one, Checksums::Unfinished).expect("well-formed").tuple();
        assert!(!rush.holds(&tuple) && push(&mut rush, &one) && push(&mut rush, &one));
        assert!(rush.pop(Instant::now()).is_some() && rush.holds(&tuple), "the second still waits");
        assert!(rush.pop(Instant::now()).is_some() && !rush.holds(&tuple));
    }

    #[test]
    fn crowd_has_a_start_and_then_a_pace_and_nobody_else_waits_for_it() {
        let crowds = [|n: usize| format!("203.0.113.66:{}", n + 1), |n: usize| format!("203.0.113.{}:{}", n % 250, n + 1)];
        for crowd in crowds {
            let (mut rush, now) = (Rush::default(), Instant::now());
            let mut begun = 0..;
            let mut fill = |rush: &mut Rush| while push(rush, &datagram(&crowd(begun.next().expect("endless")), 20)) {};
            let mut at_once = 0;
            while rush.pop(now).is_some() || at_once == 0 {
                at_once += 1;
                fill(&mut rush);
            }
            assert!((2000..2100).contains(&at_once), "{at_once}");
            let next = rush.next().expect("they have to wait");
            assert!(!rush.is_due(now) && rush.is_due(next) && next <= now + 2 * CROWDS_PACE);
            let other = datagram("198.51.100.10:443", 20);
            assert!(push(&mut rush, &other) && rush.is_due(now));
            assert_eq!(rush.pop(now).map(|kept| *kept == *other), Some(true));
            assert!(rush.pop(now).is_none() && rush.pop(next).is_some() && rush.pop(next).is_none());
        }
    }

    #[test]
    fn one_newcomer_beside_a_crowd_of_its_network_need_not_wait() {
        let (mut rush, now) = (Rush::default(), Instant::now());
        let (one, other) = (datagram("203.0.113.66:80", 20), datagram("203.0.113.10:80", 20));
        while push(&mut rush, &one) && rush.pop(now).is_some() {
            while push(&mut rush, &one) {}
        }
        while rush.pop(now).is_some() {
            assert!(push(&mut rush, &one));
        }
        assert!(push(&mut rush, &other));
        assert_eq!(rush.pop(now).map(|kept| *kept == *other), Some(true));
    }
}
