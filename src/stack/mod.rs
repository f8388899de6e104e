//! smoltcp behind one door: every accepted TCP flow ends here in a socket of its own.
//!
//! # Theory of operation
//!
//! All flows share one `Interface` (any address is ours), but each has a `SocketSet` of one socket: with all sockets in one set a
//! packet costs a walk over all of them. The device is made on the stack for each call: it lends the packet in hand to smoltcp and
//! writes what smoltcp says straight to the TUN, super-packets whole, with checksums and segmentation left to the kernel.
//!
//! [`Stack::accept`] takes the SYN only when the upstream socket is connected, so the SYN-ACK is the truth. [`Stack::input`] feeds a
//! segment, [`Stack::with_socket`] moves bytes, [`Stack::flush`] sends what became due and sets the flow's timer. [`Stack::pass`] lets a
//! large segment's bytes through without a stop, and [`Stack::draw`] takes those for the program.
//!
//! One rule: nothing here decides, and nothing here knows upstream sockets.

mod cooling;
mod device;
mod flight;
mod ring;
mod through;

use std::collections::BTreeSet;
use std::time::Instant;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{ListenError, Socket, SocketBuffer, State};
use smoltcp::time::Duration;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpEndpoint, IpListenEndpoint, Ipv4Address, Ipv6Address, TcpControl};

use crate::packet::{FiveTuple, IpPacket, Transport, stamp_of, stream_end, window_shift};
use cooling::Cooling;
use device::{Device, Numbers};
pub use device::{PacketSink, Scratch};
pub use flight::Drawn;
use ring::{Ring, RingPool};
use through::{Link, Passage};
pub use through::{MOST_TOGETHER, Passed};

/// Bytes of the ring for what the program says. Measured: 256 KiB loses a fifth of the speed, 2 MiB gain nothing.
const UP_RING: usize = 512 * 1024;
/// Bytes of the ring for the program. All flows but one use no more than [`NARROW`] of them.
///
/// A fast program acknowledges when it reads, on another core, and gets nearly twice as much by a ring in which all fits that it leaves
/// unread meanwhile. The rings of several such flows fit into no core's cache: with 16 of them, eight streams lose a seventh.
const DOWN_RING: usize = 4 * 1024 * 1024;
const NARROW: usize = 512 * 1024;
/// What a segment's payload may be where the SYN named no MSS (RFC 9293 §3.7.1).
const DEFAULT_MSS_V4: u16 = 536;
const DEFAULT_MSS_V6: u16 = 1220;
/// Bytes of the timestamp option with its padding (RFC 7323 §3.2).
const TIMESTAMP_LEN: u16 = 12;

/// A packet that a program's own interactive traffic does not exceed.
const SMALL_PACKET: usize = 1024;
/// How long the ACK of a small segment waits for an answer to travel with; Linux waits up to 40 ms.
const ACK_DELAY: Duration = Duration::from_millis(2);
/// The least that a peer may ask for as the size of segments: less is an attack (net.ipv4.tcp_min_snd_mss, ip-sysctl.rst), and below
/// the timestamp option's length smoltcp 0.14 sends empty segments without end.
const MIN_MSS: u16 = 48;
/// Packets sent in a row for one flow. A full ring is some 66; whoever makes it more than this waits a millisecond for the rest.
const MOST_AT_ONCE: usize = 72;
/// How long an unanswered SYN-ACK is repeated, as Linux does with tcp_synack_retries at 5 (tcp(7)).
const HANDSHAKE: Duration = Duration::from_secs(63);
/// A program that says nothing for so long is asked whether it is still there, as Linux does (tcp_keepalive_time, tcp(7)): where its
/// network namespace has died nobody says so.
const KEEP_ALIVE: Duration = Duration::from_secs(7200);
/// It is dead when two such questions in a row find no answer; one may be lost in a full queue.
const DEAD: Duration = Duration::from_secs(2 * 7200 + 675);

/// One TCP flow's local end.
struct Connection {
    // Dropped before the rings that it borrows.
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    rings: [Ring; 2],
    timer: Option<smoltcp::time::Instant>,
    last_ack_sent: bool,
    delays_ack: bool,
    /// Behind the last byte that the program sent, in order or not.
    heard: u32,
    numbers: Numbers,
    passage: Passage,
    used: smoltcp::time::Instant,
    /// The rings may hold pages.
    is_warm: bool,
}

