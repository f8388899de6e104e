//! A program's kernel in memory: a second smoltcp as the peer, the kernel's part of segmentation, and a wire that loses and reorders.

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, Ipv4Address, Ipv4Packet, Ipv6Address, Ipv6Packet, TcpPacket, checksum};

use crate::packet::{Checksums, IpPacket, Transport, VNET_HEADER_LEN, stream_bytes};
use crate::stack::{Drawn, Opening, PacketSink, Stack};

/// The flow's slot in the stack.
pub(super) const SLOT: usize = 3;
/// More than any of these conversations takes.
const MAX_STEPS: usize = 400_000;

/// What the stack wrote.
#[derive(Default)]
pub(super) struct Caught(pub(super) Vec<Vec<u8>>);

impl PacketSink for Caught {
    fn write(&mut self, packet: &[u8]) {
        self.0.push(packet.to_vec());
    }
}

/// The peer's device.
#[derive(Default)]
struct Queue {
    rx: VecDeque<Vec<u8>>,
    tx: Vec<Vec<u8>>,
}

struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct Sending<'a>(&'a mut Vec<Vec<u8>>);

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push(packet);
        result
    }
}

impl Device for Queue {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Received, Sending<'_>)> {
        Some((Received(self.rx.pop_front()?), Sending(&mut self.tx)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.tx))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = 1500;
        capabilities
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Towards {
    Stack,
    Peer,
}

/// How bad the wire is, in percent of the packets and in milliseconds of delay beyond the first.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Weather {
    pub(super) loss: u64,
    pub(super) jitter_ms: u64,
}

/// A stack and a peer with a wire between them, in virtual time.
pub(super) struct Line {
    pub(super) stack: Stack,
    pub(super) now: Instant,
    /// Packets that the stack wrote, and segments that they became.
    pub(super) written: (usize, usize),
    /// Bytes of the stream that the stack wrote, repeated ones included.
    pub(super) payload: usize,
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    device: Queue,
    origin: Instant,
    wire: BTreeMap<(Instant, u64), (Towards, Vec<u8>)>,
    serial: u64,
    weather: Weather,
    chance: u64,
    is_accepted: bool,
    /// Takes bytes straight from the packets.
    pub(super) taker: Option<Taker>,
    /// Where bytes for the peer are drawn from.
    pub(super) source: Option<Source>,
    /// The program's packets of this kind are lost: whoever says so sees each.
    pub(super) loses: Option<fn(&[u8]) -> bool>,
}

