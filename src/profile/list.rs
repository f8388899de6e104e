//! A list of endpoint rules and the search in it.
//!
//! Keeps one rule: the first rule that matches is final; a rule that cannot be judged for want of data counts as a deny.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::entity::{Continent, Entity};
use super::geo::Geo;
use super::labels::Labels;
use super::rule::{Rule, RuleVerdict};
use super::scope::Scope;
use super::source::Held;
use super::transport::Fit;
use crate::names::Name;
use crate::packet::Protocol;

/// What the rules may look at besides the case.
#[derive(Debug)]
pub struct World {
    pub geo: Arc<dyn Geo>,
    pub labels: Labels,
    pub groups: BTreeMap<Box<str>, Vec<Entity>>,
}

/// What is known of the other end.
#[derive(Clone, Copy, Debug)]
pub struct Peer<'a> {
    pub name: Option<&'a Name>,
    /// CNAME targets between the name and the address: only denies match through them.
    pub chain: &'a [Name],
    /// None for a question. Never a v4-mapped address.
    pub address: Option<IpAddr>,
    pub scope: Option<Scope>,
    /// None for a question.
    pub transport: Option<(Protocol, Option<u16>)>,
}

/// How one rule compares with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hit {
    Yes,
    No,
    /// The rule speaks of this name, but of a protocol or port, too, and those are not known yet.
    NameOnly,
    /// The rule needs an address that is not known yet.
    NeedsAddress,
    /// The data that the rule needs is missing.
    NoData,
}

/// What a search in lists came to.
#[derive(Clone, Copy, Debug)]
pub enum Found<'l> {
    Nothing,
    Rule(&'l Held<Rule>),
    /// The rule could not be judged; that is a deny.
    NoData(&'l Held<Rule>),
}

/// The outcome of a search.
#[derive(Clone, Copy, Debug)]
pub struct Search<'l> {
    pub found: Found<'l>,
    /// A `+` or `?` rule that only the flow itself can settle.
    pub open: Option<&'l Held<Rule>>,
    /// The open rule speaks of the asked name, so that no later rule can settle the question before the flow is there.
    pub waits: bool,
}

impl Search<'_> {
    /// No rule spoke.
    pub const NOTHING: Self = Self { found: Found::Nothing, open: None, waits: false };

    /// Whether later lists are not asked any more.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.waits || !matches!(self.found, Found::Nothing)
    }
}

/// A list of rules in the order of the file.
#[derive(Debug, Default)]
pub struct RuleList {
    rules: Vec<Held<Rule>>,
}

impl RuleList {
    #[must_use]
    pub fn new(rules: Vec<Held<Rule>>) -> Self {
        Self { rules }
    }

    #[must_use]
    pub fn rules(&self) -> &[Held<Rule>] {
        &self.rules
    }

