//! A bounded queue in which whoever asks for much waits behind whoever asks for little.
//!
//! Keeps one rule: each asker has a queue of its own, they take turns, and none may have more places than the others leave free, so that
//! a full house is full of the one who filled it. The same holds for the matters that one asker asks for.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

#[derive(Debug)]
pub(super) struct Turns<K, M, V> {
    capacity: usize,
    waiting: usize,
    by_asker: HashMap<K, Asker<M, V>>,
    /// Askers who wait for something, the next one first.
    order: VecDeque<K>,
}

/// What one asker waits for.
#[derive(Debug)]
struct Asker<M, V> {
    waiting: usize,
    by_matter: HashMap<M, VecDeque<V>>,
    order: VecDeque<M>,
}

/// What waits beside an item, itself included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// Matters of its asker.
    pub(super) matters: usize,
    /// Items of the same matter.
    pub(super) alike: usize,
}

impl<M: Copy + Eq + Hash, V> Asker<M, V> {
    fn push(&mut self, matter: M, item: V) {
        let queue = self.by_matter.entry(matter).or_default();
        if queue.is_empty() {
            self.order.push_back(matter);
        }
        queue.push_back(item);
        self.waiting += 1;
    }

    /// The first of its matters that may have a turn.
    ///
    /// What may not have one with others like it may not have one among more of them: many matters are passed over at once.
    fn next(&self, may: impl Fn(Load) -> bool) -> Option<usize> {
        if !may(Load { matters: self.by_matter.len(), alike: 1 }) {
            return None;
        }
        self.order.iter().position(|matter| {
            self.by_matter.get(matter).is_some_and(|queue| may(Load { matters: self.by_matter.len(), alike: queue.len() }))
        })
    }

    fn pop(&mut self, next: usize) -> Option<V> {
        let matter = self.order.remove(next)?;
        let queue = self.by_matter.get_mut(&matter)?;
        let item = queue.pop_front()?;
        self.waiting -= 1;
        if queue.is_empty() {
            self.by_matter.remove(&matter);
        } else {
            self.order.push_back(matter);
        }
        Some(item)
    }
}

impl<K: Copy + Eq + Hash, M: Copy + Eq + Hash, V> Turns<K, M, V> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, waiting: 0, by_asker: HashMap::new(), order: VecDeque::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Whether any item may have a turn.
    pub(super) fn has(&self, may: impl Fn(Load) -> bool) -> bool {
        self.by_asker.values().any(|asker| asker.next(&may).is_some())
    }

    /// False when there is no place for this asker.
    pub(super) fn push(&mut self, asker: K, matter: M, item: V) -> bool {
        let queue = self.by_asker.get(&asker);
        let own = queue.map_or(0, |queue| queue.waiting);
        let alike = queue.and_then(|queue| queue.by_matter.get(&matter)).map_or(0, VecDeque::len);
        // As with the router's bounds (flow::accounts): one alone gets half, and the rest is for those who come later; and so within the half.
        if own >= self.capacity.saturating_sub(self.waiting) || alike >= (self.capacity / 2).saturating_sub(own) {
            return false;
        }
        if own == 0 {
            self.order.push_back(asker);
        }
        let new = || Asker { waiting: 0, by_matter: HashMap::new(), order: VecDeque::new() };
        self.by_asker.entry(asker).or_insert_with(new).push(matter, item);
        self.waiting += 1;
        true
    }

    /// The next item that may have a turn.
    pub(super) fn pop(&mut self, may: impl Fn(Load) -> bool) -> Option<V> {
        let next = |asker| self.by_asker.get(asker).and_then(|queue| queue.next(&may));
        let (turn, next) = self.order.iter().enumerate().find_map(|(turn, asker)| Some((turn, next(asker)?)))?;
        let asker = self.order.remove(turn)?;
        let queue = self.by_asker.get_mut(&asker)?;
        let item = queue.pop(next)?;
        self.waiting -= 1;
        if queue.waiting == 0 {
            self.by_asker.remove(&asker);
        } else {
            self.order.push_back(asker);
        }
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pushed(turns: &mut Turns<u32, u64, u64>, asker: u32, count: u64) -> usize {
        (0..count).filter(|item| turns.push(asker, *item, *item)).count()
    }

    #[test]
    fn flood_of_one_gets_half_of_the_places_and_the_next_one_half_of_the_rest() {
        let mut turns = Turns::new(64);
        assert_eq!(pushed(&mut turns, 1, 1000), 32);
        assert_eq!(pushed(&mut turns, 2, 1000), 16);
        assert_eq!(pushed(&mut turns, 3, 1000), 8);
        assert!(!turns.push(1, 0, 1), "the first one is refused, not its neighbours");
        assert!(turns.push(4, 0, 1));
    }

    #[test]
    fn one_item_of_another_is_next_but_one_whatever_waits_before_it() {
        let mut turns = Turns::new(64);
        pushed(&mut turns, 1, 30);
        assert!(turns.push(7, 0, 99));
        let order: Vec<u64> = (0..4).filter_map(|_| turns.pop(|_| true)).collect();
        assert_eq!(order, [0, 99, 1, 2]);
    }

    #[test]
    fn what_may_not_have_a_turn_keeps_its_place_and_holds_nobody_up() {
        let mut turns: Turns<u32, u64, u64> = Turns::new(64);
        assert!((0..9).all(|item| turns.push(1, 0, item)) && turns.push(1, 1, 99) && turns.push(2, 0, 77));
        pushed(&mut turns, 3, 9);
        let is_small = |load: Load| load.matters < 8 && load.alike < 8;
        let order: Vec<u64> = (0..4).filter_map(|_| turns.pop(is_small)).collect();
        assert_eq!(order, [99, 77], "neither the many of one matter nor the many matters");
        assert!(!turns.has(is_small) && turns.has(|_| true));
        assert_eq!([(); 4].map(|()| turns.pop(|_| true)), [Some(0), Some(0), Some(1), Some(1)]);
    }

    #[test]
    fn each_is_served_in_its_own_order_and_places_come_back() {
        let mut turns = Turns::new(4);
        for round in 0..100 {
            assert!(turns.push(1, 0, round) && turns.push(1, 1, round + 1000), "{round}");
            assert!(!turns.push(1, 0, 1), "half of four");
            assert_eq!([(); 3].map(|()| turns.pop(|_| true)), [Some(round), Some(round + 1000), None]);
        }
        assert!(
            turns.is_empty() && turns.by_asker.is_empty() && turns.order.is_empty(),
            "nothing is kept of those who have gone"
        );
    }

    #[test]
    fn one_asker_gets_no_more_by_asking_for_many_matters_and_each_of_these_has_its_turn() {
        let mut turns: Turns<u32, u64, u64> = Turns::new(64);
        assert_eq!((0..200).filter(|item| turns.push(1, 0, *item)).count(), 16, "one matter");
        assert!(turns.push(1, 1, 0), "another of the same asker");
        assert_eq!((2..200).filter(|matter| turns.push(1, *matter, 0)).count(), 15);
        let mut turns: Turns<u32, u64, u64> = Turns::new(64);
        assert!((0..10).all(|item| turns.push(1, 0, item)) && turns.push(1, 1, 99) && turns.push(2, 0, 77));
        let order: Vec<u64> = (0..5).filter_map(|_| turns.pop(|_| true)).collect();
        assert_eq!(order, [0, 77, 99, 1, 2]);
    }
}
