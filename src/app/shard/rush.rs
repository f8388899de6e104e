//! A rush of new flows: their first packets wait, those of flows that are known do not.
//!
//! To judge a new flow costs as much as to carry twenty packets on, so a scan or a flood of one program would fill the TUN's queue, and
//! everybody's packets would be lost in it. Here the queue is emptied first. Keeps one rule: whoever is called by many newcomers keeps
//! them waiting; a newcomer to another host is next, or next but one.

use std::net::IpAddr;
use std::time::Instant;

use super::Shard;
use super::turns::Turns;
use crate::packet::{IpPacket, Kept, Transport};
use crate::router::{Counter, Input};

/// New flows in one batch that make a rush: more than programs begin at a time.
pub(super) const MANY: usize = 128;
/// In a rush, those that are judged before other packets have their turn again.
const AT_ONCE: usize = 8;
/// First packets that wait, and their bytes together.
const PLACES: usize = 2048;
const MAX_BYTES: usize = 4 << 20;

/// First packets of new flows, by the host that they are for.
pub(super) struct Rush {
    newcomers: Turns<IpAddr, Kept>,
    bytes: usize,
    put_off: usize,
}

impl Default for Rush {
    fn default() -> Self {
        Self { newcomers: Turns::new(PLACES), bytes: 0, put_off: 0 }
    }
}

impl Rush {
    pub(super) fn is_on(&self) -> bool {
        !self.newcomers.is_empty()
    }

    /// How many newcomers have not been let in at once since the start.
    pub(super) fn put_off(&self) -> usize {
        self.put_off
    }

    /// False where there is no place.
    fn push(&mut self, packet: &IpPacket<'_>) -> bool {
        let len = packet.bytes().len();
        self.put_off += 1;
        let kept = || Kept::new(packet.bytes(), packet.arrival());
        let is_in = self.bytes + len <= MAX_BYTES && self.newcomers.push(packet.tuple().remote.ip(), kept());
        self.bytes += if is_in { len } else { 0 };
        is_in
    }

    fn pop(&mut self) -> Option<Kept> {
        let kept = self.newcomers.pop()?;
        self.bytes = self.bytes.saturating_sub(kept.len());
        Some(kept)
    }
}

impl Shard {
    /// Whether a packet begins a flow that others are before.
    pub(super) fn must_wait(&self, packet: &IpPacket<'_>) -> bool {
        let is_rush = self.rush.is_on() || self.unidentified.len() >= MANY;
        is_rush && may_begin(packet) && self.router.find(&packet.tuple()).is_none()
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
        while self.unidentified.len() < AT_ONCE
            && let Some(kept) = self.rush.pop()
        {
            self.take_kept(&kept, now);
        }
    }

    pub(super) fn on_kept(&mut self, kept: &Kept, now: Instant) {
        let Ok(packet) = kept.parse() else { return };
        self.router.handle(Input::Packet(&packet), now);
        self.obey(Some(&packet), now);
    }
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
        for (scanned, other) in [("203.0.113.66:80", "203.0.113.10:443"), ("[2001:db8::66]:80", "[2001:db8::10]:443")] {
            let mut rush = Rush::default();
            let (one, last) = (datagram(scanned, 20), datagram(other, 20));
            assert_eq!((0..3 * PLACES).filter(|_| push(&mut rush, &one)).count(), PLACES / 2);
            assert!(push(&mut rush, &last));
            let order: Vec<bool> = (0..3).filter_map(|_| rush.pop()).map(|kept| *kept == *last).collect();
            assert_eq!(order, [false, true, false]);
            while rush.pop().is_some() {}
            assert!(!rush.is_on() && rush.bytes == 0);
        }
    }

    #[test]
    fn what_waits_is_bounded_in_bytes_too() {
        let mut rush = Rush::default();
        let large = datagram("203.0.113.66:80", 60_000);
        assert_eq!((0..PLACES).filter(|_| push(&mut rush, &large)).count(), MAX_BYTES / large.len());
        assert!(rush.bytes <= MAX_BYTES);
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
}
