//! What a program's packets ask of the network, set on the upstream socket that carries them on.
//!
//! Keeps one rule: an option is set only where a packet needs it and the socket does not have it yet; each costs a system call.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use socket2::SockRef;

use crate::packet::Marks;

/// Hop limits that a socket starts with (ip(7)).
const DEFAULT_HOP_LIMIT: u8 = 64;
const DEFAULT_MULTICAST_HOP_LIMIT: u8 = 1;
/// Linux believes no path to be narrower (`net.ipv4.route.min_pmtu`, net/ipv4/route.c; RFC 8200 §5): what fits in is never too large.
const NARROWEST_V4: usize = 552 - 28;
const NARROWEST_V6: usize = 1280 - 48;
/// Room for a burst in a socket's buffer. The program's own buffer has been emptied already, so ours has to hold what its would.
const ROOM: usize = 4 << 20;
/// `UDP_GRO` (include/uapi/linux/udp.h).
const UDP_GRO: i32 = 104;

/// The options of one socket, as last set.
#[derive(Debug)]
pub(super) struct Options {
    v4: bool,
    multicast: bool,
    hop_limit: u8,
    traffic_class: u8,
    discovery: Option<i32>,
}

impl Options {
    pub(super) fn new(to: IpAddr) -> Self {
        let multicast = to.is_multicast();
        let hop_limit = if multicast { DEFAULT_MULTICAST_HOP_LIMIT } else { DEFAULT_HOP_LIMIT };
        Self { v4: to.is_ipv4(), multicast, hop_limit, traffic_class: 0, discovery: None }
    }

    /// Sets what differs from what the next datagrams, at most `len` bytes each, ask for.
    pub(super) fn apply(&mut self, socket: &SockRef<'_>, marks: Marks, len: usize) -> io::Result<()> {
        let Marks { hop_limit, traffic_class, dont_fragment } = marks;
        if hop_limit != self.hop_limit {
            self.set_hop_limit(socket, hop_limit)?;
        }
        if traffic_class != self.traffic_class {
            self.set_traffic_class(socket, traffic_class)?;
        }
        if len > if self.v4 { NARROWEST_V4 } else { NARROWEST_V6 } {
            self.set_discovery(socket, dont_fragment)?;
        }
        Ok(())
    }

    fn set_hop_limit(&mut self, socket: &SockRef<'_>, hop_limit: u8) -> io::Result<()> {
        let (level, name) = match (self.v4, self.multicast) {
            (true, false) => (libc::IPPROTO_IP, libc::IP_TTL),
            (true, true) => (libc::IPPROTO_IP, libc::IP_MULTICAST_TTL),
            (false, false) => (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
            (false, true) => (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS),
        };
        set_int(socket, level, name, hop_limit.into())?;
        self.hop_limit = hop_limit;
        Ok(())
    }

    fn set_traffic_class(&mut self, socket: &SockRef<'_>, traffic_class: u8) -> io::Result<()> {
        let (level, name) = if self.v4 { (libc::IPPROTO_IP, libc::IP_TOS) } else { (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) };
        set_int(socket, level, name, traffic_class.into())?;
        self.traffic_class = traffic_class;
        Ok(())
    }

    /// A datagram that must not be cut is refused where the path is narrower; one that may be is cut by the kernel.
    fn set_discovery(&mut self, socket: &SockRef<'_>, dont_fragment: bool) -> io::Result<()> {
        let (level, name, wanted) = match (self.v4, dont_fragment) {
            (true, true) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO),
            (true, false) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT),
            (false, true) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO),
            (false, false) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_WANT),
        };
        if self.discovery != Some(wanted) {
            set_int(socket, level, name, wanted)?;
            self.discovery = Some(wanted);
        }
        Ok(())
    }
}

/// Asks for the hop limit and the type of service of what comes in, whose congestion marks a program may count (RFC 9000 §13.4), and
/// for errors with their origin.
pub(super) fn ask_for_details(socket: &SockRef<'_>, v4: bool) -> io::Result<()> {
    let (level, names) = if v4 {
        (libc::IPPROTO_IP, [libc::IP_RECVTTL, libc::IP_RECVTOS, libc::IP_RECVERR])
    } else {
        (libc::IPPROTO_IPV6, [libc::IPV6_RECVHOPLIMIT, libc::IPV6_RECVTCLASS, libc::IPV6_RECVERR])
    };
    names.into_iter().try_for_each(|name| set_int(socket, level, name, 1))
}

/// Prepares a socket to connect as the program's first segment would: with its hop limit, and so that an ICMP error that ends the
/// attempt can be told as it came.
pub(super) fn prepare_connect(socket: &SockRef<'_>, v4: bool, hop_limit: u8) -> io::Result<()> {
    hear_errors(socket, v4, true)?;
    if hop_limit != DEFAULT_HOP_LIMIT {
        let (level, name) = if v4 { (libc::IPPROTO_IP, libc::IP_TTL) } else { (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS) };
        set_int(socket, level, name, hop_limit.into())?;
    }
    Ok(())
}

/// Keeps ICMP errors in the socket's error queue, or no longer: there they would break a connection that stands (ip(7), `IP_RECVERR`).
pub(super) fn hear_errors(socket: &SockRef<'_>, v4: bool, hear: bool) -> io::Result<()> {
    let (level, name) = if v4 { (libc::IPPROTO_IP, libc::IP_RECVERR) } else { (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) };
    set_int(socket, level, name, hear.into())
}

/// Sends one keepalive probe where the peer has been silent for a second, and no other for hours: to set the idle time winds the timer
/// up anew (`tcp_sock_set_keepidle_locked` in net/ipv4/tcp.c). The others are the greatest that it takes, so that it never gives up.
pub(super) fn ask_peer(socket: &SockRef<'_>) -> io::Result<()> {
    const LONGEST_INTERVAL_S: i32 = 32_767;
    const MOST_PROBES: i32 = 127;
    set_int(socket, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, LONGEST_INTERVAL_S)?;
    set_int(socket, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, MOST_PROBES)?;
    set_int(socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    set_int(socket, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 1)
}

/// Lets datagrams come in together (udp(7)).
pub(super) fn receive_together(socket: &SockRef<'_>) -> io::Result<()> {
    set_int(socket, libc::IPPROTO_UDP, UDP_GRO, 1)
}

/// Makes room for a burst that goes out, or for one that comes in.
pub(super) fn make_room(socket: &SockRef<'_>, out: bool) {
    let (beyond_limit, limited) =
        if out { (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF) } else { (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF) };
    let room = i32::try_from(ROOM).unwrap_or(i32::MAX);
    // The system's limit is for programs without CAP_NET_ADMIN; those get as much as it allows.
    let _ = set_int(socket, libc::SOL_SOCKET, beyond_limit, room).or_else(|_| set_int(socket, libc::SOL_SOCKET, limited, room));
}

pub(super) fn set_int(socket: &SockRef<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<i32>()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open for the whole call; the pointer is to an i32 that lives as long, and `len` is its size.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
