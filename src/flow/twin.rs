//! The port that stands in for a program's own, while the program's own socket holds that one on the same host.
//!
//! Keeps one rule: who opens the upstream socket and who gives its datagrams the program's port back need not talk: the socket's mark
//! says by which [`Way`] the two ports belong together. A twin lies in the upper half of the ports, where servers seldom listen.

/// The bits of the packet mark that name a way; none of them: there is no twin.
pub const WAY_MASK: u32 = 0x0000_0700;
/// The bit of the packet mark that says that strangers are heard at the twin.
pub const HEARS: u32 = 0x0000_0800;

/// All of them: two that stay in the upper half, two that lead there.
pub const WAYS: [Way; 4] = [
    Way { bits: 0x0000_0100, flips: 0x4000 },
    Way { bits: 0x0000_0200, flips: 0x2000 },
    Way { bits: 0x0000_0300, flips: 0x8000 },
    Way { bits: 0x0000_0400, flips: 0xc000 },
];

/// How a port and its twin belong together: each is the other with some bits flipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// As the mark has it.
    pub bits: u32,
    pub flips: u16,
}

impl Way {
    /// The ways from `port` to a twin, most wanted first; none from port 0, which is no port.
    pub fn from(port: u16) -> impl Iterator<Item = Self> {
        WAYS.into_iter().filter(move |way| port != 0 && way.twin(port) >= 0x8000)
    }

    /// The way between two ports, if they are twins.
    #[must_use]
    pub fn between(port: u16, twin: u16) -> Option<Self> {
        Self::from(port).find(|way| way.twin(port) == twin)
    }

    #[must_use]
    pub fn twin(self, port: u16) -> u16 {
        port ^ self.flips
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_has_two_twins_in_the_upper_half_and_none_is_itself() {
        for port in 1..=u16::MAX {
            let twins: Vec<u16> = Way::from(port).map(|way| way.twin(port)).collect();
            assert!(twins.len() == 2 && twins.iter().all(|twin| *twin >= 0x8000 && *twin != port), "{port}: {twins:?}");
        }
        assert_eq!(Way::from(0).count(), 0);
    }

    #[test]
    fn the_way_back_is_the_way() {
        for port in [1, 123, 4000, 0x7fff, 0x8000, 33_000, 60_999, u16::MAX] {
            for way in Way::from(port) {
                assert_eq!(way.twin(way.twin(port)), port);
                assert_eq!(Way::between(port, way.twin(port)), Some(way));
            }
            assert_eq!(Way::between(port, port), None);
            assert_eq!(Way::between(port, port ^ 1), None);
        }
    }

    #[test]
    fn each_way_has_bits_of_its_own_within_the_mask() {
        for (index, way) in WAYS.iter().enumerate() {
            assert!(way.bits & !WAY_MASK == 0 && way.bits != 0 && way.bits & HEARS == 0);
            assert!(WAYS.iter().skip(index + 1).all(|other| other.bits != way.bits && other.flips != way.flips));
        }
    }
}
