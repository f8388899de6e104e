//! What is noted of a socket that is closed, and whether a packet may be its last word.
//!
//! Keeps one rule: whatever does not fit, is too old or may have been another's is nobody's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::packet::FiveTuple;

/// Bytes of a record; the programs write it, in the machine's byte order.
pub(super) const RECORD_LEN: usize = 96;
/// The same on the programs' stack, and where its parts are.
pub(super) const RECORD: i16 = 96;
pub(super) const CLOSED: i16 = 0;
pub(super) const MADE: i16 = 8;
pub(super) const PID: i16 = 16;
pub(super) const UID: i16 = 20;
pub(super) const COOKIE: i16 = 24;
pub(super) const OTHER: i16 = 32;
/// Remote and local address, four bytes that mean nothing here, remote port (of the network's order) and local port.
pub(super) const ENDS_4: i16 = 40;
pub(super) const FAMILY: i16 = 56;
/// Remote and local address.
pub(super) const ENDS_6: i16 = 64;

/// What is noted of a socket that is made: when, by which process and user, and when that process closed it; 0: it did not.
pub(super) const MADE_AT: i16 = 0;
pub(super) const MADE_PID: i16 = 8;
pub(super) const MADE_UID: i16 = 12;
pub(super) const MADE_CLOSED: i16 = 16;
pub(super) const MADE_ROOM: i16 = 24;
/// The same in bytes.
pub(super) const MADE_LEN: usize = 24;

/// `AF_INET6`.
const INET6: u32 = 10;
/// A closed socket's last words are read within this time: the TUN's queue is never longer.
pub(super) const RECENT: Duration = Duration::from_millis(500);

/// Who made and closed a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    pub pid: u32,
    /// The user who made it.
    pub uid: u32,
    /// The socket's own; never used again.
    pub cookie: u64,
    /// When the socket was made, in nanoseconds since boot.
    pub made: u64,
}

/// Who made the UDP socket with this cookie, if the same process has closed it.
pub(super) fn maker(cookie: u64, bytes: &[u8; MADE_LEN]) -> Option<Sender> {
    let closed = u64::from_ne_bytes(part(bytes, MADE_CLOSED)?);
    made_by(cookie, bytes).filter(|_| closed != 0)
}

/// Who made the socket with this cookie, if that was no longer ago.
pub(super) fn maker_of_new(cookie: u64, bytes: &[u8; MADE_LEN], age: Duration, now: u64) -> Option<Sender> {
    made_by(cookie, bytes).filter(|sender| Duration::from_nanos(now.saturating_sub(sender.made)) < age)
}

pub(super) fn made_by(cookie: u64, bytes: &[u8; MADE_LEN]) -> Option<Sender> {
    Some(Sender {
        pid: u32::from_ne_bytes(part(bytes, MADE_PID)?),
        uid: u32::from_ne_bytes(part(bytes, MADE_UID)?),
        cookie,
        made: u64::from_ne_bytes(part(bytes, MADE_AT)?),
    })
}

/// A UDP socket that is closed, the last one of its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Closed {
    /// `pid` 0: the process that closed it is not the one that made it, as far as is known.
    pub(super) sender: Sender,
    closed: u64,
    /// When another process closed a socket of this port; 0: none did.
    other: u64,
    local: IpAddr,
    local_port: u16,
    /// Unspecified: it was connected to nobody.
    remote: IpAddr,
    remote_port: u16,
}

