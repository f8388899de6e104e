//! Packets that the guard leads into the TUN from links whose packets have no header: tunnels, mobile modems.
//!
//! Nothing stands in front of such a packet that could say by which link it was to leave, and all that it holds counts; but the kernel
//! knows its family, so the version in its first four bits says nothing. The guard writes a number of the link's there. Sixteen versions
//! but for two that are IP's are seven for each family. A checksum that was right is right again with the version.
//!
//! Keeps one rule: a packet whose number is no link's keeps it, and so is none that could be parsed.

/// A link without headers, by the number that it has with us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkNumber(usize);

/// What is written for each number instead of IPv4's version, and of IPv6's.
const V4: [u8; LinkNumber::COUNT] = [8, 9, 10, 11, 12, 13, 14];
const V6: [u8; LinkNumber::COUNT] = [0, 1, 2, 3, 5, 7, 15];

impl LinkNumber {
    /// How many links can be told apart.
    pub const COUNT: usize = 7;

    /// All numbers.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT).map(Self)
    }

    /// Its place in a list of all.
    #[must_use]
    pub fn place(self) -> usize {
        self.0
    }

    /// The version that stands for it.
    #[must_use]
    pub fn version(self, v4: bool) -> u8 {
        let Self(place) = self;
        if v4 { V4[place] } else { V6[place] }
    }

    /// The number that a version stands for, and the version that it replaced.
    pub(super) fn of(version: u8) -> Option<(Self, u8)> {
        let place = |versions: &[u8], true_one| Some((Self(versions.iter().position(|one| *one == version)?), true_one));
        place(&V4, 4).or_else(|| place(&V6, 6))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_either_family_is_told_from_all_others_and_from_ip() {
        let mut seen = vec![4, 6];
        for number in LinkNumber::all() {
            for (v4, version) in [(true, 4), (false, 6)] {
                let written = number.version(v4);
                assert_eq!(LinkNumber::of(written), Some((number, version)));
                assert!(written < 16 && !seen.contains(&written));
                seen.push(written);
            }
        }
        assert!(LinkNumber::of(4).is_none() && LinkNumber::of(6).is_none());
        assert_eq!(seen.len(), 16);
    }
}
