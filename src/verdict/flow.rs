//! The walk of a flow.
//!
//! Keeps one rule: the order of the checks is the order of [`Flow::CHECKS`], and only a check of that table accepts.

use std::net::IpAddr;

use super::outcome::{Outcome, Row, first_conclusion, no_data, search_layers};
use super::related::is_related;
use super::trace::Witness;
use super::{Answer, Check, Decision, Lane, Reason, Verdict, bypass, infrastructure};
use crate::names::{Name, Pattern, Sighting};
use crate::packet::{Direction, Protocol};
use crate::process::UID_MIN;
use crate::profile::{
    Fit, Flag, Found, Held, Level, Mode, Peer, Policy, Profile, Restrictions, RuleList, RuleVerdict, RunAs, Scope, Subject,
    Switch, Transport, View,
};

/// A flow under one of its names.
pub(super) struct Flow<'a> {
    pub policy: &'a Policy,
    pub subject: &'a Subject,
    /// In force.
    pub level: Level,
    pub view: &'a View,
    pub direction: Direction,
    pub protocol: Protocol,
    /// Never v4-mapped.
    pub remote: IpAddr,
    pub port: Option<u16>,
    pub sighting: Option<&'a Sighting>,
    pub peer_is_this_host: bool,
}

impl<'a> Flow<'a> {
    /// The checks in the order of the walk.
    const CHECKS: [Row<Self>; 13] = [
        (Check::Infrastructure, Self::infrastructure),
        (Check::Identity, Self::identity),
        (Check::RunAs, Self::run_as),
        (Check::Direction, Self::direction),
        (Check::Scope, Self::scope),
        (Check::PeerToPeer, Self::peer_to_peer),
        (Check::Endpoints, Self::endpoints),
        (Check::DomainWhitelist, Self::domain_whitelist),
        (Check::ConnectPorts, Self::connect_ports),
        (Check::Bypass, Self::bypass),
        (Check::Labels, Self::labels),
        (Check::Strict, Self::strict),
        (Check::Mode, Self::mode),
    ];

    /// Walks the checks and settles the verdict.
    pub(super) fn decide<W: Witness>(&self, answer: Option<Answer>, witness: &mut W) -> Decision {
        match first_conclusion(&Self::CHECKS, self, witness) {
            Outcome::Accept(reason) => self.accept(reason),
            Outcome::Ask(reason) => self.ask(reason, answer),
            Outcome::Deny(reason) => self.deny(reason),
            Outcome::Pass(..) => self.deny(Reason::of(Check::Mode)),
        }
    }

    fn deny(&self, reason: Reason) -> Decision {
        self.refuse(Lane::Direct, reason)
    }

    fn refuse(&self, lane: Lane, reason: Reason) -> Decision {
        let verdict = match self.direction {
            Direction::Outbound => Verdict::Block,
            Direction::Inbound => Verdict::Drop,
        };
        Decision::new(verdict, lane, reason)
    }

    /// What the program needs a gate for leaves by the gate or not at all; there is none yet.
    fn accept(&self, reason: Reason) -> Decision {
        let gate = self.view.flags.of(Flag::RequireGate17);
        match &gate.source {
            Some(source) if gate.on && reason.check != Check::Infrastructure => {
                self.refuse(Lane::Gate, Reason { note: Some("no gate is up"), ..Reason::at(Check::Gate, source) })
            }
            Some(_) | None => Decision::new(Verdict::Accept, Lane::Direct, reason),
        }
    }

    fn ask(&self, reason: Reason, answer: Option<Answer>) -> Decision {
        match answer {
            None => Decision::new(Verdict::Ask, Lane::Direct, reason),
            Some(Answer::Allow) => self.accept(Reason { check: Check::Prompt, ..reason }),
            Some(Answer::Deny) => Decision::new(Verdict::Block, Lane::Direct, Reason { check: Check::Prompt, ..reason }),
        }
    }

