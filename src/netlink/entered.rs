//! What conntrack is told of connections that the kernel alone is to carry on: from which address they leave.
//!
//! Keeps one rule: what was entered stays as it is until it is taken out. Neither a change of routes or links nor a full table nor silence, of
//! one side or of both, ends it.

use std::io;
use std::net::SocketAddr;

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST};

use super::translated::{ANSWERS, AS_WRITTEN, ENTRY, MARK, NESTED, Translations, attribute, ends_of, family_of, message, octets};
use crate::packet::FiveTuple;

/// `CTA_STATUS`, `CTA_PROTOINFO`, `CTA_NAT_SRC`, `CTA_TIMEOUT` (linux/netfilter/nfnetlink_conntrack.h).
const STATUS: u16 = 3;
const STATE: u16 = 4;
const SOURCE: u16 = 6;
const TIMEOUT: u16 = 7;
/// `CTA_NAT_V4_MINIP`, `CTA_NAT_V6_MINIP`, and `CTA_NAT_PROTO` with `CTA_PROTONAT_PORT_MIN` and `…_MAX`.
const ADDRESS_KINDS: [u16; 2] = [1, 4];
const PORTS: u16 = 3;
const PORT_KINDS: [u16; 2] = [1, 2];
/// `CTA_PROTOINFO_TCP`, with `CTA_PROTOINFO_TCP_STATE`, `…_FLAGS_ORIGINAL` and `…_FLAGS_REPLY`.
const TCP: u16 = 1;
const TCP_STATE: u16 = 1;
const TCP_FLAGS: [u16; 2] = [4, 5];
/// `TCP_CONNTRACK_ESTABLISHED`, and `IP_CT_TCP_FLAG_BE_LIBERAL` under its mask (linux/netfilter/nf_conntrack_tcp.h).
const ESTABLISHED: u8 = 3;
const LIBERAL: [u8; 2] = [8, 8];
/// `IPS_SEEN_REPLY`; and `IPS_ASSURED`, which a full table does not evict, `IPS_CONFIRMED` and `IPS_FIXED_TIMEOUT`
/// (linux/netfilter/nf_conntrack_common.h).
const ANSWERED: u32 = 1 << 1;
const KEPT: u32 = 1 << 2 | 1 << 3 | 1 << 10;
/// As long as the kernel keeps a connection that says nothing (`nf_conntrack_tcp_timeout_established`); whoever entered it is to look
/// after it.
const SECONDS: u32 = 5 * 24 * 60 * 60;

/// A connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As its program writes it.
    pub tuple: FiveTuple,
    /// Where it leaves from.
    pub outer: SocketAddr,
    /// On the entry.
    pub mark: u32,
    /// Segments have passed before, and nobody knows which ones.
    pub has_begun: bool,
}

impl Translations {
    /// Enters a connection; false where there is one with these ends, or one that leaves by them.
    ///
    /// # Errors
    ///
    /// The kernel does not answer in time, or refuses: it may not translate addresses, or have no room.
    pub fn enter(&mut self, entry: &Entry) -> io::Result<bool> {
        let request = request(entry, self.next());
        match self.done(&request) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            other => other.map(|()| true),
        }
    }
}

fn request(Entry { tuple, outer, mark, has_begun }: &Entry, sequence: u32) -> Vec<u8> {
    let answers = FiveTuple { local: tuple.remote, remote: tuple.local, ..*tuple };
    let port = PORT_KINDS.map(|kind| attribute(kind, &outer.port().to_be_bytes())).concat();
    let address = attribute(ADDRESS_KINDS[usize::from(outer.is_ipv6())], &octets(outer.ip()));
    let source = [address, attribute(PORTS | NESTED, &port)].concat();
    let status = if *has_begun { KEPT | ANSWERED } else { KEPT };
    let mut body = [
        ends_of(AS_WRITTEN, tuple),
        ends_of(ANSWERS, &answers),
        attribute(STATUS, &status.to_be_bytes()),
        attribute(SOURCE | NESTED, &source),
        attribute(TIMEOUT, &SECONDS.to_be_bytes()),
        attribute(MARK, &mark.to_be_bytes()),
    ]
    .concat();
    // What conntrack takes for out of the window would go on untranslated; sockets know better, and answer it.
    let mut state = TCP_FLAGS.map(|kind| attribute(kind, &LIBERAL)).concat();
    if *has_begun {
        state.extend(attribute(TCP_STATE, &[ESTABLISHED]));
    }
    body.extend(attribute(STATE | NESTED, &attribute(TCP | NESTED, &state)));
    message((ENTRY, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL), family_of(tuple), &body, sequence)
}

#[cfg(test)]
mod tests {
    use super::super::translated::{FAMILY_HEADER_LEN, HEADER_LEN, find};
    use super::*;
    use crate::packet::Protocol;

    #[test]
    fn entry_tells_where_a_connection_leaves_from_in_both_families() {
        for (local, remote, outer, kind, address) in [
            ("198.18.0.1:40000", "203.0.113.10:80", "10.9.0.2:40000", 1, &[10, 9, 0, 2][..]),
            ("[fd00::1]:40000", "[2001:db8::10]:80", "[fd09::2]:1", 4, &[0xfd, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2][..]),
        ] {
            let [local, remote, outer] = [local, remote, outer].map(|end| end.parse().expect("an end"));
            let tuple = FiveTuple { protocol: Protocol::TCP, local, remote };
            for has_begun in [false, true] {
                let request = request(&Entry { tuple, outer, mark: 7, has_begun }, 1);
                let body = &request[HEADER_LEN + FAMILY_HEADER_LEN..];
                let source = find(body, SOURCE).expect("where it leaves from");
                assert_eq!(find(source, kind), Some(address));
                let port = find(source, PORTS).and_then(|ports| find(ports, 1));
                assert_eq!(port, Some(&outer.port().to_be_bytes()[..]));
                assert_eq!(find(body, MARK), Some(&[0, 0, 0, 7][..]));
                let state = find(body, STATE).and_then(|state| find(state, TCP)).expect("what conntrack is to think of it");
                assert_eq!(find(state, TCP_STATE).is_some(), has_begun);
                assert_eq!(TCP_FLAGS.map(|kind| find(state, kind)), [Some(&LIBERAL[..]); 2]);
                assert_eq!(request.len() % 4, 0);
            }
        }
    }
}