impl Connection {
    /// A small segment is mostly a request whose answer can carry the ACK; everything else is acknowledged at once, also what comes
    /// behind a small one.
    fn choose_ack_delay(&mut self, packet_len: usize) {
        let is_small = packet_len <= SMALL_PACKET;
        let delays = std::mem::replace(&mut self.delays_ack, is_small) || is_small;
        self.sockets.get_mut::<Socket<'static>>(self.handle).set_ack_delay(delays.then_some(ACK_DELAY));
    }

    /// Whether the rings hold nothing: no byte that waits, and none that came before its time, as all that was heard is acknowledged.
    fn is_at_rest(&self) -> bool {
        let socket = self.sockets.get::<Socket<'static>>(self.handle);
        socket.state() == State::Established
            && socket.send_queue() == 0
            && socket.recv_queue() == 0
            && self.heard == self.numbers.acked
            && self.numbers.flight.is_empty()
    }

    /// Both sides have finished, the last ACK is out, and the program's last bytes wait to be taken. Nothing is left to send then, but
    /// the end of TIME-WAIT would throw the bytes away.
    fn only_holds_bytes(&mut self) -> bool {
        let socket = self.sockets.get::<Socket<'static>>(self.handle);
        let holds = socket.state() == State::TimeWait && socket.can_recv();
        std::mem::replace(&mut self.last_ack_sent, holds) && holds
    }
}

/// All TCP flows' local ends, by the flow's slot.
pub struct Stack {
    link: Link,
    connections: Vec<Option<Box<Connection>>>,
    timers: BTreeSet<(smoltcp::time::Instant, usize)>,
    up_rings: RingPool,
    down_rings: RingPool,
    /// A flow uses more than [`NARROW`] of its ring.
    has_wide: bool,
    cooling: Cooling,
    origin: Instant,
}

impl Stack {
    /// `seed` makes initial sequence numbers hard to guess.
    #[must_use]
    pub fn new(seed: u64, now: Instant) -> Self {
        let mut scratch = Scratch::new();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let (mut sink, mut numbers) = (NoSink, Numbers::new(0, None));
        let mut device = Device::new(None, &mut scratch, &mut sink, &mut numbers);
        let mut interface = Interface::new(config, &mut device, smoltcp::time::Instant::ZERO);
        // Any address is ours (AnyIP); smoltcp wants a route through an address of its own for that.
        let (v4, v6) = (Ipv4Address::new(192, 0, 0, 8), Ipv6Address::new(0x100, 0, 0, 0, 0, 0, 0, 1));
        interface.set_any_ip(true);
        interface.update_ip_addrs(|addresses| {
            addresses.extend([IpCidr::new(IpAddress::Ipv4(v4), 32), IpCidr::new(IpAddress::Ipv6(v6), 128)]);
        });
        interface.routes_mut().add_default_ipv4_route(v4).expect("room for two routes (Cargo.toml)");
        interface.routes_mut().add_default_ipv6_route(v6).expect("room for two routes (Cargo.toml)");
        Self {
            link: Link::new(interface, scratch),
            connections: Vec::new(),
            timers: BTreeSet::new(),
            up_rings: RingPool::new(UP_RING, UP_RING),
            down_rings: RingPool::new(DOWN_RING, NARROW),
            has_wide: false,
            cooling: Cooling::default(),
            origin: now,
        }
    }

