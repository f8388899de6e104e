//! The rules that come before the kernel's own first one, which asks the table `local`.
//!
//! # Theory of operation
//!
//! In IPv6 every link has `ff00::/8` in the table `local`, and the rule that asks it has priority 0 in front of all others. The
//! kernel puts a new rule behind those of the same priority (`fib_nl_newrule` in net/core/fib_rules.c), so ours come to the front
//! when that rule is taken out and put back behind them, as it was. Meanwhile a copy at priority 1 does its work: no lookup is
//! made without it.
//!
//! Keeps one rule: at every moment the host has its rule for `local`, and in the end it has it where it was.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};

use super::rule::{Family, LOCAL, Rule};
use super::setup::ignoring;
use super::{RequestError, RouteSocket};

/// The priority of rules in front.
pub(super) const FRONT: u32 = 0;

/// Where the rule for `local` is while the front is rebuilt.
pub(super) const MEANWHILE: u32 = 1;

/// Brings `rules`, all of IPv6, to the front in this order. What is in order already is left alone.
pub(super) fn put(socket: &mut RouteSocket, rules: &[&Rule]) -> Result<(), RequestError> {
    let found = dump(socket, Family::Ipv6)?;
    if are_in_order(&found, rules) {
        return Ok(());
    }
    let local = found.iter().find(|rule| is_local(rule, FRONT));
    if let Some(local) = local {
        add(socket, local, MEANWHILE)?;
        remove(socket, local, FRONT)?;
    }
    for rule in rules {
        rule.remove(socket)?;
        rule.add(socket)?;
    }
    if let Some(local) = local {
        add(socket, local, FRONT)?;
        remove(socket, local, MEANWHILE)?;
    }
    Ok(())
}

/// Puts the rule for `local` back where it was, should [`put`] have been killed midway.
pub(super) fn settle(socket: &mut RouteSocket) -> Result<(), RequestError> {
    let found = dump(socket, Family::Ipv6)?;
    let Some(local) = found.iter().find(|rule| is_local(rule, MEANWHILE)) else { return Ok(()) };
    add(socket, local, FRONT)?;
    remove(socket, local, MEANWHILE).map(|_| ())
}

/// The rules of this family, in the order in which they are asked.
pub(super) fn dump(socket: &mut RouteSocket, family: Family) -> Result<Vec<RuleMessage>, RequestError> {
    let mut question = RuleMessage::default();
    question.header.family = family.into();
    let entries = socket.dump(&format!("list the {} rules", family.name()), RouteNetlinkMessage::GetRule(question))?;
    Ok(entries
        .into_iter()
        .filter_map(|entry| if let RouteNetlinkMessage::NewRule(rule) = entry { Some(rule) } else { None })
        .collect())
}

/// Adds a copy of this rule at `priority`.
pub(super) fn add(socket: &mut RouteSocket, rule: &RuleMessage, priority: u32) -> Result<(), RequestError> {
    let message = RouteNetlinkMessage::NewRule(at(rule, priority));
    ignoring(libc::EEXIST, socket.change("move a rule to its place", message, NLM_F_CREATE | NLM_F_EXCL))
}

/// Removes the one at `priority`. False: there was none.
pub(super) fn remove(socket: &mut RouteSocket, rule: &RuleMessage, priority: u32) -> Result<bool, RequestError> {
    let message = RouteNetlinkMessage::DelRule(at(rule, priority));
    match socket.change("take a rule from its place", message, 0) {
        Err(error) if error.errno() == Some(libc::ENOENT) => Ok(false),
        other => other.map(|()| true),
    }
}

fn at(rule: &RuleMessage, priority: u32) -> RuleMessage {
    let mut moved = rule.clone();
    moved.attributes.retain(|attribute| !matches!(attribute, RuleAttribute::Priority(_)));
    moved.attributes.push(RuleAttribute::Priority(priority));
    moved
}

