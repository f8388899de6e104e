//! recvmsg(2) with its control messages: the true hop limit, and errors with their origin (ip(7), IP_RECVERR).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

use socket2::SockRef;

use crate::packet::Unreachable;
use crate::router::Failure;

/// A datagram that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    pub len: usize,
    /// TTL or hop limit, where the kernel told it.
    pub hop_limit: Option<u8>,
}

/// An ICMP error that a socket got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing more in the queue.
    None,
    Failure(Failure),
    /// The hop limit ran out at this hop.
    TimeExceeded(std::net::IpAddr),
    /// An error that programs are not told: they see the path MTU by other means.
    Other,
}

const ORIGIN_ICMP: u8 = 2;
const ORIGIN_ICMP6: u8 = 3;
const CONTROL_LEN: usize = 512;

#[repr(align(8))]
struct Control([u8; CONTROL_LEN]);

/// Asks for the hop limit of what comes in and for errors with their origin.
pub(super) fn ask_for_details(socket: &SockRef<'_>, v4: bool) -> io::Result<()> {
    let options: [(i32, i32); 2] = if v4 {
        [(libc::IPPROTO_IP, libc::IP_RECVTTL), (libc::IPPROTO_IP, libc::IP_RECVERR)]
    } else {
        [(libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT), (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)]
    };
    options.into_iter().try_for_each(|(level, name)| set_int(socket, level, name, 1))
}

/// Sets the hop limit of what goes out.
pub(super) fn set_hop_limit(socket: &SockRef<'_>, v4: bool, hop_limit: u8) -> io::Result<()> {
    let (level, name) = if v4 { (libc::IPPROTO_IP, libc::IP_TTL) } else { (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS) };
    set_int(socket, level, name, hop_limit.into())
}