    /// Ends `tuple` locally: takes the SYN and answers it.
    ///
    /// # Errors
    ///
    /// No memory for the rings, segments that are too small, or a port that smoltcp refuses.
    pub fn accept(
        &mut self,
        slot: usize,
        tuple: &FiveTuple,
        opening: Opening<'_>,
        sink: &mut dyn PacketSink,
        now: Instant,
    ) -> Result<(), AcceptError> {
        if let Some(mss) = opening.max_segment.filter(|mss| *mss < MIN_MSS) {
            return Err(AcceptError::Segments(mss));
        }
        // Whatever was in this place has ended; its rings and its timer go with it.
        self.remove(slot, u64::MAX);
        let mut rings = [self.up_rings.take()?, self.down_rings.take()?];
        let [rx, tx] = &mut rings;
        // SAFETY: the ring lives in the same `Connection` as the socket and is dropped after it.
        let rx = unsafe { rx.bytes() };
        // SAFETY: as above; it is another ring.
        let tx = unsafe { tx.bytes() };
        let mut socket = Socket::new(SocketBuffer::new(rx), SocketBuffer::new(tx));
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        socket.set_tsval_generator(Some(timestamp));
        socket.set_timeout(Some(HANDSHAKE));
        // Before the SYN-ACK, which winds the timer up: later, smoltcp would ask at once.
        socket.set_keep_alive(Some(KEEP_ALIVE));
        let local = IpEndpoint::from(tuple.remote);
        socket.listen(IpListenEndpoint { addr: Some(local.addr), port: local.port })?;
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        let mss = opening.max_segment.unwrap_or(if tuple.remote.is_ipv4() { DEFAULT_MSS_V4 } else { DEFAULT_MSS_V6 });
        let max_payload = mss.saturating_sub(if opening.has_timestamps { TIMESTAMP_LEN } else { 0 }).max(1);
        if self.connections.len() <= slot {
            self.connections.resize_with(slot + 1, || None);
        }
        let begin = stream_end(opening.syn).unwrap_or(0);
        let connection = Box::new(Connection {
            sockets,
            handle,
            rings,
            timer: None,
            last_ack_sent: false,
            delays_ack: false,
            heard: begin,
            numbers: Numbers::new(max_payload, stamp_of(opening.syn).filter(|_| opening.has_timestamps)),
            passage: Passage::new(begin, window_shift(opening.syn)),
            used: self.at(now),
            is_warm: false,
        });
        if let Some(place) = self.connections.get_mut(slot) {
            *place = Some(connection);
        }
        self.input(slot, opening.syn, sink, now);
        self.flush(slot, sink, now);
        Ok(())
    }

    /// Feeds one segment of the flow. What smoltcp answers at once goes out; the rest waits for [`Stack::flush`].
    pub fn input(&mut self, slot: usize, packet: &[u8], sink: &mut dyn PacketSink, now: Instant) {
        let at = self.at(now);
        let Some(connection) = self.connections.get_mut(slot).and_then(Option::as_mut) else { return };
        connection.choose_ack_delay(packet.len());
        self.cooling.warm(connection, at);
        self.link.feed(connection, packet, sink, at);
        // A reset in SYN-RECEIVED makes smoltcp listen again; here it means that the program has given up (RFC 9293 §3.10.7.4).
        let socket = connection.sockets.get_mut::<Socket<'static>>(connection.handle);
        match socket.state() {
            State::Listen => socket.abort(),
            State::SynReceived => {}
            _ => socket.set_timeout(Some(DEAD)),
        }
    }

    /// Whether a segment does nothing but ask whether we are still there: it is empty, and stands one byte before what is
    /// acknowledged (RFC 9293 §3.8.4). Where bytes wait, the same asks for room and is answered by [`Stack::input`].
    #[must_use]
    pub fn asks(&self, slot: usize, packet: &IpPacket<'_>) -> bool {
        let Some(connection) = self.connections.get(slot).and_then(Option::as_ref) else { return false };
        let before = connection.numbers.acked.wrapping_sub(1);
        matches!(packet.transport(), Transport::Tcp(segment) if segment.sequence == before && segment.control == TcpControl::None)
            && stream_end(packet.bytes()) == Some(before)
            && connection.is_at_rest()
    }

