//! Memory of flows that rest goes back to the kernel.
//!
//! Thousands of connections of a laptop are open and silent. Their rings are empty, yet the first pages of each stay resident once they
//! were touched. Keeps one rule: only rings of which no byte is needed are given back; to touch them again costs a page fault.

use smoltcp::time::{Duration, Instant};

use super::Connection;

/// So long a flow must have been silent. Also the pause between two looks, which stop when there is nothing to give back.
const SILENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct Cooling {
    /// When to look again; None while no ring can hold pages.
    pub(super) next: Option<Instant>,
}

impl Cooling {
    /// Notes that a flow is used.
    pub(super) fn warm(&mut self, connection: &mut Connection, at: Instant) {
        connection.used = at;
        connection.is_warm = true;
        self.next.get_or_insert(at + SILENCE);
    }

    /// Gives back what can be given back, if it is time to look; whether the wide flow is among these.
    pub(super) fn run(&mut self, connections: &mut [Option<Box<Connection>>], at: Instant) -> bool {
        if self.next.is_none_or(|next| next > at) {
            return false;
        }
        let (mut is_warm, mut wide) = (false, false);
        for connection in connections.iter_mut().flatten().filter(|connection| connection.is_warm) {
            if connection.used + SILENCE <= at && connection.is_at_rest() {
                // A kernel that does not take them is asked again when the flow has rested anew.
                connection.is_warm = false;
                connection.rings.iter_mut().for_each(|ring| drop(ring.empty()));
                wide |= connection.numbers.flight.narrow();
            } else {
                is_warm = true;
            }
        }
        self.next = is_warm.then_some(at + SILENCE);
        wide
    }
}
