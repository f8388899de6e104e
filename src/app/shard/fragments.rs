//! Packets that programs send in fragments.
//!
//! Keeps one rule: a fragment reaches nobody; the packet that it is of does, once it is whole.

use std::time::Instant;

use super::inbox::Stray;
use super::{Message, Shard};
use crate::packet::{Arrival, Checksums, IpPacket};
use crate::router::Counter;

impl Shard {
    pub(super) fn on_fragment(&mut self, fragment: &[u8], now: Instant) {
        let router = &mut self.router;
        let whole = self.datagrams.fragments.take(fragment, now, &mut |why| router.count(Counter::Fragments(why)));
        let Some(whole) = whole else { return };
        self.on_stray(Stray { packet: whole, from: self.index, has_travelled: false }, now);
    }

    /// Fragments have no ports, so the kernel may give them to another queue than the rest of their flow.
    pub(super) fn on_stray(&mut self, stray: Stray, now: Instant) {
        // The kernel that cut it finished its checksum before.
        let packet = match IpPacket::parse(&stray.packet, Checksums::Finished) {
            Ok(packet) => packet.arrived(Arrival::Fragments),
            Err(why) => return self.router.count(Counter::Malformed(why)),
        };
        let is_ours = self.router.find(&packet.tuple()).is_some() || (stray.from == self.index && stray.has_travelled);
        if is_ours || self.others.are_alone() {
            return self.on_whole(&packet, now);
        }
        if !self.others.send_next(self.index, Message::Whole(Stray { has_travelled: true, ..stray })) {
            self.router.count(Counter::HandOverFull);
        }
    }
}
