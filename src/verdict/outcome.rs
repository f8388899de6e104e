//! What one check comes to, and the order in which checks are asked.
//!
//! Keeps one rule: the first check that concludes wins, and a table without an end that concludes is a refusal.

use super::trace::Witness;
use super::{Check, Reason};
use crate::profile::{Found, Held, Layer, Peer, Profile, Rule, RuleList};
use crate::profile::{RuleVerdict, Search, Source, Subject, View, World};

/// What one check comes to.
#[derive(Debug)]
pub(super) enum Outcome<'t> {
    /// The walk goes on; says why, and by which line if any.
    Pass(&'static str, Option<&'t Source>),
    Accept(Reason),
    Ask(Reason),
    /// Block for outbound flows and questions, Drop for inbound flows.
    Deny(Reason),
}

impl Outcome<'_> {
    /// A refusal by a setting, or for want of one.
    pub(super) fn deny(check: Check, source: Option<&Source>, otherwise: &str) -> Self {
        Self::Deny(source.map_or_else(|| Reason::because(check, otherwise), |source| Reason::at(check, source)))
    }
}

/// One row of a table of checks.
pub(super) type Row<T> = (Check, for<'t> fn(&'t T) -> Outcome<'t>);

/// Asks the checks in their order.
pub(super) fn first_conclusion<'t, T, W: Witness>(rows: &[Row<T>], judged: &'t T, witness: &mut W) -> Outcome<'t> {
    for (check, ask) in rows {
        match ask(judged) {
            Outcome::Pass(why, by) => witness.passed(*check, why, by),
            conclusion @ (Outcome::Accept(_) | Outcome::Ask(_) | Outcome::Deny(_)) => return conclusion,
        }
    }
    Outcome::Deny(Reason::because(Check::Mode, "no check accepted"))
}

/// Searches the lists of all layers that count, in order of precedence.
pub(super) fn search_layers<'s>(
    subject: &'s Subject,
    view: &View,
    list: fn(&Profile) -> &RuleList,
    peer: &Peer<'_>,
    world: &World,
) -> Search<'s> {
    let mut all = Search::NOTHING;
    for layer in &view.order {
        let one = search_layer(subject, *layer, list, peer, world);
        all.open = all.open.or(one.open);
        if one.is_final() {
            return Search { open: all.open, ..one };
        }
    }
    all
}

/// Searches one layer; where profiles tie, the strictest of what they say holds.
fn search_layer<'s>(
    subject: &'s Subject,
    layer: Layer,
    list: fn(&Profile) -> &RuleList,
    peer: &Peer<'_>,
    world: &World,
) -> Search<'s> {
    let mut strictest = Search::NOTHING;
    for profile in subject.layers().of(layer) {
        let one = list(profile).search(peer, world);
        let open = strictest.open.or(one.open);
        if severity(&one) > severity(&strictest) {
            strictest = one;
        }
        strictest.open = open;
    }
    strictest
}

fn severity(search: &Search<'_>) -> u8 {
    match search.found {
        Found::Nothing if search.waits => 1,
        Found::Nothing => 0,
        Found::Rule(rule) => match rule.value.verdict {
            RuleVerdict::Permit => 2,
            RuleVerdict::Ask => 3,
            RuleVerdict::Deny => 4,
        },
        Found::NoData(_) => 5,
    }
}

/// Why a rule denies whatever its verdict.
pub(super) const NO_DATA: &str = "there are no data to judge this rule by, so it denies";

/// The reason for a rule that could not be judged.
pub(super) fn no_data(check: Check, rule: &Held<Rule>) -> Outcome<'static> {
    Outcome::Deny(Reason { note: Some(NO_DATA), ..Reason::at(check, &rule.source) })
}
