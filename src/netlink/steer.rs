//! The routing table of our own and the rules that lead into it.
//!
//! # Theory of operation
//!
//! One rule takes every lookup without our mark into our table, and others before it spare what the plan excludes. Multicast takes more.
//! Without a named link, where it goes is looked up twice: when a program sends, which must end in the TUN, and when it joins a group,
//! which must not, since what is sent to the group comes in by a link of the host.
//!
//! In IPv4 the two differ in the protocol alone, which a join has none of (`ip_mc_find_dev` in net/ipv4/igmp.c). So datagrams and echoes
//! go into our table, and all else that asks for a group is answered by the main table.
//!
//! In IPv6 every link has `ff00::/8` in the table `local`, which is asked before all of our rules; so those for multicast come in front
//! of it ([`super::front`]). They take what is sent (a join has no link that it came in by: `rt6_lookup` in net/ipv6/route.c)
//! without our mark. A socket that names its link finds nothing in our table, where only the TUN is, and goes on to `local`; the
//! unreachable default is on loopback, so who names loopback is spared. What carries our mark leaves as without us. The TUN's own
//! `ff00::/8` is removed, lest the kernel choose it for a group.
//!
//! IPv6 leads into the TUN where it leads out of this host ([`super::ways`]). All else falls through to tables that have no route for it
//! either, so that a program is told what it would be told without us.
//!
//! Keeps one rule: the unreachable default is a *route*; an unreachable rule would also refuse "is this gateway on the link"
//! and so keep DHCP from ever setting a default route. The table comes before `main`: whatever DHCP, a router
//! advertisement or a VPN writes there carries only what was judged.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType};

use super::front::{self, FRONT};
use super::host::{Host, Link};
use super::plan::{Failure, Plan};
use super::rule::{Carried, FAMILIES, Family, LOCAL, MAIN, Marks, Rule, Selector, tolerate};
use super::setup::{add_route, default_route, ignoring, route_to};
use super::ways::EVERYWHERE;
use super::{Mark, RequestError, RouteSocket};

/// The metric of the unreachable default, worse than any that a person or a daemon would choose (wg-quick's siblings use it).
pub(super) const LAST_METRIC: u32 = 4_278_198_272;

/// Before the unreachable default and behind the device.
pub(super) const ELSEWHERE_METRIC: u32 = LAST_METRIC - 1;

/// How many priorities before its own a plan takes.
pub(super) const BEFORE: u32 = 3;

/// RFC 5771 and RFC 4291 §2.7.
const GROUPS_4: IpNet = IpNet::V4(Ipv4Net::new_assert(std::net::Ipv4Addr::new(224, 0, 0, 0), 4));
const GROUPS: Ipv6Net = Ipv6Net::new_assert(std::net::Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8);
pub(super) const GROUPS_6: IpNet = IpNet::V6(GROUPS);

/// The rules of a plan, in the order in which they are asked: exclusions before what would catch them.
pub(super) fn rules(plan: &Plan, host: &Host, mark: Mark) -> Vec<Rule> {
    let mut rules = groups_6(plan);
    let exclude = &plan.exclude;
    let mut selectors: Vec<Selector> = exclude.networks.iter().copied().map(to).collect();
    selectors.extend(exclude.interfaces.iter().flat_map(|name| host.networks_of(name)).map(to));
    selectors.extend(exclude.interfaces.iter().map(|name| Selector { link: Some(name.clone()), ..Selector::default() }));
    selectors.extend(exclude.users.iter().map(|uid| user(*uid)));
    let priority = plan.priority.saturating_sub(BEFORE);
    for selector in selectors {
        let families = FAMILIES.into_iter().filter(|family| selector.to.is_none_or(|net| family.has(&net)));
        rules.extend(families.map(|family| Rule { family, priority, selector: selector.clone(), table: MAIN }));
    }
    rules.extend(linked(plan, host));
    rules.extend(by_main(plan, mark));
    rules.extend(groups_4(plan));
    let unmarked = Selector { marks: Marks::Not(mark.value()), ..Selector::default() };
    let last = |family| Rule { family, priority: plan.priority, selector: unmarked.clone(), table: plan.table };
    rules.extend(FAMILIES.map(last));
    rules
}

/// IPv6 multicast that names no link, before the table `local` is asked.
fn groups_6(plan: &Plan) -> Vec<Rule> {
    let exclude = &plan.exclude;
    let nets = exclude.networks.iter().copied().filter(|net| net.contains(&GROUPS_6) || GROUPS_6.contains(net));
    let loopback = Selector { link: Some("lo".to_owned()), ..to(GROUPS_6) };
    let users = exclude.users.iter().map(|uid| Selector { to: Some(GROUPS_6), ..user(*uid) });
    let spared = std::iter::once(loopback).chain(nets.map(to)).chain(users).map(|selector| (selector, LOCAL));
    let sent = Selector { marks: Marks::None, sent: true, ..to(GROUPS_6) };
    let all = spared.chain([(sent, plan.table)]);
    all.map(|(selector, table)| Rule { family: Family::Ipv6, priority: FRONT, selector, table }).collect()
}

