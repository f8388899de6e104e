//! The nftables guard as text: what may leave this host, and what is re-marked on the way.
//!
//! # Theory of operation
//!
//! Three tables. `inet portreeve` and `netdev portreeve` are plain: they outlive a killed router, so nothing leaves unjudged.
//! `inet`/`arp portreeve_live` carry `flags owner`: the kernel removes them together with the process that made them. In the
//! failure mode "open" all of them have that flag.
//!
//! A packet of a program is routed into the TUN and accepted there. One that leaves by any other link must carry our mark, or
//! be one of [`EXEMPTIONS`], else it is counted and rejected, or led into the TUN where its program named the link (`linked`).
//! `oifname` in the output hook is the link of the *first* lookup; it stays stale after a `type route` chain re-marked
//! the packet and the kernel routed it anew. Hence the order: `loop` looks before any re-marking, `postrouting` sees the true
//! link again, and the egress chains, which see AF_PACKET too, see the truth always.
//!
//! Replies of local servers: conntrack entries that a link opened get the inbound mark; what belongs to them in the reply
//! direction gets our mark and is routed anew, directly (`datagrams` sees to it that answers by UDP belong to them); so do the flows
//! that `beside` lists. All of these, the answers to our own sockets and whatever else ends on this host get our mark *on arrival*,
//! since a reverse-path filter, the kernel's (which takes the mark for ARP, too) or a firewall's, would end its lookup in the TUN without.
//! What the kernel, never a program, says by ICMP about a flow of ours leaves directly, too: that its upstream socket is gone.
//! Forwarded packets (containers, virtual machines) stay unmarked and go into the TUN, where they are judged; our answers to those
//! whose addresses were translated, and flows that were opened from outside to a published port, get our mark to reach them.
//!
//! What a program sends to all of its network this host hears itself, by the link that it leaves by: the copy of what only went
//! into the TUN is dropped.
//!
//! Not covered: IPsec, whose outer packets have no socket, so its servers belong into the plan's excluded networks; macvlan links
//! inside containers are cut off, because their frames pass an egress chain unmarked.
//!
//! Keeps one rule: no decision about programs is made here, all of it is the same for each. Text only; `nft` runs it.

use std::fmt::Write;
use std::net::IpAddr;

use super::Mark;
use super::beside;
use super::datagrams;
use super::frames;
use super::host::{Host, Link};
use super::linked;
use super::mark::MASK;
use super::plan::{Failure, Plan};
use crate::flow::BY_MAIN;

/// Something that leaves without a verdict, because without it no link works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Exemption {
    /// What a person calls it.
    pub name: &'static str,
    /// The nft match.
    pub rule: &'static str,
    /// Why it is let out, and why it is no way around the router.
    pub why: &'static str,
    /// Sent by programs through ordinary sockets, so it must be routed past the TUN too.
    #[serde(skip)]
    pub(super) routed: bool,
}

/// All of them.
pub const EXEMPTIONS: [Exemption; 5] = [
    Exemption {
        name: "neighbour discovery",
        rule: "icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert }",
        why: "ICMPv6 133 to 136 (RFC 4861); never forwarded by a router",
        routed: false,
    },
    Exemption {
        name: "multicast listeners",
        rule: "icmpv6 type { mld-listener-query, mld-listener-report, mld-listener-done, mld2-listener-report }",
        why: "ICMPv6 130 to 132 and 143 (RFC 3810); never forwarded by a router",
        routed: false,
    },
    Exemption { name: "IGMP", rule: "ip protocol igmp", why: "RFC 3376; never forwarded by a router", routed: false },
    Exemption {
        name: "DHCP",
        rule: "udp sport 68 udp dport 67",
        why: "the lease of the link; port 68 takes privilege",
        routed: true,
    },
    Exemption {
        name: "DHCPv6",
        rule: "udp sport 546 udp dport 547",
        why: "the lease of the link; port 546 takes privilege",
        routed: true,
    },
];

/// The first segment of a TCP connection. Conntrack takes any segment of one that it has not seen for its first, and the peer
/// of a connection that is older than we would make it look inbound.
const SYN: &str = "tcp flags & (fin | syn | rst | ack) == syn";

/// What ends on this host, before any translation of addresses.
const HERE: &str = "{ local, broadcast, multicast }";

