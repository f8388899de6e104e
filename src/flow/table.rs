//! The flow table: five-tuple → flow, bounded.

use std::collections::HashMap;
use std::time::Instant;

use foldhash::fast::FixedState;
use slab::Slab;

use crate::names::{Asker, Sighting};
use crate::packet::FiveTuple;
use crate::profile::Subject;
use crate::verdict::{Decision, Permit};

/// A flow's place in the table and its serial number, which is never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId {
    index: usize,
    serial: u64,
}

impl FlowId {
    /// The slot, reused after the flow's end: fit for tables that run beside this one.
    #[must_use]
    pub fn index(self) -> usize {
        self.index
    }

    /// The number that records show.
    #[must_use]
    pub fn serial(self) -> u64 {
        self.serial
    }
}

/// What carries an accepted flow on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// An upstream socket.
    Relay,
    /// The embedded DNS server: port 53, judged question by question.
    Dns,
}

/// Where a flow stands.
///
/// | state | packets from the program | leaves by |
/// |---|---|---|
/// | Identifying | parked | an identity |
/// | Asking | parked | an answer, the deadline, a policy change |
/// | Opening | parked | the upstream socket's fate |
/// | Open | delivered | either end, idleness, a policy change |
/// | Refused | answered again, unparked | idleness, a policy change |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Identifying,
    Asking,
    Opening,
    Open,
    Refused,
}

/// One program that holds the flow's socket.
#[derive(Clone, Debug)]
pub struct Owner {
    pub subject: Subject,
    /// The key of its sightings.
    pub asker: Asker,
    /// The names by which it knows the remote address.
    pub names: Vec<Sighting>,
}

/// Packets that wait for a verdict.
#[derive(Clone, Debug, Default)]
pub struct Parked {
    packets: Vec<Box<[u8]>>,
    bytes: usize,
}

impl Parked {
    /// A TCP flow parks its SYN alone; a datagram flow what a program sends before it can have an answer.
    const MAX_PACKETS: usize = 16;
    const MAX_BYTES: usize = 64 * 1024;

    /// Keeps a copy of `packet`; false when this flow has parked enough.
    #[must_use]
    pub fn push(&mut self, packet: &[u8]) -> bool {
        if self.packets.len() >= Self::MAX_PACKETS || self.bytes + packet.len() > Self::MAX_BYTES {
            return false;
        }
        self.bytes += packet.len();
        self.packets.push(packet.into());
        true
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

    /// Empties the place.
    #[must_use]
    pub fn take(&mut self) -> Vec<Box<[u8]>> {
        self.bytes = 0;
        std::mem::take(&mut self.packets)
    }
}

/// One conversation of any protocol.
#[derive(Debug)]
pub struct Flow {
    pub id: FlowId,
    pub tuple: FiveTuple,
    pub service: Service,
    pub state: State,
    pub started: Instant,
    pub last_active: Instant,
    /// Empty until identified; several when the socket is shared, then the strictest verdict holds.
    pub owners: Vec<Owner>,
    /// Which of `owners` the decision is about.
    pub decided_by: usize,
    pub decision: Option<Decision>,
    pub permit: Option<Permit>,
    pub parked: Parked,
    pub bytes_up: u64,
    pub bytes_down: u64,
    pub rtt_us: Option<u32>,
    /// When the router's timer for this flow runs out.
    pub deadline: Option<Instant>,
}

impl Flow {
    /// The owner that the decision is about.
    #[must_use]
    pub fn owner(&self) -> Option<&Owner> {
        self.owners.get(self.decided_by)
    }
}

/// All flows of one shard.
#[derive(Debug)]
pub struct Table {
    flows: Slab<Flow>,
    by_tuple: HashMap<FiveTuple, FlowId, FixedState>,
    next_serial: u64,
    capacity: usize,
}

impl Table {
    /// A table of at most `capacity` flows. `seed` keeps programs from choosing five-tuples that collide.
    #[must_use]
    pub fn new(capacity: usize, seed: u64) -> Self {
        Self { flows: Slab::new(), by_tuple: HashMap::with_hasher(FixedState::with_seed(seed)), next_serial: 1, capacity }
    }

    /// Opens a flow; None when the table is full.
    pub fn open(&mut self, tuple: FiveTuple, service: Service, now: Instant) -> Option<FlowId> {
        if self.is_full() {
            return None;
        }
        let entry = self.flows.vacant_entry();
        let id = FlowId { index: entry.key(), serial: self.next_serial };
        self.next_serial += 1;
        entry.insert(Flow {
            id,
            tuple,
            service,
            state: State::Identifying,
            started: now,
            last_active: now,
            owners: Vec::new(),
            decided_by: 0,
            decision: None,
            permit: None,
            parked: Parked::default(),
            bytes_up: 0,
            bytes_down: 0,
            rtt_us: None,
            deadline: None,
        });
        self.by_tuple.insert(tuple, id);
        Some(id)
    }

