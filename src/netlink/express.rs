//! Connections that the kernel alone carries on once they are accepted, as nft text.
//!
//! The first segment of a connection goes into the TUN, where it is judged. We enter it into conntrack then (`entered`), with the address of
//! this host by which it leaves, as nobody knows the TUN's, and send it again; what belongs to the entry, but for another first segment, is
//! routed anew as what we send ourselves, and comes no more to us.
//!
//! Keeps one rule: nobody but us makes such an entry, and the mark that lets it pass dies with us, in all failure modes.

use std::fmt::Write;

use super::guard::is_marked;
use super::mark::MASK;
use super::plan::Plan;
use super::{Mark, Translations};
use crate::flow::{EXPRESS, EXPRESS_FIRST};

/// What a router before us has left to the kernel is nobody's verdict of now, and its mark may have been the same.
pub(super) fn forget_old(mark: Mark) {
    let (bits, full) = full(mark);
    if let Err(error) = Translations::open().and_then(|mut conntrack| conntrack.forget_marked(full, bits)) {
        tracing::debug!("conntrack may remember connections of before: {error}");
    }
}

/// A SYN and nothing that answers one.
const FIRST: &str = "meta l4proto tcp tcp flags & (syn | ack) == syn";

/// What the texts call an address family.
const FAMILIES: [(&str, char); 2] = [("ip", '4'), ("ip6", '6')];

/// Whose a first segment is, and its number, by which it is told from another socket's of the same ends. The peer's port is conntrack's to
/// know: of five parts with a number among them nft 1.0.6 can list no element, and aborts.
fn number(family: &str) -> String {
    format!("{family} saddr . tcp sport . {family} daddr . tcp sequence")
}

/// The ends of a connection as its peer knows them, from this side.
fn ends(family: &str, protocol: &str) -> String {
    format!("{family} saddr . {protocol} sport . {family} daddr . {protocol} dport")
}

fn full(mark: Mark) -> (u32, u32) {
    (MASK | EXPRESS, mark.value() | EXPRESS)
}

/// The first segments that were sent on, as long as their programs repeat them; and the ends of connections that nobody here has any more,
/// but perhaps their peers: longer than the two hours after which a keepalive asks (`tcp_keepalive_time`).
pub(super) fn sets(plan: &Plan) -> String {
    let set = |(family, digit): &(&str, char)| {
        let (number, ends) = (number(family), ends(family, "tcp"));
        format!(
            "\tset opening{digit} {{ typeof {number}; flags dynamic,timeout; size 16384; timeout 3m; }}\n\
             \tset late{digit} {{ typeof {ends}; flags dynamic,timeout; size 16384; timeout 3h; }}\n"
        )
    };
    if plan.express { FAMILIES.iter().map(set).collect() } else { String::new() }
}

/// In the output chain, before what is ours is accepted: the number of what we send on, and the ends that a datagram of ours is there to
/// tell, which goes no farther.
pub(super) fn opened(plan: &Plan, mark: Mark) -> String {
    let ((bits, full), mut text) = (full(mark), String::new());
    if !plan.express {
        return text;
    }
    let is_first = format!("meta mark & {:#010x} == {:#010x}", bits | EXPRESS_FIRST, full | EXPRESS_FIRST);
    for (family, digit) in FAMILIES {
        let _ = writeln!(text, "\t\t{is_first} {FIRST} update @opening{digit} {{ {} }}", number(family));
        let _ = writeln!(text, "\t\t{is_first} meta l4proto udp add @late{digit} {{ {} }} drop", ends(family, "udp"));
    }
    let _ = writeln!(text, "\t\t{is_first} meta mark set meta mark & {:#010x}", !EXPRESS_FIRST);
    text
}

/// In the same chain, for what programs send.
pub(super) fn carried(plan: &Plan, mark: Mark) -> String {
    let ((bits, full), mut text) = (full(mark), String::new());
    if !plan.express {
        return text;
    }
    let then = format!("meta mark set meta mark & {:#010x} | {full:#010x} accept", !bits);
    let belongs = format!("meta l4proto tcp ct direction original ct mark & {bits:#010x} == {full:#010x}");
    let _ = writeln!(text, "\t\t{belongs} tcp flags & (syn | ack) != syn {then}");
    for (family, digit) in FAMILIES {
        let _ = writeln!(text, "\t\t{belongs} {FIRST} {} @opening{digit} {then}", number(family));
    }
    text
}