/// For what has a mark of others and gets ours: without [`BY_MAIN`] their rule for all that lacks theirs would lead it into a tunnel.
pub(super) const TOLD_APART: &str = "meta mark & 0x00ffffff != 0x0 meta mark set meta mark | 0x00001000";

/// The kernel's own answer to a segment that no socket wants.
const RST: &str = "tcp flags & (syn | rst) == rst";

/// The kernel's own word about a packet of a conversation: that there is no such port, say.
const ERROR: &str = "meta l4proto { icmp, ipv6-icmp } ct state related";

/// Everything that the texts depend on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guard<'a> {
    pub(super) plan: &'a Plan,
    pub(super) host: &'a Host,
    pub(super) mark: Mark,
}

impl Guard<'_> {
    /// The tables that outlive us in the failure mode "closed". Replaces older ones of these names in one transaction.
    pub(super) fn plain(&self) -> String {
        format!("{}{}", self.inet(), self.netdev())
    }

    /// The tables that die with us. `owned` leaves the flag out for `route show`, whose reader has no process to keep.
    pub(super) fn live(&self, owned: bool) -> String {
        let flags = if owned { "\tflags owner\n" } else { "" };
        let (sets, prerouting, output) = (beside::SETS, self.live_prerouting(), self.live_output());
        let datagrams = datagrams::text(self.plan, self.mark);
        // A strict reverse-path filter looks at who asks by ARP, too.
        let arp = set_mark(self.mark);
        format!(
            "table inet portreeve_live {{\n{flags}{sets}{datagrams}{prerouting}{output}}}\n\
             table arp portreeve_live {{\n{flags}\tchain input {{\n\t\ttype filter hook input priority filter; policy accept;\n\
             \t\t{arp}\n\t}}\n}}\n"
        )
    }

    /// The links that get an egress chain: not loopback, not ours, not excluded, and none that carries frames of others, since
    /// those of virtual machines have no mark; the bridge or VLAN itself has a chain.
    pub(super) fn guarded_links(&self) -> impl Iterator<Item = &Link> {
        let excluded = &self.plan.exclude.interfaces;
        let device = &self.plan.device;
        self.host.links.iter().filter(move |l| !l.loopback && !l.shared && l.name != *device && !excluded.contains(&l.name))
    }

    fn inet(&self) -> String {
        let Self { plan, .. } = self;
        let device = &plan.device;
        let (own, owner) = (is_marked(self.mark), self.plain_flags());
        let refuse = "\t\tmeta l4proto tcp reject with tcp reset\n\t\treject with icmpx admin-prohibited\n";
        let exempt: String = EXEMPTIONS.iter().map(|e| format!("\t\t{} accept\n", e.rule)).collect();
        let framed: Vec<&str> = self.guarded_links().filter(|link| link.ethernet).map(|link| link.name.as_str()).collect();
        format!(
            "table inet portreeve {{\n{owner}\tcounter leak {{ }}\n\tcounter loop {{ }}\n{excluded}\
             \tchain loop {{\n\t\ttype filter hook output priority -160; policy accept;\n\
             \t\toifname != \"{device}\" accept\n\t\t{own} counter name \"loop\" jump refuse\n\t}}\n\
             \tchain exempt {{\n\t\ttype route hook output priority -155; policy accept;\n{routed}\t}}\n\
             \tchain output {{\n\t\ttype filter hook output priority filter; policy accept;\n\
             \t\toifname {{ \"lo\", \"{device}\" }} accept\n\t\t{own} accept\n{linked}{exempt}\
             \t\tcounter name \"leak\" jump refuse\n\t}}\n\
             \tchain refuse {{\n{refuse}\t}}\n\
             \tchain postrouting {{\n\t\ttype filter hook postrouting priority filter; policy accept;\n\
             \t\toifname \"{device}\" {own} counter name \"loop\" drop\n\
             {stray}\t}}\n}}\n",
            linked = linked::accepted(&framed),
            stray = linked::dropped(device, &framed),
            excluded = self.excluded_arrivals(),
            routed = self.routed_past(),
        )
    }

    /// Routed exemptions and the plan's exclusions: what is marked before it is judged.
    fn routed_past(&self) -> String {
        let mut matches: Vec<String> = EXEMPTIONS.iter().filter(|e| e.routed).map(|e| e.rule.to_owned()).collect();
        let exclude = &self.plan.exclude;
        matches.extend(exclude.networks.iter().map(|net| match net.addr() {
            IpAddr::V4(_) => format!("ip daddr {net}"),
            IpAddr::V6(_) => format!("ip6 daddr {net}"),
        }));
        matches.extend(exclude.interfaces.iter().map(|name| format!("oifname \"{name}\"")));
        matches.extend(exclude.users.iter().map(|uid| format!("meta skuid {uid}")));
        let mark = set_mark(self.mark);
        matches.iter().fold(String::new(), |text, rule| text + &format!("\t\t{rule} {mark}\n"))
    }

    /// What comes in from an excluded link is forwarded past the TUN.
    fn excluded_arrivals(&self) -> String {
        let mark = set_mark(self.mark);
        let rules: String = self.plan.exclude.interfaces.iter().map(|name| format!("\t\tiifname \"{name}\" {mark}\n")).collect();
        if rules.is_empty() {
            return rules;
        }
        format!("\tchain prerouting {{\n\t\ttype filter hook prerouting priority mangle; policy accept;\n{rules}\t}}\n")
    }

    fn netdev(&self) -> String {
        let owner = self.plain_flags();
        let chains: String = self.guarded_links().map(|link| self.egress(link)).collect();
        format!("table netdev portreeve {{\n{owner}\tcounter leak {{ }}\n{chains}}}\n")
    }

    /// Named by index, since a link's name may hold what a chain's may not.
    fn egress(&self, link: &Link) -> String {
        let Link { index, name, ethernet, .. } = link;
        let own = is_marked(self.mark);
        let frames = if *ethernet { frames::accepted() } else { String::new() };
        let exempt: String = EXEMPTIONS.iter().map(|e| format!("\t\t{} accept\n", e.rule)).collect();
        let linked = if *ethernet { linked::led(*index, &self.plan.device) } else { String::new() };
        format!(
            "\tchain egress_{index} {{\n\t\ttype filter hook egress device \"{name}\" priority filter; policy accept;\n\
             \t\t{own} accept\n{frames}{exempt}{linked}\t\tcounter name \"leak\" drop\n\t}}\n"
        )
    }

    fn live_prerouting(&self) -> String {
        let device = &self.plan.device;
        let (own, inbound) = (self.mark.value(), self.mark.inbound());
        let keep = !MASK;
        let opened = format!("fib daddr type {HERE} ct mark set ct mark & {keep:#010x} | {inbound:#010x}");
        let mark = set_mark(self.mark);
        let (bits, by_main) = (MASK | BY_MAIN, own | BY_MAIN);
        let mark_by_main = format!("meta mark set meta mark & {keep:#010x} | {by_main:#010x}");
        format!(
            "\tchain prerouting {{\n\t\ttype filter hook prerouting priority mangle; policy accept;\n\
             \t\tiifname \"lo\" accept\n\t\tiifname \"{device}\" ip daddr 255.255.255.255 drop\n\
             \t\tiifname \"{device}\" ct direction reply ct status snat {mark}\n\
             \t\tiifname \"{device}\" accept\n\
             \t\tmeta l4proto != tcp ct direction original ct mark & {MASK:#010x} != {inbound:#010x} {opened}\n\
             \t\t{SYN} ct state new {opened}\n\
             \t\tct mark & {MASK:#010x} == {inbound:#010x} {mark} accept\n\
             \t\tct direction reply ct mark & {bits:#010x} == {own:#010x} {mark} accept\n\
             \t\tct direction reply ct mark & {bits:#010x} == {by_main:#010x} {mark_by_main} accept\n\
             \t\tfib daddr type {HERE} {mark}\n\t}}\n"
        )
    }

    fn live_output(&self) -> String {
        let (own, inbound) = (self.mark.value(), self.mark.inbound());
        let (is_own, mark, hears) = (is_marked(self.mark), set_mark(self.mark), datagrams::hears(self.mark));
        let is_answer = format!("ct direction reply ct mark & {MASK:#010x} == {inbound:#010x}");
        let (keep, bits, by_main) = (!MASK, MASK | BY_MAIN, own | BY_MAIN);
        format!(
            "\tchain errors {{\n\t\tmeta skuid >= 0 return\n\t\t{mark}\n\t}}\n\
             \tchain output {{\n\t\ttype route hook output priority mangle; policy accept;\n\
             \t\t{is_own} ct state new ct mark set ct mark & {keep:#010x} | {own:#010x}\n\
             \t\tmeta mark & {bits:#010x} == {by_main:#010x} ct state new ct mark set ct mark & {keep:#010x} | {by_main:#010x}\n\
             \t\t{hears}\n\t\t{is_own} accept\n\t\tmeta l4proto udp {is_answer} jump answered\n\
             \t\t{is_answer} {TOLD_APART}\n\t\t{is_answer} {mark}\n\
             \t\t{RST} ct direction reply {mark}\n\t\t{ERROR} ct mark & {MASK:#010x} == {own:#010x} jump errors\n\
             \t\tjump beside\n{linked}\t}}\n",
            linked = linked::marked(&self.plan.device),
        )
    }

    fn plain_flags(&self) -> &'static str {
        match self.plan.failure {
            Failure::Closed => "",
            Failure::Open => "\tflags owner\n",
        }
    }
}

