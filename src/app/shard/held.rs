//! Large segments of a batch wait for each other in the buffers that they were read into, and leave together.
//!
//! Every call to a socket may wake up whoever reads at the other end, and costs the more the less it carries; and bytes that are copied
//! into a ring on their way push other flows' bytes out of the core's cache. Keeps one rule: what is held leaves before anything that
//! came after it in its flow, and no later than its batch ends.

use std::io;
use std::time::Instant;

use smoltcp::wire::TcpControl;

use super::lanes::{Lane, Upstream};
use super::{PACKET_MAX, Shard, Sink};
use crate::egress::failure_of;
use crate::flow::FlowId;
use crate::packet::{Checksums, IpPacket, Transport, VNET_HEADER_LEN};
use crate::stack::MOST_TOGETHER;

/// The first of several has at least so many bytes; smaller packets are better sent by the ring.
const LARGE: usize = 8192;
/// The longest headers of a segment that says nothing.
const HEADERS: usize = 120;

/// The buffers of one batch.
#[derive(Default)]
pub(super) struct Held {
    list: Vec<Segment>,
    /// Those of the flow at hand.
    leaving: Vec<Segment>,
    free: Vec<Box<[u8]>>,
    /// The packet in hand lies in a buffer that can be kept.
    pub(super) can_keep: bool,
    wanted: Option<FlowId>,
}

struct Segment {
    id: FlowId,
    buffer: Box<[u8]>,
    len: usize,
}

impl Segment {
    fn packet(&self) -> Option<IpPacket<'_>> {
        IpPacket::parse(self.buffer.get(VNET_HEADER_LEN..self.len)?, Checksums::Unfinished).ok()
    }
}

impl Held {
    /// A buffer to read into.
    pub(super) fn buffer(&mut self) -> Box<[u8]> {
        self.free.pop().unwrap_or_else(|| vec![0; PACKET_MAX].into_boxed_slice())
    }

    /// Takes a buffer back whose packet of `len` bytes has been dealt with, or is to be kept.
    pub(super) fn give_back(&mut self, buffer: Box<[u8]>, len: usize) {
        match self.wanted.take() {
            Some(id) => self.list.push(Segment { id, buffer, len }),
            None => self.free.push(buffer),
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.list.len() >= MOST_TOGETHER
    }

    /// The place of the flow whose segment came first.
    pub(super) fn first(&self) -> Option<usize> {
        self.list.first().map(|segment| segment.id.index())
    }

    fn has(&self, id: FlowId) -> bool {
        self.list.iter().any(|segment| segment.id == id)
    }

    /// Lets go of everything that is still here.
    pub(super) fn clear(&mut self) {
        let free = &mut self.free;
        free.extend(self.list.drain(..).map(|segment| segment.buffer));
    }
}

impl Shard {
    /// Whether a segment is to leave with others, at the end of the batch.
    pub(super) fn holds(&mut self, id: FlowId, packet: &IpPacket<'_>) -> bool {
        let len = packet.bytes().len();
        if !self.held.can_keep || self.held.is_full() || !(len >= LARGE || len > HEADERS && self.held.has(id)) {
            return false;
        }
        let Transport::Tcp(segment) = packet.transport() else { return false };
        let Some(Lane::Tcp(lane)) = self.lanes.lane(id.index()) else { return false };
        let goes_on = lane.writable && lane.broken.is_none() && matches!(lane.upstream, Upstream::Open(_));
        let holds = goes_on && segment.has_ack && matches!(segment.control, TcpControl::None | TcpControl::Psh);
        if holds {
            self.held.wanted = Some(id);
        }
        holds
    }

    /// Sends what is held of a flow. What its socket does not take goes into the ring.
    pub(super) fn send_held(&mut self, slot: usize, now: Instant) {
        let Some(Lane::Tcp(lane)) = self.lanes.lane_mut(slot) else { return };
        let (id, Upstream::Open(stream)) = (lane.id, &lane.upstream) else { return };
        if !self.held.has(id) {
            return;
        }
        let mut leaving = std::mem::take(&mut self.held.leaving);
        leaving.extend(self.held.list.extract_if(.., |segment| segment.id == id));
        let packets = leaving.iter().filter_map(Segment::packet);
        let mut error = None;
        let passed = self.stack.pass(slot, packets.clone(), |bytes| {
            let written = stream.write_all_of(bytes);
            written.unwrap_or_else(|why| {
                error = Some(why);
                0
            })
        });
        match error {
            Some(error) if error.kind() == io::ErrorKind::WouldBlock => lane.writable = false,
            Some(error) => (lane.broken, lane.readable, lane.hung_up) = (Some((failure_of(&error), now)), true, true),
            None => {}
        }
        if passed.bytes > 0 {
            lane.carried += passed.bytes;
            self.router.account(id, passed.bytes, 0, now);
        }
        for packet in packets.skip(passed.packets) {
            self.stack.input(slot, packet.bytes(), &mut Sink(&self.tun), now);
        }
        self.held.free.extend(leaving.drain(..).map(|segment| segment.buffer));
        self.held.leaving = leaving;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_that_is_not_kept_serves_again_and_a_kept_one_does_when_its_batch_ends() {
        let (mut held, id) = (Held::default(), FlowId::for_test(3, 1));
        for _ in 0..3 {
            let buffer = held.buffer();
            assert_eq!(buffer.len(), PACKET_MAX);
            held.give_back(buffer, 100);
        }
        assert_eq!((held.free.len(), held.has(id)), (1, false));
        for _ in 0..MOST_TOGETHER {
            assert!(!held.is_full());
            let buffer = held.buffer();
            held.wanted = Some(id);
            held.give_back(buffer, 100);
        }
        assert!(held.is_full() && held.has(id) && !held.has(FlowId::for_test(3, 2)));
        held.clear();
        assert_eq!((held.free.len(), held.has(id), held.is_full()), (MOST_TOGETHER, false, false));
    }

    #[test]
    fn what_is_kept_is_read_again_as_it_came_and_garbage_is_nothing() {
        let segment = |bytes: &[u8], len: usize| {
            let mut buffer = vec![0; PACKET_MAX].into_boxed_slice();
            buffer.iter_mut().skip(VNET_HEADER_LEN).zip(bytes).for_each(|(to, from)| *to = *from);
            Segment { id: FlowId::for_test(3, 1), buffer, len }
        };
        let mut bytes = Vec::new();
        let tcp = etherparse::PacketBuilder::ipv4([10, 9, 0, 2], [203, 0, 113, 10], 64).tcp(40_000, 443, 7, 1000).ack(9);
        tcp.write(&mut bytes, b"payload").expect("a vector takes everything");
        let whole = segment(&bytes, VNET_HEADER_LEN + bytes.len());
        assert_eq!(whole.packet().expect("a packet").bytes(), bytes);
        for (bytes, len) in [(&bytes[..], 20), (&bytes[..], 5), (&[0xff; 40][..], 50)] {
            assert!(segment(bytes, len).packet().is_none());
        }
    }
}
