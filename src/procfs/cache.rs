//! What was found lately: bounded tables for the quick way.
//!
//! Keeps one rule: a hit is a hint about where to look, never an answer; whoever takes one checks it against /proc.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Instant;

use super::process::Process;
use crate::process::Socket;

/// Processes with a held directory descriptor, so this bounds descriptors too.
pub(super) const HOT_PROCESSES: usize = 128;
/// Closed descriptors remembered of one process, and tried for one socket.
const MAX_CLOSED: usize = 256;
const CLOSED_TRIED: usize = 8;
/// Descriptors remembered that a process may be about to close, and tried for one socket.
const MAX_ANSWERED: usize = 256;
const ANSWERED_TRIED: usize = 32;
/// A descriptor that is found open so many times is not about to be closed.
const MOST_MISSES: u8 = 16;

/// A map of bounded size that forgets what was not used lately.
///
/// Two generations: when the young one is full it becomes the old one, and what was old is dropped. Every step is O(1), and
/// the last `capacity / 2` keys in use are always there.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    half: usize,
}

impl<K: Eq + Hash, V> Recent<K, V> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), half: (capacity / 2).max(1) }
    }

    pub(super) fn find(&mut self, key: &K) -> Option<&V> {
        if !self.young.contains_key(key)
            && let Some((key, value)) = self.old.remove_entry(key)
        {
            self.insert(key, value);
        }
        self.young.get(key)
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.half && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let old = self.old.remove(key);
        self.young.remove(key).or(old)
    }
}

/// A process that may own a socket.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) process: Arc<Process>,
    /// The descriptors where its newest socket may be, the likeliest first.
    pub(super) likely: Vec<u32>,
    /// The descriptor of the last socket that was found.
    pub(super) newest: u32,
}

/// A descriptor that got an answer.
#[derive(Debug)]
struct Answered {
    fd: u32,
    /// When it was found open last, and how often.
    looked: Option<Instant>,
    misses: u8,
}

/// A process that owned a socket lately.
#[derive(Debug)]
struct Hot {
    process: Arc<Process>,
    uid: u32,
    cgroup_id: Option<u64>,
    /// The descriptor number of its last socket: a program that opens several at once gets the next number each time.
    fd: u32,
    /// Descriptors that it closed lately: the next socket gets the lowest of them.
    closed: BTreeSet<u32>,
    /// Descriptors that got an answer lately, the first one first: that is also the order in which they are closed.
    answered: VecDeque<Answered>,
}

impl Hot {
    /// A look at an answered descriptor after `sent` need not be repeated for what was sent before.
    fn candidate(&self, sent: Instant) -> Candidate {
        let is_due = |answered: &&Answered| answered.looked.is_none_or(|looked| looked < sent);
        let answered = self.answered.iter().filter(is_due).map(|answered| answered.fd).take(ANSWERED_TRIED);
        let closed = self.closed.iter().copied().take(CLOSED_TRIED);
        let likely = closed.chain(answered).chain([self.fd, self.fd.saturating_add(1)]).collect();
        Candidate { process: Arc::clone(&self.process), likely, newest: self.fd }
    }

    fn is(&self, process: &Process) -> bool {
        self.process.pid == process.pid && self.process.start_ticks == process.start_ticks
    }
}

/// The processes that owned sockets lately, the last one first.
#[derive(Debug, Default)]
pub(super) struct HotList {
    entries: VecDeque<Hot>,
}

impl HotList {
    /// Those that may own a socket of this user or cgroup, at most `limit`.
    pub(super) fn candidates(&self, socket: &Socket, limit: usize, sent: Instant) -> Vec<Candidate> {
        let is_candidate = |hot: &&Hot| hot.uid == socket.uid || (hot.cgroup_id.is_some() && hot.cgroup_id == socket.cgroup_id);
        self.entries.iter().filter(is_candidate).take(limit).map(|hot| hot.candidate(sent)).collect()
    }

