//! An arbitrary TCP peer against the local end of a connection: segments in and out of the window, odd flags and options, silence.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use portreeve::packet::{Checksums, FiveTuple, IpPacket, Protocol, Transport, VNET_HEADER_LEN, stream_bytes, stream_end};
use portreeve::stack::{Opening, PacketSink, Passed, Stack};
use smoltcp::socket::tcp::Socket;
use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6Packet};

const SLOT: usize = 1;
/// The peer's room at first.
const ROOM: u16 = 64_240;
/// What one step may make the stack write: what is due, not a loop.
const MOST_ANSWERS: usize = 500;
/// Options that somebody may send: window scale, SACK permitted, SACK blocks, timestamps, lengths that lie.
const OPTIONS: [&[u8]; 8] = [
    &[],
    &[2, 4, 0, 1],
    &[3, 3, 255, 0],
    &[4, 2, 1, 1],
    &[5, 10, 0, 0, 0, 1, 255, 255, 255, 255, 1, 1],
    &[8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 1],
    &[254, 0, 0, 0],
    &[2, 255, 0, 0],
];

/// What the stack wrote in one step, and where it stands.
#[derive(Default)]
struct Caught {
    packets: usize,
    next: u32,
    acked: u32,
    /// Where the stream for the peer begins, where what was sent of it ends, and the last place that the peer ever had room for.
    first: Option<u32>,
    end: u32,
    edge: u32,
}

impl PacketSink for Caught {
    fn write(&mut self, packet: &[u8]) {
        self.packets += 1;
        assert!(self.packets < MOST_ANSWERS, "answers without end, the last: {packet:?}");
        let packet = packet.get(VNET_HEADER_LEN..).expect("a header");
        let packet = IpPacket::parse(packet, Checksums::Unfinished).expect("the stack writes whole packets");
        let Transport::Tcp(segment) = packet.transport() else { panic!("no TCP: {packet:?}") };
        self.next = segment.sequence;
        let header = packet.bytes().get(if packet.tuple().local.is_ipv4() { 20 } else { 40 }..).expect("a TCP header");
        self.acked = header.get(8..12).map_or(0, |ack| u32::from_be_bytes(ack.try_into().expect("four bytes")));
        let end = stream_end(packet.bytes()).expect("a segment");
        if self.first.is_none() {
            // The SYN's window is never shifted.
            (self.first, self.end, self.edge) = (Some(end), end, end.wrapping_add(u32::from(ROOM)));
        }
        if end.wrapping_sub(self.end) < 1 << 31 {
            self.end = end;
        }
        self.check(segment.sequence, stream_bytes(packet.bytes()).expect("a segment"));
    }
}

impl Caught {
    /// What the peer is sent is the other end's stream in its place, within the room that the peer had.
    fn check(&self, sequence: u32, bytes: &[u8]) {
        // A question to a silent peer, or whether there is room.
        if let [] | [_] = bytes {
            return;
        }
        let first = self.first.expect("the SYN-ACK came first");
        let from = usize::try_from(sequence.wrapping_sub(first)).expect("a place") % pattern().len();
        assert!(pattern().iter().cycle().skip(from).zip(bytes).step_by(7).all(|(right, byte)| right == byte), "at {sequence}");
        let end = sequence.wrapping_add(u32::try_from(bytes.len()).expect("a packet"));
        assert!(self.edge.wrapping_sub(end) < 1 << 31, "{end} lies beyond {}", self.edge);
    }

    /// The peer says what it has, and its room. smoltcp believes it what was not sent yet.
    fn hear(&mut self, acked: u32, room: u32) {
        let edge = acked.wrapping_add(room);
        if edge.wrapping_sub(self.edge) < 1 << 31 {
            self.edge = edge;
        }
    }
}

/// One segment of the peer's choice.
struct Segment<'a> {
    flags: u8,
    sequence: u32,
    ack: u32,
    window: u16,
    urgent: u16,
    options: &'a [u8],
    len: usize,
}

impl Segment<'_> {
    fn bytes(&self, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
        let mut tcp = Vec::new();
        tcp.extend(from.port().to_be_bytes());
        tcp.extend(to.port().to_be_bytes());
        tcp.extend(self.sequence.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        let words = u8::try_from(5 + self.options.len() / 4).expect("few options");
        tcp.extend([words << 4, self.flags]);
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0, 0]);
        tcp.extend(self.urgent.to_be_bytes());
        tcp.extend(self.options);
        let places = (0..self.len).map(|place| self.sequence.wrapping_add(u32::try_from(place).expect("a small segment")));
        tcp.extend(places.map(byte_at));
        wrap(&tcp, from.ip(), to.ip())
    }
}

