//! Where the rules of a running router come from.
//!
//! Keeps one rule: a set with faults changes nothing; all its faults are handed up as lines for a person.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{Config, paths::Places};
use crate::control::ProfileSource;
use crate::names::Name;
use crate::profile::{Entity, Policy, Setup, Subject};
use crate::router::Rules;
use crate::store::{GeoData, default_dirs, read_default, read_set};
use crate::verdict::{Reason, chain_allowed};

/// Reads profiles, again and again the same way.
#[derive(Clone, Debug)]
pub(super) struct Loader {
    dir: Option<PathBuf>,
    with_user: bool,
    setup: Setup,
}

/// A policy and where it came from.
pub(super) struct Loaded {
    pub(super) policy: Policy,
    pub(super) sources: Vec<ProfileSource>,
}

impl Loader {
    /// `dir` replaces all other sets. `with_user`: the calling user's own set counts, too.
    ///
    /// # Errors
    ///
    /// A group of the configuration that is no list of entities.
    pub(super) fn new(dir: Option<PathBuf>, with_user: bool, config: &Config) -> Result<Self, Vec<String>> {
        Ok(Self { dir, with_user, setup: setup_of(config)? })
    }

    /// Reads the profiles as they stand now.
    ///
    /// # Errors
    ///
    /// All faults, one line each.
    pub(super) fn load(&self) -> Result<Loaded, Vec<String>> {
        let set = match &self.dir {
            Some(dir) => read_set(dir),
            None => read_default(&default_dirs(self.with_user)),
        };
        let lines = |faults: Vec<crate::profile::Fault>| faults.iter().map(ToString::to_string).collect::<Vec<_>>();
        let set = set.map_err(lines)?;
        let places: Vec<PathBuf> = set.places.clone();
        let policy = set.compile(self.setup.clone()).map_err(lines)?;
        let count = |place: &PathBuf| policy.profiles().filter(|profile| profile.file.starts_with(place)).count();
        let sources = places.iter().map(|place| ProfileSource { from: place.display().to_string(), profiles: count(place) });
        let sources = sources.filter(|source| source.profiles > 0).collect();
        Ok(Loaded { policy, sources })
    }
}

/// What the configuration tells the rules.
fn setup_of(config: &Config) -> Result<Setup, Vec<String>> {
    let mut groups = BTreeMap::new();
    let mut faults = Vec::new();
    for (name, entries) in &config.groups {
        let mut entities = Vec::new();
        for entry in entries {
            match entry.parse::<Entity>() {
                Ok(entity) => entities.push(entity),
                Err(fault) => faults.push(format!("group `{name}`: `{entry}`: {fault}")),
            }
        }
        groups.insert(name.as_str().into(), entities);
    }
    let geo = GeoData::open(config.geo.country.as_deref(), config.geo.asn.as_deref());
    match geo {
        Ok(geo) if faults.is_empty() => Ok(Setup { geo: Some(Arc::new(geo)), groups }),
        Ok(_) => Err(faults),
        Err(fault) => Err(faults.into_iter().chain([fault.to_string()]).collect()),
    }
}

/// What the configuration of this machine tells the rules, for verbs that need no router.
///
/// # Errors
///
/// The faults of the configuration.
pub fn setup() -> Result<Setup, Vec<String>> {
    let config = Config::load(&Places::of_this_process()).map_err(|error| vec![error.to_string()])?;
    setup_of(&config)
}

/// The reason why an answer may not lead through `chain`.
pub(super) fn chain_denied(rules: &Arc<Rules>, subject: &Subject, name: &Name, chain: &[Name]) -> Option<Reason> {
    chain_allowed(&rules.policy, subject, rules.level, name, chain).err()
}
