//! True addresses and ports for datagrams, as nft text.
//!
//! Two things about datagrams differ under `up` from what a program expects, and are mended here.
//!
//! A server that is bound to no address leaves the choice of its answer's source to the routes, and these lead into the TUN: the answer
//! would come from the TUN's address and by a port of the router's. So who asks is noted with the address that was asked; an answer to
//! them gets that address before conntrack sees it, which then knows it for one. Sockets that were connected to who asked have
//! the TUN's address for good; what is asked of these is led to it.
//!
//! A program's own socket holds its port on this host, so an upstream socket is bound to a [twin](crate::flow::Way); the datagrams
//! get the program's port on the way out. What strangers send to that port is led to the upstream socket, where it is judged.
//!
//! Keeps one rule: nothing is let past by this that would not be without it. Bounded: past the sets' size, who asks is not noted.

use std::fmt::Write;
use std::net::IpAddr;

use super::mark::MASK;
use super::plan::Plan;
use super::{Mark, Translations};
use crate::flow::{HEARS, WAY_MASK, WAYS};
use crate::packet::Protocol;

/// Conntrack remembers a question for 30 s, and a conversation for 120 s (`nf_conntrack_udp_timeout` and `…_stream`). Who asked is
/// forgotten a little earlier: what is sent to nobody who asked is a flow of the program's own, and conntrack would take it for another.
const ASKED: &str = "29s";
const CONVERSES: &str = "119s";
const BOUNDED: &str = "flags dynamic,timeout; size 16384; timeout 5m;";

/// No longer than an upstream socket lives after its last datagram, answered or not.
const HEARD: &str = "30s";

/// What the texts call an address family.
struct Family {
    digit: char,
    name: &'static str,
    kind: &'static str,
}

const FAMILIES: [Family; 2] =
    [Family { digit: '4', name: "ip", kind: "ipv4_addr" }, Family { digit: '6', name: "ip6", kind: "ipv6_addr" }];

/// The script after which what strangers send is led to no upstream socket; the table has an owner.
pub(super) const HEAR_NO_MORE: &str = "table inet portreeve_live { flags owner; }\nflush chain inet portreeve_live strangers\n";

/// A router that has ended hears nothing. What conntrack remembers of its conversations would go on to lead the peers' datagrams to its
/// ports, where somebody else's rules keep translations at work, instead of to the programs that go on by themselves.
pub(super) fn forget_old(mark: Mark) {
    let forget = |mut conntrack: Translations| {
        [mark.value(), mark.inbound()].into_iter().try_for_each(|mark| conntrack.forget_marked_of(Protocol::UDP, mark, MASK))
    };
    if let Err(error) = Translations::open().and_then(forget) {
        tracing::debug!("conntrack may remember datagrams of before: {error}");
    }
}

/// Where our own datagrams go out: those of ports at which strangers are heard.
pub(super) fn hears(mark: Mark) -> String {
    let (mask, full) = (MASK | HEARS, mark.value() | HEARS);
    format!("meta mark & {mask:#010x} == {full:#010x} jump hears")
}

/// The sets and chains. `asked` comes after conntrack has said whose a datagram is, and sees none that an upstream socket hears;
/// `answered` is jumped to with what conntrack takes for an answer.
///
/// Whom one has asked from an address is a map of addresses alone: nft 1.0.6 fails on an IPv6 address with ports as a map's key.
pub(super) fn text(plan: &Plan, mark: Mark) -> String {
    let [mut sets, mut asked, mut answers, mut answered] = [const { String::new() }; 4];
    for Family { digit, name, kind } in FAMILIES {
        let own = plan.addresses.iter().map(ipnet::IpNet::addr).find(|address: &IpAddr| address.is_ipv4() == (digit == '4'));
        let Some(own) = own else { continue };
        for set in ["asked", "connected"] {
            let _ = writeln!(sets, "\tset {set}{digit} {{ type {kind} . inet_service . inet_service; {BOUNDED} }}");
        }
        let _ = writeln!(sets, "\tmap place{digit} {{ type {kind} : {kind}; {BOUNDED} }}");
        let (them, us) = (format!("{name} saddr . udp sport . udp dport"), format!("{name} daddr . udp dport . udp sport"));
        for (status, how_long) in [("& assured == 0", ASKED), ("assured", CONVERSES)] {
            let _ = writeln!(asked, "\t\tct status {status} update @asked{digit} {{ {them} timeout {how_long} }}");
            let _ = writeln!(answered, "\t\tct status {status} update @asked{digit} {{ {us} timeout {how_long} }}");
        }
        let _ = write!(
            asked,
            "\t\tupdate @place{digit} {{ {name} saddr : {name} daddr }}\n\
             \t\t{them} @connected{digit} update @connected{digit} {{ {them} }} {name} daddr set {own}\n"
        );
        let _ = writeln!(
            answers,
            "\t\t{name} saddr {own} {us} @asked{digit} {name} saddr set {name} daddr map @place{digit} \
             update @place{digit} {{ {name} daddr : {name} saddr }} update @connected{digit} {{ {us} }}"
        );
    }
    let (device, inbound, ports) = (&plan.device, mark.inbound(), ports(plan, mark));
    format!(
        "{sets}\tchain asked {{\n\t\ttype filter hook input priority filter; policy accept;\n\
         \t\tmeta l4proto != udp accept\n\t\tiifname {{ \"lo\", \"{device}\" }} accept\n\t\tct direction reply accept\n\
         \t\tct status dnat accept\n\t\tct mark & {MASK:#010x} != {inbound:#010x} accept\n\
         \t\tfib daddr type != local accept\n{asked}\t}}\n\
         \tchain answers {{\n\t\ttype filter hook output priority raw; policy accept;\n\t\tmeta l4proto != udp accept\n{answers}\t}}\n\
         \tchain answered {{\n{answered}\t}}\n{ports}"
    )
}

