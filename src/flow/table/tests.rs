//! The table's bounds, its slots and its tuples.

use std::net::SocketAddr;

use super::*;
use crate::packet::Protocol;

fn table(flows: usize, seed: u64) -> Table {
    Table::new(Amounts { flows, pending: 64, parked: 1 << 20 }, seed)
}

fn tuple(port: u16, remote: &str) -> FiveTuple {
    let remote: SocketAddr = remote.parse().expect("literal");
    let local = if remote.is_ipv4() { ([10, 9, 0, 2], port).into() } else { ([0xfd00u16, 0, 0, 0, 0, 0, 0, 2], port).into() };
    FiveTuple { protocol: Protocol::TCP, local, remote }
}

#[test]
fn a_reused_slot_is_another_flow() {
    let now = Instant::now();
    for remote in ["203.0.113.10:443", "[2001:db8::10]:443"] {
        let mut table = table(8, 1);
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
    let mut table = table(1, 1);
    assert!(table.open(tuple(1, "203.0.113.10:443"), Service::Relay, now).is_some());
    assert!(table.open(tuple(2, "203.0.113.10:443"), Service::Relay, now).is_none());
}

#[test]
fn a_flow_that_ended_gives_its_place_and_its_tuple_back() {
    for remote in ["203.0.113.10:443", "[2001:db8::10]:443"] {
        let mut table = table(1, 1);
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
    let mut table = table(8, 1);
    let own = tuple(1, "203.0.113.10:443");
    table.open(own, Service::Relay, Instant::now()).expect("room");
    assert_eq!(table.find(&FiveTuple { protocol: Protocol::UDP, ..own }), None);
    assert_eq!(table.find(&FiveTuple { local: own.remote, remote: own.local, ..own }), None);
}

#[test]
fn flows_are_listed_in_the_order_of_their_slots_whatever_the_seed() {
    for seed in [0, 1, u64::MAX] {
        let mut table = table(8, seed);
        (1..=8).for_each(|port| assert!(table.open(tuple(port, "203.0.113.10:443"), Service::Relay, Instant::now()).is_some()));
        let ports: Vec<u16> = table.iter().map(|flow| flow.tuple.local.port()).collect();
        assert_eq!(ports, [1, 2, 3, 4, 5, 6, 7, 8]);
    }
}