impl Closed {
    pub(super) fn read(bytes: &[u8; RECORD_LEN]) -> Option<Self> {
        let is_v6 = u32::from_ne_bytes(part(bytes, FAMILY)?) == INET6;
        let (remote, local) = if is_v6 {
            (v6(part(bytes, ENDS_6)?), v6(part(bytes, ENDS_6 + 16)?))
        } else {
            (v4(part(bytes, ENDS_4)?), v4(part(bytes, ENDS_4 + 4)?))
        };
        let sender = Sender {
            pid: u32::from_ne_bytes(part(bytes, PID)?),
            uid: u32::from_ne_bytes(part(bytes, UID)?),
            cookie: u64::from_ne_bytes(part(bytes, COOKIE)?),
            made: u64::from_ne_bytes(part(bytes, MADE)?),
        };
        Some(Self {
            sender,
            closed: u64::from_ne_bytes(part(bytes, CLOSED)?),
            other: u64::from_ne_bytes(part(bytes, OTHER)?),
            local,
            local_port: u16::from_ne_bytes(part(bytes, ENDS_4 + 14)?),
            remote,
            remote_port: u16::from_be_bytes(part(bytes, ENDS_4 + 12)?),
        })
    }

    /// Who sent a packet of this flow that no socket is found for: whoever closed this one, if its ends fit, if that was just now, and if no
    /// other process has had the port just now.
    pub(super) fn sender_of(&self, tuple: &FiveTuple, now: u64) -> Option<Sender> {
        let alone = self.other == 0 || !is_recent(self.other, now);
        (self.sender.pid != 0 && self.is_recent(now) && alone && self.fits(tuple)).then_some(self.sender)
    }

    /// The same of a packet that was sent whenever by this very socket, as is known elsewhere.
    pub(super) fn closer_of(&self, tuple: &FiveTuple) -> Option<Sender> {
        (self.sender.pid != 0 && self.fits(tuple)).then_some(self.sender)
    }

    /// Whether it was closed just now.
    pub(super) fn is_recent(&self, now: u64) -> bool {
        is_recent(self.closed, now)
    }

    fn fits(&self, tuple: &FiveTuple) -> bool {
        // A socket of IPv6 sends IPv4 under mapped addresses; its wildcard stands for both.
        let same = |own: IpAddr, other: IpAddr| own.to_canonical() == other && own.is_ipv4() <= other.is_ipv4();
        let any = |own: IpAddr| own.to_canonical().is_unspecified() && own.is_ipv4() <= tuple.local.is_ipv4();
        let is_free = self.remote_port == 0 && any(self.remote);
        self.local_port == tuple.local.port()
            && (any(self.local) || same(self.local, tuple.local.ip()))
            && (is_free || self.remote_port == tuple.remote.port() && same(self.remote, tuple.remote.ip()))
    }
}

/// The clocks of two processors may differ by a little.
fn is_recent(at: u64, now: u64) -> bool {
    Duration::from_nanos(now.saturating_sub(at)) < RECENT
}

pub(super) fn part<const N: usize>(bytes: &[u8], at: i16) -> Option<[u8; N]> {
    bytes.get(usize::try_from(at).ok()?..)?.first_chunk().copied()
}

fn v4(octets: [u8; 4]) -> IpAddr {
    Ipv4Addr::from(octets).into()
}

