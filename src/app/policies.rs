//! Where the rules of a running router come from.
//!
//! Keeps one rule: a set with faults changes nothing; all its faults are handed up as lines for a person.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{Config, paths::Places};
use crate::control::ProfileSource;
use crate::names::Name;
use crate::profile::{Policy, Setup};
use crate::store::{GeoData, default_dirs, read_default, read_set};

/// Reads profiles, again and again the same way.
#[derive(Clone, Debug)]
pub(super) struct Loader {
    dir: Option<PathBuf>,
    with_user: bool,
    setup: Setup,
}

/// A policy and where it came from.
pub(super) struct Loaded {
    pub(super) policy: Arc<Policy>,
    pub(super) sources: Vec<ProfileSource>,
}

impl Loader {
    /// `dir` replaces all other sets. `with_user`: the calling user's own set counts, too.
    ///
    /// # Errors
    ///
    /// A group of the configuration that is no list of entities.
    pub(super) fn new(dir: Option<PathBuf>, with_user: bool, config: &Config, search: &[Name]) -> Result<Self, Vec<String>> {
        Ok(Self { dir, with_user, setup: setup_of(config, search)? })
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
        Ok(Loaded { policy: Arc::new(policy), sources })
    }
}

/// What the configuration tells the rules. `search` are the network's search domains, whose names may have private addresses.
fn setup_of(config: &Config, search: &[Name]) -> Result<Setup, Vec<String>> {
    let mut setup = Setup::default();
    let mut faults = Vec::new();
    for (name, entries) in &config.groups {
        if let Err(error) = setup.add_group(name, entries.iter().map(String::as_str)) {
            faults.push(format!("[groups] {name}: {error}"));
        }
    }
    match GeoData::open(config.geo.country.as_deref(), config.geo.asn.as_deref()) {
        Ok(geo) => setup.geo = Some(Arc::new(geo)),
        Err(fault) => faults.push(fault.to_string()),
    }
    for zone in &config.dns.private {
        match zone.parse().map(|zone| setup.add_private_zone(zone)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => faults.push(format!("[dns] private: {zone}: {error}")),
            Err(error) => faults.push(format!("[dns] private: {zone}: {error}")),
        }
    }
    for zone in search {
        if let Err(error) = setup.add_private_zone(zone.clone()) {
            tracing::debug!(%error, "a search domain is not believed");
        }
    }
    if faults.is_empty() { Ok(setup) } else { Err(faults) }
}

/// What the configuration of this machine tells the rules, for verbs that need no router.
///
/// # Errors
///
/// The faults of the configuration.
pub fn setup() -> Result<Setup, Vec<String>> {
    let config = Config::load(&Places::of_this_process()).map_err(|error| vec![error.to_string()])?;
    setup_of(&config, &[])
}
