//! The mark on our own upstream sockets, and its twin on the conntrack entries of inbound flows.
//!
//! Keeps one rule: a mark lives in the top byte alone, so the lower bits stay free for Tailscale, Docker and the like. It is
//! no secret against root, yet it is kept out of logs: its `Debug` shows nothing.

use std::fmt;
use std::io::{self, Read};

/// The bits of the packet mark that are ours.
pub const MASK: u32 = 0xff00_0000;

/// Top bytes that others use whole: Mullvad's 0x6d6f6c65, and Calico and kube-proxy at the ends of the byte.
const TAKEN: [u8; 5] = [0x00, 0x6d, 0x80, 0xf0, 0xff];

/// The mark of packets that were judged already. Unmarked packets go into the TUN, marked ones leave by the main table.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mark {
    top: u8,
}

/// Why a number is no mark.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:#x} is no mark; only the top byte may be set and it may not be 0, for example 0x2a000000")]
pub struct MarkError(pub i64);

impl Mark {
    /// A mark that a plan fixes.
    ///
    /// # Errors
    ///
    /// Bits below the top byte are set, or the top byte is 0.
    pub fn new(value: i64) -> Result<Self, MarkError> {
        let value32 = u32::try_from(value).map_err(|_| MarkError(value))?;
        let [top, rest @ ..] = value32.to_be_bytes();
        if top == 0 || rest != [0; 3] { Err(MarkError(value)) } else { Ok(Self { top }) }
    }

    /// A mark that nobody can know beforehand.
    ///
    /// # Errors
    ///
    /// The kernel's random source cannot be read.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; 32];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        let free = bytes.into_iter().find(|top| !TAKEN.contains(top));
        free.map(|top| Self { top }).ok_or_else(|| io::Error::other("/dev/urandom yields no usable byte"))
    }

    /// The number for `SO_MARK` and for `not fwmark` rules.
    #[must_use]
    pub fn value(self) -> u32 {
        u32::from_be_bytes([self.top, 0, 0, 0])
    }

    /// The conntrack mark of flows that others opened to this host: the next top byte that is not 0.
    #[must_use]
    pub(super) fn inbound(self) -> u32 {
        u32::from_be_bytes([self.top.checked_add(1).unwrap_or(1), 0, 0, 0])
    }
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mark(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_top_byte_makes_a_mark() {
        assert_eq!(Mark::new(0x2a00_0000).expect("a mark").value(), 0x2a00_0000);
        for value in [0, 1, 0x2a00_0001, 0x00ff_0000, -1, 0x1_0000_0000] {
            assert_eq!(Mark::new(value), Err(MarkError(value)));
        }
    }

    #[test]
    fn the_inbound_twin_differs_from_every_mark_and_is_never_zero() {
        for top in 1..=0xffi64 {
            let mark = Mark::new(top << 24).expect("a mark");
            assert_ne!(mark.inbound(), mark.value());
            assert_eq!(mark.inbound() & !MASK, 0);
            assert_ne!(mark.inbound(), 0);
        }
    }

    #[test]
    fn a_random_mark_avoids_what_others_use_and_does_not_show_itself() {
        let mark = Mark::random().expect("a mark");
        assert!(!TAKEN.contains(&mark.top));
        assert_eq!(format!("{mark:?}"), "Mark(hidden)");
    }
}