/// Fills room as a socket's read does; 0 is the end.
pub(super) type Source = Box<dyn FnMut(&mut [u8]) -> std::io::Result<usize>>;
pub(super) type Taker = Box<dyn FnMut(&[IoSlice<'_>]) -> usize>;

impl Line {
    /// A peer that connects from `port`.
    pub(super) fn new(stack: Stack, now: Instant, v6: bool, port: u16, weather: Weather) -> Self {
        Self::with_room(stack, now, v6, port, weather, 256 * 1024)
    }

    /// A peer with room for so many bytes each way.
    pub(super) fn with_room(stack: Stack, now: Instant, v6: bool, port: u16, weather: Weather, room: usize) -> Self {
        let mut device = Queue::default();
        let mut interface = Interface::new(Config::new(HardwareAddress::Ip), &mut device, smoltcp::time::Instant::from_micros(0));
        let (v4_own, v6_own) = (Ipv4Address::new(10, 9, 0, 2), Ipv6Address::new(0xfd00, 0, 0, 0, 0, 0, 0, 2));
        interface.update_ip_addrs(|addresses| {
            addresses.extend([IpCidr::new(IpAddress::Ipv4(v4_own), 24), IpCidr::new(IpAddress::Ipv6(v6_own), 64)]);
        });
        interface.routes_mut().add_default_ipv4_route(Ipv4Address::new(10, 9, 0, 1)).expect("room");
        interface.routes_mut().add_default_ipv6_route(Ipv6Address::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)).expect("room");
        let ring = || SocketBuffer::new(vec![0; room]);
        let mut socket = Socket::new(ring(), ring());
        // With timestamps (RFC 7323) in one family, and without them in the other.
        socket.set_tsval_generator(v6.then_some(super::super::timestamp));
        let remote = if v6 {
            IpAddress::Ipv6(Ipv6Address::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10))
        } else {
            IpAddress::Ipv4(Ipv4Address::new(203, 0, 113, 10))
        };
        socket.connect(interface.context(), (remote, 443), port).expect("a fresh socket connects");
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(socket);
        Self {
            stack,
            now,
            written: (0, 0),
            payload: 0,
            interface,
            sockets,
            handle,
            device,
            origin: now,
            wire: BTreeMap::new(),
            serial: 0,
            weather,
            chance: 1 + u64::from(port),
            is_accepted: false,
            taker: None,
            source: None,
            loses: None,
        }
    }

    /// Lets both ends talk until `app`, which sees our socket and the peer's, says that it is done.
    pub(super) fn talk(&mut self, mut app: impl FnMut(&mut Socket<'static>, &mut Socket<'static>) -> bool) {
        for _ in 0..MAX_STEPS {
            let peer = self.sockets.get_mut::<Socket<'static>>(self.handle);
            if self.stack.with_socket(SLOT, |ours| app(ours, peer)).unwrap_or(false) {
                return;
            }
            self.step();
        }
        panic!("the conversation does not end; ours {:?}", self.stack.with_socket(SLOT, |socket| socket.state()));
    }

    /// Lets everything that is under way arrive.
    pub(super) fn settle(&mut self) {
        self.talk_for(Duration::from_secs(1));
    }

    /// Lets the wire and the clocks go on for a time.
    pub(super) fn talk_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }

    fn step(&mut self) {
        let at = self.at();
        while self.interface.poll(at, &mut self.device, &mut self.sockets) == smoltcp::iface::PollResult::SocketStateChanged {}
        for packet in std::mem::take(&mut self.device.tx) {
            self.post(Towards::Stack, packet);
        }
        let mut caught = Caught::default();
        while let Some(slot) = self.stack.expired(self.now) {
            self.stack.flush(slot, &mut caught, self.now);
        }
        self.draw(&mut caught);
        self.stack.flush(SLOT, &mut caught, self.now);
        self.carry(caught);
        self.advance();
        let mut batch = Vec::new();
        while let Some(entry) = self.wire.first_entry().filter(|entry| entry.key().0 <= self.now) {
            match entry.remove() {
                (Towards::Peer, packet) => self.device.rx.push_back(packet),
                (Towards::Stack, packet) => batch.push(packet),
            }
        }
        while !batch.is_empty() {
            let together = usize::try_from(1 + self.below(4)).expect("a small number").min(batch.len());
            let rest = batch.split_off(together);
            self.arrive_together(&std::mem::replace(&mut batch, rest));
        }
    }

    /// Draws until there is nothing more, as the pump does.
    fn draw(&mut self, caught: &mut Caught) {
        while let Some(source) = &mut self.source {
            match self.stack.draw(SLOT, source, caught, self.now) {
                Some(Drawn { read: Ok(0), .. }) => {
                    self.source = None;
                    self.stack.with_socket(SLOT, Socket::close);
                }
                Some(Drawn { read: Ok(read), room }) if read == room => {}
                Some(_) | None => return,
            }
        }
    }

    /// Packets of one batch: what nobody takes from them goes the common way.
    fn arrive_together(&mut self, packets: &[Vec<u8>]) {
        let parsed =
            packets.iter().map(|bytes| IpPacket::parse(bytes, Checksums::Finished).expect("the peer sends whole packets"));
        let passed = match &mut self.taker {
            Some(taker) if self.is_accepted => self.stack.pass(SLOT, parsed, taker).packets,
            _ => 0,
        };
        for packet in packets.iter().skip(passed) {
            self.arrive(packet);
        }
    }

    /// A packet of the peer is read from the TUN.
    fn arrive(&mut self, bytes: &[u8]) {
        let mut caught = Caught::default();
        let packet = IpPacket::parse(bytes, Checksums::Finished).expect("the peer sends whole packets");
        let Transport::Tcp(segment) = packet.transport() else { panic!("no TCP") };
        if self.is_accepted {
            self.stack.input(SLOT, bytes, &mut caught, self.now);
        } else if segment.opens() {
            let opening = Opening { syn: bytes, max_segment: segment.max_segment, has_timestamps: segment.has_timestamps };
            self.stack.accept(SLOT, &packet.tuple(), opening, &mut caught, self.now).expect("memory for two rings");
            self.is_accepted = true;
        }
        self.carry(caught);
    }

    fn carry(&mut self, caught: Caught) {
        for packet in caught.0 {
            let segments = finish(&packet);
            self.payload += segments.iter().filter_map(|segment| stream_bytes(segment)).map(<[u8]>::len).sum::<usize>();
            self.written = (self.written.0 + 1, self.written.1 + segments.len());
            segments.into_iter().for_each(|segment| self.post(Towards::Peer, segment));
        }
    }

    fn post(&mut self, towards: Towards, packet: Vec<u8>) {
        let is_lost = towards == Towards::Stack && self.loses.is_some_and(|loses| loses(&packet));
        if self.below(100) < self.weather.loss || is_lost {
            return;
        }
        let delay = 1 + self.below(1 + self.weather.jitter_ms);
        self.serial += 1;
        self.wire.insert((self.now + Duration::from_millis(delay), self.serial), (towards, packet));
    }

    /// On to the next thing that happens.
    fn advance(&mut self) {
        let peer = self.interface.poll_at(self.at(), &self.sockets);
        let peer = peer.map(|at| self.origin + Duration::from_micros(u64::try_from(at.total_micros()).unwrap_or(0)));
        let wire = self.wire.first_key_value().map(|((at, _), _)| *at);
        let next = [peer, wire, self.stack.poll_timeout()].into_iter().flatten().min();
        let least = self.now + Duration::from_micros(100);
        self.now = next.map_or(least, |next| next.max(least)).min(self.now + Duration::from_secs(1));
    }

    fn at(&self) -> smoltcp::time::Instant {
        let micros = self.now.duration_since(self.origin).as_micros();
        smoltcp::time::Instant::from_micros(i64::try_from(micros).expect("a short test"))
    }

    /// A number below `end`, decided by the line's seed (an LCG of Knuth's).
    fn below(&mut self, end: u64) -> u64 {
        self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.chance >> 33) % end
    }
}