/// The redirect of the plan's loopback stubs to our resolver at `port`, to be added to the live table. Our own sockets are let
/// through, so that a stub could be asked by us and nobody else.
pub(super) fn stubs(plan: &Plan, mark: Mark, port: u16, owned: bool) -> String {
    // A table that is named again without its flag would be disowned, which the kernel refuses.
    let flags = if owned { "\tflags owner\n" } else { "" };
    let mut rules = String::new();
    for stub in &plan.dns.stubs {
        let family = if stub.is_ipv4() { "ip" } else { "ip6" };
        let _ = writeln!(rules, "\t\t{family} daddr {stub} meta l4proto {{ tcp, udp }} th dport 53 redirect to :{port}");
    }
    let own = is_marked(mark);
    format!(
        "table inet portreeve_live {{\n{flags}\tchain stubs {{\n\t\ttype nat hook output priority -110; policy accept;\n\
         \t\t{own} return\n{rules}\t}}\n}}\n"
    )
}

pub(super) fn is_marked(mark: Mark) -> String {
    format!("meta mark & {MASK:#010x} == {:#010x}", mark.value())
}

pub(super) fn set_mark(mark: Mark) -> String {
    format!("meta mark set meta mark & {:#010x} | {:#010x}", !MASK, mark.value())
}