    /// The process of this number, if it is one of these.
    pub(super) fn process(&self, pid: u32) -> Option<Arc<Process>> {
        self.entries.iter().find(|hot| hot.process.pid == pid).map(|hot| Arc::clone(&hot.process))
    }

    /// Puts a process first.
    pub(super) fn put(&mut self, process: &Arc<Process>, socket: &Socket, fd: u32) {
        let same = |hot: &Hot| hot.process.pid == process.pid && hot.uid == socket.uid && hot.cgroup_id == socket.cgroup_id;
        if let Some(first) = self.entries.front_mut()
            && same(first)
            && first.process.start_ticks == process.start_ticks
        {
            first.fd = fd;
            // The lower ones were tried in vain, so they are taken by something else.
            first.closed = first.closed.split_off(&fd);
            first.closed.remove(&fd);
            first.answered.retain(|answered| answered.fd != fd);
            return;
        }
        self.entries.retain(|hot| !same(hot));
        self.entries.truncate(HOT_PROCESSES - 1);
        self.entries.push_front(Hot {
            process: Arc::clone(process),
            uid: socket.uid,
            cgroup_id: socket.cgroup_id,
            fd,
            closed: BTreeSet::new(),
            answered: VecDeque::new(),
        });
    }

    /// Notes that a process closes a descriptor.
    pub(super) fn closing(&mut self, process: &Process, fd: u32) {
        for hot in self.entries.iter_mut().filter(|hot| hot.is(process)) {
            hot.answered.retain(|answered| answered.fd != fd);
            hot.closed.insert(fd);
            if hot.closed.len() > MAX_CLOSED {
                hot.closed.pop_last();
            }
        }
    }

    /// Notes that a descriptor of a process got an answer.
    pub(super) fn answered(&mut self, process: &Process, fd: u32) {
        for hot in self.entries.iter_mut().filter(|hot| hot.is(process)) {
            hot.answered.retain(|answered| answered.fd != fd);
            if hot.answered.len() >= MAX_ANSWERED {
                hot.answered.pop_front();
            }
            hot.answered.push_back(Answered { fd, looked: None, misses: 0 });
        }
    }

    /// Notes that these descriptors of a process were not what was looked for.
    pub(super) fn missed(&mut self, process: &Process, fds: &[u32], now: Instant) {
        for hot in self.entries.iter_mut().filter(|hot| hot.is(process)) {
            hot.answered.retain_mut(|answered| {
                if fds.contains(&answered.fd) {
                    answered.looked = Some(now);
                    answered.misses += 1;
                }
                answered.misses < MOST_MISSES
            });
        }
    }