fn v6(octets: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(octets).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Protocol;

    const NOW: u64 = 60_000_000_000;
    const SECOND: u64 = 1_000_000_000;
    const SENDER: Sender = Sender { pid: 7, uid: 1000, cookie: 5, made: NOW - 2 };

    fn closed(local: &str, remote: &str) -> Closed {
        let [local, remote] = [local, remote].map(|end| end.parse::<std::net::SocketAddr>().expect("literal"));
        Closed {
            sender: SENDER,
            closed: NOW - 1,
            other: 0,
            local: local.ip(),
            local_port: local.port(),
            remote: remote.ip(),
            remote_port: remote.port(),
        }
    }

    fn tuple(local: &str, remote: &str) -> FiveTuple {
        let [local, remote] = [local, remote].map(|end| end.parse().expect("literal"));
        FiveTuple { protocol: Protocol::UDP, local, remote }
    }

    #[test]
    fn a_closed_socket_sent_what_its_ends_fit() {
        let v4 = tuple("10.9.0.2:4000", "203.0.113.10:9");
        let v6 = tuple("[fd09::2]:4000", "[2001:db8::10]:9");
        for (local, remote, of_v4, of_v6) in [
            ("10.9.0.2:4000", "203.0.113.10:9", true, false),
            ("10.9.0.2:4000", "0.0.0.0:0", true, false),
            ("0.0.0.0:4000", "0.0.0.0:0", true, false),
            ("10.9.0.3:4000", "0.0.0.0:0", false, false),
            ("10.9.0.2:4001", "203.0.113.10:9", false, false),
            ("10.9.0.2:4000", "203.0.113.11:9", false, false),
            ("10.9.0.2:4000", "203.0.113.10:10", false, false),
            ("[fd09::2]:4000", "[2001:db8::10]:9", false, true),
            ("[::]:4000", "[::]:0", true, true),
            ("[fd09::3]:4000", "[::]:0", false, false),
            ("[fd09::2]:4000", "[2001:db8::11]:9", false, false),
            ("[::ffff:10.9.0.2]:4000", "[::ffff:203.0.113.10]:9", true, false),
            ("[::ffff:10.9.0.2]:4000", "[::ffff:203.0.113.11]:9", false, false),
        ] {
            let closed = closed(local, remote);
            assert_eq!(closed.sender_of(&v4, NOW).is_some(), of_v4, "{local} {remote}");
            assert_eq!(closed.sender_of(&v6, NOW).is_some(), of_v6, "{local} {remote}");
        }
    }

    #[test]
    fn what_was_closed_long_ago_or_not_by_its_maker_is_nobodys() {
        let (mut closed, v4) = (closed("0.0.0.0:4000", "0.0.0.0:0"), tuple("10.9.0.2:4000", "203.0.113.10:9"));
        assert_eq!(closed.sender_of(&v4, NOW), Some(SENDER));
        assert_eq!((closed.sender_of(&v4, NOW + SECOND), closed.closer_of(&v4)), (None, Some(SENDER)));
        assert_eq!(closed.closer_of(&tuple("10.9.0.2:4001", "203.0.113.10:9")), None);
        closed.sender.pid = 0;
        assert_eq!((closed.sender_of(&v4, NOW), closed.closer_of(&v4)), (None, None));
    }

    #[test]
    fn maker_of_a_socket_is_known_by_its_cookie_once_that_process_has_closed_it() {
        let noted = |closed: u64| {
            let Sender { pid, uid, cookie: _, made } = SENDER;
            let parts = [&made.to_ne_bytes()[..], &pid.to_ne_bytes(), &uid.to_ne_bytes(), &closed.to_ne_bytes()].concat();
            <[u8; MADE_LEN]>::try_from(parts).expect("as long as the programs write it")
        };
        assert_eq!(maker(SENDER.cookie, &noted(NOW - 1)), Some(SENDER));
        assert_eq!(maker(SENDER.cookie, &noted(0)), None, "it is open, or another process closed it");
        let of_new = |now| maker_of_new(SENDER.cookie, &noted(0), Duration::from_secs(1), now);
        assert_eq!((of_new(NOW), of_new(NOW + SECOND)), (Some(SENDER), None));
    }

    #[test]
    fn port_that_two_processes_left_just_now_is_neithers_until_the_first_is_long_ago() {
        let (mut closed, v4) = (closed("0.0.0.0:4000", "0.0.0.0:0"), tuple("10.9.0.2:4000", "203.0.113.10:9"));
        closed.other = NOW - 5;
        assert_eq!(closed.sender_of(&v4, NOW), None);
        closed.other = NOW - SECOND;
        assert_eq!(closed.sender_of(&v4, NOW), Some(SENDER));
    }

    #[test]
    fn record_has_the_length_that_the_programs_write() {
        assert_eq!((usize::try_from(RECORD), usize::try_from(MADE_ROOM)), (Ok(RECORD_LEN), Ok(MADE_LEN)));
    }
}