/// Whether all of `rules` are there, one after the other, and the rule for `local` is not before the last of them.
fn are_in_order(found: &[RuleMessage], rules: &[&Rule]) -> bool {
    let mut wanted = rules.iter().peekable();
    for one in found.iter().take_while(|one| !is_local(one, FRONT)) {
        wanted.next_if(|rule| is_same(one, &rule.message()));
    }
    wanted.next().is_none()
}

/// The rule that sends every lookup to the table `local`.
pub(super) fn is_local(rule: &RuleMessage, at: u32) -> bool {
    priority(rule) == at && rule.header.action == RuleAction::ToTable && keys(rule) == [&RuleAttribute::Table(LOCAL)]
}

fn is_same(one: &RuleMessage, other: &RuleMessage) -> bool {
    let (keys_of_one, keys_of_other) = (keys(one), keys(other));
    let same_header = one.header.dst_len == other.header.dst_len && one.header.flags == other.header.flags;
    let same_keys = keys_of_one.len() == keys_of_other.len() && keys_of_one.iter().all(|key| keys_of_other.contains(key));
    priority(one) == priority(other) && same_header && same_keys
}

/// The kernel leaves the attribute out where it is 0.
pub(super) fn priority(rule: &RuleMessage) -> u32 {
    rule.attributes
        .iter()
        .find_map(|a| if let RuleAttribute::Priority(priority) = a { Some(*priority) } else { None })
        .unwrap_or(0)
}

/// What a rule takes and where it leads, without what every rule of a list says.
fn keys(rule: &RuleMessage) -> Vec<&RuleAttribute> {
    let said_always = |a: &&RuleAttribute| {
        matches!(a, RuleAttribute::Priority(_) | RuleAttribute::Protocol(_) | RuleAttribute::SuppressPrefixLen(u32::MAX))
    };
    rule.attributes.iter().filter(|attribute| !said_always(attribute)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::rule::Selector;

    fn rule(user: Option<u32>, table: u32) -> Rule {
        Rule { family: Family::Ipv6, priority: FRONT, selector: Selector { user, ..Selector::default() }, table }
    }

    /// As the kernel lists it.
    fn listed(rule: &Rule) -> RuleMessage {
        let mut message = rule.message();
        message.attributes.retain(|attribute| *attribute != RuleAttribute::Priority(0));
        message.attributes.push(RuleAttribute::SuppressPrefixLen(u32::MAX));
        message
    }

    #[test]
    fn rules_are_in_order_only_one_after_the_other_and_before_local() {
        let (one, two, foreign, local) = (rule(Some(1), 17), rule(Some(2), 17), rule(Some(3), 17), rule(None, LOCAL));
        let in_order = |found: &[&Rule]| {
            let found: Vec<RuleMessage> = found.iter().map(|rule| listed(rule)).collect();
            are_in_order(&found, &[&one, &two])
        };
        assert!(in_order(&[&one, &two, &local]));
        assert!(in_order(&[&foreign, &one, &two, &local]));
        assert!(in_order(&[&one, &two]), "a host may have moved its rule for local");
        for wrong in [vec![&local, &one, &two], vec![&one, &local, &two], vec![&two, &one, &local], vec![&one, &local], vec![]] {
            assert!(!in_order(&wrong), "{wrong:?}");
        }
    }

    #[test]
    fn only_a_rule_without_a_key_is_the_one_for_local() {
        assert!(is_local(&listed(&rule(None, LOCAL)), FRONT));
        assert!(!is_local(&listed(&rule(Some(1), LOCAL)), FRONT));
        assert!(!is_local(&listed(&rule(None, 17)), FRONT));
        let later = Rule { priority: MEANWHILE, ..rule(None, LOCAL) };
        assert!(is_local(&later.message(), MEANWHILE) && !is_local(&later.message(), FRONT));
    }

    #[test]
    fn a_moved_rule_keeps_everything_but_its_priority() {
        let before = listed(&rule(None, LOCAL));
        let moved = at(&at(&before, MEANWHILE), FRONT);
        assert_eq!(priority(&at(&before, MEANWHILE)), MEANWHILE);
        assert!(is_same(&moved, &before));
    }
}
