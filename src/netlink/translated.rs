//! What a program wrote, where rules of this host have put other ends into its packets since: a container's port that is published at
//! this host's own address, a transparent proxy.
//!
//! The socket tables know the ends that the program wrote, the TUN shows those that left; conntrack remembers both.
//!
//! Keeps one rule: says nothing of whose a connection is, which may be that of a host behind this one; and nothing is changed in what it
//! remembers, but forgotten. What it is told is in `entered`.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use netlink_packet_core::{Emitable, ErrorBuffer, NLM_F_ACK, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, sockopt};

use crate::packet::{FiveTuple, Protocol};

/// As for the socket tables.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(50);
const RECEIVE_LEN: usize = 8 * 1024;
pub(super) const HEADER_LEN: usize = 16;
/// `struct nfgenmsg`: family, version, resource.
pub(super) const FAMILY_HEADER_LEN: usize = 4;
/// `NFNL_SUBSYS_CTNETLINK` with `IPCTNL_MSG_CT_NEW`, which answers have, and `IPCTNL_MSG_CT_GET` (linux/netfilter/nfnetlink_conntrack.h).
pub(super) const ENTRY: u16 = 0x0100;
const GET: u16 = 0x0101;
/// `IPCTNL_MSG_CT_DELETE`.
const DELETE: u16 = 0x0102;
/// `CTA_TUPLE_ORIG`, `CTA_TUPLE_REPLY`, and in them `CTA_TUPLE_IP`, `CTA_TUPLE_PROTO`.
pub(super) const AS_WRITTEN: u16 = 1;
pub(super) const ANSWERS: u16 = 2;
const ADDRESSES: u16 = 1;
const PROTOCOL: u16 = 2;
/// `CTA_IP_V4_SRC`, `…_DST`, `CTA_IP_V6_SRC`, `…_DST`.
const ADDRESS_KINDS: [[u16; 2]; 2] = [[1, 2], [3, 4]];
/// `CTA_PROTO_NUM`, `CTA_PROTO_SRC_PORT`, `CTA_PROTO_DST_PORT`.
const PROTOCOL_KINDS: [u16; 3] = [1, 2, 3];
/// `CTA_MARK` and `CTA_MARK_MASK`.
pub(super) const MARK: u16 = 8;
const MARK_MASK: u16 = 21;
/// `CTA_FILTER`, in it `CTA_FILTER_ORIG_FLAGS`, and of these that of the protocol's number.
const FILTER: u16 = 25;
const FILTER_FLAGS: u16 = 1;
const BY_PROTOCOL: u32 = 1 << 3;
/// `NLA_F_NESTED`, and it with `NLA_F_NET_BYTEORDER`.
pub(super) const NESTED: u16 = 0x8000;
const FLAGS: u16 = 0xc000;
/// Attributes begin with length and kind, and are aligned to as much.
const ATTRIBUTE_HEADER_LEN: usize = 4;

/// One blocking ctnetlink socket with its buffer.
#[derive(Debug)]
pub struct Translations {
    fd: OwnedFd,
    sequence: u32,
    buffer: Box<[u8]>,
}

