//! sock_diag(7) messages for internet sockets: requests into a fixed buffer, answers out of a received one.
//!
//! Keeps one rule: no allocation for an answer. The crate's own response type collects all attributes; only the cgroup id,
//! the v6-only flag and the mark are wanted here, so its header parser and attribute iterator are used directly. Asks nobody anything.

use std::io;
use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::{
    DoneBuffer, Emitable, ErrorBuffer, NLMSG_ALIGNTO, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NetlinkHeader, NlasIterator,
    Parseable,
};
use netlink_packet_sock_diag::constants::{INET_DIAG_INFO, INET_DIAG_MARK, INET_DIAG_SKV6ONLY, SOCK_DIAG_BY_FAMILY};
use netlink_packet_sock_diag::inet::{InetRequest, InetResponseHeader};

use super::Carried;

const NETLINK_HEADER_LEN: usize = 16;
/// Bytes of a request: netlink header and `struct inet_diag_req_v2` (linux/inet_diag.h).
pub(super) const REQUEST_LEN: usize = NETLINK_HEADER_LEN + 56;
/// Bytes of `struct inet_diag_msg`, after which the attributes begin.
const ANSWER_HEADER_LEN: usize = 72;
/// `INET_DIAG_CGROUP_ID` (linux/inet_diag.h); the crate does not name it.
const INET_DIAG_CGROUP_ID: u16 = 21;

/// One socket of an answer. Addresses are canonical: a v4-mapped one is IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) state: u8,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) uid: u32,
    pub(super) inode: u32,
    pub(super) cookie: u64,
    pub(super) cgroup_id: Option<u64>,
    pub(super) v6_only: bool,
    /// Told to who has CAP_NET_ADMIN.
    pub(super) mark: u32,
    /// The link that it is bound to; 0: none.
    pub(super) interface: u32,
    /// Told where it is asked for.
    pub(super) carried: Carried,
}

/// One netlink message of the kernel.
#[derive(Debug)]
pub(super) enum Answer {
    Socket(Found),
    /// The end of a dump, or the acknowledgement of a request without an answer.
    Done,
    Refused(io::Error),
}

/// Writes a request with its netlink header.
pub(super) fn encode(request: &InetRequest, message_type: u16, flags: u16, sequence: u32) -> [u8; REQUEST_LEN] {
    let mut bytes = [0; REQUEST_LEN];
    let mut header = NetlinkHeader::default();
    header.length = u32::try_from(REQUEST_LEN).unwrap_or(u32::MAX);
    header.message_type = message_type;
    header.flags = flags;
    header.sequence_number = sequence;
    let (head, body) = bytes.split_at_mut(NETLINK_HEADER_LEN);
    header.emit(head);
    request.emit(body);
    bytes
}

/// The messages of one received datagram that answer the request numbered `sequence`.
///
/// Others are late answers to a request that was given up. A malformed message ends the iteration with an error.
pub(super) fn answers(mut bytes: &[u8], sequence: u32) -> impl Iterator<Item = io::Result<Answer>> {
    std::iter::from_fn(move || {
        while !bytes.is_empty() {
            let Ok(message) = NetlinkBuffer::new_checked(bytes) else {
                bytes = &[];
                return Some(Err(malformed("netlink header")));
            };
            let length = usize::try_from(message.length()).unwrap_or(usize::MAX);
            let aligned = length.saturating_add(usize::from(NLMSG_ALIGNTO) - 1) & !(usize::from(NLMSG_ALIGNTO) - 1);
            bytes = bytes.get(aligned..).unwrap_or_default();
            if message.sequence_number() == sequence {
                return Some(answer(message.message_type(), message.payload()));
            }
        }
        None
    })
}

fn answer(message_type: u16, payload: &[u8]) -> io::Result<Answer> {
    match message_type {
        SOCK_DIAG_BY_FAMILY => found(payload).map(Answer::Socket),
        NLMSG_DONE => match DoneBuffer::new_checked(payload).map_or(0, |done| done.code()) {
            0.. => Ok(Answer::Done),
            code => Ok(Answer::Refused(io::Error::from_raw_os_error(code.saturating_abs()))),
        },
        NLMSG_ERROR => {
            let error = ErrorBuffer::new_checked(payload).map_err(|_| malformed("error message"))?;
            let Some(code) = error.code() else { return Ok(Answer::Done) };
            Ok(Answer::Refused(io::Error::from_raw_os_error(code.get().saturating_abs())))
        }
        _ => Err(malformed("message type")),
    }
}

fn found(payload: &[u8]) -> io::Result<Found> {
    let header = InetResponseHeader::parse(payload).map_err(|_| malformed("socket"))?;
    let mut found = Found {
        state: header.state,
        local: canonical(header.socket_id.source_address, header.socket_id.source_port),
        remote: canonical(header.socket_id.destination_address, header.socket_id.destination_port),
        uid: header.uid,
        inode: header.inode,
        cookie: u64::from_ne_bytes(header.socket_id.cookie),
        cgroup_id: None,
        v6_only: false,
        mark: 0,
        interface: header.socket_id.interface_id,
        carried: Carried::default(),
    };
    for attribute in NlasIterator::new(payload.get(ANSWER_HEADER_LEN..).unwrap_or_default()) {
        let attribute = attribute.map_err(|_| malformed("attribute"))?;
        match attribute.kind() {
            INET_DIAG_CGROUP_ID => found.cgroup_id = attribute.value().try_into().ok().map(u64::from_ne_bytes),
            INET_DIAG_INFO => found.carried = Carried::read(attribute.value()),
            INET_DIAG_SKV6ONLY => found.v6_only = attribute.value() == [1],
            INET_DIAG_MARK => found.mark = attribute.value().try_into().map_or(0, u32::from_ne_bytes),
            _ => {}
        }
    }
    Ok(found)
}

