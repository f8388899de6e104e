//! What the kernel writes into the datagrams of one connected socket and into nobody else's: by it a datagram whose socket is gone is
//! known for what that socket sent before.
//!
//! An IPv4 datagram that must not be fragmented carries a count of its socket, which starts anywhere (`ip_select_ident_segs` in
//! include/net/ip.h, `__ip4_datagram_connect` in net/ipv4/datagram.c); an IPv6 one carries a flow label that was drawn for its socket
//! (`ip6_make_flowlabel` in include/net/ipv6.h, `sk_set_txhash` in include/net/sock.h). Neither leaves this host: upstream sockets have
//! their own. One rule: only of a socket that is connected is this true, and that the caller knows; others share their counts and labels.

use smoltcp::wire::{Ipv4Packet, Ipv6Packet};

use super::{IpPacket, Transport};

/// Datagrams that may be missing between two of which the second is known by its signature alone.
const FEW_MISSING: u16 = 16;
/// Datagrams that a flood loses in a full queue, at most.
const MANY_MISSING: u16 = 1024;

/// The mark of a socket on one of its datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signature {
    Count(u16),
    Label(u32),
}

impl Signature {
    /// Whether the socket that sent `last` may have sent this soon after. Whoever guesses is right once in some thousand times.
    #[must_use]
    pub fn follows(self, last: Self) -> bool {
        self.comes_after(last, FEW_MISSING)
    }

    /// Whether the socket that sent `last` can have sent this; no proof that it has.
    #[must_use]
    pub fn may_follow(self, last: Self) -> bool {
        self.comes_after(last, MANY_MISSING)
    }

    fn comes_after(self, last: Self, missing: u16) -> bool {
        match (last, self) {
            (Self::Count(last), Self::Count(this)) => (1..=missing).contains(&this.wrapping_sub(last)),
            (Self::Label(last), Self::Label(this)) => last == this,
            (Self::Count(_), Self::Label(_)) | (Self::Label(_), Self::Count(_)) => false,
        }
    }
}

impl IpPacket<'_> {
    /// The signature of a UDP datagram that has one.
    #[must_use]
    pub fn signature(&self) -> Option<Signature> {
        if !matches!(self.transport(), Transport::Udp(_)) {
            return None;
        }
        if self.tuple().local.is_ipv4() {
            // Without the bit, older kernels take the count of all sockets together; the fragments of one datagram have one count.
            let count = Ipv4Packet::new_checked(self.bytes()).ok()?.ident();
            (self.marks().dont_fragment && count != 0).then_some(Signature::Count(count))
        } else {
            let label = Ipv6Packet::new_checked(self.bytes()).ok()?.flow_label();
            (label != 0).then_some(Signature::Label(label))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Arrival, Checksums, udp_datagram};

    fn datagram(v6: bool, change: impl Fn(&mut [u8])) -> Vec<u8> {
        let (from, to) = if v6 { ("[fd00::1]:4000", "[2001:db8::10]:9") } else { ("10.9.0.2:4000", "203.0.113.10:9") };
        let mut bytes = Vec::new();
        udp_datagram(from.parse().expect("literal"), to.parse().expect("literal"), 64, b"x", &mut bytes);
        change(&mut bytes);
        bytes
    }

    fn signature(bytes: &[u8]) -> Option<Signature> {
        IpPacket::parse(bytes, Checksums::Unfinished).expect("well-formed").signature()
    }

    fn counted(count: u16, dont_fragment: bool) -> Vec<u8> {
        datagram(false, |bytes| {
            let mut ip = Ipv4Packet::new_unchecked(bytes);
            ip.set_ident(count);
            ip.set_dont_frag(dont_fragment);
            ip.fill_checksum();
        })
    }

    #[test]
    fn a_count_that_goes_on_follows_and_any_other_does_not() {
        let count = Signature::Count;
        for (last, this) in [(7, 8), (7, 23), (u16::MAX, 1), (65_530, 3)] {
            assert!(count(this).follows(count(last)), "{this} after {last}");
        }
        for (last, this) in [(7, 7), (7, 6), (7, 24), (7, 40_000), (0, u16::MAX)] {
            assert!(!count(this).follows(count(last)), "{this} after {last}");
        }
        assert!(count(1031).may_follow(count(7)) && !count(1032).may_follow(count(7)) && !count(7).may_follow(count(7)));
    }

    #[test]
    fn a_label_stays_the_same_and_is_no_count() {
        assert!(Signature::Label(5).follows(Signature::Label(5)));
        assert!(!Signature::Label(6).follows(Signature::Label(5)));
        assert!(!Signature::Label(6).follows(Signature::Count(5)) && !Signature::Count(6).follows(Signature::Label(5)));
    }

    #[test]
    fn only_what_one_connected_socket_alone_writes_is_a_signature() {
        assert_eq!(signature(&counted(7, true)), Some(Signature::Count(7)));
        assert_eq!(signature(&counted(7, false)), None, "a count that all sockets may share");
        assert_eq!(signature(&counted(0, true)), None, "a socket that is not connected");
        let bytes = counted(7, true);
        let fragmented = IpPacket::parse(&bytes, Checksums::Unfinished).expect("well-formed").arrived(Arrival::Fragments);
        assert_eq!(fragmented.signature(), None);
        let labelled = datagram(true, |bytes| Ipv6Packet::new_unchecked(bytes).set_flow_label(9));
        assert_eq!(signature(&labelled), Some(Signature::Label(9)));
        assert_eq!(signature(&datagram(true, |_| ())), None);
    }

    #[test]
    fn what_is_no_datagram_has_none() {
        for (from, to) in [("10.9.0.2", "203.0.113.10"), ("fd00::1", "2001:db8::10")] {
            let mut bytes = Vec::new();
            crate::packet::echo_request(from.parse().expect("literal"), to.parse().expect("literal"), 7, 1, b"x", &mut bytes);
            assert_eq!(signature(&bytes), None, "{from}");
        }
    }
}
