//! First packets of new flows that wait for their turn.
//!
//! Keeps one rule: newcomers take turns by the network that they are for, and within it by the host, so that those who scan one host or one
//! network wait for each other; and those who go on crowding are let in at a measured pace, which leaves the machine's cores to the others.
//! Whoever is for a crowded network has its pace, but for questions to name servers, which are their own kind.

use std::cell::Cell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::turns::{Load, Turns};
use crate::packet::{FiveTuple, IpPacket, Kept};

/// Flows that wait, and the bytes of their packets together.
const PLACES: usize = 2048;
const MAX_BYTES: usize = 4 << 20;
/// Packets of one flow that wait.
const MOST_OF_ONE: usize = 64;
/// Newcomers for one host, or hosts of one network that newcomers are for, that are a crowd.
const CROWD: usize = 64;
/// The crowds' pace, one newcomer after the other: to judge one may cost 30 µs.
const CROWDS_PACE: Duration = Duration::from_micros(250);
/// What crowds may be ahead of it: a program may begin two thousand connections at once and wait for nothing.
const CROWDS_START: Duration = Duration::from_millis(500);
/// Name servers' port.
const NAMES: u16 = 53;

/// First packets of new flows.
pub(super) struct Newcomers {
    /// One place for each flow.
    turns: Turns<IpNet, IpAddr, FiveTuple>,
    /// What waits of each, in its order.
    packets: HashMap<FiveTuple, Waiting>,
    bytes: usize,
    put_off: usize,
    /// When the next one of a crowd would be due if none had come early.
    crowds_due: Option<Instant>,
}

/// Packets of one flow, and a time that the first of them was sent after, in nanoseconds since boot; 0: that is not known.
pub(super) type Waiting = (u64, Vec<Kept>);

impl Default for Newcomers {
    fn default() -> Self {
        Self { turns: Turns::new(PLACES), packets: HashMap::new(), bytes: 0, put_off: 0, crowds_due: None }
    }
}

impl Newcomers {
    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// When the next one may be let in; None where nobody waits.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let has_to_wait = !self.turns.has(is_no_crowd);
        let due = self.crowds_due.filter(|_| has_to_wait).and_then(|due| due.checked_sub(CROWDS_START));
        (!self.is_empty()).then(|| due.map_or(now, |due| due.max(now)))
    }

    /// How many packets have not been let in at once since the start.
    pub(super) fn put_off(&self) -> usize {
        self.put_off
    }

    /// Whether earlier packets of the same flow wait.
    pub(super) fn holds(&self, tuple: &FiveTuple) -> bool {
        self.packets.contains_key(tuple)
    }

    /// False where there is no place. The packet was sent after `since`.
    pub(super) fn push(&mut self, packet: &IpPacket<'_>, since: u64) -> bool {
        let (len, tuple) = (packet.bytes().len(), packet.tuple());
        self.put_off += 1;
        // Half of what is free, as with the places.
        if 2 * len > MAX_BYTES.saturating_sub(self.bytes) {
            return false;
        }
        let earlier = self.packets.get(&tuple).map(|(_, packets)| packets.len());
        let has_place = match earlier {
            Some(earlier) => earlier < MOST_OF_ONE,
            None => self.turns.push(asker_of(&tuple), tuple.remote.ip(), tuple),
        };
        if has_place {
            self.bytes += len;
            let (_, packets) = self.packets.entry(tuple).or_insert((since, Vec::new()));
            packets.push(Kept::new(packet.bytes(), packet.arrival()));
        }
        has_place
    }

    /// All that waits of the next flow.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Waiting> {
        let due = self.crowds_due.map_or(now, |due| due.max(now));
        let crowds_may = due <= now + CROWDS_START;
        let is_crowd = Cell::new(false);
        let tuple = self.turns.pop(|load| {
            is_crowd.set(!is_no_crowd(load));
            crowds_may || !is_crowd.get()
        })?;
        if is_crowd.get() {
            self.crowds_due = Some(due + CROWDS_PACE);
        }
        let (since, packets) = self.packets.remove(&tuple).unwrap_or_default();
        self.bytes = self.bytes.saturating_sub(packets.iter().map(|kept| kept.len()).sum());
        Some((since, packets))
    }
}

