//! Serial numbers that several shards give without meeting.
//!
//! Keeps one rule: a number is given once, and it says which shard gave it.

/// The numbers of one shard, in rising order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    next: u64,
    step: u64,
}

impl Numbers {
    /// The numbers of shard `index` out of `count`.
    #[must_use]
    pub fn of_shard(index: usize, count: usize) -> Self {
        let wide = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        Self { next: wide(index).saturating_add(1), step: wide(count).max(1) }
    }

    /// The shard out of `count` that gave this number.
    #[must_use]
    pub fn giver(number: u64, count: usize) -> usize {
        let count = u64::try_from(count).unwrap_or(u64::MAX).max(1);
        usize::try_from(number.saturating_sub(1) % count).unwrap_or(0)
    }

    pub fn give(&mut self) -> u64 {
        let number = self.next;
        self.next += self.step;
        number
    }
}

impl Default for Numbers {
    fn default() -> Self {
        Self::of_shard(0, 1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_number_is_given_twice_and_each_names_its_giver() {
        for count in 1..=4 {
            let mut given = BTreeSet::new();
            for index in 0..count {
                let mut numbers = Numbers::of_shard(index, count);
                for _ in 0..100 {
                    let number = numbers.give();
                    assert!(number > 0 && given.insert(number));
                    assert_eq!(Numbers::giver(number, count), index);
                }
            }
        }
    }
}
