//! Chance, made from a seed (SplitMix64).

/// A sequence of numbers that the seed decides.
pub(in super::super) struct Dice(u64);

impl Dice {
    pub(in super::super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(in super::super) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub(in super::super) fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }

    pub(in super::super) fn index(&mut self, len: usize) -> usize {
        let len = u64::try_from(len.max(1)).expect("usize is not wider than u64");
        usize::try_from(self.below(len)).expect("below a usize")
    }

    pub(in super::super) fn byte(&mut self) -> u8 {
        self.number().to_le_bytes()[0]
    }

    pub(in super::super) fn port(&mut self, end: u64) -> u16 {
        u16::try_from(1 + self.below(end)).expect("a small end")
    }

    /// True `percent` times in a hundred.
    pub(in super::super) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(in super::super) fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        from.get(self.index(from.len())).cloned()
    }
}
