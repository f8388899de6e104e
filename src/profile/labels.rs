//! Labels: named sets of names and networks, and the unbreak entries that lift them.
//!
//! Keeps one rule: a decision only asks "is it labelled so?", so that compiled lists of a million names can take this place.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::names::{Name, Pattern};

/// What one label covers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Label {
    pub names: Vec<Pattern>,
    pub networks: Vec<IpNet>,
}

/// All labels of a profile set.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    by_name: BTreeMap<Box<str>, Label>,
    unbreak: Label,
}

impl Label {
    fn covers(&self, name: Option<&Name>, address: Option<IpAddr>) -> bool {
        name.is_some_and(|name| self.names.iter().any(|pattern| pattern.matches(name)))
            || address.is_some_and(|address| self.networks.iter().any(|net| net.contains(&address)))
    }
}

impl Labels {
    /// Adds entries to a label; several files may speak of the same one.
    pub fn add(&mut self, name: &str, label: Label, unbreak: Label) {
        let own = self.by_name.entry(name.into()).or_default();
        own.names.extend(label.names);
        own.networks.extend(label.networks);
        self.unbreak.names.extend(unbreak.names);
        self.unbreak.networks.extend(unbreak.networks);
    }

    #[must_use]
    pub fn knows(&self, label: &str) -> bool {
        self.by_name.contains_key(label)
    }

    /// The names of all labels.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(|name| &**name)
    }

    /// Whether `label` covers the name or the address.
    #[must_use]
    pub fn covers(&self, label: &str, name: Option<&Name>, address: Option<IpAddr>) -> bool {
        self.by_name.get(label).is_some_and(|own| own.covers(name, address))
    }

    /// Whether `label` speaks of addresses, so that a name alone does not settle it.
    #[must_use]
    pub fn needs_address(&self, label: &str) -> bool {
        self.by_name.get(label).is_some_and(|own| !own.networks.is_empty())
    }

    /// Whether an unbreak entry lifts labels from the name or the address.
    #[must_use]
    pub fn is_unbroken(&self, name: Option<&Name>, address: Option<IpAddr>) -> bool {
        self.unbreak.covers(name, address)
    }
}
