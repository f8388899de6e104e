//! The routing table of our own and the rules that lead into it.
//!
//! Keeps one rule: the unreachable default is a *route*; an unreachable rule would also refuse "is this gateway on the link"
//! and so keep DHCP from ever setting a default route. The table comes before `main`: whatever DHCP, a router
//! advertisement or a VPN writes there carries only what was judged.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage, RuleUidRange};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use serde::{Deserialize, Serialize};

use super::host::Host;
use super::mark::MASK;
use super::plan::{Failure, Plan};
use super::setup::{add_route, default_route, ignoring, ipv6_is_missing};
use super::{Mark, RequestError, RouteSocket};

/// The metric of the unreachable default, worse than any that a person or a daemon would choose (wg-quick's siblings use it).
pub(super) const LAST_METRIC: u32 = 4_278_198_272;

/// Both families. IPv6 is steered wherever the kernel has it, also while this host has no address.
pub(super) const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];

/// An address family, in the words of `ip`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Family {
    Ipv4,
    Ipv6,
}

/// Which packets a rule takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Selector {
    /// Everything without our mark, into our own table.
    Unmarked { mark: u32, table: u32 },
    /// Excluded destinations, and the networks of excluded links, by the main table.
    Network(ipnet::IpNet),
    /// Sockets bound to an excluded link, by the main table.
    Link(String),
    /// Programs of an excluded user, by the main table.
    User(u32),
}

/// One policy rule. Written to the undo file, so it holds all that deleting it takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rule {
    pub(super) family: Family,
    pub(super) priority: u32,
    pub(super) selector: Selector,
}

/// The rules of a plan, in the order in which they are added: exclusions before the rule that would catch them.
pub(super) fn rules(plan: &Plan, host: &Host, mark: Mark) -> Vec<Rule> {
    let exclude = &plan.exclude;
    let mut selectors: Vec<Selector> = exclude.networks.iter().copied().map(Selector::Network).collect();
    selectors.extend(exclude.interfaces.iter().flat_map(|name| host.networks_of(name)).map(Selector::Network));
    selectors.extend(exclude.interfaces.iter().cloned().map(Selector::Link));
    selectors.extend(exclude.users.iter().copied().map(Selector::User));
    let before = plan.priority.saturating_sub(1);
    let mut rules: Vec<Rule> = Vec::new();
    for selector in selectors {
        let families = FAMILIES.into_iter().filter(|family| selector.fits(*family));
        rules.extend(families.map(|family| Rule { family, priority: before, selector: selector.clone() }));
    }
    let unmarked = Selector::Unmarked { mark: mark.value(), table: plan.table };
    rules.extend(FAMILIES.map(|family| Rule { family, priority: plan.priority, selector: unmarked.clone() }));
    rules
}

/// Fills our own table: the device, and behind it nothing, unless the plan fails open.
pub(super) fn add_table(socket: &mut RouteSocket, plan: &Plan, index: u32) -> Result<(), RequestError> {
    for family in FAMILIES {
        let what = format!("add the {} default route to table {}", family.name(), plan.table);
        tolerate(family, add_route(socket, &what, &default_route(family.into(), plan.table, index)))?;
        if plan.failure == Failure::Closed {
            let what = format!("add the {} unreachable default to table {}", family.name(), plan.table);
            tolerate(family, add_route(socket, &what, &unreachable(family, plan.table)))?;
        }
    }
    Ok(())
}

/// Empties our own table; `index` is our device's, where it still exists.
pub(super) fn remove_table(socket: &mut RouteSocket, table: u32, index: Option<u32>) -> Result<(), RequestError> {
    for family in FAMILIES {
        let what = format!("remove the {} default routes of table {table}", family.name());
        let device = index.map(|index| default_route(family.into(), table, index));
        for route in device.into_iter().chain([unreachable(family, table)]) {
            let result = socket.change(&what, RouteNetlinkMessage::DelRoute(route), 0);
            tolerate(family, ignoring(libc::ESRCH, result))?;
        }
    }
    Ok(())
}

impl Rule {
    pub(super) fn add(&self, socket: &mut RouteSocket) -> Result<(), RequestError> {
        let what = format!("add the {} rule {}", self.family.name(), self.words());
        let message = RouteNetlinkMessage::NewRule(self.message());
        tolerate(self.family, ignoring(libc::EEXIST, socket.change(&what, message, NLM_F_CREATE | NLM_F_EXCL)))
    }

    pub(super) fn remove(&self, socket: &mut RouteSocket) -> Result<(), RequestError> {
        let what = format!("remove the {} rule {}", self.family.name(), self.words());
        let result = socket.change(&what, RouteNetlinkMessage::DelRule(self.message()), 0);
        tolerate(self.family, ignoring(libc::ENOENT, result))
    }

    /// As `ip rule add` takes it.
    pub(super) fn words(&self) -> String {
        let selector = match &self.selector {
            Selector::Unmarked { mark, table } => format!("not fwmark {mark:#x}/{MASK:#x} lookup {table}"),
            Selector::Network(net) => format!("to {net} lookup main"),
            Selector::Link(name) => format!("oif {name} lookup main"),
            Selector::User(uid) => format!("uidrange {uid}-{uid} lookup main"),
        };
        format!("{selector} priority {} protocol kernel", self.priority)
    }

    fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = self.family.into();
        message.header.action = RuleAction::ToTable;
        let mut table = u32::from(RouteHeader::RT_TABLE_MAIN);
        // systemd-networkd deletes rules that are not its own unless their protocol is the kernel's.
        let mut attributes = vec![RuleAttribute::Priority(self.priority), RuleAttribute::Protocol(RouteProtocol::Kernel)];
        match &self.selector {
            Selector::Unmarked { mark, table: own } => {
                message.header.flags = RuleFlags::Invert;
                attributes.extend([RuleAttribute::FwMark(*mark), RuleAttribute::FwMask(MASK)]);
                table = *own;
            }
            Selector::Network(net) => {
                message.header.dst_len = net.prefix_len();
                attributes.push(RuleAttribute::Destination(net.network()));
            }
            Selector::Link(name) => attributes.push(RuleAttribute::Oifname(name.clone())),
            Selector::User(uid) => attributes.push(RuleAttribute::UidRange(RuleUidRange { start: *uid, end: *uid })),
        }
        attributes.push(RuleAttribute::Table(table));
        message.attributes = attributes;
        message
    }
}

impl Selector {
    fn fits(&self, family: Family) -> bool {
        match self {
            Self::Network(net) => net.addr().is_ipv4() == (family == Family::Ipv4),
            Self::Unmarked { .. } | Self::Link(_) | Self::User(_) => true,
        }
    }
}

impl Family {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        }
    }

    /// The option of `ip`.
    pub(super) fn option(self) -> &'static str {
        match self {
            Self::Ipv4 => "-4",
            Self::Ipv6 => "-6",
        }
    }
}

impl From<Family> for AddressFamily {
    fn from(family: Family) -> Self {
        match family {
            Family::Ipv4 => Self::Inet,
            Family::Ipv6 => Self::Inet6,
        }
    }
}

fn unreachable(family: Family, table: u32) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = family.into();
    route.header.kind = RouteType::Unreachable;
    route.header.protocol = RouteProtocol::Kernel;
    route.attributes = vec![RouteAttribute::Table(table), RouteAttribute::Priority(LAST_METRIC)];
    route
}

/// A host without IPv6 has nothing to steer there; the guard still covers both families.
fn tolerate(family: Family, result: Result<(), RequestError>) -> Result<(), RequestError> {
    match result {
        Err(error) if family == Family::Ipv6 && ipv6_is_missing(&error) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(plan: &Plan) -> Vec<Rule> {
        let link = crate::netlink::Link {
            index: 4,
            name: "docker0".to_owned(),
            mtu: 1500,
            up: true,
            loopback: false,
            ethernet: true,
            shared: false,
        };
        let addresses = ["172.17.0.1/16", "fe80::1/64", "fd17::1/64"].map(|net| (4, net.parse().expect("a network"))).into();
        let host = Host { links: vec![link], addresses, uplinks: std::collections::BTreeSet::new(), ipv6: true, strict: false };
        super::rules(plan, &host, mark())
    }

    fn mark() -> Mark {
        Mark::new(0x2a00_0000).expect("a mark")
    }

    #[test]
    fn the_rule_into_our_table_comes_last_and_in_both_families() {
        let words: Vec<String> = rules(&Plan::default()).iter().map(Rule::words).collect();
        assert_eq!(words, ["not fwmark 0x2a000000/0xff000000 lookup 1717 priority 1700 protocol kernel"; 2]);
    }

    #[test]
    fn an_excluded_network_is_excluded_in_its_own_family_alone() {
        let mut plan = Plan::default();
        plan.exclude.networks = vec!["192.0.2.0/24".parse().expect("a network"), "2001:db8::/32".parse().expect("a network")];
        plan.exclude.users = vec![1000];
        let rules = rules(&plan);
        let families: Vec<Family> = rules.iter().map(|rule| rule.family).collect();
        use Family::{Ipv4, Ipv6};
        assert_eq!(families, [Ipv4, Ipv6, Ipv4, Ipv6, Ipv4, Ipv6]);
        assert!(rules.iter().take(4).all(|rule| rule.priority == 1699 && rule.words().contains("lookup main")));
    }

    #[test]
    fn the_networks_of_an_excluded_link_are_excluded_but_not_link_local_ones() {
        let mut plan = Plan::default();
        plan.exclude.interfaces = vec!["docker0".to_owned()];
        let words: Vec<String> = rules(&plan).iter().map(Rule::words).filter(|words| words.contains("main")).collect();
        let tail = "lookup main priority 1699 protocol kernel";
        let expected = ["to 172.17.0.0/16", "to fd17::/64", "oif docker0", "oif docker0"].map(|from| format!("{from} {tail}"));
        assert_eq!(words, expected);
    }

    #[test]
    fn the_main_table_is_never_asked_before_ours_unless_the_plan_excludes_something() {
        assert!(rules(&Plan::default()).iter().all(|rule| !rule.words().contains("main")));
    }

    #[test]
    fn no_rule_is_of_the_unreachable_kind() {
        let actions: Vec<_> = rules(&Plan::default()).iter().map(|rule| rule.message().header.action).collect();
        assert_eq!(actions, [RuleAction::ToTable; 2]);
    }
}
