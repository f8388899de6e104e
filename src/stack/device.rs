//! The device that smoltcp sees: one packet in, any number out.

use std::num::NonZeroUsize;

use smoltcp::phy::{Checksum, ChecksumCapabilities, DeviceCapabilities, Medium, RxToken, SegmentationCapabilities, TxToken};

use super::UP_RING;
use super::flight::Flight;
use crate::packet::{
    StreamHeaders, VNET_HEADER_LEN, acknowledge_more, acknowledged, resets, step_back, step_forward, stream_end, unfinished_tcp,
};

/// Largest IP packet.
const MAX_PACKET: usize = 65_535;

/// Where finished packets go: the TUN. Each starts with a virtio header.
pub trait PacketSink {
    fn write(&mut self, packet: &[u8]);

    /// Writes one packet whose end lies elsewhere.
    fn write_both(&mut self, headers: &[u8], bytes: &[u8]) {
        self.write(&[headers, bytes].concat());
    }
}

/// Room to build one packet with its virtio header.
pub struct Scratch(Box<[u8]>);

impl Scratch {
    pub(super) fn new() -> Self {
        Self(vec![0; VNET_HEADER_LEN + MAX_PACKET].into_boxed_slice())
    }
}

/// Where a connection's two streams stand on the wire, and how far behind smoltcp's idea of them is.
pub(super) struct Numbers {
    /// The largest payload of one segment.
    pub(super) max_payload: u16,
    /// Bytes of the program that went past smoltcp.
    pub(super) lag: u32,
    /// Bytes for the program that go past it.
    pub(super) flight: Flight,
    /// What we acknowledged last.
    pub(super) acked: u32,
    /// Behind the last byte that was sent.
    pub(super) end: u32,
    /// The program's newest timestamp, where it has them.
    pub(super) stamp: Option<u32>,
    pub(super) headers: StreamHeaders,
}

impl Numbers {
    pub(super) fn new(max_payload: u16, stamp: Option<u32>) -> Self {
        let (flight, headers) = (Flight::new(), StreamHeaders::new());
        Self { max_payload, lag: 0, flight, acked: 0, end: 0, stamp, headers }
    }

    /// Makes smoltcp's numbers the wire's, and notes them.
    fn outward(&mut self, packet: &mut [u8]) {
        if self.lag != 0 {
            acknowledge_more(packet, self.lag);
        }
        let (_, sent) = self.flight.lag();
        if sent != 0 {
            step_forward(packet, sent);
        }
        if resets(packet) {
            // Its number may be the peer's word: what answers a wrong acknowledgement stands where that one says (RFC 9293 §3.5.2).
            return;
        }
        self.acked = acknowledged(packet).unwrap_or(self.acked);
        if let Some(end) = stream_end(packet)
            && (self.headers.is_empty() || end.wrapping_sub(self.end) < 1 << 31)
        {
            self.end = end;
        }
        self.headers.keep(packet, UP_RING);
    }

    /// Makes the wire's numbers smoltcp's.
    pub(super) fn inward(&self, packet: &mut [u8]) {
        step_back(packet, self.lag);
        let (past, _) = self.flight.lag();
        if past != 0 {
            acknowledge_more(packet, past.wrapping_neg());
        }
    }

    /// Whether smoltcp's numbers are the wire's.
    pub(super) fn are_smoltcps(&self) -> bool {
        self.lag == 0 && self.flight.lag().0 == 0
    }
}

pub(super) struct Device<'a> {
    rx: Option<&'a [u8]>,
    scratch: &'a mut Scratch,
    sink: &'a mut dyn PacketSink,
    numbers: &'a mut Numbers,
}

impl<'a> Device<'a> {
    pub(super) fn new(
        rx: Option<&'a [u8]>,
        scratch: &'a mut Scratch,
        sink: &'a mut dyn PacketSink,
        numbers: &'a mut Numbers,
    ) -> Self {
        Self { rx, scratch, sink, numbers }
    }

    fn tx(&mut self) -> Tx<'_> {
        Tx { scratch: self.scratch, sink: self.sink, numbers: self.numbers }
    }
}

impl smoltcp::phy::Device for Device<'_> {
    type RxToken<'t>
        = Rx<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Tx<'t>
    where
        Self: 't;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Rx<'_>, Tx<'_>)> {
        let packet = self.rx.take()?;
        Some((Rx(packet), self.tx()))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Tx<'_>> {
        Some(self.tx())
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        // smoltcp 0.14 drops IPv6 packets above the MTU even where the device segments them; the true segment size goes into the
        // virtio header instead.
        capabilities.max_transmission_unit = MAX_PACKET;
        capabilities.checksum = ChecksumCapabilities::ignored();
        // The kernel checks an IPv4 header's checksum before it looks at the virtio header.
        capabilities.checksum.ipv4 = Checksum::Tx;
        let whole = NonZeroUsize::new(MAX_PACKET);
        let mut segmentation = SegmentationCapabilities::default();
        segmentation.tcpv4 = whole;
        segmentation.tcpv6 = whole;
        capabilities.segmentation = segmentation;
        capabilities
    }
}

pub(super) struct Rx<'a>(&'a [u8]);

impl RxToken for Rx<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

pub(super) struct Tx<'a> {
    scratch: &'a mut Scratch,
    sink: &'a mut dyn PacketSink,
    numbers: &'a mut Numbers,
}

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let Some(whole) = self.scratch.0.get_mut(..VNET_HEADER_LEN + len) else {
            // smoltcp never asks for more than the MTU above; a packet that would not fit is built aside and dropped.
            return f(&mut vec![0; len]);
        };
        let (header, packet) = whole.split_at_mut(VNET_HEADER_LEN);
        let result = f(packet);
        self.numbers.outward(packet);
        if let Some(vnet) = unfinished_tcp(packet, self.numbers.max_payload) {
            header.copy_from_slice(&vnet);
            self.sink.write(whole);
        }
        result
    }
}