impl Translations {
    /// Opens conntrack of the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// The kernel refuses a netlink socket.
    pub fn open() -> io::Result<Self> {
        let fd =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(netlink::NETFILTER))?;
        rustix::net::connect(&fd, &netlink::SocketAddrNetlink::new(0, 0))?;
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(ANSWER_TIMEOUT))?;
        Ok(Self { fd, sequence: 0, buffer: vec![0; RECEIVE_LEN].into_boxed_slice() })
    }

    /// The ends that were written into the first packet of a flow; `None` where they are the same, or nothing is known.
    ///
    /// # Errors
    ///
    /// The kernel does not answer in time, or refuses the question.
    pub fn as_written(&mut self, tuple: &FiveTuple) -> io::Result<Option<FiveTuple>> {
        let question = question(tuple, self.next());
        let written = self.entry(&question)?.and_then(|body| written(body, tuple));
        Ok(written.filter(|written| written != tuple))
    }

    /// The mark on the entry of a conversation whose first packet had these ends; `None` where nothing is known of it.
    ///
    /// # Errors
    ///
    /// The kernel does not answer in time, or refuses the question.
    pub fn mark(&mut self, tuple: &FiveTuple) -> io::Result<Option<u32>> {
        let question = request((GET, NLM_F_REQUEST), AS_WRITTEN, tuple, self.next());
        Ok(self.entry(&question)?.map(mark))
    }

    /// Has conntrack forget the conversation whose first packet had these ends; false where it knew of none.
    ///
    /// # Errors
    ///
    /// The kernel does not answer in time, or refuses.
    pub fn forget(&mut self, tuple: &FiveTuple) -> io::Result<bool> {
        let request = request((DELETE, NLM_F_REQUEST | NLM_F_ACK), AS_WRITTEN, tuple, self.next());
        match self.done(&request) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// The same for all conversations with this mark under this mask.
    ///
    /// # Errors
    ///
    /// As [`Self::forget`].
    pub fn forget_marked(&mut self, mark: u32, mask: u32) -> io::Result<()> {
        let body = [attribute(MARK, &mark.to_be_bytes()), attribute(MARK_MASK, &mask.to_be_bytes())].concat();
        let request = message((DELETE, NLM_F_REQUEST | NLM_F_ACK), libc::AF_UNSPEC, &body, self.next());
        self.done(&request)
    }

    /// The same for those of one protocol, since Linux 5.8.
    ///
    /// # Errors
    ///
    /// As [`Self::forget`]; an older kernel refuses.
    pub(super) fn forget_marked_of(&mut self, protocol: Protocol, mark: u32, mask: u32) -> io::Result<()> {
        let number = attribute(PROTOCOL | NESTED, &attribute(PROTOCOL_KINDS[0], &[protocol.0]));
        let body = [
            attribute(AS_WRITTEN | NESTED, &number),
            attribute(FILTER | NESTED, &attribute(FILTER_FLAGS, &BY_PROTOCOL.to_ne_bytes())),
            attribute(MARK, &mark.to_be_bytes()),
            attribute(MARK_MASK, &mask.to_be_bytes()),
        ];
        let body = body.concat();
        [libc::AF_INET, libc::AF_INET6].into_iter().try_for_each(|family| {
            let request = message((DELETE, NLM_F_REQUEST | NLM_F_ACK), family, &body, self.next());
            self.done(&request)
        })
    }

    pub(super) fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// The body of the entry that a question is about, if there is one.
    fn entry(&mut self, question: &[u8]) -> io::Result<Option<&[u8]>> {
        let message = self.answer(question)?;
        Ok((message.message_type() == ENTRY).then(|| message.payload()))
    }

    /// Sends what is only acknowledged.
    pub(super) fn done(&mut self, request: &[u8]) -> io::Result<()> {
        let code = ErrorBuffer::new_checked(self.answer(request)?.payload()).map_err(malformed)?.code();
        code.map_or(Ok(()), |code| Err(io::Error::from_raw_os_error(code.get().saturating_abs())))
    }

    /// Sends what was numbered last, and gives what the kernel says to it.
    fn answer(&mut self, request: &[u8]) -> io::Result<NetlinkBuffer<&[u8]>> {
        rustix::net::send(&self.fd, request, SendFlags::empty())?;
        loop {
            let (length, _) = rustix::net::recv(&self.fd, &mut *self.buffer, RecvFlags::empty())?;
            let number =
                NetlinkBuffer::new_checked(self.buffer.get(..length).unwrap_or_default()).map_err(malformed)?.sequence_number();
            // Another number: a late answer to a question that was given up.
            if number == self.sequence {
                return NetlinkBuffer::new_checked(self.buffer.get(..length).unwrap_or_default()).map_err(malformed);
            }
        }
    }
}

fn malformed<E>(_: E) -> io::Error {
    io::ErrorKind::InvalidData.into()
}

/// Asks for the entry whose answers have these ends, the other way round.
fn question(tuple: &FiveTuple, sequence: u32) -> Vec<u8> {
    let answers = FiveTuple { local: tuple.remote, remote: tuple.local, ..*tuple };
    request((GET, NLM_F_REQUEST), ANSWERS, &answers, sequence)
}

/// A message about the entry with these ends in its first packet, or in the answers to it.
fn request((kind, flags): (u16, u16), of: u16, ends: &FiveTuple, sequence: u32) -> Vec<u8> {
    message((kind, flags), family_of(ends), &ends_of(of, ends), sequence)
}

pub(super) fn family_of(ends: &FiveTuple) -> libc::c_int {
    if ends.local.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }
}

/// The ends of the first packet, or of the answers to it.
pub(super) fn ends_of(of: u16, ends: &FiveTuple) -> Vec<u8> {
    let FiveTuple { protocol, local, remote } = ends;
    let [from, to] = if local.is_ipv4() { ADDRESS_KINDS[0] } else { ADDRESS_KINDS[1] };
    let [number, from_port, to_port] = PROTOCOL_KINDS;
    let addresses = [attribute(from, &octets(local.ip())), attribute(to, &octets(remote.ip()))].concat();
    let ports = [
        attribute(number, &[protocol.0]),
        attribute(from_port, &local.port().to_be_bytes()),
        attribute(to_port, &remote.port().to_be_bytes()),
    ];
    let ends = [attribute(ADDRESSES | NESTED, &addresses), attribute(PROTOCOL | NESTED, &ports.concat())].concat();
    attribute(of | NESTED, &ends)
}

