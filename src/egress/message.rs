//! sendmsg(2) and recvmsg(2) with their control messages: many datagrams in one call, the true hop limit, and errors with their
//! origin (ip(7), udp(7)).

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use socket2::{SockAddr, SockRef};

use crate::packet::ErrorMessage;
use crate::router::Failure;

/// What came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    pub len: usize,
    /// Several datagrams of so many bytes, the last maybe shorter.
    pub segment: Option<u16>,
    pub from: Option<SocketAddr>,
    /// TTL or hop limit, where the kernel told it.
    pub hop_limit: Option<u8>,
    /// TOS or traffic class.
    pub traffic_class: u8,
}

/// An error that a socket got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing more in the queue.
    None,
    /// An ICMP message came back, from this host on the way.
    Message(ErrorMessage, Option<IpAddr>),
    /// This host's own kernel failed.
    Failure(Failure),
    Other,
}

/// Origins of errors (include/uapi/linux/errqueue.h).
const ORIGIN_LOCAL: u8 = 1;
const ORIGIN_ICMP: u8 = 2;
const ORIGIN_ICMP6: u8 = 3;
const CONTROL_LEN: usize = 256;
/// `struct sockaddr_in6`, the longer one.
const NAME_LEN: usize = size_of::<libc::sockaddr_in6>();
/// `UDP_SEGMENT` and `UDP_GRO` (include/uapi/linux/udp.h).
const UDP_SEGMENT: i32 = 103;
const UDP_GRO: i32 = 104;

#[repr(align(8))]
struct Control([u8; CONTROL_LEN]);

#[repr(align(8))]
struct Name([u8; NAME_LEN]);

/// Sends `data`, to `name` where the socket is not connected; as datagrams of `segment` bytes where that is given.
pub(super) fn send(socket: &SockRef<'_>, name: Option<&SockAddr>, data: &[u8], segment: Option<u16>) -> io::Result<()> {
    const LEN: usize = size_of::<libc::cmsghdr>() + 2;
    let mut control = Control([0; CONTROL_LEN]);
    let mut vector = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    let mut header = empty_header();
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    if let Some(name) = name {
        header.msg_name = name.as_ptr().cast_mut().cast();
        header.msg_namelen = name.len();
    }
    if let Some(segment) = segment {
        let level = libc::IPPROTO_UDP.to_ne_bytes();
        let parts: [&[u8]; 4] = [&LEN.to_ne_bytes(), &level, &UDP_SEGMENT.to_ne_bytes(), &segment.to_ne_bytes()];
        for (place, byte) in control.0.iter_mut().zip(parts.into_iter().flatten()) {
            *place = *byte;
        }
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = LEN.next_multiple_of(8) as _;
    }
    // SAFETY: the header's pointers are to buffers that outlive the call, with their true lengths; the kernel only reads them.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Receives one datagram, or several of one size.
pub(super) fn receive(socket: &SockRef<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let mut control = Control([0; CONTROL_LEN]);
    let (len, used, from) = recvmsg(socket, buffer, &mut control, 0)?;
    let mut received = Received { len, segment: None, from, hop_limit: None, traffic_class: 0 };
    each_message(&control, used, |level, kind, data| match (level, kind) {
        (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
            received.hop_limit = byte(data);
        }
        // One byte here (net/ipv4/ip_sockglue.c), an int there.
        (libc::IPPROTO_IP, libc::IP_TOS) => received.traffic_class = data.first().copied().unwrap_or(0),
        (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
            received.traffic_class = byte(data).unwrap_or(0);
        }
        (libc::IPPROTO_UDP, UDP_GRO) => {
            received.segment = int(data).and_then(|value| u16::try_from(value).ok()).filter(|size| usize::from(*size) < len);
        }
        _ => {}
    });
    Ok(received)
}

fn int(data: &[u8]) -> Option<i32> {
    data.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes))
}