    fn name(&self) -> Option<&'a Name> {
        self.sighting.map(|sighting| &sighting.name)
    }

    fn peer(&self) -> Peer<'a> {
        Peer {
            name: self.name(),
            chain: self.sighting.map_or(&[], |sighting| &sighting.chain),
            address: Some(self.remote),
            scope: Scope::of(self.remote),
            transport: Some((self.protocol, self.port)),
        }
    }

    fn is_outbound(&self) -> bool {
        self.direction == Direction::Outbound
    }

    fn flag(&self, flag: Flag) -> &'a Switch {
        self.view.flags.of(flag)
    }

    fn infrastructure(&self) -> Outcome<'_> {
        let uid = self.subject.identity.uid;
        match infrastructure::exempt(self.direction, self.protocol, self.remote, self.port, uid) {
            Some(what) => Outcome::Accept(Reason::because(Check::Infrastructure, what)),
            None => Outcome::Pass("not our own infrastructure", None),
        }
    }

    fn identity(&self) -> Outcome<'_> {
        identity(self.subject)
    }

    fn run_as(&self) -> Outcome<'_> {
        run_as(self.subject, self.view)
    }

    fn direction(&self) -> Outcome<'_> {
        if self.is_outbound() {
            return Outcome::Pass("the program opened this flow", None);
        }
        let service = self.flag(Flag::Service);
        if !service.on {
            return Outcome::deny(Check::Direction, service.source.as_ref(), "service is set by no layer");
        }
        match port_outside(&self.view.listen_ports, self.protocol, self.port) {
            Some(reason) => Outcome::Deny(Reason { check: Check::Direction, ..reason }),
            None => Outcome::Pass("the program may accept inbound flows here", service.source.as_ref()),
        }
    }

    fn scope(&self) -> Outcome<'_> {
        let (flag, unset) = match Scope::of(self.remote) {
            None => return Outcome::Deny(Reason::because(Check::Scope, "the address is invalid")),
            Some(Scope::Localhost) => (Flag::Localhost, "localhost is set by no layer"),
            Some(Scope::Lan) => (Flag::Lan, "lan is set by no layer"),
            Some(Scope::Internet) => (Flag::Internet, "internet is set by no layer"),
        };
        let switch = self.flag(flag);
        let source = switch.source.as_ref();
        if switch.on { Outcome::Pass("the scope is allowed", source) } else { Outcome::deny(Check::Scope, source, unset) }
    }

    fn peer_to_peer(&self) -> Outcome<'_> {
        if !self.is_outbound() {
            return Outcome::Pass("the peer opened this flow", None);
        }
        if self.sighting.is_some() {
            return Outcome::Pass("the program learned this address by a name", None);
        }
        if self.peer_is_this_host || Scope::of(self.remote) == Some(Scope::Localhost) {
            return Outcome::Pass("the peer is this host", None);
        }
        let gateway = self.flag(Flag::Gateway);
        if gateway.on {
            return Outcome::Pass("a gateway's destinations are the user's choice", gateway.source.as_ref());
        }
        let switch = self.flag(Flag::PeerToPeer);
        if switch.on {
            return Outcome::Pass("the program may reach addresses without names", switch.source.as_ref());
        }
        Outcome::deny(Check::PeerToPeer, switch.source.as_ref(), "peer_to_peer is set by no layer")
    }

    fn endpoints(&self) -> Outcome<'_> {
        let list: fn(&Profile) -> &RuleList = match self.direction {
            Direction::Outbound => |profile| &profile.endpoints,
            Direction::Inbound => |profile| &profile.service_endpoints,
        };
        match search_layers(self.subject, self.view, list, &self.peer(), self.policy.world()).found {
            Found::Nothing => Outcome::Pass("no rule matches", None),
            Found::NoData(rule) => no_data(Check::Endpoints, rule),
            Found::Rule(rule) => {
                let reason = Reason::at(Check::Endpoints, &rule.source);
                match rule.value.verdict {
                    RuleVerdict::Permit => Outcome::Accept(reason),
                    RuleVerdict::Ask => Outcome::Ask(reason),
                    RuleVerdict::Deny => Outcome::Deny(reason),
                }
            }
        }
    }

    fn domain_whitelist(&self) -> Outcome<'_> {
        if self.is_outbound() {
            domain_whitelist(self.view, self.name())
        } else {
            Outcome::Pass("the peer opened this flow", None)
        }
    }

    fn connect_ports(&self) -> Outcome<'_> {
        if !self.is_outbound() {
            return Outcome::Pass("the peer opened this flow", None);
        }
        match port_outside(&self.view.connect_ports, self.protocol, self.port) {
            Some(reason) => Outcome::Deny(reason),
            None => passed_all("the port is allowed", "the port is not restricted", &self.view.connect_ports),
        }
    }

    fn bypass(&self) -> Outcome<'_> {
        if !self.is_outbound() {
            return Outcome::Pass("the peer opened this flow", None);
        }
        match bypass::of_flow(self.protocol, self.remote, self.port, self.name(), self.level) {
            Some(why) => Outcome::Deny(Reason::because(Check::Bypass, why)),
            None => Outcome::Pass("no way around the firewall's own resolver", None),
        }
    }

    fn labels(&self) -> Outcome<'_> {
        labels(self.policy, self.view, &self.peer())
    }

    fn strict(&self) -> Outcome<'_> {
        if self.is_outbound() {
            strict(self.subject, self.view, self.name())
        } else {
            Outcome::Pass("the peer opened this flow", None)
        }
    }

    fn mode(&self) -> Outcome<'_> {
        let Some(mode) = &self.view.mode else {
            return Outcome::Deny(Reason::because(
                Check::Mode,
                "no layer sets a mode, so nothing is accepted that no rule permits",
            ));
        };
        let reason = Reason::at(Check::Mode, &mode.source);
        match mode.value {
            Mode::Whitelist => Outcome::Deny(reason),
            Mode::Blacklist => Outcome::Accept(reason),
            Mode::Prompt => match (self.flag(Flag::Related), self.name()) {
                (Switch { on: true, source: Some(source) }, Some(name)) if is_related(name, self.subject.related_to()) => {
                    Outcome::Accept(Reason::at(Check::Mode, source))
                }
                _ => Outcome::Ask(reason),
            },
        }
    }
}

