//! Flows that are older than the router: which of the host's conversations are such, and how they go on beside the TUN.
//!
//! Keeps one rule: only exact tuples are let past, and never the first segment of a connection: whoever takes the ports over
//! is judged as everybody else. Who is let past is decided elsewhere.

use std::fmt::Write;
use std::net::IpAddr;

use super::guard::{TOLD_APART, set_mark};
use super::{Conversation, Host, Mark, Plan};
use crate::packet::{FiveTuple, Protocol};

/// The sets and the chain that every packet of this host jumps to; it is empty as long as there are no such flows. `beside_turn`
/// counts the changes, so that one can be waited for.
pub(super) const SETS: &str = "\tset beside4 { type inet_proto . ipv4_addr . inet_service . ipv4_addr . inet_service; }\n\
    \tset beside6 { type inet_proto . ipv6_addr . inet_service . ipv6_addr . inet_service; }\n\
    \tset beside_turn { type mark; }\n\tchain beside { }\n";

/// What nft can be asked once the change of this number is in force.
pub(super) fn proof(turn: u32) -> String {
    format!("get element inet portreeve_live beside_turn {{ {turn:#x} }}")
}

/// The line that makes it so.
pub(super) fn turn(turn: u32) -> String {
    format!("add element inet portreeve_live beside_turn {{ {turn:#x} }}\n")
}

/// The script that puts exactly these flows beside the TUN. `owned`: the table has an owner, and naming it must say so.
pub(super) fn script(tuples: &[FiveTuple], mark: Mark, turn: u32, owned: bool) -> String {
    let table = "inet portreeve_live";
    let flags = if owned { "flags owner; " } else { "" };
    let mut text = format!("table {table} {{ {flags}}}\nflush chain {table} beside\n");
    for set in ["beside4", "beside6", "beside_turn"] {
        let _ = writeln!(text, "flush set {table} {set}");
    }
    text += &self::turn(turn);
    if tuples.is_empty() {
        return text;
    }
    let mark = set_mark(mark);
    let _ = writeln!(text, "add rule {table} beside tcp flags & (syn | ack) == syn return");
    for (set, family, is_of) in [("beside4", "ip", IpAddr::is_ipv4 as fn(&IpAddr) -> bool), ("beside6", "ip6", IpAddr::is_ipv6)] {
        let elements: Vec<String> = tuples.iter().filter(|tuple| is_of(&tuple.local.ip())).filter_map(element).collect();
        if !elements.is_empty() {
            let _ = writeln!(text, "add element {table} {set} {{ {} }}", elements.join(", "));
        }
        for then in [TOLD_APART, &mark] {
            let _ = writeln!(
                text,
                "add rule {table} beside meta l4proto . {family} saddr . th sport . {family} daddr . th dport @{set} {then}"
            );
        }
    }
    text
}

fn element(tuple: &FiveTuple) -> Option<String> {
    let FiveTuple { protocol, local, remote } = tuple;
    let protocol = match *protocol {
        Protocol::TCP => "tcp",
        Protocol::UDP => "udp",
        _ => return None,
    };
    Some(format!("{protocol} . {} . {} . {} . {}", local.ip(), local.port(), remote.ip(), remote.port()))
}

/// Those of a host's conversations that its router must decide about: with other hosts, by links and users that the plan does
/// not exclude, and not through the TUN. Datagrams to port 53 and DHCP are left out; the TUN and the guard have ways for them.
#[must_use]
pub fn older(plan: &Plan, host: &Host, all: Vec<Conversation>) -> Vec<Conversation> {
    let exclude = &plan.exclude;
    let mut networks = exclude.networks.clone();
    networks.extend(exclude.interfaces.iter().flat_map(|name| host.networks_of(name)));
    let own = host.own_addresses();
    let by_excluded_link = |address: IpAddr| {
        let index = host.addresses.iter().find(|(_, net)| net.addr() == address).map(|(index, _)| *index);
        let link = host.links.iter().find(|link| Some(link.index) == index);
        link.is_some_and(|link| exclude.interfaces.contains(&link.name))
    };
    let is_older = |conversation: &Conversation| {
        let (local, remote) = (conversation.tuple.local.ip(), conversation.tuple.remote.ip());
        let by_tun = plan.addresses.iter().any(|net| net.addr() == local);
        let inside = local.is_loopback() || remote.is_loopback() || own.contains(&remote);
        let excluded = networks.iter().any(|net| net.contains(&remote))
            || exclude.users.contains(&conversation.socket.uid)
            || by_excluded_link(local);
        !by_tun && !inside && !excluded && !has_its_own_way(&conversation.tuple)
    };
    all.into_iter().filter(is_older).collect()
}

