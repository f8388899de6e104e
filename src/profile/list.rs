//! A list of endpoint rules and the search in it.
//!
//! Keeps one rule: the first rule that matches is final; a rule that cannot be judged for want of data counts as a deny.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::entity::{Continent, Entity};
use super::geo::Geo;
use super::index::Index;
use super::labels::Labels;
use super::rule::{Rule, RuleVerdict};
use super::scope::Scope;
use super::source::Held;
use super::tail::{Tail, end_of};
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

/// From this length on an index is faster than looking at each rule.
const INDEXED_FROM: usize = 24;

/// A list of rules in the order of the file.
#[derive(Debug, Default)]
pub struct RuleList {
    rules: Vec<Held<Rule>>,
    /// One for each rule.
    tails: Vec<Tail>,
    index: Option<Index>,
}

impl RuleList {
    #[must_use]
    pub fn new(rules: Vec<Held<Rule>>) -> Self {
        let index = (rules.len() >= INDEXED_FROM).then(|| Index::new(rules.iter().map(|held| &held.value)));
        let tails = rules.iter().map(|held| Tail::of(&held.value.entity)).collect();
        Self { rules, tails, index }
    }

    #[must_use]
    pub fn rules(&self) -> &[Held<Rule>] {
        &self.rules
    }

    /// The first rule that matches. An open rule that speaks of the asked name ends the search: the flow will be judged by it.
    #[must_use]
    pub fn search(&self, peer: &Peer<'_>, world: &World) -> Search<'_> {
        match &self.index {
            Some(index) => self.search_index(index, peer, world),
            None => self.search_each(peer, world),
        }
    }

    fn search_each(&self, peer: &Peer<'_>, world: &World) -> Search<'_> {
        let end = peer.name.map(end_of);
        let mut open = None;
        // A chain of CNAMEs has further names, which the tails say nothing of.
        let looked_at = self.rules.iter().zip(&self.tails).filter(|(_, tail)| !peer.chain.is_empty() || tail.may_match(end));
        for (rule, _) in looked_at {
            match hit(&rule.value, peer, world) {
                Hit::No => {}
                Hit::NeedsAddress => open = open.or(Some(rule).filter(|rule| may_open(rule))),
                settled => {
                    if let Some(search) = settle(rule, settled, open) {
                        return search;
                    }
                }
            }
        }
        Search { open, ..Search::NOTHING }
    }

    fn search_index(&self, index: &Index, peer: &Peer<'_>, world: &World) -> Search<'_> {
        let compare = |position: usize| self.rules.get(position).map(|rule| (rule, hit(&rule.value, peer, world)));
        let mut first = usize::MAX;
        index.propose(peer, |positions| {
            let before = positions.iter().take_while(|&&position| position < first);
            let settles = |position: &&usize| compare(**position).is_some_and(|(rule, hit)| settle(rule, hit, None).is_some());
            first = before.copied().find(|position| settles(&position)).unwrap_or(first);
        });
        let openers = index.openers().iter().take_while(|&&position| peer.address.is_none() && position < first);
        let open =
            openers.filter_map(|&position| compare(position)).find(|(_, hit)| *hit == Hit::NeedsAddress).map(|(rule, _)| rule);
        let search = compare(first).and_then(|(rule, hit)| settle(rule, hit, open));
        search.unwrap_or(Search { open, ..Search::NOTHING })
    }
}

fn may_open(rule: &Held<Rule>) -> bool {
    rule.value.verdict != RuleVerdict::Deny
}

/// The outcome of a search that came to `rule`; None where it goes on.
fn settle<'l>(rule: &'l Held<Rule>, hit: Hit, open: Option<&'l Held<Rule>>) -> Option<Search<'l>> {
    match hit {
        Hit::Yes => Some(Search { found: Found::Rule(rule), open, waits: false }),
        Hit::NoData => Some(Search { found: Found::NoData(rule), open, waits: false }),
        Hit::NameOnly if may_open(rule) => Some(Search { found: Found::Nothing, open: Some(rule), waits: true }),
        Hit::No | Hit::NameOnly | Hit::NeedsAddress => None,
    }
}

/// Compares one rule with a peer.
#[must_use]
#[inline]
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

#[inline]
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
            let through_chain = || is_deny && peer.chain.iter().any(|name| pattern.matches(name));
            yes_or_no(peer.name.is_some_and(|name| pattern.matches(name)) || through_chain())
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::super::geo::NoGeo;
    use super::super::labels::Label;
    use super::super::source::{Layer, Source};
    use super::*;

    fn entity() -> impl Strategy<Value = String> {
        prop_oneof![
            proptest::sample::select(vec![
                "*",
                "LAN",
                "Internet,LAN",
                "L:some",
                "L:nets",
                "@group",
                "@none",
                "AT",
                "C:EU",
                "AS1"
            ])
            .prop_map(str::to_owned),
            "10\\.[0-2]\\.0\\.[0-2](/(8|15|16|32))?",
            "2001:db8:[0-2]::/(32|48|64)",
            "(\\.|\\*\\.|\\*|)([ab]\\.)?[a-c]\\.example",
            "[a-c]\\.(exam)?\\*",
            "\\*[a-c](\\.ex)?\\*",
        ]
    }

    fn rule() -> impl Strategy<Value = Rule> {
        let transport = proptest::sample::select(vec!["", "", " TCP", " UDP/53", " TCP/443", " */80-90"]);
        ("[-+?]", entity(), transport).prop_map(|(verdict, entity, transport)| {
            format!("{verdict} {entity}{transport}").parse().expect("a generated rule is valid")
        })
    }

    fn world() -> World {
        let mut labels = Labels::default();
        let patterns = |text: &str| Label { names: vec![text.parse().expect("a pattern")], networks: Vec::new() };
        labels.add("some", patterns(".a.example"), Label::default());
        labels.add(
            "nets",
            Label { networks: vec!["10.1.0.0/16".parse().expect("a net")], ..patterns("b.example") },
            Label::default(),
        );
        let group = vec!["a.a.example".parse().expect("an entity"), "10.2.0.0/16".parse().expect("an entity")];
        World { geo: Arc::new(NoGeo), labels, groups: BTreeMap::from([("group".into(), group)]) }
    }

    fn held(rules: Vec<Rule>) -> Vec<Held<Rule>> {
        let file = Arc::new(PathBuf::from("x.toml"));
        let source = |line| Source { layer: Layer::User, profile: "x".into(), text: "x".into(), file: Arc::clone(&file), line };
        rules.into_iter().zip(1..).map(|(value, line)| Held { value, source: source(line) }).collect()
    }

    fn told(search: &Search<'_>) -> (Option<(u32, bool)>, Option<u32>, bool) {
        let found = match search.found {
            Found::Nothing => None,
            Found::Rule(rule) => Some((rule.source.line, true)),
            Found::NoData(rule) => Some((rule.source.line, false)),
        };
        (found, search.open.map(|rule| rule.source.line), search.waits)
    }

    proptest! {
        #[test]
        fn a_list_with_an_index_finds_what_a_list_without_it_finds(
            rules in proptest::collection::vec(rule(), 0..60),
            name in proptest::option::of("([ab]\\.)?[a-c]\\.example"),
            chain in proptest::collection::vec("([ab]\\.)?[a-c]\\.example", 0..2),
            address in proptest::option::of("10\\.[0-2]\\.0\\.[0-2]|2001:db8:[0-2]::1|192\\.0\\.2\\.1"),
            port in proptest::sample::select(vec![None, Some(53_u16), Some(85), Some(443)]),
            protocol in proptest::sample::select(vec![Protocol::TCP, Protocol::UDP]),
        ) {
            let world = world();
            let list = RuleList { index: Some(Index::new(rules.iter())), ..RuleList::new(held(rules)) };
            let name: Option<Name> = name.map(|name| name.parse().expect("a name"));
            let chain: Vec<Name> = chain.iter().map(|name| name.parse().expect("a name")).collect();
            let address: Option<IpAddr> = address.map(|address| address.parse().expect("an address"));
            let peer = Peer {
                name: name.as_ref(),
                chain: &chain,
                address,
                scope: address.and_then(Scope::of),
                transport: address.map(|_| (protocol, port)),
            };
            prop_assert_eq!(told(&list.search(&peer, &world)), told(&list.search_each(&peer, &world)));
        }
    }
}