/// What the peer's stream holds at a place, so that bytes cannot be lost or moved unseen.
fn byte_at(place: u32) -> u8 {
    let [high, ..] = place.wrapping_mul(0x9e37_79b1).to_be_bytes();
    high
}

/// The stream for the peer, over and over.
fn pattern() -> &'static [u8] {
    static PATTERN: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    PATTERN.get_or_init(|| (0..65_521).map(byte_at).collect())
}

fn wrap(tcp: &[u8], from: IpAddr, to: IpAddr) -> Vec<u8> {
    let mut bytes;
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            bytes = vec![0; 20 + tcp.len()];
            let mut ip = Ipv4Packet::new_unchecked(&mut bytes[..]);
            ip.set_version(4);
            ip.set_header_len(20);
            ip.set_total_len(u16::try_from(20 + tcp.len()).expect("a small packet"));
            ip.set_hop_limit(64);
            ip.set_next_header(IpProtocol::Tcp);
            ip.set_src_addr(from);
            ip.set_dst_addr(to);
            ip.payload_mut().copy_from_slice(tcp);
            ip.fill_checksum();
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            bytes = vec![0; 40 + tcp.len()];
            let mut ip = Ipv6Packet::new_unchecked(&mut bytes[..]);
            ip.set_version(6);
            ip.set_payload_len(u16::try_from(tcp.len()).expect("a small packet"));
            ip.set_hop_limit(64);
            ip.set_next_header(IpProtocol::Tcp);
            ip.set_src_addr(from);
            ip.set_dst_addr(to);
            ip.payload_mut().copy_from_slice(tcp);
        }
        (_, _) => panic!("one family"),
    }
    bytes
}

/// The other end takes bytes, which must be the next ones of the peer's stream.
fn take(bytes: &[u8], taken: &mut usize, next: &mut Option<u32>) -> usize {
    if let Some(next) = next {
        for byte in bytes {
            assert_eq!(*byte, byte_at(*next), "at {next}");
            *next = next.wrapping_add(1);
        }
    }
    *taken += bytes.len();
    bytes.len()
}

/// A conversation that the bytes decide.
struct Peer {
    stack: Stack,
    now: Instant,
    caught: Caught,
    from: SocketAddr,
    to: SocketAddr,
    sent: u32,
    /// Bytes that reached the other end.
    taken: usize,
    /// Where the next one stands in the peer's stream; None once it has said that nothing follows, and goes on all the same.
    next: Option<u32>,
    /// By how many bits the peer's room is shifted.
    shift: u32,
    /// Bytes that the other end has said.
    said: usize,
    has_said_all: bool,
}

impl Peer {
    fn new(v6: bool) -> Self {
        let (from, to) = if v6 { ("[fd00::2]:40000", "[2001:db8::10]:443") } else { ("10.9.0.2:40000", "203.0.113.10:443") };
        let now = Instant::now();
        let (from, to) = (from.parse().expect("an address"), to.parse().expect("an address"));
        let (stack, caught) = (Stack::new(7, now), Caught::default());
        Self { stack, now, caught, from, to, sent: 1000, taken: 0, next: Some(1001), shift: 0, said: 0, has_said_all: false }
    }

    fn open(&mut self, options: &[u8]) {
        self.shift = if let [3, 3, shift, ..] = options { u32::from(*shift).min(14) } else { 0 };
        let syn = Segment { flags: 2, sequence: self.sent, ack: 0, window: ROOM, urgent: 0, options, len: 0 };
        let syn = syn.bytes(self.from, self.to);
        self.sent += 1;
        let tuple = FiveTuple { protocol: Protocol::TCP, local: self.from, remote: self.to };
        let opening = Opening { syn: &syn, max_segment: Some(1460), has_timestamps: false };
        self.stack.accept(SLOT, &tuple, opening, &mut self.caught, self.now).expect("memory for two rings");
    }

