//! One flow of a stack may have more bytes in flight than the others.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::by_hand::{ByHand, written};
use super::flight::in_flight;
use super::*;
use crate::packet::stream_bytes;
use crate::stack::{DOWN_RING, NARROW};

/// A peer with much room.
fn roomy(v6: bool, bytes: &[u8]) -> ByHand {
    let now = Instant::now();
    let line = Line::with_room(Stack::new(7, now), now, v6, 40_000, Weather::default(), 2 * DOWN_RING);
    ByHand::of(shaken_hands(line), v6, bytes)
}

/// Draws until nothing more may fly; the bytes that went out.
fn fill(peer: &mut ByHand) -> Vec<u8> {
    written(&mut peer.caught);
    while peer.try_draw() {}
    let packets = written(&mut peer.caught);
    packets.iter().flat_map(|packet| stream_bytes(packet).unwrap_or_default().to_vec()).collect()
}

fn is_wide(peer: &ByHand) -> bool {
    peer.line.stack.connections[SLOT].as_ref().is_some_and(|connection| connection.numbers.flight.is_wide())
}

#[test]
fn the_first_flow_that_wants_more_uses_all_of_its_ring_and_no_byte_is_lost_moved_or_doubled() {
    for v6 in FAMILIES {
        let down = data(3 * DOWN_RING);
        let mut peer = roomy(v6, &down);
        let mut sent = fill(&mut peer);
        assert!(is_wide(&peer) && sent.len() == DOWN_RING, "{}", sent.len());
        // The ring's end is passed, with bytes in flight on both sides of it.
        let mut acked = 0;
        for part in [100_000, 2_000_000, 1_500_000, 300_000] {
            acked += part;
            peer.says(acked);
            sent.extend(fill(&mut peer));
            assert_eq!(sent.len(), acked + DOWN_RING);
        }
        assert!(sent == down[..sent.len()]);
        written(&mut peer.caught);
        (0..3).for_each(|_| peer.says(acked));
        assert!(!in_flight(&peer.line), "a loss is for smoltcp");
        let again: Vec<u8> =
            written(&mut peer.caught).iter().flat_map(|packet| stream_bytes(packet).unwrap_or_default().to_vec()).collect();
        assert!(again == down[acked..sent.len()], "{} of {}", again.len(), sent.len() - acked);
        peer.says(sent.len());
        assert_eq!(peer.line.stack.with_socket(SLOT, |socket| socket.send_queue()), Some(0));
        let next = fill(&mut peer);
        assert!(next == down[sent.len()..sent.len() + next.len()] && next.len() == DOWN_RING, "it goes on as before");
    }
}

#[test]
fn beside_a_wide_flow_the_others_are_as_ever() {
    for v6 in FAMILIES {
        let mut peer = roomy(v6, &data(2 * DOWN_RING));
        peer.line.stack.has_wide = true;
        let sent = fill(&mut peer);
        assert!(!is_wide(&peer) && sent.len() == NARROW, "{}", sent.len());
        peer.line.stack.remove(SLOT, 0);
        assert!(peer.line.stack.has_wide, "the wide one is another");
    }
}

#[test]
fn a_wide_flow_leaves_its_place_to_another_when_it_ends_and_when_it_rests() {
    for v6 in FAMILIES {
        let mut peer = roomy(v6, &data(2 * DOWN_RING));
        fill(&mut peer);
        assert!(peer.line.stack.has_wide);
        peer.line.now += Duration::from_secs(6);
        peer.line.stack.cool(peer.line.now);
        assert!(peer.line.stack.has_wide, "what is in flight does not rest");
        peer.says(DOWN_RING);
        peer.line.now += Duration::from_secs(6);
        peer.line.stack.cool(peer.line.now);
        assert!(!peer.line.stack.has_wide && !is_wide(&peer));
        peer.says(DOWN_RING);
        assert_eq!(fill(&mut peer).len(), DOWN_RING, "it may be the next");
        assert!(peer.line.stack.has_wide);
        peer.line.stack.remove(SLOT, u64::MAX);
        assert!(!peer.line.stack.has_wide);
    }
}

#[test]
fn a_program_that_reads_slowly_costs_no_more_than_a_narrow_ring() {
    for v6 in FAMILIES {
        let mut line = connected(v6);
        let (first, last) = (Rc::new(Cell::new(usize::MAX)), Rc::new(Cell::new(0)));
        let (low, high) = (first.clone(), last.clone());
        line.source = Some(Box::new(move |room| {
            low.set(low.get().min(room.as_ptr().addr()));
            let len = room.len().min(100_000);
            high.set(high.get().max(room.as_ptr().addr() + len));
            Ok(len)
        }));
        let mut read = 0;
        while read < 2 * NARROW {
            line.talk_for(Duration::from_millis(40));
            line.talk(|_, peer| {
                read += peer.recv(|bytes| (bytes.len().min(7000), bytes.len().min(7000))).expect("it stands");
                true
            });
        }
        assert!(last.get() - first.get() <= NARROW, "{}", last.get() - first.get());
    }
}