/// An int that holds no more than a byte.
fn byte(data: &[u8]) -> Option<u8> {
    int(data).and_then(|value| u8::try_from(value).ok())
}

/// Takes one error off the socket's error queue. What was sent comes back in `quoted`, as far as the message quoted it; its length is
/// returned beside.
pub(super) fn trouble(socket: &SockRef<'_>, quoted: &mut [u8]) -> (Trouble, usize) {
    let mut control = Control([0; CONTROL_LEN]);
    let Ok((len, used, _)) = recvmsg(socket, quoted, &mut control, libc::MSG_ERRQUEUE) else { return (Trouble::None, 0) };
    let (mut found, mut hop_limit) = (Trouble::Other, None);
    each_message(&control, used, |level, kind, data| match (level, kind) {
        (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => hop_limit = byte(data),
        (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) => {
            found = read_error(level == libc::IPPROTO_IP, data).unwrap_or(Trouble::Other);
        }
        _ => {}
    });
    if let Trouble::Message(message, Some(_)) = &mut found {
        message.hop_limit = hop_limit;
    }
    (found, len.min(quoted.len()))
}

/// `struct sock_extended_err` (include/uapi/linux/errqueue.h): errno u32, origin u8, type u8, code u8, pad, info u32, data u32; the
/// offender's address follows.
fn read_error(v4: bool, data: &[u8]) -> Option<Trouble> {
    let errno = int(data)?;
    let (origin, kind, code) = (*data.get(4)?, *data.get(5)?, *data.get(6)?);
    let detail = u32::from_ne_bytes(*data.get(8..)?.first_chunk()?);
    Some(match origin {
        ORIGIN_ICMP | ORIGIN_ICMP6 => {
            let from = data.get(16..).and_then(address).map(|from| from.ip());
            Trouble::Message(ErrorMessage { kind, code, detail, hop_limit: None }, from)
        }
        // The path is known to be narrower: the kernel tells the same that a router would.
        ORIGIN_LOCAL if errno == libc::EMSGSIZE => Trouble::Message(ErrorMessage::too_large(v4, detail), None),
        _ => Trouble::Failure(super::failure_of(&io::Error::from_raw_os_error(errno))),
    })
}

/// `struct sockaddr_in` or `sockaddr_in6`.
fn address(data: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(*data.get(2..)?.first_chunk()?);
    let ip: IpAddr = match i32::from(u16::from_ne_bytes(*data.first_chunk()?)) {
        libc::AF_INET => data.get(4..)?.first_chunk::<4>().copied()?.into(),
        libc::AF_INET6 => data.get(8..)?.first_chunk::<16>().copied()?.into(),
        _ => return None,
    };
    Some((ip, port).into())
}

fn empty_header() -> libc::msghdr {
    // SAFETY: every field of msghdr may be zero: null pointers and no lengths.
    unsafe { MaybeUninit::<libc::msghdr>::zeroed().assume_init() }
}

/// Bytes received, bytes of control messages, and the other end.
fn recvmsg(
    socket: &SockRef<'_>,
    buffer: &mut [u8],
    control: &mut Control,
    flags: i32,
) -> io::Result<(usize, usize, Option<SocketAddr>)> {
    let mut name = Name([0; NAME_LEN]);
    let mut vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut header = empty_header();
    header.msg_name = name.0.as_mut_ptr().cast();
    header.msg_namelen = libc::socklen_t::try_from(NAME_LEN).map_err(io::Error::other)?;
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = CONTROL_LEN as _;
    // SAFETY: the header's pointers are to buffers that outlive the call, with their true lengths.
    let len = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags | libc::MSG_DONTWAIT) };
    let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
    #[cfg_attr(target_env = "gnu", expect(clippy::useless_conversion, reason = "socklen_t elsewhere"))]
    let used = usize::try_from(header.msg_controllen).unwrap_or(0);
    Ok((len, used.min(CONTROL_LEN), address(&name.0)))
}