/// Removes plain tables, there or not, in one transaction.
pub(super) const REMOVE_PLAIN: &str =
    "table inet portreeve {}\ndelete table inet portreeve\ntable netdev portreeve {}\ndelete table netdev portreeve\n";

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn host() -> Host {
        let link = |index: u32, name: &str| Link {
            index,
            name: name.to_owned(),
            mtu: 1500,
            up: true,
            loopback: name == "lo",
            ethernet: name != "wg0",
            shared: name == "tap0",
        };
        let links = vec![link(1, "lo"), link(2, "eth0"), link(3, "wg0"), link(4, "tap0"), link(5, "portreeve0")];
        Host { links, addresses: Vec::new(), uplinks: BTreeSet::new(), ways: Vec::new(), ipv6: true }
    }

    fn texts(plan: &Plan) -> (String, String) {
        let host = host();
        let guard = Guard { plan, host: &host, mark: Mark::new(0x2a00_0000).expect("a mark") };
        (guard.plain(), guard.live(true))
    }

    #[test]
    fn what_is_neither_ours_nor_exempt_is_counted_and_refused() {
        let (plain, _) = texts(&Plan::default());
        let output = plain.split("chain output").nth(1).expect("the chain");
        let order = ["oifname { \"lo\", \"portreeve0\" } accept", "== 0x2a000000 accept", "counter name \"leak\" jump refuse"];
        let found: Vec<usize> = order.iter().map(|rule| output.find(rule).expect(rule)).collect();
        assert!(found.is_sorted());
        assert!(plain.contains("meta l4proto tcp reject with tcp reset\n\t\treject with icmpx admin-prohibited"));
    }

    #[test]
    fn every_exemption_is_in_the_output_chain_and_in_each_egress_chain() {
        let (plain, _) = texts(&Plan::default());
        for exemption in EXEMPTIONS {
            assert_eq!(plain.matches(&format!("{} accept", exemption.rule)).count(), 3, "{}", exemption.name);
        }
    }

    #[test]
    fn loopback_our_device_and_ports_of_a_bridge_get_no_egress_chain_and_tunnels_no_ethernet_rule() {
        let (plain, _) = texts(&Plan::default());
        assert!(plain.contains("egress_2") && plain.contains("egress_3"));
        assert!(!plain.contains("egress_1") && !plain.contains("egress_4") && !plain.contains("egress_5"));
        assert_eq!(plain.matches("ether type arp").count(), 1);
    }

    #[test]
    fn a_closed_guard_outlives_us_and_an_open_one_does_not() {
        let closed = Plan::default();
        assert!(!texts(&closed).0.contains("flags owner"));
        let open = Plan { failure: Failure::Open, ..closed };
        assert_eq!(texts(&open).0.matches("flags owner").count(), 2);
        assert!(texts(&open).1.contains("flags owner"));
    }

    #[test]
    fn what_ends_here_is_marked_on_arrival_and_what_is_forwarded_is_not() {
        let (_, live) = texts(&Plan::default());
        let prerouting =
            live.split("chain prerouting").nth(1).and_then(|text| text.split("chain errors").next()).expect("the chain");
        let marking = |line: &&str| line.contains("meta mark set");
        let conditions =
            ["ct status snat", "ct mark & 0xff000000 == 0x2b", "== 0x2a000000", "== 0x2a001000", "fib daddr type { local,"];
        let lines: Vec<&str> = prerouting.lines().filter(marking).collect();
        assert_eq!(lines.len(), conditions.len());
        assert!(lines.iter().zip(conditions).all(|(line, condition)| line.contains(condition)), "{prerouting}");
        assert!(live.contains("table arp portreeve_live"));
    }

    #[test]
    fn errors_about_our_own_flows_leave_where_the_kernel_says_them_and_no_program_does() {
        let (_, live) = texts(&Plan::default());
        assert!(live.contains("chain errors {\n\t\tmeta skuid >= 0 return\n\t\tmeta mark set"), "{live}");
        assert!(live.contains("ct state related ct mark & 0xff000000 == 0x2a000000 jump errors"), "{live}");
    }

    #[test]
    fn exclusions_are_marked_and_nothing_else_is() {
        let mut plan = Plan::default();
        let marked = |plan: &Plan| texts(plan).0.matches("meta mark set").count();
        let before = marked(&plan);
        plan.exclude.networks = vec!["192.0.2.0/24".parse().expect("a network"), "2001:db8::/32".parse().expect("a network")];
        plan.exclude.users = vec![1000];
        assert_eq!(marked(&plan), before + 3);
        plan.exclude.interfaces = vec!["eth0".to_owned()];
        assert_eq!(marked(&plan), before + 5);
        assert!(!texts(&plan).0.contains("egress_2"));
    }

    #[test]
    fn stubs_are_redirected_for_everybody_but_ourselves() {
        let mut plan = Plan::default();
        plan.dns.stubs = vec!["127.0.0.53".parse().expect("an address"), "::1".parse().expect("an address")];
        let text = stubs(&plan, Mark::new(0x2a00_0000).expect("a mark"), 5300, true);
        assert!(text.find("== 0x2a000000 return") < text.find("redirect"));
        assert!(text.contains("ip daddr 127.0.0.53 meta l4proto { tcp, udp } th dport 53 redirect to :5300"));
        assert!(text.contains("ip6 daddr ::1 meta l4proto { tcp, udp } th dport 53 redirect to :5300"));
    }

    #[test]
    fn what_is_let_past_with_a_mark_of_others_leaves_by_the_main_table() {
        assert!(TOLD_APART.contains(&format!("| {BY_MAIN:#010x}")) && TOLD_APART.contains(&format!("& {:#010x}", !MASK)));
        let (_, live) = texts(&Plan::default());
        let output = live.split("chain output").nth(1).expect("the chain");
        let (apart, answers) = (output.find(TOLD_APART).expect("the rule"), output.find("jump beside").expect("the rule"));
        assert!(output.find("== 0x2a000000 accept").expect("our own") < apart && apart < answers);
        assert!(
            live.contains("ct mark & 0xff001000 == 0x2a001000 meta mark set meta mark & 0x00ffffff | 0x2a001000 accept"),
            "{live}"
        );
    }
}
