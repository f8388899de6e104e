//! Which socket sends what comes by the TUN: a program at the device notes it for each UDP port.
//!
//! Theory of operation. Several sockets may send from one port: all of a group that share it, and, by `IP_PKTINFO` and `IPV6_PKTINFO`, also
//! one that is bound to loopback or to a multicast group under the address of any other; nobody has to consent. The socket tables say only
//! who would hear an answer. But a packet on its way into the TUN still belongs to its socket (drivers/net/tun.c, `tun_net_xmit`, runs the
//! filter before `skb_orphan`). So the program writes down for each port and IP version which socket sent last, and when another one did.
//!
//! Two words say it: the lower half of the cookie of the socket that sent last with the time of that, which change at once, and the time at
//! which another one sent last. Whoever takes the place of another first writes the present there, under which nobody was alone, and then
//! the other's time, unless a third one was at it meanwhile; so what packets on several processors leave there at any moment is no older
//! than what was sent.
//!
//! Keeps one rule: every packet passes, whatever is noted. A packet that its socket does not own by its port (a tunnel's, a raw socket's, one
//! of behind this host) is nobody's.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::sync::atomic::Ordering;

use super::code::{Code, Helper, Instruction, Jump, Len, R, STACK};
use super::sys::{self, Hook, Map, View};
use super::watch::{Without, without};

/// Two words for each port: all of IPv4, then those of IPv6.
const ENTRIES: u32 = 2 << 16;
/// Units of time are so many nanoseconds, as a power of two.
const UNIT: u32 = 10;
/// Below the second word's time stands who wrote it, a processor.
const WRITER: u32 = 10;
/// Extension headers that a program may have the kernel write: hop-by-hop, destination twice, routing, fragment.
const EXTENSIONS: usize = 5;
/// Times that a note is tried again that another processor was writing. Then nobody is noted.
const TRIES: usize = 4;

/// Who sent from a port last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastSender {
    /// The lower half of the socket's cookie; 0: nobody's.
    cookie: u32,
    /// When another one sent last, in units since boot.
    other: u64,
}

impl LastSender {
    fn read(last: u64, other: u64) -> Self {
        Self { cookie: lower(last >> 32), other: other >> WRITER }
    }

    /// Whether it was the socket with this cookie.
    #[must_use]
    pub fn is(self, cookie: u64) -> bool {
        !self.is_nobody() && self.cookie == lower(cookie)
    }

    /// The whole cookie, if it is not far from another one: they are given in turn.
    #[must_use]
    pub fn cookie_near(self, other: u64) -> u64 {
        other & !u64::from(u32::MAX) | u64::from(self.cookie)
    }

    /// Whether it was no socket of this port.
    #[must_use]
    pub fn is_nobody(self) -> bool {
        self.cookie == 0
    }

    /// Whether nobody else has sent from the port since `after`, in nanoseconds since boot.
    #[must_use]
    pub fn is_alone_since(self, after: u64) -> bool {
        // What fell into the unit of `after` may have been before it or behind.
        self.other < after >> UNIT
    }
}

fn lower(cookie: u64) -> u32 {
    u32::try_from(cookie & 0xffff_ffff).unwrap_or_default()
}

/// Who sends by a TUN. The notes go with this; the program with the device.
#[derive(Debug)]
pub struct Sending {
    view: View,
}

impl Sending {
    /// Lets the program run for the device that this is a queue of.
    ///
    /// # Errors
    ///
    /// The rights are missing, or the kernel cannot.
    pub fn watch(queue: BorrowedFd<'_>) -> Result<Self, Without> {
        let map = Map::make_shown(ENTRIES, 2).map_err(without("make a map"))?;
        let program = sys::load(Hook::Filter, "portreeve_sent", &program(&map)).map_err(without("load a program"))?;
        let view = View::of(&map).map_err(without("map a map"))?;
        set_filter(queue, program.as_raw_fd()).map_err(without("filter a TUN"))?;
        Ok(Self { view })
    }

    /// Who sent from this end last; no system call.
    #[must_use]
    pub fn last(&self, local: SocketAddr) -> LastSender {
        // In the order opposite to that in which they are written.
        let [last, other] =
            [0, 1].map(|word| self.view.at(2 * entry(local) + word).map_or(0, |word| word.load(Ordering::Acquire)));
        LastSender::read(last, other)
    }
}

/// The port stands in the packet in the network's order, and as it stands there it is the number.
fn entry(local: SocketAddr) -> usize {
    usize::from(u16::from_ne_bytes(local.port().to_be_bytes())) + if local.is_ipv6() { 1 << 16 } else { 0 }
}

