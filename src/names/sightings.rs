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
/// Names remembered per program and address; the oldest goes first.
const MAX_NAMES: usize = 8;
/// Addresses remembered per program; the one that expires first goes first.
const MAX_ADDRESSES: usize = 4096;

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
    by_asker: BTreeMap<Asker, BTreeMap<IpAddr, Vec<Sighting>>>,
}

impl Sightings {
    /// Remembers that `asker` was given `address` as `name` for max(`ttl`, 10 minutes).
    pub fn learn(&mut self, asker: &Asker, name: &Name, chain: &Arc<[Name]>, address: IpAddr, ttl: Duration, now: Instant) {
        let until = now + ttl.max(MIN_LIFE);
        let addresses = self.by_asker.entry(asker.clone()).or_default();
        if addresses.len() >= MAX_ADDRESSES && !addresses.contains_key(&address) {
            addresses.retain(|_, list| list.iter().any(|s| s.until > now));
            if addresses.len() >= MAX_ADDRESSES {
                let oldest = addresses.iter().min_by_key(|(_, l)| l.iter().map(|s| s.until).max()).map(|(a, _)| *a);
                if let Some(oldest) = oldest {
                    addresses.remove(&oldest);
                }
            }
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

    fn live(&self, asker: &Asker, address: IpAddr, now: Instant) -> Vec<Sighting> {
        let found = self.by_asker.get(asker).and_then(|addresses| addresses.get(&address));
        found.map(|list| list.iter().filter(|s| s.until > now).cloned().collect()).unwrap_or_default()
    }
}
