//! Which name a program learned an address by.
//!
//! Keeps one rule: only the name that was asked for, and only for the program that asked, earns a sighting. CNAME targets are
//! kept beside it because denies match through them; they never grant.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Name;

/// Sightings live at least this long whatever the TTL: programs keep addresses longer than the records say.
const MIN_LIFE: Duration = Duration::from_secs(600);
/// And at most this long: a TTL above a week counts as one (RFC 8767 §4).
const MAX_LIFE: Duration = Duration::from_secs(7 * 86_400);
/// Names remembered per program and address; the oldest goes first.
const MAX_NAMES: usize = 8;
/// Addresses remembered per program; the one that expires first goes first.
const MAX_ADDRESSES: usize = 4096;
/// Programs remembered; the one whose sightings expire first goes first.
const MAX_ASKERS: usize = 1024;

/// The key under which a program's sightings are kept: its executable, or a shared one for resolver services.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Asker {
    Program {
        device: u64,
        inode: u64,
        uid: u32,
    },
    /// Shared by every asker, read by every program: the system's resolver service asks in others' names.
    ResolverService,
    /// Nobody was found; remembered for nobody else.
    Unattributed {
        uid: Option<u32>,
    },
}

/// One name that an address was given as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    pub name: Name,
    /// CNAME targets between the asked name and the address.
    pub chain: Arc<[Name]>,
    pub until: Instant,
}

/// All sightings of all programs.
#[derive(Debug, Default)]
pub struct Sightings {
    by_asker: BTreeMap<Asker, Addresses>,
}

/// The sightings of one program.
type Addresses = BTreeMap<IpAddr, Vec<Sighting>>;

impl Sightings {
    /// Remembers that `asker` was given `address` as `name` for max(`ttl`, 10 minutes).
    pub fn learn(&mut self, asker: &Asker, name: &Name, chain: &Arc<[Name]>, address: IpAddr, ttl: Duration, now: Instant) {
        let until = now + ttl.clamp(MIN_LIFE, MAX_LIFE);
        let address = canonical(address);
        if !self.by_asker.contains_key(asker) {
            make_room(&mut self.by_asker, MAX_ASKERS, |addresses| addresses.values().flatten().map(|s| s.until).max(), now);
        }
        let addresses = self.by_asker.entry(asker.clone()).or_default();
        if !addresses.contains_key(&address) {
            make_room(addresses, MAX_ADDRESSES, |list| list.iter().map(|s| s.until).max(), now);
        }
        let list = addresses.entry(address).or_default();
        list.retain(|s| s.name != *name && s.until > now);
        if list.len() >= MAX_NAMES {
            list.remove(0);
        }
        list.push(Sighting { name: name.clone(), chain: chain.clone(), until });
    }

    /// The live names of `address` for `asker`, newest last; those of the resolver service follow only where the program has
    /// none of its own.
    #[must_use]
    pub fn of(&self, asker: &Asker, address: IpAddr, now: Instant) -> Vec<Sighting> {
        let own = self.live(asker, address, now);
        if !own.is_empty() || matches!(asker, Asker::Unattributed { .. }) {
            return own;
        }
        self.live(&Asker::ResolverService, address, now)
    }

    /// Keeps the live names of `address` for another 10 minutes: a flow to it is still open, and its program may open the next.
    pub fn keep(&mut self, asker: &Asker, address: IpAddr, now: Instant) {
        let address = canonical(address);
        for asker in [asker, &Asker::ResolverService] {
            let list = self.by_asker.get_mut(asker).and_then(|addresses| addresses.get_mut(&address));
            for sighting in list.into_iter().flatten().filter(|s| s.until > now) {
                sighting.until = sighting.until.max(now + MIN_LIFE);
            }
        }
    }

    /// Forgets what has expired.
    pub fn expire(&mut self, now: Instant) {
        self.by_asker.retain(|_, addresses| {
            addresses.retain(|_, list| {
                list.retain(|s| s.until > now);
                !list.is_empty()
            });
            !addresses.is_empty()
        });
    }

    fn live(&self, asker: &Asker, address: IpAddr, now: Instant) -> Vec<Sighting> {
        let found = self.by_asker.get(asker).and_then(|addresses| addresses.get(&canonical(address)));
        found.map(|list| list.iter().filter(|s| s.until > now).cloned().collect()).unwrap_or_default()
    }
}

/// A v4-mapped address as the IPv4 inside: programs with one socket for both families connect to either form.
fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// Makes room for one more entry: what has expired goes, else what expires first.
fn make_room<K: Ord + Clone, V>(map: &mut BTreeMap<K, V>, limit: usize, until: impl Fn(&V) -> Option<Instant>, now: Instant) {
    if map.len() < limit {
        return;
    }
    map.retain(|_, value| until(value) > Some(now));
    if map.len() < limit {
        return;
    }
    let first = map.iter().min_by_key(|(_, value)| until(value)).map(|(key, _)| key.clone());
    if let Some(first) = first {
        map.remove(&first);
    }
}
