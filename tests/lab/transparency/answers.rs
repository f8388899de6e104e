//! The lines that the probe writes.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// A behaviour and its address family, "4" or "6".
pub(super) type Key = (String, String);

#[derive(Deserialize)]
struct Line {
    id: String,
    family: String,
    /// Nothing of it reaches the network.
    local: bool,
    /// What it says where everything is refused, if that is not its protocol's usual refusal.
    expected_refusal: Option<Value>,
    result: Value,
}

/// What one run of the probe saw.
#[derive(Default)]
pub(super) struct Answers(BTreeMap<Key, Line>);

impl Answers {
    pub(super) fn parse(text: &str) -> Self {
        let lines = text.lines().map(|line| {
            let line: Line = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            ((line.id.clone(), line.family.clone()), line)
        });
        Self(lines.collect())
    }

    pub(super) fn result(&self, key: &Key) -> Option<&Value> {
        self.0.get(key).map(|line| &line.result)
    }

    /// The behaviours that the other run saw otherwise, with what it saw.
    pub(super) fn differing(&self, other: &Self) -> Vec<(Key, Value)> {
        let others = other.0.iter().filter(|(key, line)| self.result(key) != Some(&line.result));
        others.map(|(key, line)| (key.clone(), line.result.clone())).collect()
    }

    /// # Panics
    /// Where the two runs did not ask the same, or too little.
    pub(super) fn expect_same_questions(&self, other: &Self) {
        assert!(self.0.len() > 500, "the probe told of {} behaviours only", self.0.len());
        let missing: Vec<_> = self.0.keys().filter(|key| !other.0.contains_key(*key)).collect();
        assert!(missing.is_empty(), "not told through the router: {missing:?}");
    }

    /// Takes newer answers in the place of older ones.
    pub(super) fn replace(&mut self, newer: Self) {
        self.0.extend(newer.0);
    }

    /// The behaviours that do not show the refusal that is promised, with what was seen: TCP is reset; whatever else there is comes to
    /// another end than without a router.
    pub(super) fn not_refused(&self, without: &Self) -> Vec<(Key, Value)> {
        let unlike = self.0.iter().filter(|(_, line)| !line.local).filter(|(key, line)| {
            let usual = if line.id.starts_with("tcp.") {
                line.result.to_string().contains("ECONNREFUSED")
            } else {
                without.result(key) != Some(&line.result)
            };
            !usual && line.expected_refusal.as_ref() != Some(&line.result)
        });
        unlike.map(|(key, line)| (key.clone(), line.result.clone())).collect()
    }

    /// How many behaviours of datagrams were told that they are prohibited: EHOSTUNREACH in IPv4, EACCES in IPv6 (RFC 1812 §5.2.7.1 code 13,
    /// RFC 4443 §3.1 code 1).
    pub(super) fn prohibited(&self) -> usize {
        let told = |line: &&Line| {
            let errno = if line.family == "4" { "EHOSTUNREACH" } else { "EACCES" };
            !line.id.starts_with("tcp.") && line.result.to_string().contains(errno)
        };
        self.0.values().filter(told).count()
    }
}