pub(super) fn message((kind, flags): (u16, u16), family: libc::c_int, attributes: &[u8], sequence: u32) -> Vec<u8> {
    let body = [&[u8::try_from(family).unwrap_or(0), 0, 0, 0][..], attributes].concat();
    let mut header = NetlinkHeader::default();
    header.length = u32::try_from(HEADER_LEN + body.len()).unwrap_or(u32::MAX);
    header.message_type = kind;
    header.flags = flags;
    header.sequence_number = sequence;
    let mut bytes = vec![0; HEADER_LEN];
    header.emit(&mut bytes);
    bytes.extend(body);
    bytes
}

pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(ATTRIBUTE_HEADER_LEN + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(ATTRIBUTE_HEADER_LEN), 0);
    bytes
}

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The ends as they were written, from the body of an entry.
fn written(body: &[u8], tuple: &FiveTuple) -> Option<FiveTuple> {
    let ends = find(body.get(FAMILY_HEADER_LEN..)?, AS_WRITTEN)?;
    let (addresses, protocol) = (find(ends, ADDRESSES)?, find(ends, PROTOCOL)?);
    let [from, to] = if tuple.local.is_ipv4() { ADDRESS_KINDS[0] } else { ADDRESS_KINDS[1] };
    let [_, from_port, to_port] = PROTOCOL_KINDS;
    let port = |kind| find(protocol, kind).and_then(|bytes| bytes.first_chunk().copied()).map(u16::from_be_bytes);
    let end = |address, its_port| Some(SocketAddr::new(ip(find(addresses, address)?)?, port(its_port)?));
    Some(FiveTuple { protocol: tuple.protocol, local: end(from, from_port)?, remote: end(to, to_port)? })
}

/// The mark in the body of an entry.
fn mark(body: &[u8]) -> u32 {
    let bytes = body.get(FAMILY_HEADER_LEN..).and_then(|attributes| find(attributes, MARK));
    bytes.and_then(|bytes| bytes.first_chunk().copied()).map_or(0, u32::from_be_bytes)
}

pub(super) fn find(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let ([l0, l1, k0, k1], _) = attributes.split_first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([*l0, *l1]));
        let value = attributes.get(ATTRIBUTE_HEADER_LEN..length)?;
        if u16::from_ne_bytes([*k0, *k1]) & !FLAGS == kind {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(ATTRIBUTE_HEADER_LEN)..)?;
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(local: &str, remote: &str) -> FiveTuple {
        FiveTuple { protocol: Protocol::TCP, local: local.parse().expect("an end"), remote: remote.parse().expect("an end") }
    }

    /// What the kernel would say of a connection that was written so: the question, with the ends under the other name.
    fn entry(as_written: &FiveTuple) -> Vec<u8> {
        let swapped = FiveTuple { local: as_written.remote, remote: as_written.local, ..*as_written };
        let mut body = question(&swapped, 1).split_off(HEADER_LEN);
        let kind = (AS_WRITTEN | NESTED).to_ne_bytes();
        body[FAMILY_HEADER_LEN + 2..FAMILY_HEADER_LEN + 4].copy_from_slice(&kind);
        body
    }

    #[test]
    fn ends_are_read_as_they_were_written_in_both_families() {
        for (local, remote, left) in [
            ("10.9.0.2:40000", "10.9.0.2:8080", "172.17.0.2:80"),
            ("127.0.0.1:40000", "127.0.0.1:8080", "172.17.0.2:80"),
            ("[fd09::2]:40000", "[fd09::2]:8080", "[fd17::2]:80"),
        ] {
            let wanted = tuple(local, remote);
            assert_eq!(written(&entry(&wanted), &tuple(local, left)), Some(wanted));
        }
    }

    #[test]
    fn mark_of_an_entry_is_read_and_one_without_has_none() {
        let mut body = entry(&tuple("10.9.0.2:40000", "203.0.113.10:80"));
        assert_eq!(mark(&body), 0);
        body.extend(attribute(MARK, &7_u32.to_be_bytes()));
        assert_eq!((mark(&body), mark(&body[..body.len() - 1]), mark(&[])), (7, 0, 0));
    }

    #[test]
    fn an_entry_that_is_cut_short_says_nothing() {
        let wanted = tuple("10.9.0.2:40000", "10.9.0.2:8080");
        let body = entry(&wanted);
        assert!((0..body.len() - 4).all(|length| written(&body[..length], &wanted).is_none()));
    }

    #[test]
    fn a_question_has_the_ends_of_the_answers() {
        let asked = question(&tuple("10.9.0.2:40000", "172.17.0.2:80"), 7);
        let ends = find(&asked[HEADER_LEN + FAMILY_HEADER_LEN..], ANSWERS).expect("the ends");
        let addresses = find(ends, ADDRESSES).expect("the addresses");
        assert_eq!(find(addresses, 1), Some(&[172, 17, 0, 2][..]));
        assert_eq!(find(addresses, 2), Some(&[10, 9, 0, 2][..]));
        assert_eq!(asked.len() % 4, 0);
    }
}
