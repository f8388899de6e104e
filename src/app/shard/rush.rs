//! A rush of new flows: their first packets wait, those of flows that are known do not.
//!
//! To judge a new flow costs as much as to carry twenty packets on, so a scan or a flood of one program would fill the TUN's queue, and
//! everybody's packets would be lost in it. Keeps one rule: the queue is emptied first, and newcomers have turns (`newcomers`).

use std::io;
use std::time::Instant;

use super::Shard;
use crate::bpf::since_boot;
use crate::packet::{IpPacket, Kept, Transport};
use crate::router::{Counter, Input};

/// Packets read in a row before the flows that they touched are pumped.
pub(super) const BATCH: usize = 32;
/// As many more may be read in a rush, of first packets that have to wait.
const MOST_PUT_OFF: usize = 512;
/// New flows in one batch that make a rush: more than programs begin at a time.
const MANY: usize = 128;
/// In a rush, those that are judged before other packets have their turn again.
const AT_ONCE: usize = 8;

/// In nanoseconds: whoever sleeps is woken up by the first packet so soon at the latest, on a machine that is as busy as can be, too.
const WOKEN: u64 = 1_000_000_000;

/// What is known of the turn of the loop that is under way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Turn {
    /// When the TUN's queue was seen empty before it, in nanoseconds since boot; 0: that was never.
    emptied_before: u64,
    /// The same in it.
    emptied: u64,
    /// The same before the turn that read those of its packets which have waited in places of their own; None: there are none.
    waited_since: Option<u64>,
}

impl Turn {
    /// A look for events that began at `since` saw no packets.
    pub(super) fn saw_none(&mut self, since: u64) {
        self.emptied_before = self.emptied_before.max(since);
    }

    /// Before this turn nothing was waited for but events, until `now`.
    pub(super) fn slept(&mut self, now: u64) {
        self.emptied_before = self.emptied_before.max(now.saturating_sub(WOKEN));
    }

    /// All its packets were sent after that; 0: that is not known.
    pub(super) fn sent_after(self) -> u64 {
        self.waited_since.map_or(self.emptied_before, |since| since.min(self.emptied_before))
    }

    /// Packets that were sent after `since`, and have waited in places of their own, are among its packets.
    pub(super) fn takes_waiting(&mut self, since: u64) {
        self.waited_since = Some(self.waited_since.map_or(since, |other| other.min(since)));
    }

    /// What is read from now on was sent after the queue was empty.
    pub(super) fn end(&mut self) {
        *self = Self { emptied_before: self.emptied_before.max(self.emptied), ..Self::default() };
    }
}

impl Shard {
    /// Reads a batch from the TUN.
    pub(super) fn read_tun(&mut self, now: Instant) -> io::Result<()> {
        let begin = since_boot();
        // Newcomers cost little before they are judged, and those that are put off nothing; the queue is emptied of them.
        let (mut reads, before) = (0, self.newcomers.put_off());
        while reads
            < BATCH + self.unidentified.len().min(MANY) + self.newcomers.put_off().saturating_sub(before).min(MOST_PUT_OFF)
        {
            reads += 1;
            let mut buffer = self.held.buffer();
            let read = self.tun.read(&mut buffer);
            let len = *read.as_ref().unwrap_or(&0);
            if read.is_ok() {
                self.held.can_keep = true;
                self.take_packet(buffer.get_mut(..len).unwrap_or(&mut []), now);
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
                    self.turn.emptied = begin;
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
        let is_rush = !self.newcomers.is_empty() || self.unidentified.len() >= MANY;
        is_rush && may_begin(packet) && (self.newcomers.holds(&packet.tuple()) || self.router.find(&packet.tuple()).is_none())
    }

    /// Keeps the first packet of a new flow until its turn comes. Without a place it is lost; its program will send another, as after
    /// any loss.
    pub(super) fn keep_waiting(&mut self, packet: &IpPacket<'_>) {
        if !self.newcomers.push(packet, self.turn.sent_after()) {
            self.router.count(Counter::RushOut);
        }
    }

    /// Lets the next newcomers in.
    pub(super) fn let_in(&mut self, now: Instant) {
        // Those that are turned down at once count, too.
        for _ in self.unidentified.len()..AT_ONCE {
            let Some((since, packets)) = self.newcomers.pop(now) else { return };
            self.turn.takes_waiting(since);
            for kept in &packets {
                self.take_kept(kept, now);
            }
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
        Transport::Unwanted(_) | Transport::Icmp | Transport::Other => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Checksums, udp_datagram};

    #[test]
    fn packets_were_sent_after_the_queue_was_empty_before_the_turn_that_read_them() {
        let mut turn = Turn { emptied: 5, ..Turn::default() };
        assert_eq!(turn.sent_after(), 0, "this turn's were there before");
        turn.end();
        turn.emptied = 9;
        assert_eq!(turn.sent_after(), 5);
        for (since, after) in [(4, 4), (2, 2), (3, 2)] {
            turn.takes_waiting(since);
            assert_eq!(turn.sent_after(), after, "some have waited since an earlier turn");
        }
        turn.end();
        assert_eq!(turn.sent_after(), 9);
        turn.end();
        assert_eq!(turn.sent_after(), 9, "it was not emptied in between");
        turn.saw_none(11);
        turn.saw_none(10);
        assert_eq!(turn.sent_after(), 11);
    }

    #[test]
    fn who_slept_was_woken_up_within_a_second_by_a_packet() {
        let after = |now| {
            let mut turn = Turn { emptied_before: WOKEN, ..Turn::default() };
            turn.slept(now);
            turn.sent_after()
        };
        assert_eq!(after(2 * WOKEN), WOKEN, "it may have been sent as soon as it was looked for");
        assert_eq!(after(9 * WOKEN), 8 * WOKEN);
    }

    #[test]
    fn only_what_may_begin_a_flow_is_kept_waiting() {
        let of = |bytes: &[u8]| may_begin(&IpPacket::parse(bytes, Checksums::Unfinished).expect("well-formed"));
        let [from, to] = ["10.9.0.2:4000", "203.0.113.66:80"].map(|end| end.parse().expect("literal"));
        let mut bytes = Vec::new();
        udp_datagram(from, to, 64, &[7; 20], &mut bytes);
        assert!(of(&bytes));
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
