//! The device that smoltcp sees: one packet in, any number out.

use std::num::NonZeroUsize;

use smoltcp::phy::{Checksum, ChecksumCapabilities, DeviceCapabilities, Medium, RxToken, SegmentationCapabilities, TxToken};

use crate::packet::{VNET_HEADER_LEN, acknowledge_more, acknowledged, unfinished_tcp};

/// Largest IP packet.
const MAX_PACKET: usize = 65_535;

/// Where finished packets go: the TUN. Each starts with a virtio header.
pub trait PacketSink {
    fn write(&mut self, packet: &[u8]);
}

/// Room to build one packet with its virtio header.
pub struct Scratch(Box<[u8]>);

impl Scratch {
    pub(super) fn new() -> Self {
        Self(vec![0; VNET_HEADER_LEN + MAX_PACKET].into_boxed_slice())
    }
}

pub(super) struct Device<'a> {
    rx: Option<&'a [u8]>,
    scratch: &'a mut Scratch,
    sink: &'a mut dyn PacketSink,
    max_payload: u16,
    lag: u32,
    acked: &'a mut u32,
}

impl<'a> Device<'a> {
    /// `limits`: the largest payload of one segment, how far smoltcp's numbers lag behind what was received, and where the last
    /// acknowledged number goes.
    pub(super) fn new(
        rx: Option<&'a [u8]>,
        scratch: &'a mut Scratch,
        sink: &'a mut dyn PacketSink,
        limits: (u16, u32, &'a mut u32),
    ) -> Self {
        Self { rx, scratch, sink, max_payload: limits.0, lag: limits.1, acked: limits.2 }
    }

    fn tx(&mut self) -> Tx<'_> {
        Tx { scratch: self.scratch, sink: self.sink, max_payload: self.max_payload, lag: self.lag, acked: self.acked }
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
    max_payload: u16,
    lag: u32,
    acked: &'a mut u32,
}

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let Some(whole) = self.scratch.0.get_mut(..VNET_HEADER_LEN + len) else {
            // smoltcp never asks for more than the MTU above; a packet that would not fit is built aside and dropped.
            return f(&mut vec![0; len]);
        };
        let (header, packet) = whole.split_at_mut(VNET_HEADER_LEN);
        let result = f(packet);
        if self.lag != 0 {
            acknowledge_more(packet, self.lag);
        }
        if let Some(acked) = acknowledged(packet) {
            *self.acked = acked;
        }
        if let Some(vnet) = unfinished_tcp(packet, self.max_payload) {
            header.copy_from_slice(&vnet);
            self.sink.write(whole);
        }
        result
    }
}