fn is_no_crowd(load: Load) -> bool {
    load.matters < CROWD && load.alike < CROWD
}

/// What one scan mostly stays within: 256 IPv4 addresses, or one site's IPv6 ones. A name server is asked whoever scans its network.
fn asker_of(tuple: &FiveTuple) -> IpNet {
    let host = tuple.remote.ip();
    let (every, len): (IpAddr, u8) =
        if host.is_ipv4() { (Ipv4Addr::UNSPECIFIED.into(), 24) } else { (Ipv6Addr::UNSPECIFIED.into(), 48) };
    let net = if tuple.remote.port() == NAMES { IpNet::new(every, 0) } else { IpNet::new(host, len) };
    net.map_or_else(|_| host.into(), |net| net.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Checksums, udp_datagram};
    use std::net::SocketAddr;

    /// A datagram of a flow of its own.
    fn datagram(from: usize, to: &str, len: usize) -> Vec<u8> {
        let (to, mut bytes): (SocketAddr, _) = (to.parse().expect("literal"), Vec::new());
        let from_ip: IpAddr = if to.is_ipv4() { "10.9.0.2" } else { "fd00::1" }.parse().expect("literal");
        let port = u16::try_from(from % 60_000).expect("small") + 1;
        udp_datagram(SocketAddr::new(from_ip, port), to, 64, &vec![7; len], &mut bytes);
        bytes
    }

    fn push(newcomers: &mut Newcomers, bytes: &[u8]) -> bool {
        newcomers
            .push(&IpPacket::parse(bytes, Checksums::Unfinished).expect("well-formed"), u64::try_from(bytes.len()).expect("few"))
    }

    /// Where the next one is going.
    fn pop(newcomers: &mut Newcomers, now: Instant) -> Option<SocketAddr> {
        let (_, packets) = newcomers.pop(now)?;
        Some(packets.first().expect("one at least").parse().expect("well-formed").tuple().remote)
    }

    /// Lets a crowd in until it has to wait.
    fn crowded(crowd: impl Fn(usize) -> String, now: Instant) -> (Newcomers, usize) {
        let (mut newcomers, mut at_once, mut from) = (Newcomers::default(), 0, 0..);
        let mut fill = |newcomers: &mut Newcomers| {
            while from.next().is_some_and(|from| push(newcomers, &datagram(from, &crowd(from), 20))) {}
        };
        fill(&mut newcomers);
        while newcomers.pop(now).is_some() {
            at_once += 1;
            fill(&mut newcomers);
        }
        (newcomers, at_once)
    }

    fn one_host(_: usize) -> String {
        "203.0.113.66:80".to_owned()
    }

    fn one_network(n: usize) -> String {
        format!("203.0.113.{}:80", n % 250 + 1)
    }

    #[test]
    fn a_scan_of_one_host_leaves_places_and_turns_to_other_hosts() {
        for (scanned, other) in [("203.0.113.66:80", "198.51.100.10:443"), ("[2001:db8::66]:80", "[2001:db9::10]:443")] {
            let (mut newcomers, now) = (Newcomers::default(), Instant::now());
            let taken = (0..3 * PLACES).filter(|from| push(&mut newcomers, &datagram(*from, scanned, 20))).count();
            assert_eq!(taken, PLACES / 4);
            assert!(push(&mut newcomers, &datagram(0, other, 20)));
            let order: Vec<String> = (0..3).filter_map(|_| pop(&mut newcomers, now)).map(|to| to.to_string()).collect();
            assert_eq!(order, [scanned, other, scanned]);
            while newcomers.pop(now).is_some() {}
            assert!(newcomers.is_empty() && newcomers.bytes == 0 && newcomers.next(now).is_none());
        }
    }

    #[test]
    fn what_waits_is_bounded_in_bytes_too() {
        let mut newcomers = Newcomers::default();
        let large = |from| datagram(from, "203.0.113.66:80", 60_000);
        let taken = (0..PLACES).filter(|from| push(&mut newcomers, &large(*from))).count();
        assert_eq!(taken, MAX_BYTES / large(0).len() - 1);
        assert!(push(&mut newcomers, &datagram(PLACES, "203.0.113.66:80", 20)), "small ones still find a place");
        assert!(newcomers.bytes <= MAX_BYTES);
    }

    #[test]
    fn a_scan_of_a_network_has_one_share_and_one_turn() {
        let (mut newcomers, now) = (Newcomers::default(), Instant::now());
        let taken = (0..2 * PLACES).filter(|n| push(&mut newcomers, &datagram(*n, &one_network(*n), 20))).count();
        assert!((PLACES / 3..=PLACES / 2).contains(&taken), "{taken}");
        assert!(push(&mut newcomers, &datagram(0, "198.51.100.10:443", 20)));
        let order: Vec<u16> = (0..2).filter_map(|_| pop(&mut newcomers, now)).map(|to| to.port()).collect();
        assert_eq!(order, [80, 443]);
    }

    #[test]
    fn what_waits_of_one_flow_is_let_in_together_and_takes_one_place() {
        let mut newcomers = Newcomers::default();
        let [one, other] = [1, 2].map(|from| move |len| datagram(from, "203.0.113.66:80", len));
        let tuple = IpPacket::parse(&one(1), Checksums::Unfinished).expect("well-formed").tuple();
        assert!(!newcomers.holds(&tuple));
        for len in 0..MOST_OF_ONE {
            assert!(push(&mut newcomers, &one(len)) && newcomers.holds(&tuple));
        }
        assert!(!push(&mut newcomers, &one(0)), "no more of one");
        assert!(push(&mut newcomers, &other(0)) && newcomers.turns.has(is_no_crowd));
        let (since, packets) = newcomers.pop(Instant::now()).expect("the first");
        assert_eq!(since, u64::try_from(one(0).len()).expect("few"), "the others came later");
        assert!((0..MOST_OF_ONE).map(one).eq(packets.iter().map(|kept| kept.to_vec())), "in their order");
        assert!(!newcomers.holds(&tuple) && !newcomers.is_empty());
        assert_eq!(newcomers.pop(Instant::now()).map(|(_, packets)| packets.len()), Some(1));
    }

    #[test]
    fn crowd_has_a_start_and_then_a_pace_and_nobody_else_waits_for_it() {
        for crowd in [one_host, one_network] {
            let now = Instant::now();
            let (mut newcomers, at_once) = crowded(crowd, now);
            assert!((2000..2100).contains(&at_once), "{at_once}");
            let next = newcomers.next(now).expect("they wait");
            assert!(now < next && next <= now + 2 * CROWDS_PACE);
            assert!(push(&mut newcomers, &datagram(0, "198.51.100.10:443", 20)) && newcomers.next(now) == Some(now));
            assert_eq!(pop(&mut newcomers, now).map(|to| to.port()), Some(443));
            assert!(newcomers.pop(now).is_none() && newcomers.pop(next).is_some() && newcomers.pop(next).is_none());
            let later = now + Duration::from_secs(1);
            assert_eq!(newcomers.next(later), Some(later), "who has waited may have a start again");
        }
    }

    #[test]
    fn whoever_is_for_another_host_or_a_name_server_need_not_wait_for_a_crowd_of_the_network() {
        let now = Instant::now();
        for (crowd, other) in [(one_host as fn(usize) -> String, "203.0.113.10:80"), (one_network, "203.0.113.10:53")] {
            let (mut newcomers, _) = crowded(crowd, now);
            assert!(push(&mut newcomers, &datagram(PLACES, other, 20)));
            assert_eq!(pop(&mut newcomers, now).map(|to| to.to_string()).as_deref(), Some(other));
        }
    }

    #[test]
    fn a_flow_that_goes_on_sending_leaves_the_rush_with_its_turn() {
        let now = Instant::now();
        let (mut newcomers, _) = crowded(one_host, now);
        let one = datagram(PLACES, "203.0.113.10:9000", 200);
        assert_eq!((0..100).filter(|_| push(&mut newcomers, &one)).count(), MOST_OF_ONE);
        assert_eq!(pop(&mut newcomers, now).map(|to| to.port()), Some(9000));
        let tuple = IpPacket::parse(&one, Checksums::Unfinished).expect("well-formed").tuple();
        assert!(!newcomers.holds(&tuple));
    }
}