/// Walks the control messages (cmsg(3)): length usize, level i32, type i32, data, padded to 8 bytes.
fn each_message(control: &Control, used: usize, mut f: impl FnMut(i32, i32, &[u8])) {
    const HEADER: usize = size_of::<libc::cmsghdr>();
    let mut rest = control.0.get(..used).unwrap_or(&[]);
    while let (Some(len), Some(level), Some(kind)) =
        (rest.first_chunk(), rest.get(8..).and_then(<[u8]>::first_chunk), rest.get(12..).and_then(<[u8]>::first_chunk))
    {
        let len = usize::from_ne_bytes(*len);
        let Some(data) = rest.get(HEADER..len) else { break };
        f(i32::from_ne_bytes(*level), i32::from_ne_bytes(*kind), data);
        rest = rest.get(len.next_multiple_of(8)..).unwrap_or(&[]);
    }
}

/// Bytes that the peer has not acknowledged (tcp(7), `SIOCOUTQ`).
pub(super) fn unacknowledged(socket: &SockRef<'_>) -> i32 {
    let mut count: i32 = 0;
    // SAFETY: the descriptor is open for the whole call; the pointer is to the int that SIOCOUTQ writes.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    if result == 0 { count } else { 0 }
}

/// `struct tcp_info` (include/uapi/linux/tcp.h); None where the socket is no TCP connection.
pub(super) fn tcp_info(socket: &SockRef<'_>) -> Option<libc::tcp_info> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut len = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).ok()?;
    // SAFETY: the pointers are to a buffer and to its length, which outlive the call.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut len)
    };
    // SAFETY: tcp_info is integers only, all bytes zero or written by the kernel.
    let info = unsafe { info.assume_init() };
    (result == 0).then_some(info)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn error(errno: i32, origin: u8, kind: u8, code: u8, detail: u32) -> Vec<u8> {
        let mut data = errno.to_ne_bytes().to_vec();
        data.extend_from_slice(&[origin, kind, code, 0]);
        data.extend_from_slice(&detail.to_ne_bytes());
        data.extend_from_slice(&[0; 4]);
        data.extend_from_slice(&u16::try_from(libc::AF_INET).expect("small").to_ne_bytes());
        data.extend_from_slice(&[0, 0, 10, 9, 0, 1]);
        data
    }

    #[test]
    fn an_icmp_message_keeps_its_kind_code_detail_and_the_address_of_its_sender() {
        let hop = Some(IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1)));
        for (origin, kind, code, detail) in [(2, 3, 1, 0), (2, 3, 4, 1400), (2, 11, 0, 0), (2, 3, 10, 0), (2, 12, 0, 3)] {
            let found = read_error(true, &error(libc::EHOSTUNREACH, origin, kind, code, detail));
            assert_eq!(found, Some(Trouble::Message(ErrorMessage { kind, code, detail, hop_limit: None }, hop)), "{kind} {code}");
        }
    }

    #[test]
    fn a_datagram_too_large_for_the_known_path_is_told_as_a_router_would() {
        for (v4, kind, code) in [(true, 3, 4), (false, 2, 0)] {
            let message = ErrorMessage { kind, code, detail: 1300, hop_limit: None };
            let found = read_error(v4, &error(libc::EMSGSIZE, 1, 0, 0, 1300));
            assert_eq!(found, Some(Trouble::Message(message, None)));
        }
    }

    #[test]
    fn a_failure_of_this_host_is_no_message_from_another() {
        let found = read_error(true, &error(libc::ENETUNREACH, 1, 0, 0, 0));
        assert_eq!(found, Some(Trouble::Failure(Failure::Unreachable(crate::packet::Unreachable::Network))));
    }

    #[test]
    fn a_short_message_is_no_error() {
        assert_eq!(read_error(true, &[1, 2, 3]), None);
    }
}
