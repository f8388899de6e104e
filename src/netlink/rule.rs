//! One policy rule: which lookups it takes, and by which table it answers them.
//!
//! Keeps one rule: what is sent to the kernel, what `ip` is told and what the undo file says are made from the same fields.

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage, RuleUidRange};
use netlink_packet_route::{AddressFamily, IpProtocol, RouteNetlinkMessage};
use serde::{Deserialize, Serialize};

use super::mark::MASK;
use super::setup::{ignoring, ipv6_is_missing};
use super::{RequestError, RouteSocket};
use crate::flow::BY_MAIN;

/// `RT_TABLE_MAIN` and `RT_TABLE_LOCAL` (linux/rtnetlink.h).
pub(super) const MAIN: u32 = 254;
pub(super) const LOCAL: u32 = 255;

/// Both families. IPv6 is steered wherever the kernel has it, also while this host has no address.
pub(super) const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];

/// An address family, in the words of `ip`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Family {
    Ipv4,
    Ipv6,
}

/// Which marks of a packet a rule takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Marks {
    #[default]
    Any,
    /// All but this one. Turns the whole rule round, so it goes with no other key.
    Not(u32),
    /// Those without a mark where ours would be.
    None,
    /// Those with our mark and the bit [`BY_MAIN`].
    ByMain(u32),
}

/// Which lookups a rule takes: those that fit every key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Selector {
    pub(super) marks: Marks,
    pub(super) to: Option<IpNet>,
    /// Made for a packet of this host. In IPv6, joining a group is none.
    pub(super) sent: bool,
    /// Of a socket that names this link.
    pub(super) link: Option<String>,
    pub(super) protocol: Option<Carried>,
    pub(super) user: Option<u32>,
}

/// A protocol that the router carries, in the words of `ip`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Carried {
    Icmp,
    Udp,
}

/// One policy rule. Written to the undo file, so it holds all that deleting it takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rule {
    pub(super) family: Family,
    pub(super) priority: u32,
    pub(super) selector: Selector,
    pub(super) table: u32,
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
        let Self { family: _, priority, selector, table } = self;
        let Selector { marks, to, sent, link, protocol, user } = selector;
        let mut words = Vec::new();
        words.extend(match marks {
            Marks::Any => None,
            Marks::Not(mark) => Some(format!("not fwmark {mark:#x}/{MASK:#x}")),
            Marks::None => Some(format!("fwmark 0/{MASK:#x}")),
            Marks::ByMain(mark) => Some(format!("fwmark {:#x}/{:#x}", mark | BY_MAIN, MASK | BY_MAIN)),
        });
        words.extend(to.map(|net| format!("to {net}")));
        words.extend(sent.then(|| "iif lo".to_owned()));
        words.extend(link.as_ref().map(|name| format!("oif {name}")));
        words.extend(protocol.map(|protocol| format!("ipproto {}", protocol.name())));
        words.extend(user.map(|uid| format!("uidrange {uid}-{uid}")));
        words.push(match *table {
            MAIN => "lookup main".to_owned(),
            LOCAL => "lookup local".to_owned(),
            other => format!("lookup {other}"),
        });
        words.push(format!("priority {priority} protocol kernel"));
        words.join(" ")
    }

    pub(super) fn message(&self) -> RuleMessage {
        let Self { family, priority, selector, table } = self;
        let Selector { marks, to, sent, link, protocol, user } = selector;
        let mut message = RuleMessage::default();
        message.header.family = (*family).into();
        message.header.action = RuleAction::ToTable;
        message.header.dst_len = to.map_or(0, |net| net.prefix_len());
        // systemd-networkd deletes rules that are not its own unless their protocol is the kernel's.
        let mut attributes = vec![RuleAttribute::Priority(*priority), RuleAttribute::Protocol(RouteProtocol::Kernel)];
        match marks {
            Marks::Any => {}
            Marks::Not(mark) => {
                message.header.flags = RuleFlags::Invert;
                attributes.extend([RuleAttribute::FwMark(*mark), RuleAttribute::FwMask(MASK)]);
            }
            Marks::None => attributes.push(RuleAttribute::FwMask(MASK)),
            Marks::ByMain(mark) => {
                attributes.extend([RuleAttribute::FwMark(*mark | BY_MAIN), RuleAttribute::FwMask(MASK | BY_MAIN)]);
            }
        }
        attributes.extend(to.map(|net| RuleAttribute::Destination(net.network())));
        // A lookup for a packet of this host has loopback for the link that it came in by.
        attributes.extend(sent.then(|| RuleAttribute::Iifname("lo".to_owned())));
        attributes.extend(link.clone().map(RuleAttribute::Oifname));
        attributes.extend(protocol.map(|protocol| RuleAttribute::IpProtocol(protocol.into())));
        attributes.extend(user.map(|uid| RuleAttribute::UidRange(RuleUidRange { start: uid, end: uid })));
        attributes.push(RuleAttribute::Table(*table));
        message.attributes = attributes;
        message
    }
}

