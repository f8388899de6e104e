//! Packets that wait for a verdict.

use crate::packet::{Arrival, Kept};

/// The packets of one flow that wait, in the order in which they came.
#[derive(Clone, Debug, Default)]
pub struct Parked {
    packets: Vec<Kept>,
    bytes: usize,
}

impl Parked {
    /// A TCP flow parks its SYN alone; a datagram flow what a program sends before it can have an answer.
    const MAX_PACKETS: usize = 128;
    /// The largest packet of all fits: an IPv6 header and what its length field can count.
    const MAX_BYTES: usize = 40 + 65_535;

    /// Whether this flow may park so many bytes more.
    #[must_use]
    pub fn has_room(&self, len: usize) -> bool {
        self.packets.len() < Self::MAX_PACKETS && self.bytes + len <= Self::MAX_BYTES
    }

    /// Keeps a copy of `packet`; false when this flow has parked enough.
    #[must_use]
    pub fn push(&mut self, packet: &[u8], arrival: Arrival) -> bool {
        let room = self.has_room(packet.len());
        if room {
            self.bytes += packet.len();
            self.packets.push(Kept::new(packet, arrival));
        }
        room
    }

    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The packet that opened the flow.
    #[must_use]
    pub fn first(&self) -> Option<&[u8]> {
        self.packets.first().map(|p| &**p)
    }

    /// How the packet came that opened the flow.
    #[must_use]
    pub fn arrival(&self) -> Option<Arrival> {
        self.packets.first().map(Kept::arrival)
    }

    /// Empties the place.
    #[must_use]
    pub fn take(&mut self) -> Vec<Kept> {
        self.bytes = 0;
        std::mem::take(&mut self.packets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parking_is_bounded_by_packets_and_by_bytes() {
        let mut parked = Parked::default();
        assert!((0..Parked::MAX_PACKETS).all(|_| parked.push(&[0; 100], Arrival::Whole)));
        assert!(!parked.push(&[0; 100], Arrival::Whole));
        let mut parked = Parked::default();
        assert!(parked.push(&[0; 60_000], Arrival::Whole));
        assert!(!parked.push(&[0; 60_000], Arrival::Whole));
        assert_eq!(parked.take().len(), 1);
        assert_eq!(parked.bytes(), 0);
    }
}
