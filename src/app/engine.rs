//! The running router as the control socket sees it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::{broadcast, watch};

use super::core::{boot_ms, unix_ms};
use super::dns::PolicyJudge;
use super::older;
use super::policies::{Loaded, Loader};
use super::shard::{Handles, Message, Snapshot};
use super::shared::{Shared, locked};
use super::upkeep::Upkeep;
use crate::control::{Event, Fault, ProfileSource, Prompt, Reloaded, State, Status, Way};
use crate::flow::Record;
use crate::netlink::{Carried, Conntrack, SocketTable};
use crate::profile::{Level, PLAIN_DNS_REFUSED};
use crate::resolver::{Counts, Resolver};
use crate::verdict::Answer;

/// What does not change while it runs.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) way: Way,
    /// As [`boot_ms`] counts.
    pub(super) since: u64,
    pub(super) device: String,
    pub(super) addresses: Vec<(IpAddr, u8)>,
    pub(super) upkeep: Arc<Upkeep>,
    pub(super) plan: Option<String>,
    /// The kernel alone carries accepted connections on.
    pub(super) express: bool,
    pub(super) socket: PathBuf,
    pub(super) notes: Vec<String>,
}

pub(super) struct Running {
    pub(super) facts: Facts,
    pub(super) shared: Arc<Shared>,
    pub(super) shards: Handles,
    /// How often a packet loop stood still.
    pub(super) stalls: Arc<AtomicU64>,
    pub(super) resolver: Arc<Resolver<PolicyJudge>>,
    pub(super) loader: Loader,
    pub(super) sources: Mutex<Vec<ProfileSource>>,
    /// Turns true when somebody wants it to end.
    pub(super) ending: watch::Sender<bool>,
    /// Says when everything is undone, or why it is not.
    pub(super) ended: watch::Receiver<Option<Result<(), String>>>,
    /// Flows that are older than the router; None under `exec`.
    pub(super) older: Option<older::Handle>,
}

impl Running {
    /// What the level switches in the resolver: plain DNS where an encrypted upstream fails is for Dynamic alone.
    pub(super) fn tune_resolver(&self, level: Level) {
        self.resolver.set_plain_fallback(!PLAIN_DNS_REFUSED.is_on(level));
    }

    /// Others go on meanwhile: a loop that stands still is waited for.
    fn snapshot(&self) -> Snapshot {
        tokio::task::block_in_place(|| self.shards.snapshot())
    }

    /// Reads the profiles again; what they refuse is cut before this returns or soon after.
    pub(super) fn reload_now(&self) -> Result<Reloaded, Vec<Fault>> {
        // Others go on meanwhile: a folder may be large or slow, and reloads wait for each other.
        let reloaded = tokio::task::block_in_place(|| self.loader.load_into(|loaded| self.install(loaded)));
        reloaded.map_err(|faults| faults.into_iter().map(Fault::configuration).collect())
    }

    fn install(&self, loaded: Loaded) -> Reloaded {
        let open = |snapshot: Snapshot| snapshot.open + snapshot.pending;
        let before = open(self.shards.snapshot());
        let Loaded { policy, sources } = loaded;
        let epoch = self.shared.change_rules(|rules| (policy.clone(), rules.level));
        self.shards.send_all(|| Message::Rules);
        // The snapshot comes after the rules were taken up, so that the flows that they refuse are gone from it.
        let after = open(self.shards.snapshot());
        let cut = before.saturating_sub(after);
        let cut = u64::try_from(cut).unwrap_or(0) + self.older.as_ref().map_or(0, older::Handle::judged_again);
        let profiles = sources.iter().map(|source| source.profiles).sum();
        *locked(&self.sources) = sources;
        let reloaded = Reloaded { profiles, epoch: epoch.0, cut };
        self.shared.tell(|| Some(Event::Reloaded(reloaded.clone())));
        reloaded
    }
}

fn dns_counters(counts: Counts) -> [(String, u64); 8] {
    let Counts { questions, blocked, filtered, dropped, cached, unanswered, malformed, over_limit } = counts;
    [
        ("dns_questions", questions),
        ("dns_blocked", blocked),
        ("dns_filtered", filtered),
        ("dns_dropped", dropped),
        ("dns_cached", cached),
        ("dns_unanswered", unanswered),
        ("dns_malformed", malformed),
        ("dns_over_limit", over_limit),
    ]
    .map(|(label, count)| (label.to_owned(), count))
}

