//! The walk of a DNS question.
//!
//! Keeps one rule: names resolve before anyone is asked; only what a name alone can settle is settled here.

use super::flow::{domain_whitelist, identity, labels, run_as, strict};
use super::outcome::{Outcome, Row, first_conclusion, no_data, search_layers};
use super::trace::Witness;
use super::{Check, Decision, Lane, Reason, Verdict, bypass};
use crate::names::Name;
use crate::profile::{Flag, Found, Mode, Peer, Policy, RuleVerdict, Search, Subject, View};

/// A question of one program.
pub(super) struct Question<'a> {
    pub policy: &'a Policy,
    pub subject: &'a Subject,
    pub view: &'a View,
    pub name: &'a Name,
    /// CNAME targets that the answer led through; empty before there is one.
    pub chain: &'a [Name],
}

impl<'a> Question<'a> {
    /// The checks in the order of the walk.
    const CHECKS: [Row<Self>; 9] = [
        (Check::Identity, Self::identity),
        (Check::RunAs, Self::run_as),
        (Check::Scope, Self::scope),
        (Check::Endpoints, Self::endpoints),
        (Check::DomainWhitelist, Self::domain_whitelist),
        (Check::Bypass, Self::bypass),
        (Check::Labels, Self::labels),
        (Check::Strict, Self::strict),
        (Check::Mode, Self::mode),
    ];

    /// Walks the checks and settles the verdict; never Ask.
    pub(super) fn decide<W: Witness>(&self, witness: &mut W) -> Decision {
        match first_conclusion(&Self::CHECKS, self, witness) {
            // Whoever is to be asked is asked when the flow is there.
            Outcome::Accept(reason) | Outcome::Ask(reason) => Decision::new(Verdict::Accept, Lane::Direct, reason),
            Outcome::Deny(reason) => Decision::new(Verdict::Block, Lane::Direct, reason),
            Outcome::Pass(..) => Decision::refused(Reason::of(Check::Mode)),
        }
    }

    fn peer(&self) -> Peer<'a> {
        Peer { name: Some(self.name), chain: self.chain, address: None, scope: None, transport: None }
    }

    fn search(&self) -> Search<'a> {
        search_layers(self.subject, self.view, |profile| &profile.endpoints, &self.peer(), self.policy.world())
    }

    fn identity(&self) -> Outcome<'_> {
        identity(self.subject)
    }

    fn run_as(&self) -> Outcome<'_> {
        run_as(self.subject, self.view)
    }

    fn scope(&self) -> Outcome<'_> {
        let (internet, lan) = (self.view.flags.of(Flag::Internet), self.view.flags.of(Flag::Lan));
        if let Some(allowed) = [internet, lan].into_iter().find(|switch| switch.on) {
            return Outcome::Pass("the Internet or the LAN is allowed", allowed.source.as_ref());
        }
        let source = internet.source.as_ref().or(lan.source.as_ref());
        Outcome::deny(Check::Scope, source, "internet and lan are set by no layer")
    }

    fn endpoints(&self) -> Outcome<'_> {
        let search = self.search();
        match search.found {
            Found::Nothing if search.open.is_some() => {
                Outcome::Pass("the flow will be judged by its address, protocol or port", search.open.map(|rule| &rule.source))
            }
            Found::Nothing => Outcome::Pass("no rule matches", None),
            Found::NoData(rule) => no_data(Check::Endpoints, rule),
            Found::Rule(rule) => {
                let reason = Reason::at(Check::Endpoints, &rule.source);
                match rule.value.verdict {
                    RuleVerdict::Permit | RuleVerdict::Ask => Outcome::Accept(reason),
                    RuleVerdict::Deny => Outcome::Deny(reason),
                }
            }
        }
    }

    fn domain_whitelist(&self) -> Outcome<'_> {
        domain_whitelist(self.view, Some(self.name))
    }

    fn bypass(&self) -> Outcome<'_> {
        match bypass::of_question(self.name) {
            Some(why) => Outcome::Deny(Reason::because(Check::Bypass, why)),
            None => Outcome::Pass("no way around the firewall's own resolver", None),
        }
    }

    fn labels(&self) -> Outcome<'_> {
        labels(self.policy, self.view, &self.peer())
    }

    fn strict(&self) -> Outcome<'_> {
        strict(self.subject, self.view, Some(self.name))
    }

    fn mode(&self) -> Outcome<'_> {
        let is_open = || self.search().open;
        match &self.view.mode {
            Some(mode) if mode.value != Mode::Whitelist => Outcome::Accept(Reason::at(Check::Mode, &mode.source)),
            mode => match (is_open(), mode) {
                (Some(rule), _) => Outcome::Accept(Reason::at(Check::Endpoints, &rule.source)),
                (None, Some(mode)) => Outcome::Deny(Reason::at(Check::Mode, &mode.source)),
                (None, None) => {
                    Outcome::Deny(Reason::because(Check::Mode, "no layer sets a mode, so only what a rule permits resolves"))
                }
            },
        }
    }
}
