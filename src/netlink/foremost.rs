//! Rules of others that would be asked before ours.
//!
//! # Theory of operation
//!
//! A rule that is added without a priority (wg-quick, many a VPN's script) gets the number before that of the second rule in the
//! list (`fib_default_rule_pref` in net/core/fib_rules.c). That is a place right before `main` on a host without us; with us it
//! is one right before our first rule, and in IPv6, where we have rules at 0, it is 0, in the wrong order. What such a rule leads
//! away from the TUN has no mark, so the guard refuses it: the host would be offline. Hence ours go before the first of others,
//! and what got the number 0 behind `local` gets the one that it would have had without us.
//!
//! Keeps one rule: nothing but the order is changed, and of others' rules only what our own have brought about.

use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};

use super::front::{FRONT, add, dump, is_local, priority, remove};
use super::plan::{KERNEL_PRIORITY, LEAST_PRIORITY};
use super::rule::{FAMILIES, Family};
use super::setup::ipv6_is_missing;
use super::{RequestError, RouteSocket};

/// The priority for our last rules: the plan's own, or one before the first rule of others.
pub(super) fn place(socket: &mut RouteSocket, wanted: u32) -> Result<u32, RequestError> {
    let mut found = Vec::new();
    for family in FAMILIES {
        found.extend(all(socket, family)?);
    }
    Ok(before(&found, wanted))
}

/// Gives the IPv6 rules that stand at 0 because of ours the numbers that they would have had without us.
pub(super) fn put_back(socket: &mut RouteSocket) -> Result<(), RequestError> {
    let found = all(socket, Family::Ipv6)?;
    for (rule, to) in displaced(&found) {
        add(socket, rule, to)?;
        // Its owner may have removed it since it was listed; then the copy must not stay.
        if !remove(socket, rule, FRONT)? {
            remove(socket, rule, to)?;
        }
    }
    Ok(())
}

fn all(socket: &mut RouteSocket, family: Family) -> Result<Vec<RuleMessage>, RequestError> {
    match dump(socket, family) {
        Err(error) if family == Family::Ipv6 && ipv6_is_missing(&error) => Ok(Vec::new()),
        other => other,
    }
}

fn before(found: &[RuleMessage], wanted: u32) -> u32 {
    let first = numbers_of_others(found).min().map_or(wanted, |first| first.saturating_sub(1));
    first.clamp(LEAST_PRIORITY, wanted)
}

/// Whom to move, and where to. The kernel puts each before the one that came before it, and so do we.
fn displaced(found: &[RuleMessage]) -> Vec<(&RuleMessage, u32)> {
    let first = numbers_of_others(found).min().unwrap_or(KERNEL_PRIORITY);
    let behind_local = found.iter().skip_while(|rule| !is_local(rule, FRONT)).skip(1);
    let here = behind_local.filter(|rule| priority(rule) == FRONT && is_of_others(rule));
    here.zip((LEAST_PRIORITY + 1..first).rev()).collect()
}

fn numbers_of_others(found: &[RuleMessage]) -> impl Iterator<Item = u32> {
    found.iter().filter(|rule| is_of_others(rule)).map(priority).filter(|number| *number != FRONT)
}

/// Ours have the protocol that the kernel's own have. The one for VRF devices says it, too, and must come before ours.
fn is_of_others(rule: &RuleMessage) -> bool {
    let by_kernel = |attribute: &RuleAttribute| *attribute == RuleAttribute::Protocol(RouteProtocol::Kernel);
    !rule.attributes.iter().any(by_kernel)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::rule::{LOCAL, MAIN, Rule, Selector};

    fn ours(priority: u32, table: u32) -> RuleMessage {
        Rule { family: Family::Ipv6, priority, selector: Selector::default(), table }.message()
    }

    fn of_others(priority: u32, table: u32) -> RuleMessage {
        let mut rule = ours(priority, table);
        for attribute in &mut rule.attributes {
            if let RuleAttribute::Protocol(protocol) = attribute {
                *protocol = RouteProtocol::Boot;
            }
        }
        rule
    }

    #[test]
    fn ours_stand_where_the_plan_says_or_before_the_first_of_others() {
        let kernel = [ours(FRONT, LOCAL), ours(1000, 0), ours(32766, MAIN)];
        assert_eq!(before(&kernel, 1700), 1700);
        for (first, expected) in [(5210, 1700), (1701, 1700), (1700, 1699), (1696, 1695), (100, 99), (6, 5), (5, 5), (1, 5)] {
            let found = [kernel.as_slice(), &[of_others(9000, 9), of_others(first, 9)]].concat();
            assert_eq!(before(&found, 1700), expected, "{first}");
        }
    }

    #[test]
    fn what_got_0_behind_local_goes_before_main_and_the_later_before_the_earlier() {
        let mut found = vec![of_others(FRONT, 1), ours(FRONT, 17), ours(FRONT, LOCAL), of_others(FRONT, 2), of_others(FRONT, 3)];
        found.extend([ours(1700, 17), ours(32766, MAIN)]);
        let moved = |found: &[RuleMessage]| displaced(found).into_iter().map(|(rule, to)| (rule.clone(), to)).collect::<Vec<_>>();
        assert_eq!(moved(&found), [(of_others(FRONT, 2), 32765), (of_others(FRONT, 3), 32764)]);
        found.push(of_others(5210, 4));
        assert_eq!(moved(&found)[0].1, 5209);
        found.push(of_others(6, 5));
        assert_eq!(moved(&found), []);
    }
}
