//! Where the rules of a running router come from.
//!
//! Keeps one rule: a set with faults changes nothing; all its faults are handed up as lines for a person.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::shared::locked;
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
    /// Held from the reading of the files until their rules are in force.
    turn: Arc<Mutex<()>>,
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
        Ok(Self { dir, with_user, setup: setup_of(config, search)?, turn: Arc::default() })
    }

    /// Reads the profiles and has them put in force, one caller after another: who read earlier never has the last word.
    ///
    /// # Errors
    ///
    /// All faults, one line each; nothing was put in force.
    pub(super) fn load_into<T>(&self, install: impl FnOnce(Loaded) -> T) -> Result<T, Vec<String>> {
        let _turn = locked(&self.turn);
        self.load().map(install)
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn of_two_reloads_at_a_time_the_one_that_read_last_is_in_force_last() {
        let dir = tempfile::tempdir().expect("a folder");
        let write =
            |name: &str| std::fs::write(dir.path().join("fallback.toml"), format!("name = \"{name}\"\n")).expect("a file");
        let loader = Loader::new(Some(dir.path().to_owned()), false, &Config::default(), &[]).expect("a loader");
        let name = |loaded: &Loaded| loaded.policy.profiles().map(|profile| profile.name.to_string()).collect::<String>();
        let (started, starts) = mpsc::channel();
        let (installed, installs) = mpsc::channel();
        let (go, wait) = mpsc::channel::<()>();
        write("old");
        std::thread::scope(|scope| {
            let (first, second) = (installed.clone(), installed);
            scope.spawn(|| {
                let install = move |loaded: Loaded| {
                    started.send(()).expect("the test listens");
                    let _ = wait.recv();
                    first.send(name(&loaded)).expect("the test listens");
                };
                loader.load_into(install).expect("a set without faults");
            });
            starts.recv().expect("the first has read");
            write("new");
            scope.spawn(|| loader.load_into(move |loaded| second.send(name(&loaded))).expect("a set without faults"));
            let early = installs.recv_timeout(Duration::from_millis(200));
            go.send(()).expect("the first waits");
            assert!(early.is_err(), "the second put {early:?} in force before the first");
        });
        assert_eq!(installs.iter().collect::<Vec<_>>(), ["old", "new"]);
    }

    #[test]
    fn a_set_with_a_fault_is_not_put_in_force() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("fallback.toml"), "name = \n").expect("a file");
        let loader = Loader::new(Some(dir.path().to_owned()), false, &Config::default(), &[]).expect("a loader");
        let faults = loader.load_into(|_| panic!("it has a fault")).expect_err("it has a fault");
        assert!(faults.iter().all(|fault| fault.contains("fallback.toml:1")), "{faults:?}");
        std::fs::write(dir.path().join("fallback.toml"), "name = \"x\"\n").expect("a file");
        assert!(loader.load_into(|_| ()).is_ok(), "the next one has its turn");
    }
}
