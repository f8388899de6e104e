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
        assert!(self.0.len() > 250, "the probe told of {} behaviours only", self.0.len());
        let missing: Vec<_> = self.0.keys().filter(|key| !other.0.contains_key(*key)).collect();
        assert!(missing.is_empty(), "not told through the router: {missing:?}");
    }

    /// Takes newer answers in the place of older ones.
    pub(super) fn replace(&mut self, newer: Self) {
        self.0.extend(newer.0);
    }

    /// The behaviours that do not show the refusal that is promised, with a line about each: TCP is reset, for the rest an ICMP error says
    /// that it is prohibited, which is EHOSTUNREACH in IPv4 and EACCES in IPv6.
    pub(super) fn not_refused(&self) -> impl Iterator<Item = (&Key, String)> {
        self.0.iter().filter_map(|(key, line)| {
            let shown = line.result.to_string();
            let refused = match &line.expected_refusal {
                Some(expected) => line.result == *expected,
                None if line.id.starts_with("tcp.") => shown.contains("ECONNREFUSED"),
                None if line.family == "4" => shown.contains("EHOSTUNREACH"),
                None => shown.contains("EACCES"),
            };
            (!line.local && !refused).then(|| (key, format!("{}/{}: {shown}", line.id, line.family)))
        })
    }
}