/// Gives datagrams the program's port on their way out. Where strangers are heard, they are led to the upstream socket for as long as
/// its program speaks: past that, what comes in is a server's, as all that nobody of ours is waiting for. A socket that is bound to the
/// address which is written to goes before: its program need not be the one that speaks from this port.
fn ports(plan: &Plan, mark: Mark) -> String {
    let (mut notes, mut gives, mut ways) = (String::new(), String::new(), Vec::new());
    for (index, way) in WAYS.iter().enumerate() {
        let (bits, flips) = (way.bits, format!("{:#06x}", way.flips));
        let [v4, v6] = ['4', '6']
            .map(|digit| format!("\t\tmeta nfproto ipv{digit} update @heard{digit} {{ udp sport ^ {flips} : udp sport }}\n"));
        let _ = write!(notes, "\tchain way_{index} {{\n{v4}{v6}\t}}\n");
        ways.push(format!("{bits:#010x} : goto way_{index}"));
        let (mask, full) = (MASK | WAY_MASK, mark.value() | bits);
        let _ = writeln!(gives, "\t\tmeta l4proto udp meta mark & {mask:#010x} == {full:#010x} snat to :udp sport ^ {flips}");
    }
    let sets: String = ['4', '6']
        .map(|digit| {
            format!(
                "\tmap heard{digit} {{ type inet_service : inet_service; flags dynamic,timeout; size 16384; timeout {HEARD}; }}\n"
            )
        })
        .concat();
    let leads: String = ['4', '6']
        .map(|digit| {
            format!("\t\tmeta nfproto ipv{digit} meta l4proto udp fib daddr type local socket wildcard 1 dnat to :udp dport map @heard{digit}\n")
        })
        .concat();
    let (device, ways) = (&plan.device, ways.join(", "));
    format!(
        "{sets}{notes}\tchain hears {{\n\t\tmeta l4proto udp meta mark & {WAY_MASK:#010x} vmap {{ {ways} }}\n\t}}\n\
         \tchain strangers {{\n\t\ttype nat hook prerouting priority dstnat; policy accept;\n\
         \t\tiifname {{ \"lo\", \"{device}\" }} accept\n{leads}\t}}\n\
         \tchain ports {{\n\t\ttype nat hook postrouting priority srcnat; policy accept;\n{gives}\t}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark() -> Mark {
        Mark::new(0x2a00_0000).expect("a mark")
    }

    #[test]
    fn a_device_without_an_ipv6_address_has_no_texts_for_ipv6() {
        let mut plan = Plan::default();
        assert!(text(&plan, mark()).contains("place6"));
        plan.addresses.retain(|net| net.addr().is_ipv4());
        let text = text(&plan, mark());
        assert!(text.contains("place4") && !text.contains("place6") && !text.contains("asked6"), "{text}");
    }

    #[test]
    fn an_answer_gets_its_address_only_where_somebody_asked_and_before_conntrack_sees_it() {
        let text = text(&Plan::default(), mark());
        assert!(text.contains("hook output priority raw"));
        assert!(text.contains(
            "ip saddr 198.18.0.1 ip daddr . udp dport . udp sport @asked4 ip saddr set ip daddr map @place4 update @place4"
        ));
    }

    #[test]
    fn each_way_has_its_rule_under_our_mark_alone() {
        let text = ports(&Plan::default(), mark());
        assert_eq!(text.matches("meta mark & 0xff000700 == 0x2a000").count(), WAYS.len());
        assert!(text.contains("== 0x2a000100 snat to :udp sport ^ 0x4000\n"), "{text}");
    }
}