/// The program must be known before anything is accepted for it.
pub(super) fn identity(subject: &Subject) -> Outcome<'_> {
    match subject.known() {
        Ok(()) => Outcome::Pass("the program is known", None),
        Err(why) => Outcome::Deny(Reason { rule: Some(why.clone()), ..Reason::of(Check::Identity) }),
    }
}

/// The user must be one who may run the program.
pub(super) fn run_as<'v>(subject: &Subject, view: &'v View) -> Outcome<'v> {
    let identity = &subject.identity;
    let is = |wanted: RunAs| match (wanted, identity.uid) {
        (_, None) => false,
        (RunAs::System, Some(uid)) => uid < UID_MIN,
        (RunAs::Admin, Some(uid)) => uid == 0 || identity.is_admin,
        (RunAs::User, Some(uid)) => uid >= UID_MIN && identity.has_session,
    };
    match view.run_as.iter().find(|held| !is(held.value)) {
        Some(held) => Outcome::Deny(Reason::at(Check::RunAs, &held.source)),
        None => Outcome::Pass("the user may run this program", view.run_as.first().map(|held| &held.source)),
    }
}

/// Every whitelist that holds must name the domain; what has no name is in none.
pub(super) fn domain_whitelist<'v>(view: &'v View, name: Option<&Name>) -> Outcome<'v> {
    let misses = |list: &&Held<Vec<Pattern>>| !name.is_some_and(|name| list.value.iter().any(|pattern| pattern.matches(name)));
    match view.domain_whitelist.iter().find(misses) {
        Some(list) => Outcome::Deny(Reason::at(Check::DomainWhitelist, &list.source)),
        None => passed_all("the domain is allowed", "the domain is not restricted", &view.domain_whitelist),
    }
}

/// Passing a list names the line that it stands in.
fn passed_all<'v, T>(listed: &'static str, free: &'static str, lists: &'v Restrictions<T>) -> Outcome<'v> {
    match lists.first() {
        Some(list) => Outcome::Pass(listed, Some(&list.source)),
        None => Outcome::Pass(free, None),
    }
}

/// The first list of ports that does not hold this one.
fn port_outside(lists: &Restrictions<Transport>, protocol: Protocol, port: Option<u16>) -> Option<Reason> {
    let holds = |ports: &[Transport]| protocol.has_ports() && ports.iter().any(|own| own.fits(protocol, port) == Fit::Yes);
    let outside = lists.iter().find(|list| !holds(&list.value))?;
    Some(Reason::at(Check::ConnectPorts, &outside.source))
}

/// Labelled names and addresses are refused, unless an unbreak entry lifts that.
pub(super) fn labels<'v>(policy: &Policy, view: &'v View, peer: &Peer<'_>) -> Outcome<'v> {
    let labels = &policy.world().labels;
    let covered = |label: &str| {
        labels.covers(label, peer.name, peer.address) || peer.chain.iter().any(|name| labels.covers(label, Some(name), None))
    };
    let blocking = view.blocked_labels.iter().find(|list| list.value.iter().any(|label| covered(label)));
    match blocking {
        Some(list) if labels.is_unbroken(peer.name, peer.address) => {
            Outcome::Pass("labelled, but an unbreak entry lifts that", Some(&list.source))
        }
        Some(list) => Outcome::Deny(Reason::at(Check::Labels, &list.source)),
        None => Outcome::Pass("no blocked label", None),
    }
}

/// A strict program reaches related domains alone.
pub(super) fn strict<'v>(subject: &Subject, view: &'v View, name: Option<&Name>) -> Outcome<'v> {
    let strict = view.flags.of(Flag::Strict);
    if !strict.on {
        return Outcome::Pass("the program is not strict", None);
    }
    let gateway = view.flags.of(Flag::Gateway);
    if gateway.on {
        return Outcome::Pass("gateway lifts strict", gateway.source.as_ref());
    }
    if name.is_some_and(|name| is_related(name, subject.related_to())) {
        return Outcome::Pass("the domain is related to the program", strict.source.as_ref());
    }
    Outcome::deny(Check::Strict, strict.source.as_ref(), "strict")
}