impl Carried {
    fn name(self) -> &'static str {
        match self {
            Self::Icmp => "icmp",
            Self::Udp => "udp",
        }
    }
}

impl From<Carried> for IpProtocol {
    fn from(protocol: Carried) -> Self {
        match protocol {
            Carried::Icmp => Self::Icmp,
            Carried::Udp => Self::Udp,
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

    /// Whether this is the family of `net`.
    pub(super) fn has(self, net: &IpNet) -> bool {
        net.addr().is_ipv4() == (self == Self::Ipv4)
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

/// A host without IPv6 has nothing to steer there; the guard still covers both families.
pub(super) fn tolerate(family: Family, result: Result<(), RequestError>) -> Result<(), RequestError> {
    match result {
        Err(error) if family == Family::Ipv6 && ipv6_is_missing(&error) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(selector: Selector, table: u32) -> String {
        Rule { family: Family::Ipv6, priority: 7, selector, table }.words()
    }

    #[test]
    fn words_name_every_key() {
        let to = "ff00::/8".parse().ok();
        let all = Selector {
            marks: Marks::None,
            to,
            sent: true,
            link: Some("v0".to_owned()),
            protocol: Some(Carried::Udp),
            user: Some(1000),
        };
        let expected = "fwmark 0/0xff000000 to ff00::/8 iif lo oif v0 ipproto udp uidrange 1000-1000 lookup 17 \
             priority 7 protocol kernel";
        assert_eq!(words(all, 17), expected);
        assert_eq!(words(Selector::default(), LOCAL), "lookup local priority 7 protocol kernel");
        let not = Selector { marks: Marks::Not(0x2a00_0000), ..Selector::default() };
        assert_eq!(words(not, MAIN), "not fwmark 0x2a000000/0xff000000 lookup main priority 7 protocol kernel");
        let by_main = Selector { marks: Marks::ByMain(0x2a00_0000), ..Selector::default() };
        assert_eq!(words(by_main, MAIN), "fwmark 0x2a001000/0xff001000 lookup main priority 7 protocol kernel");
    }

    #[test]
    fn only_a_rule_for_all_marks_but_one_is_turned_round() {
        for (marks, flags) in
            [(Marks::Any, RuleFlags::empty()), (Marks::None, RuleFlags::empty()), (Marks::Not(1), RuleFlags::Invert)]
        {
            let selector = Selector { marks, ..Selector::default() };
            let message = Rule { family: Family::Ipv4, priority: 7, selector, table: 17 }.message();
            assert_eq!(message.header.flags, flags, "{marks:?}");
        }
    }

    #[test]
    fn a_missing_ipv6_is_no_reason_to_bear_a_refusal_in_ipv4() {
        let refused = || {
            let source = std::io::Error::from_raw_os_error(libc::EAFNOSUPPORT);
            Err(RequestError::Kernel { what: "add a rule".to_owned(), source })
        };
        assert!(tolerate(Family::Ipv4, refused()).is_err());
    }
}
