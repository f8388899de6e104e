//! Packets that programs send in fragments.
//!
//! Keeps one rule: a fragment reaches nobody; the packet that it is of does, once it is whole.

use std::time::Instant;

use super::Shard;
use crate::packet::{Arrival, Checksums, IpPacket};
use crate::router::Counter;

impl Shard {
    pub(super) fn on_fragment(&mut self, fragment: &[u8], now: Instant) {
        let router = &mut self.router;
        let whole = self.datagrams.fragments.take(fragment, now, &mut |why| router.count(Counter::Fragments(why)));
        let Some(whole) = whole else { return };
        // The kernel that cut it finished its checksum before.
        match IpPacket::parse(&whole, Checksums::Finished) {
            Ok(packet) => self.on_whole(&packet.arrived(Arrival::Fragments), now),
            Err(why) => self.router.count(Counter::Malformed(why)),
        }
    }
}