    /// The segment is read; its bytes may go straight on, at most so many.
    fn says(&mut self, segment: &Segment<'_>, most: Option<usize>) {
        let bytes = segment.bytes(self.from, self.to);
        let Ok(packet) = IpPacket::parse(&bytes, Checksums::Unfinished) else { return };
        if segment.flags & 1 != 0 {
            self.next = None;
        }
        if segment.flags & 0x10 != 0 {
            self.caught.hear(segment.ack, u32::from(segment.window) << self.shift);
        }
        let (taken, next) = (&mut self.taken, &mut self.next);
        let passed = most.map_or_else(Passed::default, |most| {
            self.stack.pass(SLOT, std::iter::once(packet), |pieces| {
                let pieces: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).take(most).collect();
                take(&pieces, taken, next)
            })
        });
        if passed.packets == 0 {
            self.stack.input(SLOT, &bytes, &mut self.caught, self.now);
        }
    }

    /// What the other end of the connection does: it reads, writes, closes, gives up.
    fn upstream(&mut self, choice: u8) {
        let (taken, next) = (&mut self.taken, &mut self.next);
        self.stack.with_socket(SLOT, |socket| match choice % 6 {
            0 | 1 => {
                while socket.can_recv() {
                    socket.recv(|data| (take(data, taken, next), ())).expect("it said that it can");
                }
            }
            5 if choice > 230 => socket.abort(),
            _ => {}
        });
        let len = match choice % 6 {
            2 | 3 => [100, 3000, 9000, 40_000][usize::from(choice >> 4 & 3)],
            4 if choice > 200 => 0,
            _ => return,
        };
        let (said, has_said_all) = (&mut self.said, &mut self.has_said_all);
        let drawn = self.stack.draw(
            SLOT,
            |room| {
                assert!(!*has_said_all, "the end was the end");
                let len = len.min(room.len());
                let from = *said % pattern().len();
                for (to, byte) in room.iter_mut().take(len).zip(pattern().iter().cycle().skip(from)) {
                    *to = *byte;
                }
                *said += len;
                Ok(len)
            },
            &mut self.caught,
            self.now,
        );
        if drawn.is_some_and(|drawn| drawn.read.is_ok_and(|read| read == 0)) {
            self.has_said_all = true;
            self.stack.with_socket(SLOT, Socket::close);
        }
    }

    fn settle(&mut self, time: Duration) {
        self.now += time;
        while let Some(slot) = self.stack.expired(self.now) {
            self.stack.flush(slot, &mut self.caught, self.now);
        }
        self.stack.flush(SLOT, &mut self.caught, self.now);
        assert!(self.stack.poll_timeout().is_none_or(|at| at > self.now), "a timer that stays would spin");
        let queues = self.stack.with_socket(SLOT, |socket| (socket.recv_queue(), socket.send_queue()));
        assert!(queues.is_none_or(|(rx, tx)| rx <= 512 * 1024 && tx <= 512 * 1024), "{queues:?}");
        self.caught.packets = 0;
    }
}

/// Gives how many of the peer's bytes were taken, and how many it was sent.
pub(super) fn run(bytes: &[u8]) -> (usize, usize) {
    let Some((first, mut rest)) = bytes.split_first() else { return (0, 0) };
    let mut peer = Peer::new(first & 1 == 1);
    peer.open(OPTIONS[usize::from(first >> 1) % 7]);
    if first & 0x80 == 0 {
        // The rest of the handshake, so that most conversations get beyond it.
        let ack = peer.caught.end;
        peer.says(&Segment { flags: 0x10, sequence: peer.sent, ack, window: ROOM, urgent: 0, options: &[], len: 0 }, None);
    }
    while let [flags, shape, near, window, upstream, time, tail @ ..] = rest {
        rest = tail;
        // Most segments are nearly right: only those find the way into the machine.
        let off = u32::from(*near).wrapping_sub(8) & if near % 4 == 0 { u32::MAX } else { 0 };
        let len = [0, 1, 100, 1460][usize::from(shape % 4)];
        let segment = Segment {
            flags: if shape & 0xe0 == 0xe0 { *flags } else { 0x10 | (flags & 0x08) },
            sequence: peer.sent.wrapping_add(off),
            ack: match near % 8 {
                1 => peer.caught.next.wrapping_sub(100_000),
                2 => peer.caught.next.wrapping_add(u32::from(shape >> 4 & 7)),
                3 => peer.caught.end.wrapping_sub(u32::from(*time) << 6),
                _ => peer.caught.end,
            },
            window: if window % 8 == 0 { 0 } else { u16::from(*window) << 8 },
            urgent: if flags & 0x20 == 0 { 0 } else { u16::from(*near) },
            options: OPTIONS[usize::from(shape >> 2) % 8],
            len,
        };
        let most = [None, Some(usize::MAX), Some(usize::from(*time)), Some(0)][usize::from(upstream >> 3 & 3)];
        peer.says(&segment, most);
        // The stack says what it has taken; that is where the peer goes on.
        peer.upstream(*upstream);
        peer.settle(Duration::from_millis(if time % 16 == 0 { 3_600_000 } else { u64::from(*time) }));
        if peer.caught.acked != 0 {
            peer.sent = peer.caught.acked;
        }
    }
    peer.stack.remove(SLOT, u64::MAX);
    assert_eq!(peer.stack.poll_timeout(), None, "a timer of nobody");
    (peer.taken, peer.said)
}