/// IPv4 multicast: what we carry into our table, what else asks for a group by the main table.
fn groups_4(plan: &Plan) -> Vec<Rule> {
    let of = |protocol| Selector { marks: Marks::None, protocol, ..to(GROUPS_4) };
    let rule =
        |before, selector, table| Rule { family: Family::Ipv4, priority: plan.priority.saturating_sub(before), selector, table };
    let sent = [Carried::Udp, Carried::Icmp].map(|protocol| rule(2, of(Some(protocol)), plan.table));
    sent.into_iter().chain([rule(1, of(None), MAIN)]).collect()
}

/// The flows of who is told apart by a mark, and of the kernel's own tunnels.
fn by_main(plan: &Plan, mark: Mark) -> [Rule; 2] {
    let selector = Selector { marks: Marks::ByMain(mark.value()), ..Selector::default() };
    let priority = plan.priority.saturating_sub(BEFORE);
    FAMILIES.map(|family| Rule { family, priority, selector: selector.clone(), table: MAIN })
}

/// What names a link of this host keeps to it, and the guard sees to it there. In IPv4 alone: the unreachable default of our table would
/// be found for any link.
pub(super) fn linked(plan: &Plan, host: &Host) -> Vec<Rule> {
    let is_one = |link: &&Link| {
        !link.loopback && !link.shared && link.name != plan.device && !plan.exclude.interfaces.contains(&link.name)
    };
    let rule = |link: &Link| Rule {
        family: Family::Ipv4,
        priority: plan.priority.saturating_sub(BEFORE),
        selector: Selector { link: Some(link.name.clone()), ..Selector::default() },
        table: MAIN,
    };
    host.links.iter().filter(is_one).map(rule).collect()
}

/// The link of such a rule, or of one for an excluded link.
pub(super) fn linked_to(rule: &Rule) -> Option<&String> {
    let Selector { marks, to, sent: _, link, protocol, user } = &rule.selector;
    let names_a_link_alone = (marks, to, protocol, user) == (&Marks::Any, &None, &None, &None);
    link.as_ref().filter(|_| rule.family == Family::Ipv4 && rule.table == MAIN && names_a_link_alone)
}

fn to(net: IpNet) -> Selector {
    Selector { to: Some(net), ..Selector::default() }
}

fn user(uid: u32) -> Selector {
    Selector { user: Some(uid), ..Selector::default() }
}

/// Adds what is missing of the rules.
pub(super) fn add_rules(socket: &mut RouteSocket, rules: &[Rule]) -> Result<(), RequestError> {
    let (before_local, others): (Vec<&Rule>, Vec<&Rule>) = rules.iter().partition(|rule| rule.priority == FRONT);
    tolerate(Family::Ipv6, front::put(socket, &before_local))?;
    others.into_iter().try_for_each(|rule| rule.add(socket))
}

/// Removes the rules, those that were added last first. Goes on after a failure and returns the first one.
pub(super) fn remove_rules(socket: &mut RouteSocket, rules: &[Rule]) -> Result<(), RequestError> {
    let removed: Vec<_> = rules.iter().rev().map(|rule| rule.remove(socket)).collect();
    let settled = tolerate(Family::Ipv6, front::settle(socket));
    removed.into_iter().chain([settled]).collect()
}

/// Makes our own table what it should be: the device, and behind it nothing, unless the plan fails open. In IPv6 the device leads
/// where the host does, and all else is left to tables that lead nowhere either. The device carries nothing else.
pub(super) fn fill_table(socket: &mut RouteSocket, plan: &Plan, host: &Host, index: u32) -> Result<(), RequestError> {
    let reach = reach(host, &plan.device);
    let default = to_device(Family::Ipv4, plan.table, index);
    add_route(socket, &format!("add the IPv4 default route to table {}", plan.table), &default)?;
    for net in &reach {
        let what = format!("add {net} to table {}", plan.table);
        tolerate(Family::Ipv6, add_route(socket, &what, &route_to(*net, plan.table, index)))?;
    }
    withdraw(socket, plan, host, index, &reach)?;
    let elsewhere = elsewhere(plan.table);
    let what = format!("leave the rest of IPv6 in table {} to others", plan.table);
    if reach.contains(&EVERYWHERE) {
        let result = socket.change(&what, RouteNetlinkMessage::DelRoute(elsewhere), 0);
        tolerate(Family::Ipv6, ignoring(libc::ESRCH, result))?;
    } else {
        tolerate(Family::Ipv6, add_route(socket, &what, &elsewhere))?;
    }
    for family in FAMILIES.into_iter().filter(|_| plan.failure == Failure::Closed) {
        let what = format!("add the {} unreachable default to table {}", family.name(), plan.table);
        tolerate(family, add_route(socket, &what, &unreachable(family, plan.table)))?;
    }
    let what = format!("remove {GROUPS_6} of {} from the table local", plan.device);
    let result = socket.change(&what, RouteNetlinkMessage::DelRoute(own_groups(index)), 0);
    tolerate(Family::Ipv6, ignoring(libc::ESRCH, result))
}