fn set_filter(queue: BorrowedFd<'_>, program: libc::c_int) -> io::Result<()> {
    const TUNSETFILTEREBPF: libc::c_ulong = 0x8004_54e1;
    // SAFETY: the descriptor is open for the whole call; the pointer is to a local that the kernel reads as the int that it is.
    let done = unsafe { libc::ioctl(queue.as_raw_fd(), TUNSETFILTEREBPF, &raw const program) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets all pass.
const WHOLE: i32 = -1;
const UDP: i32 = 17;
const FRAGMENT: i32 = 44;
/// Hop-by-hop options, a routing header, destination options.
const OTHER_EXTENSIONS: [i32; 3] = [0, 43, 60];
/// Where the head of a packet, or of an extension header, is put; and the key.
const HEAD: i16 = -32;
const HEAD_LEN: i32 = 24;
const KEY: i16 = -4;
/// What a packet is, wherever its version has become the number of a link.
const IPV4: i32 = 0x0800;
const IPV6: i32 = 0x86dd;
/// `struct __sk_buff` and `struct bpf_sock`: `protocol`, `sk`, `src_port`.
const SKB_PROTOCOL: i16 = 16;
const SKB_SOCKET: i16 = 168;
const SOCK_PORT: i16 = 44;
const SKB: R = R(6);
const WHERE: R = R(7);
const FAMILY: R = R(8);
const NEXT: R = R(9);

fn program(notes: &Map) -> Vec<Instruction> {
    let mut code = Code::default();
    code.copy(SKB, R(1)).set(WHERE, 0);
    let mut out = vec![load(&mut code, HEAD_LEN)];
    code.load(Len::Four, R(1), SKB, SKB_PROTOCOL).network_order(R(1));
    let is_v4 = code.jump_if(R(1), IPV4);
    out.push(code.jump_unless(R(1), IPV6));
    out.extend(find_ports_v6(&mut code));
    let found = code.jump_over();
    code.land([is_v4]);
    out.extend(find_ports_v4(&mut code));
    code.land([found]);
    out.push(load(&mut code, 2));
    code.load(Len::Two, NEXT, STACK, HEAD).copy(R(1), NEXT).add_both(R(1), FAMILY).store(Len::Four, STACK, KEY, R(1));
    code.map_and_key(notes, KEY).call(Helper::MapLookup);
    out.push(code.jump_if(R(0), 0));
    code.copy(WHERE, R(0));
    find_cookie(&mut code);
    out.extend(note(&mut code));
    code.land(out);
    code.end(WHOLE)
}

/// Puts what stands at WHERE behind the begin of the IP header to HEAD; a frame has its own in front. The jump is for packets that end
/// before.
fn load(code: &mut Code, len: i32) -> Jump {
    /// `BPF_HDR_START_NET`.
    const NETWORK: i32 = 1;
    code.copy(R(1), SKB).copy(R(2), WHERE).copy(R(3), STACK).add(R(3), HEAD).set(R(4), len).set(R(5), NETWORK);
    code.call(Helper::LoadBytes);
    code.jump_unless(R(0), 0)
}

/// WHERE becomes that of the ports, FAMILY the number of the family's first entry. The jumps are for what has none.
fn find_ports_v4(code: &mut Code) -> Vec<Jump> {
    code.load(Len::One, R(1), STACK, HEAD + 9);
    let mut out = vec![code.jump_unless(R(1), UDP)];
    // Behind the first fragment there are no ports.
    code.load(Len::One, R(1), STACK, HEAD + 6).and(R(1), 0x1f).load(Len::One, R(2), STACK, HEAD + 7).or(R(1), R(2));
    out.push(code.jump_unless(R(1), 0));
    code.load(Len::One, WHERE, STACK, HEAD).and(WHERE, 0x0f).shift_left(WHERE, 2).set(FAMILY, 0);
    out
}

fn find_ports_v6(code: &mut Code) -> Vec<Jump> {
    let (mut found, mut out) = (Vec::new(), Vec::new());
    code.set(WHERE, 40).set(FAMILY, 1 << 16).load(Len::One, NEXT, STACK, HEAD + 6);
    for _ in 0..EXTENSIONS {
        found.push(code.jump_if(NEXT, UDP));
        let fragment = code.jump_if(NEXT, FRAGMENT);
        let others = OTHER_EXTENSIONS.map(|kind| code.jump_if(NEXT, kind));
        out.push(code.jump_over());
        code.land(others);
        out.push(load(code, 8));
        code.load(Len::One, NEXT, STACK, HEAD).load(Len::One, R(1), STACK, HEAD + 1).add(R(1), 1).shift_left(R(1), 3);
        code.add_both(WHERE, R(1));
        let next = code.jump_over();
        code.land([fragment]);
        out.push(load(code, 8));
        code.load(Len::One, R(1), STACK, HEAD + 3).and(R(1), 0xf8).load(Len::One, R(2), STACK, HEAD + 2).or(R(1), R(2));
        out.push(code.jump_unless(R(1), 0));
        code.load(Len::One, NEXT, STACK, HEAD).add(WHERE, 8).land([next]);
    }
    out.push(code.jump_unless(NEXT, UDP));
    code.land(found);
    out
}

/// FAMILY becomes the lower half of the cookie of the socket whose port is in NEXT, or 0; NEXT the time.
fn find_cookie(code: &mut Code) {
    code.set(FAMILY, 0).load(Len::Eight, R(1), SKB, SKB_SOCKET);
    let without = code.jump_if(R(1), 0);
    code.load(Len::Four, R(1), R(1), SOCK_PORT).network_order(R(1));
    let another = code.jump_unless_same(R(1), NEXT);
    code.copy(R(1), SKB).call(Helper::SocketCookie).copy(FAMILY, R(0)).shift_left(FAMILY, 32).shift_right(FAMILY, 32);
    code.land([without, another]).call(Helper::SinceBoot).copy(NEXT, R(0)).shift_right(NEXT, UNIT.cast_signed());
}

/// Changes the words at WHERE. The jumps are for when it is done.
fn note(code: &mut Code) -> Vec<Jump> {
    let mut out = Vec::new();
    // R1: the time as the first word has it; R3: the second word as we write it.
    code.call(Helper::Processor)
        .and(R(0), (1 << WRITER) - 1)
        .copy(R(3), NEXT)
        .shift_left(R(3), WRITER.cast_signed())
        .or(R(3), R(0));
    code.copy(R(1), NEXT).shift_left(R(1), 32).shift_right(R(1), 32);
    for _ in 0..TRIES {
        code.copy(R(2), FAMILY).shift_left(R(2), 32).or(R(2), R(1));
        code.load(Len::Eight, R(0), WHERE, 0).copy(R(5), R(0)).copy(R(4), R(0)).shift_right(R(4), 32);
        let same = code.jump_if_same(R(4), FAMILY);
        code.store(Len::Eight, WHERE, OTHER, R(3)).exchange(WHERE, 0, R(2));
        let again = code.jump_unless_same(R(0), R(5));
        // How long ago that was, and so when; longer than the word can tell counts as less.
        code.copy(R(4), R(1)).subtract(R(4), R(5)).shift_left(R(4), 32).shift_right(R(4), 32);
        code.copy(R(2), NEXT).subtract(R(2), R(4)).shift_left(R(2), WRITER.cast_signed());
        code.copy(R(0), R(3)).exchange(WHERE, OTHER, R(2));
        out.push(code.jump_over());
        code.land([same]).exchange(WHERE, 0, R(2));
        out.push(code.jump_if_same(R(0), R(5)));
        code.land([again]);
    }
    code.store(Len::Eight, WHERE, OTHER, R(3)).store(Len::Eight, WHERE, 0, R(1));
    out
}

/// Of the second word.
const OTHER: i16 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program writes.
    fn noted(cookie: u32, other: u64) -> LastSender {
        LastSender::read(u64::from(cookie) << 32 | 77, other >> UNIT << WRITER | 3)
    }

    #[test]
    fn whoever_sent_in_the_same_moment_may_have_sent_before_or_behind_it() {
        let (start, unit) = (5_u64 << 40, 1 << UNIT);
        let last = noted(1, start + 7 * unit + 5);
        for (after, alone) in [(0, false), (6 * unit, false), (7 * unit, false), (7 * unit + 9, false), (8 * unit, true)] {
            assert_eq!(last.is_alone_since(start + after), alone, "{after}");
        }
        assert!(!last.is_alone_since(0), "it is not known when");
    }

    #[test]
    fn cookies_are_compared_by_their_lower_half_and_nobody_is_no_socket() {
        let last = noted(7, 0);
        assert!(last.is(7) && last.is(5 << 32 | 7) && !last.is(8) && !last.is_nobody());
        assert_eq!(last.cookie_near(5 << 32 | 9), 5 << 32 | 7);
        let nobody = noted(0, 0);
        assert!(nobody.is_nobody() && !nobody.is(0) && !nobody.is(1 << 32));
    }

    #[test]
    fn each_port_of_each_family_has_an_entry_of_its_own() {
        let end = |address: &str| entry(address.parse().expect("literal"));
        let ends = ["10.0.0.1:1", "10.0.0.1:256", "10.0.0.1:65535", "[fd00::1]:1", "[fd00::1]:65535"].map(end);
        let different: std::collections::BTreeSet<usize> = ends.into_iter().collect();
        assert_eq!(different.len(), ends.len());
        assert!(different.iter().all(|entry| *entry < usize::try_from(ENTRIES).expect("small")));
        assert_eq!(end("10.0.0.1:5"), end("10.0.0.2:5"));
    }
}
