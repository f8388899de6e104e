//! What programs send by a link that they name, as nft text: `SO_BINDTODEVICE`, link-local IPv6, a subnet's broadcast address, multicast
//! by `IP_MULTICAST_IF` and its like.
//!
//! The kernel's routes do not lead it into the TUN, so the link's egress chain does, where it is a frame already: its source address says
//! by which link it was to leave. On a link without headers it is a bare packet, and what stands for its version says so ([`LinkNumber`]).
//! It is judged there and sent on. What has no socket of a program is none of this. A socket that is not
//! bound, but asks for a link by its packets (`IP_PKTINFO`, `IP_UNICAST_IF`), loses this wish as the mark has the packet routed anew, and
//! goes into the TUN like what names no link.
//!
//! Keeps one rule: nothing is let past by this. The mark is set by the tables that die with us; whoever else sets it gets no farther than
//! the TUN, and without a TUN nowhere.

use std::fmt::Write;

use crate::packet::{LED, LinkNumber};

/// Led by the egress chain of its link. No mark of ours is set, nor anybody's in our bits. Not 0x2000, 0x4000 or 0x8000: Podman and
/// Kubernetes masquerade or drop what has one of these.
const IS_LINKED: &str = "meta mark & 0xff100000 == 0x00100000";

/// What a program left to the kernel when it closed its socket: the rest of what it wrote, the end, and what says that the peer's came.
const CLOSING: &str = "meta l4proto tcp ct direction original ct state established";

/// In the output chain of the live tables, behind all that marks: what is left and would go by another link.
pub(super) fn marked(device: &str) -> String {
    format!(
        "\t\toifname {{ \"lo\", \"{device}\" }} accept\n\t\tmeta mark & 0xff000000 != 0x0 accept\n\
         \t\tmeta skuid >= 0 meta mark set meta mark | 0x00100000\n\t\t{CLOSING} meta mark set meta mark | 0x00100000\n"
    )
}

/// In the output chain of the guard: these links have an egress chain that leads what names them.
pub(super) fn accepted(links: &[&str]) -> String {
    if links.is_empty() { String::new() } else { format!("\t\t{IS_LINKED} oifname {} accept\n", names(links)) }
}

/// In its postrouting chain, where the link is the true one: no other link's.
pub(super) fn dropped(device: &str, links: &[&str]) -> String {
    let links: Vec<&str> = links.iter().copied().chain(["lo", device]).collect();
    format!("\t\t{IS_LINKED} oifname != {} counter name \"leak\" drop\n", names(&links))
}

/// Nothing else goes into the TUN that looks as if it came by a link: whole packets of raw sockets may have any version.
pub(super) fn forged(device: &str) -> String {
    format!("\t\toifname \"{device}\" @nh,0,4 != {{ 4, 6 }} counter name \"leak\" drop\n")
}

/// In a link's egress chain.
pub(super) fn led(index: u32, device: &str) -> String {
    let [_, a, b, c] = index.to_be_bytes();
    let source = LED.iter().chain(&[a, b, c]).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{}{byte:02x}", if text.is_empty() { "" } else { ":" });
        text
    });
    format!("\t\t{IS_LINKED} ether type {{ ip, ip6 }} ether saddr set {source} fwd to \"{device}\"\n")
}

/// In that of a link without headers.
pub(super) fn led_bare(number: LinkNumber, device: &str) -> String {
    [("ip", true), ("ip6", false)].iter().fold(String::new(), |mut text, (family, v4)| {
        let version = number.version(*v4);
        let _ = writeln!(text, "\t\t{IS_LINKED} meta protocol {family} @nh,0,4 set {version} fwd to \"{device}\"");
        text
    })
}

fn names(links: &[&str]) -> String {
    let quoted: Vec<String> = links.iter().map(|name| format!("\"{name}\"")).collect();
    format!("{{ {} }}", quoted.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_says_by_which_link_it_was_to_leave() {
        assert!(led(2, "portreeve0").contains("ether saddr set 02:70:72:00:00:02 fwd to \"portreeve0\""));
        assert!(led(0x0001_0203, "portreeve0").contains("02:70:72:01:02:03"));
    }

    #[test]
    fn packet_without_a_header_says_it_by_its_version_and_no_other_may_look_so() {
        let number = LinkNumber::all().nth(1).expect("some");
        let text = led_bare(number, "portreeve0");
        assert!(text.contains("meta protocol ip @nh,0,4 set 9 fwd to \"portreeve0\""));
        assert!(text.contains("meta protocol ip6 @nh,0,4 set 1 fwd to \"portreeve0\""));
        assert!(text.lines().all(|line| line.contains(IS_LINKED)));
        assert!(forged("portreeve0").contains("oifname \"portreeve0\" @nh,0,4 != { 4, 6 } counter name \"leak\" drop"));
    }

    #[test]
    fn only_unmarked_packets_of_programs_are_led() {
        let text = marked("portreeve0");
        let order = ["\"lo\", \"portreeve0\" } accept", "0xff000000 != 0x0 accept", "meta skuid >= 0", CLOSING];
        let found: Vec<usize> = order.iter().map(|rule| text.find(rule).expect(rule)).collect();
        assert!(found.is_sorted());
    }

    #[test]
    fn mark_opens_no_link_that_leads_no_frames() {
        assert!(accepted(&["eth0"]).contains("oifname { \"eth0\" } accept"));
        assert!(accepted(&[]).is_empty());
        assert!(
            dropped("portreeve0", &["eth0"])
                .contains("oifname != { \"eth0\", \"lo\", \"portreeve0\" } counter name \"leak\" drop")
        );
        assert!(dropped("portreeve0", &[]).contains("oifname != { \"lo\", \"portreeve0\" } counter"));
    }
}