/// The networks of IPv6 in our table. Every link leads to its groups.
pub(super) fn reach(host: &Host, device: &str) -> Vec<Ipv6Net> {
    let mut reach = host.reach(device);
    if !reach.contains(&EVERYWHERE) {
        reach.push(GROUPS);
    }
    reach
}

/// Removes from our table what the host leads to no more.
fn withdraw(socket: &mut RouteSocket, plan: &Plan, host: &Host, index: u32, reach: &[Ipv6Net]) -> Result<(), RequestError> {
    let ours = host.ways.iter().filter(|way| way.table == plan.table && way.link == index);
    for way in ours.filter(|way| !reach.contains(&way.to)) {
        let what = format!("remove {} from table {}", way.to, plan.table);
        let message = RouteNetlinkMessage::DelRoute(route_to(way.to, plan.table, index));
        tolerate(Family::Ipv6, ignoring(libc::ESRCH, socket.change(&what, message, 0)))?;
    }
    Ok(())
}

/// Empties our own table; `index` is our device's, where it still exists, whose single networks go with it.
pub(super) fn remove_table(socket: &mut RouteSocket, table: u32, index: Option<u32>) -> Result<(), RequestError> {
    for family in FAMILIES {
        let what = format!("remove the {} default routes of table {table}", family.name());
        let device = index.map(|index| to_device(family, table, index));
        let elsewhere = (family == Family::Ipv6).then(|| elsewhere(table));
        for route in device.into_iter().chain(elsewhere).chain([unreachable(family, table)]) {
            let result = socket.change(&what, RouteNetlinkMessage::DelRoute(route), 0);
            tolerate(family, ignoring(libc::ESRCH, result))?;
        }
    }
    Ok(())
}

/// A route of scope link would also tell where a gateway is, and whoever adds a route by its gateway alone would get our device for
/// it. This one is passed over in that search, the unreachable one too (`fib_check_nh` in net/ipv4/fib_semantics.c), so the main table answers.
fn to_device(family: Family, table: u32, index: u32) -> RouteMessage {
    let mut route = default_route(family.into(), table, index);
    route.header.scope = RouteScope::Universe;
    route
}

/// The rest of IPv6, where the host leads to single networks: the next table is asked, has no route either, and the program is told
/// (ENETUNREACH, where an unreachable route says EHOSTUNREACH). What gets a route there before we follow is refused by the guard.
fn elsewhere(table: u32) -> RouteMessage {
    let mut route = unreachable(Family::Ipv6, table);
    route.header.kind = RouteType::Throw;
    route.attributes = vec![RouteAttribute::Table(table), RouteAttribute::Priority(ELSEWHERE_METRIC)];
    route
}

fn unreachable(family: Family, table: u32) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = family.into();
    route.header.kind = RouteType::Unreachable;
    route.header.protocol = RouteProtocol::Kernel;
    route.attributes = vec![RouteAttribute::Table(table), RouteAttribute::Priority(LAST_METRIC)];
    route
}

