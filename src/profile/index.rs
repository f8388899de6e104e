//! Finding the first rule that matches without looking at each: an index over a long list.
//!
//! Theory of operation: every rule is filed under what its entity asks for (a name, a zone, an address, a network, a scope). A
//! search looks up the few keys that a peer has (its name and the zones above it, its address at each prefix length in use, its
//! scope) and gets lists of positions. Rules that fit no key are in a list of their own, which every search gets.
//!
//! Keeps one rule: it only proposes positions; whether a rule matches is said by `list::hit` alone, so that a list with an index
//! and one without it never disagree.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use foldhash::fast::FixedState;
use ipnet::IpNet;

use super::entity::Entity;
use super::list::Peer;
use super::rule::{Rule, RuleVerdict};
use super::scope::Scope;
use crate::names::{Name, Pattern};

/// Positions of rules, rising.
type Positions = Vec<usize>;
/// Only looked up, never walked, so that its order does not matter.
type Map<K> = HashMap<K, Positions, FixedState>;

/// Positions of the rules of one list by what they ask for.
#[derive(Debug, Default)]
pub(super) struct Index {
    exact: Map<Box<str>>,
    /// `.zone` and `*.zone`.
    zones: Map<Box<str>>,
    /// `*text` by the length of the text.
    suffixes: BTreeMap<usize, Map<Box<str>>>,
    /// `text*` by the length of the text.
    prefixes: BTreeMap<usize, Map<Box<str>>>,
    addresses: Map<IpAddr>,
    /// Networks by prefix length.
    nets_v4: BTreeMap<u8, Map<IpAddr>>,
    nets_v6: BTreeMap<u8, Map<IpAddr>>,
    scopes: BTreeMap<Scope, Positions>,
    /// `* PROTOCOL/PORT` by the port.
    ports: Map<u16>,
    /// All of those, for a peer whose port is not known.
    ported: Positions,
    /// The permits and asks among them, which keep a question open.
    ported_openers: Positions,
    /// Rules that are compared whatever the peer.
    rest: Positions,
    /// Permits and asks that may need an address: they keep a question open.
    openers: Positions,
}

impl Index {
    pub(super) fn new<'r>(rules: impl Iterator<Item = &'r Rule>) -> Self {
        let mut index = Self::default();
        for (position, rule) in rules.enumerate() {
            index.add(position, rule);
        }
        index
    }

    fn add(&mut self, position: usize, rule: &Rule) {
        match &rule.entity {
            Entity::Domain(pattern) => self.add_pattern(position, pattern),
            Entity::Ip(address) => self.addresses.entry(*address).or_default().push(position),
            Entity::Net(net) => {
                let nets = if net.addr().is_ipv4() { &mut self.nets_v4 } else { &mut self.nets_v6 };
                nets.entry(net.prefix_len()).or_default().entry(net.addr()).or_default().push(position);
            }
            Entity::Scopes(scopes) => scopes.iter().for_each(|scope| self.scopes.entry(*scope).or_default().push(position)),
            Entity::Any if single_port(rule).is_some() => self.add_ported(position, rule),
            Entity::Any | Entity::Country(_) | Entity::Continent(_) | Entity::As(_) | Entity::Labels(_) | Entity::Group(_) => {
                self.rest.push(position);
            }
        }
        if rule.verdict != RuleVerdict::Deny && !matches!(rule.entity, Entity::Any | Entity::Domain(_)) {
            self.openers.push(position);
        }
    }

    fn add_ported(&mut self, position: usize, rule: &Rule) {
        if let Some(port) = single_port(rule) {
            self.ports.entry(port).or_default().push(position);
        }
        self.ported.push(position);
        if rule.verdict != RuleVerdict::Deny {
            self.ported_openers.push(position);
        }
    }

    fn add_pattern(&mut self, position: usize, pattern: &Pattern) {
        match pattern {
            Pattern::Exact(name) => self.exact.entry(name.as_str().into()).or_default().push(position),
            Pattern::Zone(name) | Pattern::Below(name) => self.zones.entry(name.as_str().into()).or_default().push(position),
            Pattern::Suffix(text) => self.suffixes.entry(text.len()).or_default().entry(text.clone()).or_default().push(position),
            Pattern::Prefix(text) => self.prefixes.entry(text.len()).or_default().entry(text.clone()).or_default().push(position),
            Pattern::Contains(_) => self.rest.push(position),
        }
    }

    /// Positions of the permits and asks that may need an address.
    pub(super) fn openers(&self) -> &[usize] {
        &self.openers
    }

    /// Calls `see` with each list of positions that may match; `see` itself stops where it has seen enough of a list.
    pub(super) fn propose(&self, peer: &Peer<'_>, mut see: impl FnMut(&[usize])) {
        for name in peer.name.into_iter().chain(peer.chain) {
            self.propose_name(name, &mut see);
        }
        if let Some(address) = peer.address {
            self.propose_address(address, &mut see);
        }
        if let Some(positions) = peer.scope.and_then(|scope| self.scopes.get(&scope)) {
            see(positions);
        }
        match peer.transport {
            None => see(&self.ported_openers),
            Some((_, None)) => see(&self.ported),
            Some((_, Some(port))) => self.ports.get(&port).into_iter().for_each(|positions| see(positions)),
        }
        see(&self.rest);
    }

    fn propose_name(&self, name: &Name, see: &mut impl FnMut(&[usize])) {
        let text = name.as_str();
        self.exact.get(text).into_iter().for_each(|positions| see(positions));
        if !self.zones.is_empty() {
            let above = text.match_indices('.').filter_map(|(dot, _)| text.get(dot + 1..));
            for zone in std::iter::once(text).chain(above) {
                self.zones.get(zone).into_iter().for_each(|positions| see(positions));
            }
        }
        for (length, suffixes) in self.suffixes.range(..=text.len()) {
            let end = text.get(text.len() - length..);
            end.and_then(|end| suffixes.get(end)).into_iter().for_each(|positions| see(positions));
        }
        for (length, prefixes) in self.prefixes.range(..=text.len()) {
            let start = text.get(..*length);
            start.and_then(|start| prefixes.get(start)).into_iter().for_each(|positions| see(positions));
        }
    }

    fn propose_address(&self, address: IpAddr, see: &mut impl FnMut(&[usize])) {
        self.addresses.get(&address).into_iter().for_each(|positions| see(positions));
        for (length, nets) in if address.is_ipv4() { &self.nets_v4 } else { &self.nets_v6 } {
            let net = IpNet::new(address, *length).ok().map(|net| net.trunc().addr());
            net.and_then(|net| nets.get(&net)).into_iter().for_each(|positions| see(positions));
        }
    }
}

fn single_port(rule: &Rule) -> Option<u16> {
    let ports = rule.transport.as_ref()?.ports.as_ref()?;
    (ports.start() == ports.end()).then(|| *ports.start())
}
