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
use super::bare::BareLinks;
use super::beside;
use super::datagrams;
use super::express;
use super::frames;
use super::host::{Framing, Host, Link};
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
    pub(super) bare: &'a BareLinks,
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
        let datagrams = datagrams::text(self.plan, self.mark) + &express::translated(self.plan, self.mark);
        let sets = format!("{sets}{}", express::sets(self.plan));
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
        let led: Vec<&str> =
            self.guarded_links().filter(|link| !self.led(link).is_empty()).map(|link| link.name.as_str()).collect();
        format!(
            "table inet portreeve {{\n{owner}\tcounter leak {{ }}\n\tcounter loop {{ }}\n{excluded}\
             \tchain loop {{\n\t\ttype filter hook output priority -160; policy accept;\n\
             \t\toifname != \"{device}\" accept\n\t\t{own} counter name \"loop\" jump refuse\n\t}}\n\
             \tchain exempt {{\n\t\ttype route hook output priority -155; policy accept;\n{routed}\t}}\n\
             \tchain output {{\n\t\ttype filter hook output priority filter; policy accept;\n\
             \t\toifname \"{device}\" ip saddr 127.0.0.0/8 counter name \"leak\" jump refuse\n\
             \t\toifname {{ \"lo\", \"{device}\" }} accept\n\t\t{own} accept\n{linked}{exempt}\
             \t\tcounter name \"leak\" jump refuse\n\t}}\n\
             \tchain refuse {{\n{refuse}\t}}\n\
             \tchain postrouting {{\n\t\ttype filter hook postrouting priority filter; policy accept;\n\
             \t\toifname \"{device}\" {own} counter name \"loop\" drop\n\
             {forged}{stray}\t}}\n}}\n",
            forged = linked::forged(device),
            linked = linked::accepted(&led),
            stray = linked::dropped(device, &led),
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
        let Link { index, name, framing, .. } = link;
        let own = is_marked(self.mark);
        let frames = if *framing == Framing::Ethernet { frames::accepted() } else { String::new() };
        let exempt: String = EXEMPTIONS.iter().map(|e| format!("\t\t{} accept\n", e.rule)).collect();
        let linked = self.led(link);
        format!(
            "\tchain egress_{index} {{\n\t\ttype filter hook egress device \"{name}\" priority filter; policy accept;\n\
             \t\t{own} accept\n{frames}{exempt}{linked}\t\tcounter name \"leak\" drop\n\t}}\n"
        )
    }

    /// How the egress chain of this link leads what names it; empty where it cannot.
    fn led(&self, link: &Link) -> String {
        match link.framing {
            Framing::Ethernet => linked::led(link.index, &self.plan.device),
            Framing::Bare => {
                let number = self.bare.number_of(link.index);
                number.map(|number| linked::led_bare(number, &self.plan.device)).unwrap_or_default()
            }
            Framing::Other => String::new(),
        }
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
             \t\tiifname \"{device}\" ip daddr 127.0.0.0/8 ct direction original drop\n\
             \t\tiifname \"{device}\" ct direction reply ct status snat {mark}\n\
             \t\tiifname \"{device}\" accept\n\
             \t\tmeta l4proto != tcp ct direction original ct mark & {MASK:#010x} != {inbound:#010x} {opened}\n\
             \t\t{SYN} ct state new {opened}\n\
             \t\tct mark & {MASK:#010x} == {inbound:#010x} {mark} accept\n\
             \t\tct direction reply ct mark & {bits:#010x} == {own:#010x} {mark} accept\n\
             \t\tct direction reply ct mark & {bits:#010x} == {by_main:#010x} {mark_by_main} accept\n\
             \t\tfib daddr type {HERE} {mark}\n{unheard}\t}}\n",
            unheard = express::unheard(self.plan),
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
             {opened}\t\t{hears}\n\t\t{is_own} accept\n\t\tmeta l4proto udp {is_answer} jump answered\n\
             \t\t{is_answer} {TOLD_APART}\n\t\t{is_answer} {mark}\n\
             \t\t{RST} ct direction reply {mark}\n\t\t{ERROR} ct mark & {MASK:#010x} == {own:#010x} jump errors\n\
             \t\tjump beside\n{carried}{linked}\t}}\n",
            opened = express::opened(self.plan, self.mark),
            carried = express::carried(self.plan, self.mark),
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

/// What a plain guard refuses is dropped from now on.
pub(super) const REFUSE_SILENTLY: &str = "flush chain inet portreeve refuse\nadd rule inet portreeve refuse drop\n";

/// Removes plain tables, there or not, in one transaction.
pub(super) const REMOVE_PLAIN: &str =
    "table inet portreeve {}\ndelete table inet portreeve\ntable netdev portreeve {}\ndelete table netdev portreeve\n";

#[cfg(test)]
mod tests;