    /// Lends the flow's socket.
    pub fn with_socket<R>(&mut self, slot: usize, f: impl FnOnce(&mut Socket<'static>) -> R) -> Option<R> {
        let connection = self.connections.get_mut(slot)?.as_mut()?;
        Some(f(connection.sockets.get_mut(connection.handle)))
    }

    /// Sends what is due for the flow and sets its timer.
    pub fn flush(&mut self, slot: usize, sink: &mut dyn PacketSink, now: Instant) {
        let at = self.at(now);
        let Some(connection) = self.connections.get_mut(slot).and_then(Option::as_mut) else { return };
        self.cooling.warm(connection, at);
        if connection.only_holds_bytes() {
            return;
        }
        self.link.give_up(connection, sink, at);
        if !connection.is_silent() || connection.passage.is_unheard(at) {
            self.link.catch_up(connection, sink, at);
        }
        let due = self.link.egress(connection, MOST_AT_ONCE, sink, at);
        self.link.acknowledge(connection, sink, at);
        let next = [connection.look_again(at), due].into_iter().flatten().min();
        // A deadline that is past would spin: what could go out has gone.
        let next = next.map(|next| next.max(at + Duration::from_millis(1)));
        // A timer that runs out too early only finds out when it should have: cheaper than to move it with every packet.
        if let Some(next) = next.filter(|next| connection.timer.is_none_or(|old| *next < old)) {
            if let Some(old) = connection.timer.replace(next) {
                self.timers.remove(&(old, slot));
            }
            self.timers.insert((next, slot));
        }
    }

    /// When [`Stack::expired`] has something to give.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| self.instant(*at))
    }

    /// A flow whose timer has run out; flush it.
    pub fn expired(&mut self, now: Instant) -> Option<usize> {
        let (at, slot) = *self.timers.first()?;
        if at > self.at(now) {
            return None;
        }
        self.timers.pop_first();
        if let Some(connection) = self.connections.get_mut(slot).and_then(Option::as_mut) {
            connection.timer = None;
        }
        Some(slot)
    }

    /// When [`Stack::cool`] has something to do.
    #[must_use]
    pub fn cool_timeout(&self) -> Option<Instant> {
        self.cooling.next.map(|at| self.instant(at))
    }

    /// Gives back the memory of flows that rest.
    pub fn cool(&mut self, now: Instant) {
        let at = self.at(now);
        self.has_wide &= !self.cooling.run(&mut self.connections, at);
    }

    /// Forgets the flow without a word; [`Socket::abort`] and [`Stack::flush`] before tell the program.
    pub fn remove(&mut self, slot: usize, carried: u64) {
        let Some(connection) = self.connections.get_mut(slot).and_then(Option::take) else { return };
        if let Some(at) = connection.timer {
            self.timers.remove(&(at, slot));
        }
        let Connection { sockets, rings: [up, down], numbers, .. } = *connection;
        drop(sockets);
        self.has_wide &= !numbers.flight.is_wide();
        self.up_rings.give_back(up, carried);
        self.down_rings.give_back(down, carried);
    }

    fn instant(&self, at: smoltcp::time::Instant) -> Instant {
        self.origin + std::time::Duration::from_micros(u64::try_from(at.total_micros()).unwrap_or(0))
    }

    fn at(&self, now: Instant) -> smoltcp::time::Instant {
        let micros = now.saturating_duration_since(self.origin).as_micros();
        smoltcp::time::Instant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }
}

/// The SYN of a flow and what its options said.
#[derive(Clone, Copy, Debug)]
pub struct Opening<'a> {
    pub syn: &'a [u8],
    pub max_segment: Option<u16>,
    pub has_timestamps: bool,
}

/// Why a flow cannot be ended here.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    #[error("no memory for the flow's rings: {0}")]
    Memory(#[from] std::io::Error),
    #[error("the program takes segments of at most {0} bytes; {MIN_MSS} is the least")]
    Segments(u16),
    #[error("the destination port cannot be listened on")]
    Port,
}

impl AcceptError {
    /// As records tell it.
    #[must_use]
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Memory(_) => "out of memory",
            Self::Segments(_) => "segments too small",
            Self::Port => "port not usable",
        }
    }
}

impl From<ListenError> for AcceptError {
    fn from(_: ListenError) -> Self {
        Self::Port
    }
}

/// Milliseconds of a clock that only moves on, as TCP timestamps want it (RFC 7323 §5.4).
fn timestamp() -> u32 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed().as_millis();
    u32::try_from(elapsed & u128::from(u32::MAX)).unwrap_or(0)
}

struct NoSink;

impl PacketSink for NoSink {
    fn write(&mut self, _packet: &[u8]) {}
}

#[cfg(test)]
mod tests;