/// In the prerouting chain, behind what comes by loopback and by the TUN: what conntrack has been made to forget has no socket by the address
/// that its peer knows, until it is entered again; a reset of the kernel's would end it before. What has ended is to be reset.
pub(super) fn unheard(plan: &Plan) -> String {
    let is_stray = "ct state new meta l4proto tcp tcp flags & (syn | ack) != syn fib daddr type local";
    if !plan.express {
        return String::new();
    }
    let mut text = format!("\t\t{is_stray} socket wildcard {{ 0, 1 }} accept\n");
    for (family, digit) in FAMILIES {
        let ends = format!("{family} daddr . tcp dport . {family} saddr . tcp sport");
        let _ = writeln!(text, "\t\t{is_stray} {ends} @late{digit} accept");
    }
    text + &format!("\t\t{is_stray} drop\n")
}

/// A chain without which addresses are not translated at all, and one that sees to it that nothing leaves with the TUN's.
pub(super) fn translated(plan: &Plan, mark: Mark) -> String {
    if !plan.express {
        return String::new();
    }
    let (bits, full) = full(mark);
    let own = is_marked(mark);
    let mut others = String::new();
    for net in &plan.addresses {
        let (family, address) = (if net.addr().is_ipv4() { "ip" } else { "ip6" }, net.addr());
        let _ = writeln!(others, "\t\t{family} saddr {address} meta l4proto tcp {own} drop");
    }
    let carried = format!("meta mark & {bits:#010x} == {full:#010x}");
    // Conntrack does not know that this host has moved to another network.
    let _ = writeln!(others, "\t\t{carried} fib saddr type != local drop");
    let _ = writeln!(others, "\t\t{carried} tcp flags & syn != syn accept");
    for (family, digit) in FAMILIES {
        let _ = writeln!(others, "\t\t{carried} {FIRST} delete @late{digit} {{ {} }}", ends(family, "tcp"));
    }
    let _ = writeln!(others, "\t\t{carried} tcp option maxseg size set rt mtu");
    let device = &plan.device;
    format!(
        "\tchain express {{\n\t\ttype nat hook postrouting priority srcnat; policy accept;\n\t}}\n\
         \tchain untranslated {{\n\t\ttype filter hook postrouting priority 101; policy accept;\n\
         \t\toifname {{ \"lo\", \"{device}\" }} accept\n{others}\t}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark() -> Mark {
        Mark::new(0x2a00_0000).expect("a mark")
    }

    fn plan() -> Plan {
        Plan { express: true, ..Plan::default() }
    }

    #[test]
    fn first_segment_is_carried_on_only_where_it_is_the_same_again() {
        let text = carried(&plan(), mark());
        let belongs = "ct direction original ct mark & 0xff200000 == 0x2a200000";
        assert_eq!(text.matches(belongs).count(), 3, "{text}");
        assert!(text.contains(&format!("{belongs} tcp flags & (syn | ack) != syn meta mark set")), "{text}");
        for (line, set) in text.lines().skip(1).zip(["@opening4 meta", "@opening6 meta"]) {
            assert!(line.contains(FIRST) && line.contains(". tcp sequence ") && line.contains(set), "{line}");
        }
    }

    #[test]
    fn number_is_noted_by_our_mark_alone_and_no_rule_makes_an_entry() {
        let text = opened(&plan(), mark());
        assert!(text.lines().all(|line| line.contains("meta mark & 0xff600000 == 0x2a600000")), "{text}");
        assert!(!text.contains("ct mark set"), "{text}");
        for line in text.lines().filter(|line| line.contains("@late")) {
            assert!(line.contains("meta l4proto udp add @late") && line.ends_with("} drop"), "{line}");
        }
    }

    #[test]
    fn segment_that_nobody_knows_is_answered_only_where_its_connection_has_ended_or_a_socket_waits() {
        let text = unheard(&plan());
        let thens: Vec<&str> = text.lines().map(|line| line.rsplit_once("daddr type local ").expect(line).1).collect();
        let ended = ["ip", "ip6"].map(|ip| format!("{ip} daddr . tcp dport . {ip} saddr . tcp sport @late"));
        assert_eq!(thens.len(), 4, "{text}");
        assert_eq!([thens[0], thens[3]], ["socket wildcard { 0, 1 } accept", "drop"]);
        assert_eq!(thens[1..3], [format!("{}4 accept", ended[0]), format!("{}6 accept", ended[1])]);
    }

    #[test]
    fn address_of_the_tun_leaves_in_neither_family() {
        let text = translated(&plan(), mark());
        assert_eq!(text.matches("type nat").count(), 1, "{text}");
        assert_eq!(text.matches("== 0x2a000000 drop").count(), 2, "{text}");
    }

    #[test]
    fn without_the_express_lane_there_is_no_rule_for_it() {
        let plan = Plan::default();
        let texts = [sets(&plan), opened(&plan, mark()), carried(&plan, mark()), unheard(&plan), translated(&plan, mark())];
        assert!(texts.iter().all(String::is_empty));
    }
}