    #[must_use]
    pub fn find(&self, tuple: &FiveTuple) -> Option<FlowId> {
        self.by_tuple.get(tuple).copied()
    }

    /// The flow, unless it has ended.
    #[must_use]
    pub fn flow(&self, id: FlowId) -> Option<&Flow> {
        self.flows.get(id.index).filter(|flow| flow.id == id)
    }

    pub fn flow_mut(&mut self, id: FlowId) -> Option<&mut Flow> {
        self.flows.get_mut(id.index).filter(|flow| flow.id == id)
    }

    pub fn close(&mut self, id: FlowId) -> Option<Flow> {
        self.flow(id)?;
        let flow = self.flows.remove(id.index);
        self.by_tuple.remove(&flow.tuple);
        Some(flow)
    }

    /// Every flow, in the order of its slot.
    pub fn iter(&self) -> impl Iterator<Item = &Flow> {
        self.flows.iter().map(|(_, flow)| flow)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    #[must_use]
    pub fn is_full(&self) -> bool {
        self.flows.len() >= self.capacity
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::packet::Protocol;

    fn tuple(port: u16, remote: &str) -> FiveTuple {
        let remote: SocketAddr = remote.parse().expect("literal");
        let local = if remote.is_ipv4() { ([10, 9, 0, 2], port).into() } else { ([0xfd00u16, 0, 0, 0, 0, 0, 0, 2], port).into() };
        FiveTuple { protocol: Protocol::TCP, local, remote }
    }

    #[test]
    fn a_reused_slot_is_another_flow() {
        let now = Instant::now();
        for remote in ["203.0.113.10:443", "[2001:db8::10]:443"] {
            let mut table = Table::new(8, 1);
            let first = table.open(tuple(1, remote), Service::Relay, now).expect("room");
            assert!(table.close(first).is_some());
            let second = table.open(tuple(2, remote), Service::Relay, now).expect("room");
            assert_eq!(first.index(), second.index());
            assert!(table.flow(first).is_none());
            assert!(table.close(first).is_none());
            assert_eq!(table.find(&tuple(2, remote)), Some(second));
        }
    }

    #[test]
    fn a_full_table_refuses() {
        let now = Instant::now();
        let mut table = Table::new(1, 1);
        assert!(table.open(tuple(1, "203.0.113.10:443"), Service::Relay, now).is_some());
        assert!(table.open(tuple(2, "203.0.113.10:443"), Service::Relay, now).is_none());
    }

    #[test]
    fn a_flow_that_ended_gives_its_place_and_its_tuple_back() {
        for remote in ["203.0.113.10:443", "[2001:db8::10]:443"] {
            let mut table = Table::new(1, 1);
            for serial in 1..=3 {
                let id = table.open(tuple(1, remote), Service::Relay, Instant::now()).expect("room");
                assert_eq!((id.serial(), table.len(), table.is_full()), (serial, 1, true));
                assert_eq!(table.close(id).map(|flow| flow.tuple), Some(tuple(1, remote)));
                assert_eq!(table.find(&tuple(1, remote)), None);
                assert!(table.is_empty() && !table.is_full());
            }
        }
    }

    #[test]
    fn the_same_addresses_under_another_protocol_or_the_other_way_round_are_another_flow() {
        let mut table = Table::new(8, 1);
        let own = tuple(1, "203.0.113.10:443");
        table.open(own, Service::Relay, Instant::now()).expect("room");
        assert_eq!(table.find(&FiveTuple { protocol: Protocol::UDP, ..own }), None);
        assert_eq!(table.find(&FiveTuple { local: own.remote, remote: own.local, ..own }), None);
    }

    #[test]
    fn flows_are_listed_in_the_order_of_their_slots_whatever_the_seed() {
        for seed in [0, 1, u64::MAX] {
            let mut table = Table::new(8, seed);
            (1..=8)
                .for_each(|port| assert!(table.open(tuple(port, "203.0.113.10:443"), Service::Relay, Instant::now()).is_some()));
            let ports: Vec<u16> = table.iter().map(|flow| flow.tuple.local.port()).collect();
            assert_eq!(ports, [1, 2, 3, 4, 5, 6, 7, 8]);
        }
    }

    #[test]
    fn parking_is_bounded_by_packets_and_by_bytes() {
        let mut parked = Parked::default();
        assert!((0..Parked::MAX_PACKETS).all(|_| parked.push(&[0; 100])));
        assert!(!parked.push(&[0; 100]));
        let mut parked = Parked::default();
        assert!(parked.push(&[0; 60_000]));
        assert!(!parked.push(&[0; 60_000]));
        assert_eq!(parked.take().len(), 1);
        assert_eq!(parked.bytes(), 0);
    }
}
