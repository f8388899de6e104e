//! How many conversations conntrack knows, and how many it can: beyond that the kernel drops what is new, and tells nobody but its log.
//!
//! Keeps one rule: only reads. The most that it can know is the first network namespace's to say.

use std::fmt;
use std::fs;

const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
const MOST: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

/// What conntrack of the calling thread's network namespace has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conntrack {
    known: u64,
    most: u64,
}

impl Conntrack {
    /// None: this kernel has none, or none yet.
    #[must_use]
    pub fn read() -> Option<Self> {
        let number = |path| fs::read_to_string(path).ok()?.trim().parse().ok();
        Some(Self { known: number(COUNT)?, most: number(MOST)? })
    }

    /// Whether a tenth of its room or less is left.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        let Self { known, most } = *self;
        // 0: no limit (`__nf_conntrack_alloc` in net/netfilter/nf_conntrack_core.c).
        most > 0 && known >= most - most / 10
    }

    /// What a crowd means and what helps.
    pub const REMEDY: &str = "the kernel silently drops new connections once it is full: raise net.netfilter.nf_conntrack_max (sysctl), or \
                              end what opens so many";
}

impl fmt::Display for Conntrack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "conntrack knows {} connections of at most {}", self.known, self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conntrack_is_crowded_from_nine_tenths_on_and_never_without_a_limit() {
        for (known, most, is_crowded) in
            [(0, 500, false), (449, 500, false), (450, 500, true), (501, 500, true), (7, 0, false), (1, 1, true), (0, 1, false)]
        {
            assert_eq!(Conntrack { known, most }.is_crowded(), is_crowded, "{known} of {most}");
        }
    }
}