    /// Drops a process that is gone.
    pub(super) fn drop_process(&mut self, gone: &Process) {
        self.entries.retain(|hot| !hot.is(gone));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Confidence;
    use std::path::Path;
    use std::time::Duration;

    fn socket(uid: u32, cgroup_id: Option<u64>) -> Socket {
        Socket { inode: 1, uid, cookie: 1, cgroup_id, mark: 0, link: 0, confidence: Confidence::Exact }
    }

    fn us() -> Arc<Process> {
        Arc::new(Process::open(Path::new("/proc"), std::process::id()).expect("we run"))
    }

    #[test]
    fn table_stays_within_its_bound_and_keeps_what_is_in_use() {
        let mut table = Recent::new(100);
        for key in 0..1000 {
            table.insert(key, key);
            assert!(table.find(&0).is_some(), "0 is used all the time");
            assert!(table.young.len() + table.old.len() <= 101);
        }
        assert_eq!(table.find(&1), None);
        assert_eq!(table.find(&999), Some(&999));
    }

    #[test]
    fn removed_key_is_gone_from_both_generations() {
        let mut table = Recent::new(2);
        table.insert(1, 1);
        table.insert(2, 2);
        table.remove(&1);
        table.remove(&2);
        assert_eq!(table.find(&1), None);
        assert_eq!(table.find(&2), None);
    }

    #[test]
    fn process_of_another_user_is_no_candidate_unless_the_cgroup_is_the_same() {
        let mut hot = HotList::default();
        hot.put(&us(), &socket(1000, Some(7)), 3);
        assert_eq!(hot.candidates(&socket(1000, None), 8, Instant::now()).len(), 1);
        assert_eq!(hot.candidates(&socket(0, Some(7)), 8, Instant::now()).len(), 1);
        assert_eq!(hot.candidates(&socket(0, Some(8)), 8, Instant::now()).len(), 0);
        assert_eq!(hot.candidates(&socket(0, None), 8, Instant::now()).len(), 0);
    }

    #[test]
    fn the_lowest_closed_descriptor_is_looked_at_first_and_only_until_it_is_found_taken() {
        let mut hot = HotList::default();
        let (us, socket) = (us(), socket(1000, None));
        hot.put(&us, &socket, 9);
        [7, 5, 12].into_iter().for_each(|fd| hot.closing(&us, fd));
        let likely = |hot: &HotList| hot.candidates(&socket, 1, Instant::now()).remove(0).likely;
        assert_eq!(likely(&hot), [5, 7, 12, 9, 10]);
        hot.put(&us, &socket, 7);
        assert_eq!(likely(&hot), [12, 7, 8]);
        (0..10_000).for_each(|fd| hot.closing(&us, fd));
        assert_eq!(hot.entries.front().map(|hot| hot.closed.len()), Some(MAX_CLOSED));
    }

    #[test]
    fn descriptor_that_is_closed_goes_before_those_that_may_be() {
        let mut hot = HotList::default();
        let (us, socket, sent) = (us(), socket(1000, None), Instant::now());
        hot.put(&us, &socket, 9);
        [5, 7].into_iter().for_each(|fd| hot.answered(&us, fd));
        hot.closing(&us, 7);
        assert_eq!(hot.candidates(&socket, 1, sent).remove(0).likely, [7, 5, 9, 10], "each once");
    }

    #[test]
    fn answered_descriptors_are_looked_at_in_their_order_once_for_what_was_sent_before_and_not_forever() {
        let mut hot = HotList::default();
        let (us, socket, sent) = (us(), socket(1000, None), Instant::now());
        hot.put(&us, &socket, 9);
        [7, 5, 7].into_iter().for_each(|fd| hot.answered(&us, fd));
        let likely = |hot: &HotList, sent| hot.candidates(&socket, 1, sent).remove(0).likely;
        assert_eq!(likely(&hot, sent), [5, 7, 9, 10]);
        let now = sent + Duration::from_micros(1);
        hot.missed(&us, &[5], now);
        assert_eq!(likely(&hot, sent), [7, 9, 10]);
        assert_eq!(likely(&hot, now + Duration::from_micros(1)), [5, 7, 9, 10], "it may be closed by then");
        hot.put(&us, &socket, 7);
        assert_eq!(likely(&hot, sent), [7, 8]);
        (1..MOST_MISSES).for_each(|_| hot.missed(&us, &[5], now));
        assert_eq!(likely(&hot, now + Duration::from_secs(1)), [7, 8]);
        (0..10_000).for_each(|fd| hot.answered(&us, fd));
        assert_eq!(hot.entries.front().map(|hot| hot.answered.len()), Some(MAX_ANSWERED));
    }

    #[test]
    fn hot_list_is_bounded_and_forgets_a_process_that_is_gone() {
        let mut hot = HotList::default();
        let us = us();
        for uid in 0..1000 {
            hot.put(&us, &socket(uid, None), 3);
        }
        assert_eq!(hot.entries.len(), HOT_PROCESSES);
        assert_eq!(hot.entries.front().map(|hot| hot.uid), Some(999));
        hot.drop_process(&us);
        assert_eq!(hot.entries.len(), 0);
    }
}