/// What the kernel gives every link that takes multicast (`addrconf_add_mroute` in net/ipv6/addrconf.c).
fn own_groups(index: u32) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = Family::Ipv6.into();
    route.header.kind = RouteType::Multicast;
    route.header.destination_prefix_length = GROUPS_6.prefix_len();
    let to = RouteAttribute::Destination(GROUPS_6.network().into());
    route.attributes = vec![RouteAttribute::Table(LOCAL), RouteAttribute::Oif(index), to];
    route
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(plan: &Plan) -> Vec<Rule> {
        let link = Link {
            index: 4,
            name: "docker0".to_owned(),
            mtu: 1500,
            up: true,
            loopback: false,
            framing: crate::netlink::Framing::Ethernet,
            shared: false,
        };
        let addresses = ["172.17.0.1/16", "fe80::1/64", "fd17::1/64"].map(|net| (4, net.parse().expect("a network"))).into();
        let host =
            Host { links: vec![link], addresses, uplinks: std::collections::BTreeSet::new(), ways: Vec::new(), ipv6: true };
        super::rules(plan, &host, mark())
    }

    const BY_MAIN_WORDS: &str = "fwmark 0x2a001000/0xff001000";

    fn mark() -> Mark {
        Mark::new(0x2a00_0000).expect("a mark")
    }

    #[test]
    fn the_rule_into_our_table_comes_last_and_in_both_families() {
        let words: Vec<String> = rules(&Plan::default()).iter().map(Rule::words).collect();
        let last = words.last_chunk().expect("one for each family");
        assert_eq!(*last, ["not fwmark 0x2a000000/0xff000000 lookup 1717 priority 1700 protocol kernel"; 2]);
    }

    #[test]
    fn an_excluded_network_is_excluded_in_its_own_family_alone() {
        let mut plan = Plan::default();
        plan.exclude.networks = vec!["192.0.2.0/24".parse().expect("a network"), "2001:db8::/32".parse().expect("a network")];
        plan.exclude.users = vec![1000];
        use Family::{Ipv4, Ipv6};
        let excluded: Vec<(Family, String)> =
            rules(&plan).iter().filter(|rule| rule.priority == 1697).map(|rule| (rule.family, rule.words())).collect();
        let tail = "lookup main priority 1697 protocol kernel";
        let expected = [
            (Ipv4, "to 192.0.2.0/24"),
            (Ipv6, "to 2001:db8::/32"),
            (Ipv4, "uidrange 1000-1000"),
            (Ipv6, "uidrange 1000-1000"),
            (Ipv4, "oif docker0"),
            (Ipv4, BY_MAIN_WORDS),
            (Ipv6, BY_MAIN_WORDS),
        ];
        assert_eq!(excluded, expected.map(|(family, from)| (family, format!("{from} {tail}"))));
    }

    #[test]
    fn the_networks_of_an_excluded_link_are_excluded_but_not_link_local_ones() {
        let mut plan = Plan::default();
        plan.exclude.interfaces = vec!["docker0".to_owned()];
        let words: Vec<String> = rules(&plan).iter().filter(|rule| rule.priority == 1697).map(Rule::words).collect();
        let tail = "lookup main priority 1697 protocol kernel";
        let expected = ["to 172.17.0.0/16", "to fd17::/64", "oif docker0", "oif docker0", BY_MAIN_WORDS, BY_MAIN_WORDS];
        let expected = expected.map(|from| format!("{from} {tail}"));
        assert_eq!(words, expected);
    }

    #[test]
    fn datagrams_to_a_group_are_taken_before_who_joins_one_is_sent_to_the_main_table() {
        let rules = rules(&Plan::default());
        let words: Vec<String> = rules.iter().filter(|rule| rule.family == Family::Ipv4).map(Rule::words).collect();
        let words: Vec<String> = words.into_iter().filter(|words| words.contains("224.0.0.0/4")).collect();
        let expected = [
            "fwmark 0/0xff000000 to 224.0.0.0/4 ipproto udp lookup 1717 priority 1698 protocol kernel",
            "fwmark 0/0xff000000 to 224.0.0.0/4 ipproto icmp lookup 1717 priority 1698 protocol kernel",
            "fwmark 0/0xff000000 to 224.0.0.0/4 lookup main priority 1699 protocol kernel",
        ];
        assert_eq!(words, expected);
    }

    #[test]
    fn ipv6_multicast_comes_before_local_and_what_is_excluded_before_it() {
        let mut plan = Plan::default();
        plan.exclude.networks =
            ["192.0.2.0/24", "2001:db8::/32", "ff05::/16", "::/0"].map(|net| net.parse().expect("a network")).into();
        plan.exclude.users = vec![1000];
        let front: Vec<String> = rules(&plan).iter().take_while(|rule| rule.priority == FRONT).map(Rule::words).collect();
        let tail = "priority 0 protocol kernel";
        let expected = [
            "to ff00::/8 oif lo lookup local",
            "to ff05::/16 lookup local",
            "to ::/0 lookup local",
            "to ff00::/8 uidrange 1000-1000 lookup local",
            "fwmark 0/0xff000000 to ff00::/8 iif lo lookup 1717",
        ];
        assert_eq!(front, expected.map(|from| format!("{from} {tail}")));
    }

    #[test]
    fn the_main_table_is_asked_before_ours_only_for_what_is_excluded_or_judged_who_joins_a_group_and_who_names_a_link() {
        let judged = Marks::ByMain(mark().value());
        let asked = |rule: &Rule| {
            let selector = &rule.selector;
            rule.table == MAIN && selector.to != Some(GROUPS_4) && selector.link.is_none() && selector.marks != judged
        };
        assert!(!rules(&Plan::default()).iter().any(asked));
    }

    #[test]
    fn no_rule_is_of_the_unreachable_kind() {
        use netlink_packet_route::rule::RuleAction;
        assert!(rules(&Plan::default()).iter().all(|rule| rule.message().header.action == RuleAction::ToTable));
    }
}
