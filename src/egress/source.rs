//! The source port of an upstream connection: the program's own where it is free.
//!
//! Keeps one rule: a port is asked for in a way that leaves other sockets their choice. A port that the kernel may choose by itself is
//! chosen by connect(2) out of a range of this one: a port bound by bind(2) would be lost to every other connect(2) on this host until
//! its last TIME-WAIT ends, whatever the destination (`__inet_hash_connect` in net/ipv4/inet_hashtables.c). Only what lies outside of
//! the kernel's range is bound.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use socket2::{SockAddr, SockRef, Socket};

use super::options::set_int;

/// `IP_LOCAL_PORT_RANGE` (include/uapi/linux/in.h, since Linux 6.3), for both families.
const IP_LOCAL_PORT_RANGE: i32 = 51;
/// The kernel's range where it does not tell (ip-sysctl.rst).
const USUAL: RangeInclusive<u16> = 32_768..=60_999;

/// How a connection comes to its port. Each way is tried when the one before found the port taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// connect(2) takes this port, if its peer has no connection from there.
    Connect(u16),
    /// bind(2) takes it beforehand.
    Bind(u16),
    /// The kernel chooses.
    Any,
}

/// The ports that the kernel chooses from by itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Automatic {
    first: u16,
    last: u16,
}

impl Automatic {
    /// As it is now. Where it is changed later, ports of the difference may not be kept.
    pub(super) fn read() -> Self {
        let told = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
        Self::parse(&told).unwrap_or(Self { first: *USUAL.start(), last: *USUAL.end() })
    }

    fn parse(told: &str) -> Option<Self> {
        let mut words = told.split_whitespace().map(str::parse);
        Some(Self { first: words.next()?.ok()?, last: words.next()?.ok()? })
    }

    /// One of them, at random, that is not reserved.
    pub(super) fn random(self, reserved: &Reserved) -> u16 {
        let mut seed = [0; 2];
        // Without chance it is the first: whoever asks tries more than one.
        let _ = rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty());
        let count = self.last.saturating_sub(self.first).saturating_add(1);
        let at = self.first.saturating_add(u16::from_ne_bytes(seed) % count);
        // Where all are reserved, the kernel would find none; here whoever asks finds out that it is taken.
        (at..=self.last).chain(self.first..at).find(|port| !reserved.holds(*port)).unwrap_or(at)
    }

    /// The ways to a port, most wanted first.
    pub(super) fn choices(self, port: u16) -> [Choice; 3] {
        if (self.first..=self.last).contains(&port) {
            [Choice::Connect(port), Choice::Bind(port), Choice::Any]
        } else {
            [Choice::Bind(port), Choice::Any, Choice::Any]
        }
    }
}

/// Ports that the kernel leaves to the programs that ask for them (`ip_local_reserved_ports`, ip-sysctl.rst).
#[derive(Debug, Default)]
pub(super) struct Reserved(Vec<RangeInclusive<u16>>);

impl Reserved {
    /// As they are now.
    pub(super) fn read() -> Self {
        Self::parse(&std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports").unwrap_or_default())
    }

    /// `8080,9148-9150`.
    fn parse(told: &str) -> Self {
        let range = |word: &str| {
            let (first, last) = word.split_once('-').unwrap_or((word, word));
            Some(first.parse().ok()?..=last.parse().ok()?)
        };
        Self(told.trim().split(',').filter_map(range).collect())
    }

    fn holds(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(&port))
    }
}

/// Lets connect(2) take `port` and no other.
pub(super) fn choose(socket: &Socket, port: u16) -> io::Result<()> {
    let range = i32::from_ne_bytes((u32::from(port) << 16 | u32::from(port)).to_ne_bytes());
    match set_int(&SockRef::from(socket), libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE, range) {
        // An older kernel: the port is not kept.
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(()),
        other => other,
    }
}

/// Lets connect(2) keep this address, and choose the port as for a socket that is bound to none.
pub(super) fn keep(socket: &Socket, source: Option<IpAddr>) -> io::Result<()> {
    let Some(source) = source else { return Ok(()) };
    set_int(&SockRef::from(socket), libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))
}

/// Binds to `port`, whatever other connections leave from there. `source` tells the address that the connection will leave from: the
/// program's own socket may hold the port on every other one. The socket has `SO_REUSEADDR`.
pub(super) fn bind(socket: &Socket, v4: bool, port: u16, source: impl FnOnce() -> io::Result<IpAddr>) -> io::Result<()> {
    let any: IpAddr = if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    if !v4 {
        socket.set_only_v6(true)?;
    }
    match socket.bind(&SockAddr::from(SocketAddr::new(any, port))) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => socket.bind(&SockAddr::from(SocketAddr::new(source()?, port))),
        other => other,
    }
}

/// Whether an error means that the port cannot be had: it is bound, its peer has a connection from there, or it is privileged.
pub(super) fn is_taken(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EADDRINUSE | libc::EADDRNOTAVAIL | libc::EACCES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_of_the_kernels_own_range_is_never_bound_first() {
        let range = Automatic::parse("10000\t20000\n").expect("two numbers");
        for port in [10_000, 15_000, 20_000] {
            assert_eq!(range.choices(port), [Choice::Connect(port), Choice::Bind(port), Choice::Any]);
        }
        for port in [1, 9999, 20_001, u16::MAX] {
            assert_eq!(range.choices(port), [Choice::Bind(port), Choice::Any, Choice::Any]);
        }
    }

    #[test]
    fn random_port_is_one_of_the_kernels_own() {
        for (first, last) in [(32_768, 60_999), (7, 7), (1, u16::MAX)] {
            let range = Automatic::parse(&format!("{first}\t{last}\n")).expect("two numbers");
            let random = || range.random(&Reserved::default());
            assert!((0..1000).all(|_| (first..=last).contains(&random())), "{first} {last}");
        }
    }

    #[test]
    fn random_port_is_none_that_is_reserved() {
        let range = Automatic::parse("1000\t1003\n").expect("two numbers");
        let drawn = |told: &str| {
            let reserved = Reserved::parse(told);
            (0..200).map(|_| range.random(&reserved)).collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(drawn("\n").len(), 4);
        assert_eq!(Vec::from_iter(drawn("7,1001-1002,1003\n")), [1000]);
        assert_eq!(Vec::from_iter(drawn("1000,nonsense,2000-\n")), [1001, 1002, 1003]);
        assert_eq!(drawn("1-65535\n").len(), 4, "the caller finds them taken");
    }

    #[test]
    fn what_is_no_range_is_not_taken_for_one() {
        for told in ["", "10000", "a b", "1 70000"] {
            assert!(Automatic::parse(told).is_none(), "{told:?}");
        }
    }
}