fn set_int(socket: &SockRef<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<i32>()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open for the whole call; the pointer is to an i32 that lives as long, and `len` is its size.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Receives one datagram.
pub(super) fn receive(socket: &SockRef<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let mut control = Control([0; CONTROL_LEN]);
    let (len, used) = recvmsg(socket, buffer, &mut control, 0)?;
    let mut hop_limit = None;
    each_message(&control, used, |level, kind, data| {
        let is_hop_limit =
            (level, kind) == (libc::IPPROTO_IP, libc::IP_TTL) || (level, kind) == (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT);
        if is_hop_limit && let Some(value) = data.first_chunk() {
            hop_limit = u8::try_from(i32::from_ne_bytes(*value)).ok();
        }
    });
    Ok(Received { len, hop_limit })
}

/// Takes one error off the socket's error queue; the beginning of what was sent goes to `quoted`.
pub(super) fn trouble(socket: &SockRef<'_>, quoted: &mut [u8]) -> Trouble {
    let mut control = Control([0; CONTROL_LEN]);
    let Ok((_, used)) = recvmsg(socket, quoted, &mut control, libc::MSG_ERRQUEUE) else { return Trouble::None };
    let mut found = Trouble::Other;
    each_message(&control, used, |level, kind, data| {
        let errors = [(libc::IPPROTO_IP, libc::IP_RECVERR), (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)];
        if errors.contains(&(level, kind)) {
            found = read_error(data).unwrap_or(Trouble::Other);
        }
    });
    found
}

/// `struct sock_extended_err` (include/uapi/linux/errqueue.h): errno u32, origin u8, type u8, code u8, pad, info u32, data u32; the
/// offender's address follows.
fn read_error(data: &[u8]) -> Option<Trouble> {
    let errno = i32::from_ne_bytes(*data.first_chunk()?);
    let (origin, kind, code) = (*data.get(4)?, *data.get(5)?, *data.get(6)?);
    let why = match (origin, kind, code) {
        (ORIGIN_ICMP, 11, _) | (ORIGIN_ICMP6, 3, _) => return offender(data.get(16..)?).map(Trouble::TimeExceeded),
        (ORIGIN_ICMP, 3, 0 | 6 | 11) | (ORIGIN_ICMP6, 1, 0) => Unreachable::Network,
        (ORIGIN_ICMP, 3, 2) | (ORIGIN_ICMP6, 4, 1) => Unreachable::Protocol,
        (ORIGIN_ICMP, 3, 3) | (ORIGIN_ICMP6, 1, 4) => return Some(Trouble::Failure(Failure::Refused)),
        (ORIGIN_ICMP, 3, 9 | 10 | 13) | (ORIGIN_ICMP6, 1, 1 | 5 | 6) => Unreachable::Prohibited,
        (ORIGIN_ICMP, 3, 4) | (ORIGIN_ICMP6, 2, _) => return Some(Trouble::Other),
        (ORIGIN_ICMP, 3, _) | (ORIGIN_ICMP6, 1, _) => Unreachable::Host,
        _ if errno == libc::EMSGSIZE => return Some(Trouble::Other),
        _ => return Some(Trouble::Failure(super::failure_of(&io::Error::from_raw_os_error(errno)))),
    };
    Some(Trouble::Failure(Failure::Unreachable(why)))
}

fn offender(data: &[u8]) -> Option<std::net::IpAddr> {
    let family = i32::from(u16::from_ne_bytes(*data.first_chunk()?));
    match family {
        libc::AF_INET => Some(data.get(4..)?.first_chunk::<4>().copied()?.into()),
        libc::AF_INET6 => Some(data.get(8..)?.first_chunk::<16>().copied()?.into()),
        _ => None,
    }
}

fn recvmsg(socket: &SockRef<'_>, buffer: &mut [u8], control: &mut Control, flags: i32) -> io::Result<(usize, usize)> {
    let mut vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut header = MaybeUninit::<libc::msghdr>::zeroed();
    // SAFETY: every field of msghdr may be zero.
    let header = unsafe { header.assume_init_mut() };
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = CONTROL_LEN as _;
    // SAFETY: the header's pointers are to buffers that outlive the call, with their true lengths.
    let len = unsafe { libc::recvmsg(socket.as_raw_fd(), header, flags | libc::MSG_DONTWAIT) };
    let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
    #[cfg_attr(target_env = "gnu", expect(clippy::useless_conversion, reason = "socklen_t elsewhere"))]
    let used = usize::try_from(header.msg_controllen).unwrap_or(0);
    Ok((len, used.min(CONTROL_LEN)))
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

/// `tcpi_rtt` of `struct tcp_info` (include/uapi/linux/tcp.h).
pub(super) fn tcp_rtt(socket: &SockRef<'_>) -> Option<u32> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut len = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).ok()?;
    // SAFETY: the pointers are to a buffer and to its length, which outlive the call.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut len)
    };
    // SAFETY: tcp_info is integers only, all bytes zero or written by the kernel.
    let info = unsafe { info.assume_init() };
    (result == 0 && info.tcpi_rtt > 0).then_some(info.tcpi_rtt)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn error(origin: u8, kind: u8, code: u8) -> Vec<u8> {
        let mut data = vec![0; 16];
        data[..4].copy_from_slice(&libc::EHOSTUNREACH.to_ne_bytes());
        data[4..7].copy_from_slice(&[origin, kind, code]);
        data.extend_from_slice(&u16::try_from(libc::AF_INET).expect("small").to_ne_bytes());
        data.extend_from_slice(&[0, 0, 10, 9, 0, 1]);
        data
    }

    #[test]
    fn icmp_codes_keep_their_meaning_in_both_families() {
        let table = [
            ((2, 3, 0), Failure::Unreachable(Unreachable::Network)),
            ((2, 3, 1), Failure::Unreachable(Unreachable::Host)),
            ((2, 3, 3), Failure::Refused),
            ((2, 3, 13), Failure::Unreachable(Unreachable::Prohibited)),
            ((3, 1, 0), Failure::Unreachable(Unreachable::Network)),
            ((3, 1, 1), Failure::Unreachable(Unreachable::Prohibited)),
            ((3, 1, 3), Failure::Unreachable(Unreachable::Host)),
            ((3, 1, 4), Failure::Refused),
        ];
        for ((origin, kind, code), failure) in table {
            assert_eq!(read_error(&error(origin, kind, code)), Some(Trouble::Failure(failure)), "{origin} {kind} {code}");
        }
    }

    #[test]
    fn time_exceeded_names_the_hop() {
        let hop = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1));
        assert_eq!(read_error(&error(2, 11, 0)), Some(Trouble::TimeExceeded(hop)));
    }

    #[test]
    fn a_short_message_is_no_error() {
        assert_eq!(read_error(&[1, 2, 3]), None);
    }
}
