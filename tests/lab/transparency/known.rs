//! `tests/data/known-diffs.toml`: what differs, and why.

use serde::Deserialize;
use serde_json::Value;

use super::answers::{Answers, Key};
use crate::harness::repository;

/// More differences by design than these are none that a program can live with.
const MOST: usize = 12;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Differences by design.
    diff: Vec<Entry>,
    /// Faults of ours that are known and not mended yet.
    #[serde(default)]
    fault: Vec<Fault>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fault {
    ids: Vec<String>,
    families: String,
    ways: Vec<String>,
    reason: String,
    /// A race: it need not differ each time.
    #[serde(default)]
    sometimes: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: String,
    /// "4", "6" or "46".
    families: String,
    /// Of "exec", "up", and "express" for the express lane of `up`.
    ways: Vec<String>,
    reason: String,
    #[serde(skip)]
    sometimes: bool,
}

impl Entry {
    fn speaks_of(&self, (id, family): &Key) -> bool {
        self.id == *id && self.families.contains(family)
    }
}

/// The entries for one of these.
pub(super) struct Known {
    entries: Vec<Entry>,
}

impl Known {
    /// # Panics
    /// Where the file is wrong, or holds too many differences.
    pub(super) fn read(name: &str) -> Self {
        let path = repository().join("tests/data/known-diffs.toml");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let file: File = toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(file.diff.len() <= MOST, "{} known differences; at most {MOST}", file.diff.len());
        let faults = file.fault.into_iter().flat_map(|Fault { ids, families, ways, reason, sometimes }| {
            ids.into_iter().map(move |id| Entry {
                id,
                families: families.clone(),
                ways: ways.clone(),
                reason: reason.clone(),
                sometimes,
            })
        });
        let all: Vec<Entry> = file.diff.into_iter().chain(faults).collect();
        assert!(all.iter().all(|entry| !entry.reason.is_empty()), "a difference needs a reason");
        Self { entries: all.into_iter().filter(|entry| entry.ways.iter().any(|one| one == name)).collect() }
    }

    pub(super) fn holds(&self, key: &Key) -> bool {
        self.entries.iter().any(|entry| entry.speaks_of(key))
    }

    /// # Panics
    /// Where something differs that is not known to, or is known to and does not.
    pub(super) fn judge(&self, name: &str, without: &Answers, differing: &[(Key, Value)]) {
        let strangers: Vec<String> = differing
            .iter()
            .filter(|(key, _)| !self.holds(key))
            .map(|(key, seen)| {
                let direct = without.result(key).map(Value::to_string).unwrap_or_default();
                format!("{}/{}\n  without a router: {direct}\n  through it:       {seen}", key.0, key.1)
            })
            .collect();
        let gone: Vec<String> = self
            .entries
            .iter()
            .filter(|entry| !entry.sometimes)
            .flat_map(|entry| entry.families.chars().map(|family| (entry.id.clone(), family.to_string())))
            .filter(|key| !differing.iter().any(|(one, _)| one == key))
            .map(|(id, family)| format!("{id}/{family}"))
            .collect();
        assert!(strangers.is_empty(), "{name}: these differ:\n{}", strangers.join("\n"));
        assert!(gone.is_empty(), "{name}: known-diffs.toml names these, and they do not differ: {gone:?}");
    }
}