    /// The first rule that matches. An open rule that speaks of the asked name ends the search: the flow will be judged by it.
    #[must_use]
    pub fn search(&self, peer: &Peer<'_>, world: &World) -> Search<'_> {
        let mut open = None;
        for rule in &self.rules {
            let may_open = rule.value.verdict != RuleVerdict::Deny;
            match hit(&rule.value, peer, world) {
                Hit::Yes => return Search { found: Found::Rule(rule), open, waits: false },
                Hit::NoData => return Search { found: Found::NoData(rule), open, waits: false },
                Hit::NameOnly if may_open => return Search { found: Found::Nothing, open: Some(rule), waits: true },
                Hit::NeedsAddress if may_open => open = open.or(Some(rule)),
                Hit::No | Hit::NameOnly | Hit::NeedsAddress => {}
            }
        }
        Search { found: Found::Nothing, open, waits: false }
    }
}

/// Compares one rule with a peer.
#[must_use]
pub fn hit(rule: &Rule, peer: &Peer<'_>, world: &World) -> Hit {
    let fit = match (&rule.transport, peer.transport) {
        (None, _) => Some(Fit::Yes),
        (Some(own), Some((protocol, port))) => Some(own.fits(protocol, port)),
        (Some(_), None) => None,
    };
    let is_deny = rule.verdict == RuleVerdict::Deny;
    match fit {
        Some(Fit::No) => return Hit::No,
        // A flow whose port nobody knows is held against denies and never for permits.
        Some(Fit::Unknown) if !is_deny => return Hit::No,
        Some(Fit::Yes | Fit::Unknown) | None => {}
    }
    match (entity_hit(&rule.entity, peer, world, is_deny), fit) {
        (Hit::Yes, None) => Hit::NameOnly,
        (hit, _) => hit,
    }
}

fn entity_hit(entity: &Entity, peer: &Peer<'_>, world: &World, is_deny: bool) -> Hit {
    match entity {
        Entity::Any => Hit::Yes,
        Entity::Ip(own) => by_address(peer, |address| *own == address),
        Entity::Net(net) => by_address(peer, |address| net.contains(&address)),
        Entity::Scopes(scopes) => by_address(peer, |_| peer.scope.is_some_and(|scope| scopes.contains(&scope))),
        Entity::Country(own) => by_registry(peer, |address| world.geo.country(address).map(|found| found == *own)),
        Entity::Continent(own) => {
            by_registry(peer, |address| world.geo.country(address).and_then(Continent::of).map(|found| found == *own))
        }
        Entity::As(own) => by_registry(peer, |address| world.geo.asn(address).map(|found| found == *own)),
        Entity::Domain(pattern) => {
            let chain = if is_deny { peer.chain } else { &[] };
            yes_or_no(peer.name.into_iter().chain(chain).any(|name| pattern.matches(name)))
        }
        Entity::Labels(labels) => labels_hit(labels, peer, world, is_deny),
        Entity::Group(group) => {
            let Some(entities) = world.groups.get(group) else { return Hit::NoData };
            // A group holds no groups, so this is one level deep.
            let hits = entities.iter().filter(|entity| !matches!(entity, Entity::Group(_)));
            hits.map(|entity| entity_hit(entity, peer, world, is_deny)).max_by_key(|hit| weight(*hit)).unwrap_or(Hit::No)
        }
    }
}

/// In a group one entity that matches is enough; what is unsure counts before a plain no.
fn weight(hit: Hit) -> u8 {
    match hit {
        Hit::No => 0,
        Hit::NeedsAddress => 1,
        Hit::NameOnly => 2,
        Hit::NoData => 3,
        Hit::Yes => 4,
    }
}

fn yes_or_no(yes: bool) -> Hit {
    if yes { Hit::Yes } else { Hit::No }
}

fn by_address(peer: &Peer<'_>, test: impl FnOnce(IpAddr) -> bool) -> Hit {
    peer.address.map_or(Hit::NeedsAddress, |address| yes_or_no(test(address)))
}

fn by_registry(peer: &Peer<'_>, test: impl FnOnce(IpAddr) -> Option<bool>) -> Hit {
    match peer.address {
        None => Hit::NeedsAddress,
        Some(_) if peer.scope != Some(Scope::Internet) => Hit::No,
        Some(address) => test(address).map_or(Hit::NoData, yes_or_no),
    }
}

fn labels_hit(labels: &[Box<str>], peer: &Peer<'_>, world: &World, is_deny: bool) -> Hit {
    let chain = if is_deny { peer.chain } else { &[] };
    let covered = |label: &str| {
        world.labels.covers(label, peer.name, peer.address)
            || chain.iter().any(|name| world.labels.covers(label, Some(name), None))
    };
    if labels.iter().any(|label| covered(label)) {
        return Hit::Yes;
    }
    let unsettled = peer.address.is_none() && labels.iter().any(|label| world.labels.needs_address(label));
    if unsettled { Hit::NeedsAddress } else { Hit::No }
}