fn canonical(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address.to_canonical(), port)
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("sock_diag: malformed {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_sock_diag::inet::{ExtensionFlags, SocketId, StateFlags};

    fn answer_bytes(family: u8, sequence: u32, attributes: &[u8]) -> Vec<u8> {
        let mut payload = vec![family, 1, 0, 0];
        payload.extend(40_000_u16.to_be_bytes());
        payload.extend(443_u16.to_be_bytes());
        let mut address = [0; 32];
        if family == 10 {
            // ::ffff:192.0.2.1 and ::ffff:198.51.100.2
            address[10..16].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 1]);
            address[26..32].copy_from_slice(&[0xff, 0xff, 198, 51, 100, 2]);
        } else {
            address[..4].copy_from_slice(&[192, 0, 2, 1]);
            address[16..20].copy_from_slice(&[198, 51, 100, 2]);
        }
        payload.extend(address);
        payload.extend(0_u32.to_ne_bytes());
        payload.extend(77_u64.to_ne_bytes());
        for word in [0_u32, 0, 0, 1000, 4711] {
            payload.extend(word.to_ne_bytes());
        }
        payload.extend(attributes);
        message(SOCK_DIAG_BY_FAMILY, sequence, &payload)
    }

    fn message(message_type: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(u32::try_from(16 + payload.len()).expect("short").to_ne_bytes());
        bytes.extend(message_type.to_ne_bytes());
        bytes.extend(0_u16.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn answer_of_either_family_is_read_with_canonical_addresses_and_its_cgroup() {
        let attribute = [12, 0, 21, 0, 9, 0, 0, 0, 0, 0, 0, 0];
        for family in [2, 10] {
            let bytes = answer_bytes(family, 5, &attribute);
            let Some(Ok(Answer::Socket(found))) = answers(&bytes, 5).next() else { panic!("no socket") };
            assert_eq!(found.local, "192.0.2.1:40000".parse().expect("address"));
            assert_eq!(found.remote, "198.51.100.2:443".parse().expect("address"));
            assert_eq!((found.uid, found.inode, found.cookie), (1000, 4711, 77));
            assert_eq!(found.cgroup_id, Some(9));
        }
    }

    #[test]
    fn late_answer_to_an_older_request_is_skipped() {
        let mut bytes = answer_bytes(2, 4, &[]);
        bytes.extend(message(NLMSG_ERROR, 5, &(-libc::ENOENT).to_ne_bytes()));
        let all: Vec<_> = answers(&bytes, 5).collect();
        assert!(matches!(all.as_slice(), [Ok(Answer::Refused(error))] if error.raw_os_error() == Some(libc::ENOENT)));
    }

    #[test]
    fn truncated_answer_is_an_error_and_ends_the_iteration() {
        let bytes = answer_bytes(2, 5, &[]);
        for cut in [3, 15, 17, 40, 87] {
            let all: Vec<_> = answers(&bytes[..cut], 5).collect();
            assert!(matches!(all.as_slice(), [Err(_)]), "{cut} bytes: {all:?}");
        }
    }

    #[test]
    fn attribute_longer_than_the_message_is_refused() {
        let bytes = answer_bytes(2, 5, &[200, 0, 21, 0, 1, 1, 1, 1]);
        assert!(matches!(answers(&bytes, 5).next(), Some(Err(_))));
    }

    #[test]
    fn cgroup_attribute_of_a_wrong_size_is_no_cgroup() {
        let bytes = answer_bytes(2, 5, &[8, 0, 21, 0, 1, 0, 0, 0]);
        assert!(matches!(answers(&bytes, 5).next(), Some(Ok(Answer::Socket(Found { cgroup_id: None, .. })))));
    }

    #[test]
    fn request_fills_its_buffer_exactly() {
        let id = SocketId::new_v4();
        let request =
            InetRequest { family: 2, protocol: 6, extensions: ExtensionFlags::empty(), states: StateFlags::all(), socket_id: id };
        let bytes = encode(&request, SOCK_DIAG_BY_FAMILY, 1, 9);
        assert_eq!(bytes[..4], 72_u32.to_ne_bytes());
        assert_eq!(bytes[16..18], [2, 6]);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_run_on(bytes: Vec<u8>, sequence in 0_u32..3) {
            proptest::prop_assert!(answers(&bytes, sequence).count() <= bytes.len());
        }

        #[test]
        fn no_attributes_make_it_panic(attributes: Vec<u8>) {
            let bytes = answer_bytes(10, 1, &attributes);
            proptest::prop_assert_eq!(answers(&bytes, 1).count(), 1);
        }
    }
}
