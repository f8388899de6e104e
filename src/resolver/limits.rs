//! Bounds on the questions in flight.
//!
//! Keeps one rule: a place is held by a guard and given back when it is dropped, also when the question is abandoned.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Questions in flight of one asker. A browser that opens a page full of names stays below.
pub(super) const PER_ASKER: usize = 64;
/// Questions in flight of all askers together.
pub(super) const IN_ALL: usize = 512;

/// Whose questions are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Account {
    Program(u64),
    Socket(SocketAddr),
}

/// The places taken.
#[derive(Debug)]
pub(super) struct Limits {
    taken: Mutex<Taken>,
    in_all: AtomicUsize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { taken: Mutex::default(), in_all: IN_ALL.into() }
    }
}

#[derive(Debug, Default)]
struct Taken {
    by_account: BTreeMap<Account, usize>,
    in_all: usize,
}

impl Limits {
    /// Lets no more questions in than so many at a time, and of one asker no more than half of them.
    pub(super) fn narrow(&self, in_all: usize) {
        self.in_all.store(in_all.clamp(1, IN_ALL), Ordering::Relaxed);
    }

    /// Takes a place for one question; None when a bound is reached.
    pub(super) fn enter(self: &Arc<Self>, account: Account) -> Option<Place> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.by_account.get(&account).copied().unwrap_or(0);
        let in_all = self.in_all.load(Ordering::Relaxed);
        if own >= PER_ASKER.min(in_all.div_ceil(2)) || taken.in_all >= in_all {
            return None;
        }
        taken.by_account.insert(account, own + 1);
        taken.in_all += 1;
        Some(Place { limits: Arc::clone(self), account })
    }

    fn leave(&self, account: Account) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.in_all = taken.in_all.saturating_sub(1);
        match taken.by_account.get_mut(&account) {
            Some(own) if *own > 1 => *own -= 1,
            Some(_) | None => {
                taken.by_account.remove(&account);
            }
        }
    }
}

/// A place held by one question.
#[derive(Debug)]
pub(super) struct Place {
    limits: Arc<Limits>,
    account: Account,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.limits.leave(self.account);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_asker_cannot_take_more_than_its_share_and_leaves_room_for_others() {
        let limits = Arc::new(Limits::default());
        let held: Vec<_> = (0..PER_ASKER).map_while(|_| limits.enter(Account::Program(1))).collect();
        assert_eq!(held.len(), PER_ASKER);
        assert!(limits.enter(Account::Program(1)).is_none());
        assert!(limits.enter(Account::Program(2)).is_some());
    }

    #[test]
    fn where_there_is_less_room_one_asker_leaves_half_of_it_to_others() {
        for (in_all, own) in [(1, 1), (5, 3), (20, 10), (400, PER_ASKER)] {
            let limits = Arc::new(Limits::default());
            limits.narrow(in_all);
            let held: Vec<_> = (0..in_all + 1).map_while(|_| limits.enter(Account::Program(1))).collect();
            assert_eq!(held.len(), own);
            let others: Vec<_> = (2u64..).map_while(|n| limits.enter(Account::Program(n))).collect();
            assert_eq!(held.len() + others.len(), in_all);
        }
    }

    #[test]
    fn all_askers_together_are_bounded_and_places_come_back() {
        let limits = Arc::new(Limits::default());
        let places = (0u64..).map_while(|n| limits.enter(Account::Program(n)));
        let held: Vec<_> = places.take(IN_ALL + 1).collect();
        assert_eq!(held.len(), IN_ALL);
        drop(held);
        assert!(limits.enter(Account::Program(0)).is_some());
        assert!(limits.taken.lock().is_ok_and(|taken| taken.by_account.is_empty() && taken.in_all == 0));
    }
}
