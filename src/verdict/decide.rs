//! A case → its decision.
//!
//! Keeps one rule: an address with several names is as restricted as the strictest of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::flow::Flow;
use super::question::Question;
use super::trace::{Step, Trace, Unseen, Witness};
use super::{Case, Check, Decision, Lane, Reason, Target, Verdict};
use crate::names::{Name, Sighting};
use crate::profile::{Level, Policy, Subject, embedded};

/// What refused names are answered with: nothing lives there, so a flow to it is a program that was refused.
pub const REFUSED_V4: Ipv4Addr = Ipv4Addr::new(0, 0, 0, 17);
/// The same for IPv6.
pub const REFUSED_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 0x17);

/// Walks the checks; the first that concludes wins.
#[must_use]
pub fn decide(policy: &Policy, case: &Case<'_>) -> Decision {
    walk::<Unseen>(policy, case).0
}

/// Decides and tells every step of the walk.
#[must_use]
pub fn explain(policy: &Policy, case: &Case<'_>) -> (Decision, Vec<Step>) {
    let (decision, Trace(mut steps)) = walk::<Trace>(policy, case);
    let note = decision.reason.to_string();
    steps.push(Step { check: decision.reason.check, outcome: decision.verdict.to_string(), note });
    (decision, steps)
}

fn walk<W: Witness>(policy: &Policy, case: &Case<'_>) -> (Decision, W) {
    let mut witness = W::default();
    let level = case.subject.level(case.level);
    let view = case.subject.view(level);
    match case.target {
        Target::Question { name, qtype: _ } => {
            let question = Question { policy, subject: case.subject, view, name, chain: &[] };
            (question.decide(&mut witness), witness)
        }
        Target::Flow { direction, protocol, remote, port, names, peer_is_this_host } => {
            let remote = embedded(remote);
            if is_refused(remote) {
                return (refused_name(policy, case.subject, level, names), witness);
            }
            let under = |sighting| {
                let flow = Flow {
                    policy,
                    subject: case.subject,
                    level,
                    view,
                    direction,
                    protocol,
                    remote,
                    port,
                    sighting,
                    peer_is_this_host,
                };
                let mut witness = W::default();
                (flow.decide(case.answer, &mut witness), witness)
            };
            // The newest name comes last and decides among equals, as it is the likeliest.
            let strictest = names.iter().map(|sighting| under(Some(sighting))).max_by_key(|(decision, _)| decision.verdict);
            strictest.unwrap_or_else(|| under(None))
        }
    }
}

fn is_refused(address: IpAddr) -> bool {
    address == IpAddr::V4(REFUSED_V4) || address == IpAddr::V6(REFUSED_V6)
}

/// A flow to the address of refused names has the reason for which the name was refused.
fn refused_name(policy: &Policy, subject: &Subject, level: Level, names: &[Sighting]) -> Decision {
    let why = |sighting: &Sighting| {
        let question = Question { policy, subject, view: subject.view(level), name: &sighting.name, chain: &sighting.chain };
        let decision = question.decide(&mut Unseen);
        (decision.verdict == Verdict::Block).then_some(decision.reason)
    };
    let reason =
        names.iter().rev().find_map(why).unwrap_or_else(|| Reason::because(Check::RefusedName, "the address of refused names"));
    Decision::new(Verdict::Block, Lane::Direct, Reason { check: Check::RefusedName, ..reason })
}

/// Whether the question may be answered although its answer leads through `chain`: denies match through CNAMEs, permits do not.
///
/// # Errors
///
/// The reason why the name must not be answered.
pub fn chain_allowed(policy: &Policy, subject: &Subject, level: Level, name: &Name, chain: &[Name]) -> Result<(), Reason> {
    let view = subject.view(subject.level(level));
    let decision = Question { policy, subject, view, name, chain }.decide(&mut Unseen);
    if decision.verdict == Verdict::Accept { Ok(()) } else { Err(decision.reason) }
}
