//! Frames that are no IP and leave without a verdict: those by which links come up and neighbours are found.
//!
//! Keeps one rule: programs can send such frames by packet sockets alone, which takes privilege, and no router carries them on.

use super::guard::Exemption;

/// All of them. Every other frame is IP, and judged, or does not leave.
pub const FRAMES: [Exemption; 9] = [
    Exemption { name: "ARP", rule: "ether type arp", why: "finds neighbours (RFC 826)", routed: false },
    Exemption { name: "EAPOL", rule: "ether type 0x888e", why: "without it no protected wireless link comes up", routed: false },
    Exemption { name: "pre-authentication", rule: "ether type 0x88c7", why: "roaming between access points", routed: false },
    Exemption { name: "TDLS", rule: "ether type 0x890d", why: "roaming and direct wireless links", routed: false },
    Exemption { name: "LLDP", rule: "ether type 0x88cc", why: "tells the switch who is on its port", routed: false },
    Exemption { name: "Wake-on-LAN", rule: "ether type 0x0842", why: "wakes a neighbour", routed: false },
    Exemption { name: "PTP", rule: "ether type 0x88f7", why: "sets the clock by Ethernet (IEEE 1588)", routed: false },
    Exemption { name: "PPPoE", rule: "ether type 0x8863", why: "finds the line's other end (RFC 2516)", routed: false },
    // Protocols from 0x8000 on carry no packets (RFC 1661 section 2); those that do are judged, and have our mark.
    Exemption {
        name: "PPP control",
        rule: "ether type 0x8864 @ll,160,16 >= 0x8000",
        why: "opens and keeps a line by PPPoE; the packets on it are judged",
        routed: false,
    },
];

/// In the egress chain of a link with Ethernet addresses.
pub(super) fn accepted() -> String {
    FRAMES.iter().map(|frame| format!("\t\t{} accept\n", frame.rule)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_frame_that_holds_an_ip_packet_is_exempt() {
        let text = accepted();
        assert_eq!(text.lines().count(), FRAMES.len());
        assert!(text.lines().all(|line| line.trim_start().starts_with("ether type ")));
        for ip in ["0x0800", "0x86dd", " ip ", " ip6 ", "0x8847", "0x8864 accept"] {
            assert!(!text.contains(ip), "{ip}");
        }
    }
}
