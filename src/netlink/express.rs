//! Connections that the kernel alone carries on once they are accepted, as nft text.
//!
//! The first segment of a connection goes into the TUN, where it is judged. Sent again by us with a mark that says so, it makes an entry of
//! conntrack; what belongs to that, but for another first segment, is routed anew as what we send ourselves, and comes no more to us. It
//! gets the address of the link by which it leaves, as nobody knows the TUN's.
//!
//! Keeps one rule: nothing but our mark makes such an entry, and the mark that lets it pass dies with us, in all failure modes.

use std::fmt::Write;

use super::guard::{is_marked, set_mark};
use super::mark::MASK;
use super::plan::Plan;
use super::{Mark, Translations};
use crate::flow::EXPRESS;

/// What a router before us has left to the kernel is nobody's verdict of now, and its mark may have been the same.
pub(super) fn forget_old(mark: Mark) {
    let (bits, full) = (MASK | EXPRESS, mark.value() | EXPRESS);
    if let Err(error) = Translations::open().and_then(|mut conntrack| conntrack.forget_marked(full, bits)) {
        tracing::debug!("conntrack may remember connections of before: {error}");
    }
}

/// In the output chain, before what is ours is accepted: the entry of what we send on.
pub(super) fn opened(mark: Mark) -> String {
    let (bits, full) = (MASK | EXPRESS, mark.value() | EXPRESS);
    let keep = !bits;
    format!("\t\tmeta mark & {bits:#010x} == {full:#010x} ct state new ct mark set ct mark & {keep:#010x} | {full:#010x}\n")
}

/// In the same chain, for what programs send.
pub(super) fn carried(mark: Mark) -> String {
    let (bits, full) = (MASK | EXPRESS, mark.value() | EXPRESS);
    let mark = set_mark(mark);
    format!(
        "\t\tmeta l4proto tcp ct direction original ct mark & {bits:#010x} == {full:#010x} tcp flags & (syn | ack) != syn {mark} accept\n"
    )
}

/// The chains that put the link's address in the place of the TUN's, and see to it that nothing leaves with that.
pub(super) fn translated(plan: &Plan, mark: Mark) -> String {
    let (bits, full) = (MASK | EXPRESS, mark.value() | EXPRESS);
    let [mut rules, mut others] = [const { String::new() }; 2];
    for net in &plan.addresses {
        let (family, address) = (if net.addr().is_ipv4() { "ip" } else { "ip6" }, net.addr());
        let _ = writeln!(rules, "\t\t{family} saddr {address} meta mark & {bits:#010x} == {full:#010x} masquerade");
        let _ = writeln!(others, "\t\t{family} saddr {address} meta l4proto tcp {} drop", is_marked(mark));
    }
    // Where a link has no other address for a moment; conntrack remembers only what leaves.
    let _ = writeln!(
        others,
        "\t\tip6 saddr fe80::/10 ip6 daddr != {{ fe80::/10, ff00::/8 }} meta l4proto tcp {} drop",
        is_marked(mark)
    );
    let device = &plan.device;
    format!(
        "\tchain express {{\n\t\ttype nat hook postrouting priority srcnat; policy accept;\n{rules}\t}}\n\
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

    #[test]
    fn first_segment_of_another_connection_is_never_carried_on() {
        let text = carried(mark());
        assert!(
            text.contains(
                "ct direction original ct mark & 0xff200000 == 0x2a200000 tcp flags & (syn | ack) != syn meta mark set"
            )
        );
    }

    #[test]
    fn entry_is_made_by_our_mark_alone() {
        assert!(opened(mark()).starts_with("\t\tmeta mark & 0xff200000 == 0x2a200000 ct state new ct mark set"));
    }

    #[test]
    fn address_of_the_tun_leaves_in_neither_family() {
        let text = translated(&Plan::default(), mark());
        assert_eq!(text.matches("masquerade").count(), 2, "{text}");
        assert_eq!(text.matches("== 0x2a000000 drop").count(), 3, "{text}");
    }
}
