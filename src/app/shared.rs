//! What the packet loop, the resolver and the control socket have in common.
//!
//! Keeps one rule: nobody holds one of these locks across a system call that can wait.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::broadcast;

use super::prompts::Prompts;
use super::shard::Ports;
use crate::control::Event;
use crate::flow::{Owner, Record};
use crate::names::Sightings;
use crate::process::Identity;
use crate::procfs::Processes;
use crate::profile::{Level, Policy, Subject};
use crate::router::Rules;
use crate::verdict::Epoch;

/// Events that a slow monitor may lag behind before it loses the oldest.
const EVENTS: usize = 4096;
/// Ended flows that `flows` still shows.
const ENDED: usize = 1000;
/// Subjects remembered; a laptop has fewer programs.
const SUBJECTS: usize = 1024;

/// Shared state. Everything in it is bounded.
pub(super) struct Shared {
    rules: ArcSwap<Rules>,
    pub(super) sightings: Mutex<Sightings>,
    pub(super) processes: Arc<Processes>,
    pub(super) events: broadcast::Sender<Event>,
    pub(super) prompts: Mutex<Prompts>,
    ended: Mutex<VecDeque<Record>>,
    subjects: Mutex<Subjects>,
    /// Upstream ports that stand for programs' sockets.
    pub(super) ports: Arc<Ports>,
    recorder: Option<SyncSender<Record>>,
    records_lost: AtomicU64,
    question_serial: AtomicU64,
}

#[derive(Default)]
struct Subjects {
    epoch: Epoch,
    /// By the identity's place in memory, which the `Subject` beside it keeps alive.
    by_identity: HashMap<usize, Subject>,
}

impl Shared {
    pub(super) fn new(
        policy: Arc<Policy>,
        level: Level,
        processes: Arc<Processes>,
        recorder: Option<SyncSender<Record>>,
    ) -> Self {
        Self {
            rules: ArcSwap::from_pointee(Rules { policy, level, epoch: Epoch(1) }),
            sightings: Mutex::default(),
            processes,
            events: broadcast::channel(EVENTS).0,
            prompts: Mutex::default(),
            ended: Mutex::default(),
            subjects: Mutex::default(),
            ports: Arc::default(),
            recorder,
            records_lost: AtomicU64::new(0),
            // Far above the flows' own numbers, so that records can be told apart.
            question_serial: AtomicU64::new(1 << 48),
        }
    }

    pub(super) fn rules(&self) -> Arc<Rules> {
        self.rules.load_full()
    }

    /// True when the rules are no longer those of `epoch`; one atomic load.
    pub(super) fn rules_changed(&self, epoch: Epoch) -> bool {
        self.rules.load().epoch != epoch
    }

    /// Puts other rules in force; the packet loop takes them up before its next packet.
    pub(super) fn change_rules(&self, change: impl Fn(&Rules) -> (Arc<Policy>, Level)) -> Epoch {
        let old = self.rules.rcu(|rules| {
            let (policy, level) = change(rules);
            Rules { policy, level, epoch: Epoch(rules.epoch.0 + 1) }
        });
        Epoch(old.epoch.0 + 1)
    }

    /// The program with the layers that hold for it now.
    pub(super) fn subject(&self, identity: &Arc<Identity>) -> Subject {
        let rules = self.rules.load();
        let key = Arc::as_ptr(identity).addr();
        {
            let mut subjects = locked(&self.subjects);
            if subjects.epoch != rules.epoch {
                *subjects = Subjects { epoch: rules.epoch, by_identity: HashMap::new() };
            }
            if let Some(subject) = subjects.by_identity.get(&key) {
                return subject.clone();
            }
        }
        let exists = self.processes.exists_for(identity);
        let subject = rules.policy.subject(identity.clone(), &exists);
        let mut subjects = locked(&self.subjects);
        if subjects.epoch == rules.epoch {
            if subjects.by_identity.len() >= SUBJECTS {
                subjects.by_identity.clear();
            }
            subjects.by_identity.insert(key, subject.clone());
        }
        subject
    }

    /// The owners of a flow to `remote`, with the names they know it by.
    pub(super) fn owners(&self, identities: &[Arc<Identity>], remote: std::net::IpAddr, now: Instant) -> Vec<Owner> {
        let owner = |identity: &Arc<Identity>| {
            let asker = super::asker::asker_of(identity);
            let names = locked(&self.sightings).of(&asker, remote, now);
            Owner { subject: self.subject(identity), asker, names }
        };
        identities.iter().map(owner).collect()
    }

    /// Tells whoever watches. `event` is made only if somebody does.
    pub(super) fn tell(&self, event: impl FnOnce() -> Option<Event>) {
        if self.events.receiver_count() > 0
            && let Some(event) = event()
        {
            // Nobody listening any more is not a fault.
            let _ = self.events.send(event);
        }
    }

    /// Tells and keeps the record of a flow that ended.
    pub(super) fn tell_end(&self, record: Record) {
        // A flow that was refused ends with its verdict.
        if record.verdict != "accept" {
            self.tell(|| Some(Event::Decided(record.clone())));
        }
        self.tell(|| Some(Event::Ended(record.clone())));
        self.keep(record);
    }

    /// Keeps the record of a flow that ended or of a question.
    pub(super) fn keep(&self, record: Record) {
        if let Some(recorder) = &self.recorder
            && recorder.try_send(record.clone()).is_err()
        {
            self.records_lost.fetch_add(1, Ordering::Relaxed);
        }
        let mut ended = locked(&self.ended);
        if ended.len() >= ENDED {
            ended.pop_front();
        }
        ended.push_back(record);
    }

    pub(super) fn ended(&self) -> Vec<Record> {
        locked(&self.ended).iter().cloned().collect()
    }

    pub(super) fn records_lost(&self) -> u64 {
        self.records_lost.load(Ordering::Relaxed)
    }

    pub(super) fn next_question(&self) -> u64 {
        self.question_serial.fetch_add(1, Ordering::Relaxed)
    }
}

/// The lock's content, also after a thread died holding it: everything under these locks is whole between two statements.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