fn has_its_own_way(tuple: &FiveTuple) -> bool {
    tuple.protocol == Protocol::UDP && matches!((tuple.local.port(), tuple.remote.port()), (_, 53) | (68, 67) | (546, 547))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::netlink::Link;
    use crate::packet::Direction;
    use crate::process::{Confidence, Socket};

    fn tuple(protocol: Protocol, local: &str, remote: &str) -> FiveTuple {
        FiveTuple { protocol, local: local.parse().expect("an address"), remote: remote.parse().expect("an address") }
    }

    fn conversation(protocol: Protocol, local: &str, remote: &str, uid: u32) -> Conversation {
        let socket = Socket { inode: 1, uid, cookie: 1, cgroup_id: None, mark: 0, link: 0, confidence: Confidence::Exact };
        Conversation { tuple: tuple(protocol, local, remote), socket, direction: Direction::Outbound }
    }

    fn host() -> Host {
        let link = |index: u32, name: &str| Link {
            index,
            name: name.to_owned(),
            mtu: 1500,
            up: true,
            loopback: index == 1,
            framing: crate::netlink::Framing::Ethernet,
            shared: false,
        };
        let addresses = [(1, "127.0.0.1/8"), (2, "10.9.0.2/24"), (2, "fd09::2/64"), (3, "172.17.0.1/16")]
            .map(|(index, net)| (index, net.parse().expect("a network")));
        let links = vec![link(1, "lo"), link(2, "eth0"), link(3, "docker0")];
        Host { links, addresses: addresses.into(), uplinks: BTreeSet::new(), ways: Vec::new(), ipv6: true }
    }

    fn counts(plan: &Plan, protocol: Protocol, local: &str, remote: &str, uid: u32) -> bool {
        !older(plan, &host(), vec![conversation(protocol, local, remote, uid)]).is_empty()
    }

    #[test]
    fn what_talks_with_other_hosts_is_older_and_what_stays_on_this_one_is_not() {
        let plan = Plan::default();
        for (local, remote, expected) in [
            ("10.9.0.2:40000", "203.0.113.10:443", true),
            ("[fd09::2]:40000", "[2001:db8::10]:443", true),
            ("10.9.0.2:40000", "10.9.0.1:443", true),
            ("127.0.0.1:40000", "127.0.0.1:443", false),
            ("10.9.0.2:40000", "10.9.0.2:443", false),
            ("[::1]:40000", "[::1]:443", false),
            ("198.18.0.1:40000", "203.0.113.10:443", false),
        ] {
            for protocol in [Protocol::TCP, Protocol::UDP] {
                assert_eq!(counts(&plan, protocol, local, remote, 1000), expected, "{protocol} {local} {remote}");
            }
        }
    }

    #[test]
    fn questions_by_datagram_and_leases_have_their_own_way_and_dns_over_tcp_has_none() {
        let plan = Plan::default();
        assert!(!counts(&plan, Protocol::UDP, "10.9.0.2:40000", "198.51.100.53:53", 0));
        assert!(!counts(&plan, Protocol::UDP, "10.9.0.2:68", "10.9.0.1:67", 0));
        assert!(counts(&plan, Protocol::TCP, "10.9.0.2:40000", "198.51.100.53:53", 0));
    }

    #[test]
    fn what_the_plan_excludes_is_left_alone() {
        let mut plan = Plan::default();
        plan.exclude.networks = vec!["203.0.113.0/24".parse().expect("a network")];
        plan.exclude.interfaces = vec!["docker0".to_owned()];
        plan.exclude.users = vec![1000];
        assert!(counts(&plan, Protocol::TCP, "10.9.0.2:1", "198.51.100.10:443", 0));
        assert!(!counts(&plan, Protocol::TCP, "10.9.0.2:1", "203.0.113.10:443", 0));
        assert!(!counts(&plan, Protocol::TCP, "10.9.0.2:1", "198.51.100.10:443", 1000));
        assert!(!counts(&plan, Protocol::TCP, "172.17.0.1:1", "198.51.100.10:443", 0));
        assert!(!counts(&plan, Protocol::TCP, "10.9.0.2:1", "172.17.0.2:443", 0));
    }

    #[test]
    fn a_script_holds_exactly_the_tuples_and_lets_no_first_segment_past() {
        let mark = Mark::new(0x2a00_0000).expect("a mark");
        let tuples =
            [tuple(Protocol::TCP, "10.9.0.2:40000", "203.0.113.10:80"), tuple(Protocol::UDP, "[fd09::2]:5", "[2001:db8::10]:6")];
        let text = script(&tuples, mark, 7, true);
        assert!(text.starts_with("table inet portreeve_live { flags owner; }\nflush chain"), "{text}");
        assert!(text.contains("beside4 { tcp . 10.9.0.2 . 40000 . 203.0.113.10 . 80 }"), "{text}");
        assert!(text.contains("beside6 { udp . fd09::2 . 5 . 2001:db8::10 . 6 }"), "{text}");
        assert!(text.find("== syn return") < text.find("meta mark set"), "{text}");
        assert!(proof(7).ends_with("beside_turn { 0x7 }"));
    }

    #[test]
    fn without_such_flows_the_chain_is_empty() {
        let text = script(&[], Mark::new(0x2a00_0000).expect("a mark"), 1, false);
        assert!(!text.contains("add rule") && text.contains("flush chain inet portreeve_live beside\n"), "{text}");
    }
}
