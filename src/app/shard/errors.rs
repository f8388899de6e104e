//! ICMP errors that came back to a datagram flow, told to the program as they came.

use std::net::IpAddr;
use std::time::Instant;

use super::Shard;
use super::lanes::Lane;
use crate::egress::Trouble;
use crate::flow::FlowId;
use crate::packet::{Checksums, ErrorMessage, FiveTuple, IpPacket, Protocol, echo_request, error_message, udp_datagram};
use crate::router::{Failure, Input};

/// Errors taken in a row from one socket.
const TURN_ERRORS: usize = 16;
/// As much as an error quotes of a datagram (RFC 4443 §2.4).
const QUOTED: usize = 1232;
/// Bytes of an ICMP header.
const ICMP_HEADER_LEN: usize = 8;

impl Shard {
    /// Tells the program of ICMP errors that came back; false when there may be more.
    pub(super) fn take_troubles(&mut self, slot: usize, now: Instant) -> bool {
        let mut quoted = [0; QUOTED];
        for _ in 0..TURN_ERRORS {
            let (id, (trouble, len)) = match self.lanes.lane(slot) {
                Some(Lane::Udp(lane)) => (lane.id, lane.socket.trouble(&mut quoted)),
                Some(Lane::Echo(lane)) => (lane.id, lane.socket.trouble(&mut quoted)),
                Some(Lane::Tcp(_) | Lane::Dns(_) | Lane::Link(_) | Lane::Express(_)) | None => return true,
            };
            match trouble {
                Trouble::None => return true,
                Trouble::Other => {}
                Trouble::Failure(failure) => self.input(Input::Failed { flow: id, failure }, now),
                Trouble::Message(message, from) => self.tell_error(id, message, from, quoted.get(..len).unwrap_or(&[])),
            }
        }
        false
    }

    /// A failure as the program's kernel accepts it.
    pub(super) fn tellable(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Message { message, from } => Failure::Message { message, from: self.tellable_sender(from) },
            other => other,
        }
    }

    /// What claims to come from this host itself would be dropped as a martian.
    fn tellable_sender(&self, from: Option<IpAddr>) -> Option<IpAddr> {
        from.filter(|from| !self.is_own(*from))
    }

    /// The kernel finds the program's socket by the quoted ports.
    fn tell_error(&mut self, id: FlowId, message: ErrorMessage, from: Option<IpAddr>, quoted: &[u8]) {
        let Some(tuple) = self.router.flow(id).map(|flow| flow.tuple) else { return };
        let from = self.tellable_sender(from).unwrap_or(tuple.remote.ip());
        let quoted = quote(&tuple, quoted);
        let Ok(packet) = IpPacket::parse(&quoted, Checksums::Unfinished) else { return };
        let mut reply = Vec::new();
        error_message(&packet, from, message, &mut reply);
        if !reply.is_empty() {
            self.reply(&reply);
        }
    }
}

/// The beginning of what the program sent.
fn quote(tuple: &FiveTuple, quoted: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    if tuple.protocol == Protocol::UDP {
        udp_datagram(tuple.local, tuple.remote, 1, quoted, &mut out);
    } else {
        let (header, data) = quoted.split_at_checked(ICMP_HEADER_LEN).unwrap_or((quoted, &[]));
        let sequence = header.get(6..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u16::from_be_bytes(*bytes));
        echo_request(tuple.local.ip(), tuple.remote.ip(), tuple.local.port(), sequence, data, &mut out);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Transport;

    #[test]
    fn the_quote_holds_what_came_back_in_both_families() {
        for ip in ["192.0.2.1", "2001:db8::1"] {
            let ip: IpAddr = ip.parse().expect("an address");
            let tuple = FiveTuple::new(Protocol::UDP, (ip, 7), (ip, 9));
            let quoted = quote(&tuple, b"what was sent");
            let packet = IpPacket::parse(&quoted, Checksums::Finished).expect("a packet");
            assert_eq!((packet.tuple(), packet.transport()), (tuple, Transport::Udp(b"what was sent")));

            let protocol = if ip.is_ipv4() { Protocol::ICMP } else { Protocol::ICMPV6 };
            let tuple = FiveTuple::new(protocol, (ip, 7), (ip, 0));
            let quoted = quote(&tuple, &[8, 0, 0, 0, 0, 99, 0, 5, 1, 2, 3]);
            let packet = IpPacket::parse(&quoted, Checksums::Finished).expect("a packet");
            let Transport::Echo(echo) = packet.transport() else { panic!("an echo request") };
            assert_eq!((echo.ident, echo.sequence, echo.data), (7, 5, &[1, 2, 3][..]));
        }
    }

    #[test]
    fn a_quote_that_is_cut_short_still_names_the_ports() {
        let ip: IpAddr = "192.0.2.1".parse().expect("an address");
        for quoted in [&[][..], &[8, 0, 0]] {
            let tuple = FiveTuple::new(Protocol::ICMP, (ip, 7), (ip, 0));
            let quoted = quote(&tuple, quoted);
            assert_eq!(IpPacket::parse(&quoted, Checksums::Finished).expect("a packet").tuple(), tuple);
        }
    }
}