#[async_trait::async_trait]
impl crate::control::Engine for Running {
    fn status(&self) -> Status {
        let rules = self.shared.rules();
        let snapshot = self.snapshot();
        let mut notes = self.facts.notes.clone();
        notes.extend(self.older.iter().flat_map(older::Handle::notes));
        notes.extend(self.facts.upkeep.note());
        let silent = self.resolver.silent();
        notes.extend(silent.iter().map(|server| format!("the name server {server} answered none of the last questions")));
        let conntrack = Conntrack::read().filter(Conntrack::is_crowded);
        notes.extend(conntrack.map(|conntrack| format!("{conntrack}; {}", Conntrack::REMEDY)));
        if snapshot.silent > 0 {
            let count = self.shards.count();
            notes.push(format!(
                "{} of {count} packet loops stand still: what they carry waits, nothing of it passes",
                snapshot.silent
            ));
        }
        let mut counters = snapshot.counters;
        counters.extend(dns_counters(self.resolver.counts()));
        counters.insert("records_lost".to_owned(), self.shared.records_lost());
        counters.insert("stalls".to_owned(), self.stalls.load(Ordering::Relaxed));
        let Facts { way, since, device, addresses, upkeep, plan, express: _, socket, notes: _ } = self.facts.clone();
        Status {
            state: State::Active,
            way,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            since: unix_ms().saturating_sub(boot_ms().saturating_sub(since)),
            level: rules.level,
            profiles: locked(&self.sources).clone(),
            epoch: rules.epoch.0,
            device,
            addresses: addresses.iter().map(|(address, length)| format!("{address}/{length}")).collect(),
            mtu: upkeep.mtu(),
            plan,
            socket,
            dns_upstreams: self.resolver.upstreams(),
            flows_open: u64::try_from(snapshot.open).unwrap_or(0),
            flows_pending: u64::try_from(snapshot.pending).unwrap_or(0),
            prompts: u64::try_from(locked(&self.shared.prompts).put().count()).unwrap_or(0),
            inbound_judged: false,
            older: self.older.as_ref().map(older::Handle::list).unwrap_or_default(),
            notes,
            counters,
        }
    }

    fn flows(&self) -> Vec<Record> {
        let mut records = self.shared.ended();
        let mut open = self.snapshot().records;
        if self.facts.express {
            fill_in(&mut open);
        }
        records.extend(open);
        records.extend(self.older.iter().flat_map(older::Handle::records));
        records.sort_by_key(|record| (record.start, record.id));
        records
    }

    fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.shared.events.subscribe()
    }

    async fn set_level(&self, level: Level) -> Result<(), Fault> {
        self.shared.change_rules(|rules| (rules.policy.clone(), level));
        self.tune_resolver(level);
        self.shards.send_all(|| Message::Rules);
        self.older.iter().for_each(older::Handle::judge_again);
        self.shared.tell(|| Some(Event::Level(level)));
        Ok(())
    }

    async fn reload(&self) -> Result<Reloaded, Vec<Fault>> {
        self.reload_now()
    }

    fn prompts(&self) -> Vec<Prompt> {
        locked(&self.shared.prompts).put().cloned().collect()
    }

    async fn answer(&self, id: u64, answer: Answer) -> Result<(), Fault> {
        if !locked(&self.shared.prompts).put().any(|prompt| prompt.id == id) {
            return Err(Fault::no_such_prompt(id));
        }
        if self.shards.answer(id, answer) { Ok(()) } else { Err(Fault::failed("the packet loop does not keep up; try again")) }
    }

    async fn down(&self) -> Result<(), Fault> {
        self.ending.send_replace(true);
        let mut ended = self.ended.clone();
        // The other end is dropped only when everything is undone, too.
        let undone = ended.wait_for(Option::is_some).await.map(|undone| undone.clone());
        undone.ok().flatten().unwrap_or(Ok(())).map_err(Fault::failed)
    }
}

/// What open connections have carried of which no bytes pass us.
fn fill_in(records: &mut [Record]) {
    let is_unknown = |record: &&mut Record| record.proto == "tcp" && record.bytes_up + record.bytes_down == 0;
    if !records.iter_mut().any(|record| is_unknown(&record)) {
        return;
    }
    // Without an answer they have carried nothing that is known.
    let carried = SocketTable::open().and_then(|mut table| table.carried()).unwrap_or_default();
    let carried: HashMap<[String; 2], Carried> =
        carried.into_iter().map(|(ends, carried)| (ends.map(|end| end.to_string()), carried)).collect();
    for record in records.iter_mut().filter(is_unknown) {
        if let Some(carried) = carried.get(&[record.src.clone(), record.dst.clone()]) {
            (record.bytes_up, record.bytes_down, record.rtt_us) = (carried.up(), carried.down(), carried.rtt_us());
        }
    }
}