/// What the kernel makes of a packet with a virtio header: whole segments with finished checksums.
fn finish(whole: &[u8]) -> Vec<Vec<u8>> {
    let (header, packet) = whole.split_at(VNET_HEADER_LEN);
    let number = |at: usize| usize::from(u16::from_ne_bytes([header[at], header[at + 1]]));
    let (header_len, gso_size, start, offset) = (number(2), number(4), number(6), number(8));
    assert_eq!(header[0], 1, "the checksum is left to the device");
    if header[1] == 0 {
        let mut packet = packet.to_vec();
        let sum = !checksum::data(&packet[start..]);
        packet[start + offset..start + offset + 2].copy_from_slice(&sum.to_be_bytes());
        return vec![packet];
    }
    assert_eq!(header[1], if packet[0] >> 4 == 4 { 1 } else { 4 });
    let (headers, payload) = packet.split_at(header_len);
    let last = payload.len().div_ceil(gso_size) - 1;
    let pieces = payload.chunks(gso_size).enumerate();
    pieces.map(|(place, piece)| segment(headers, start, place * gso_size, piece, place == last)).collect()
}

fn segment(headers: &[u8], start: usize, at: usize, piece: &[u8], is_last: bool) -> Vec<u8> {
    let mut packet = [headers, piece].concat();
    let (len, tcp_len) = (packet.len(), packet.len() - start);
    let ends: (IpAddress, IpAddress) = if packet[0] >> 4 == 4 {
        let mut ip = Ipv4Packet::new_unchecked(&mut packet[..]);
        ip.set_total_len(u16::try_from(len).expect("a segment"));
        ip.fill_checksum();
        (ip.src_addr().into(), ip.dst_addr().into())
    } else {
        let mut ip = Ipv6Packet::new_unchecked(&mut packet[..]);
        ip.set_payload_len(u16::try_from(tcp_len).expect("a segment"));
        (ip.src_addr().into(), ip.dst_addr().into())
    };
    let mut tcp = TcpPacket::new_unchecked(&mut packet[start..]);
    tcp.set_seq_number(tcp.seq_number() + at);
    tcp.set_fin(tcp.fin() && is_last);
    tcp.set_psh(tcp.psh() && is_last);
    tcp.fill_checksum(&ends.0, &ends.1);
    packet
}
