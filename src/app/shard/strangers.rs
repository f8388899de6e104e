//! Datagrams from addresses that the program did not write to: answers to multicast, peers that were told its address.
//!
//! Keeps one rule: a stranger's datagram is passed on only under a permit to write to the stranger.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Instant;

use super::Shard;
use super::lanes::{Lane, UdpLane};
use crate::egress::{DialError, Source};
use crate::flow::FlowId;
use crate::packet::{Marks, frame_datagrams, frame_room};
use crate::router::Counter;
use crate::verdict::Permit;

impl Shard {
    pub(super) fn open_udp(&self, id: FlowId, permit: Permit, to: SocketAddr) -> Result<(Lane, RawFd), DialError> {
        let local = self.router.flow(id).map(|flow| flow.tuple.local);
        let is_spared = |port| self.attributor.was_left_just_now(port);
        let Some(local) = local.filter(|_| !self.lanes.is_connected(id)) else {
            let port = local.map_or(0, |local| local.port());
            let socket = self.dialer_for(id).udp_beside(permit, to, Source::Alone { port }, &is_spared)?;
            let fd = socket.as_raw_fd();
            return Ok((Lane::Udp(UdpLane { id, socket, lease: None }), fd));
        };
        let ports = &self.shared.ports;
        let known = ports.of(local);
        // What is sent to many is answered by each of them.
        let hears = to.ip().is_multicast() || known.is_none_or(|(_, heard)| !heard);
        let from = Source::Shared { port: local.port(), leased: known.map(|(port, _)| port), hears };
        let socket = self.dialer_for(id).udp_beside(permit, to, from, &is_spared)?;
        let lease = socket.port().and_then(|port| ports.lease(local, port, hears));
        let fd = socket.as_raw_fd();
        Ok((Lane::Udp(UdpLane { id, socket, lease }), fd))
    }

    /// Sends what another conversation with just these ends, by the program's port, kept from leaving: by that port all the same where the
    /// conversation is one from before us that goes on by this flow, else by the upstream socket's own.
    pub(super) fn send_by_port(&mut self, id: FlowId, data: &[u8], segment: Option<u16>, marks: Marks) -> io::Result<()> {
        let is_over = self.router.flow(id).is_some_and(|flow| self.attributor.forget_older(&flow.tuple, &self.own_addresses));
        let Some(Lane::Udp(lane)) = self.lanes.lane_mut(id.index()) else { return Err(io::ErrorKind::NotConnected.into()) };
        if is_over {
            match lane.socket.send(data, segment, marks) {
                Err(error) if lane.socket.lacks_port(&error) => {}
                sent => return sent,
            }
        }
        lane.socket.give_up_port()?;
        lane.socket.send(data, segment, marks)
    }

    /// Passes on what a stranger sent to the port of this flow, or does not. `frame` holds the data behind the room for headers.
    pub(super) fn hear(
        &mut self,
        id: FlowId,
        (stranger, marks): (SocketAddr, Marks),
        segment: Option<u16>,
        frame: &mut [u8],
        now: Instant,
    ) {
        let Some(local) = self.router.flow(id).map(|flow| flow.tuple.local) else { return };
        if self.router.admits(id, stranger).is_none() {
            return self.router.count(Counter::Stranger);
        }
        // Together only where they came so; who speaks for the first time seldom has much to say.
        let Some(len) = frame.len().checked_sub(frame_room(local.is_ipv4())) else { return };
        if frame_datagrams(frame, stranger, local, marks, segment).is_none() {
            return;
        }
        if self.tun.write(frame).is_err() {
            self.router.count(Counter::TunFull);
        }
        self.note_answer(id);
        self.router.account(id, 0, u64::try_from(len).unwrap_or(0), now);
    }

    /// The flow that hears what strangers send to this end.
    pub(super) fn hearer(&self, local: SocketAddr) -> Option<FlowId> {
        self.lanes.iter().find_map(|lane| match lane {
            Lane::Udp(lane) => lane.lease.as_ref().filter(|lease| lease.hears_for(local)).map(|_| lane.id),
            Lane::Tcp(_) | Lane::Echo(_) | Lane::Dns(_) | Lane::Link(_) | Lane::Express(_) => None,
        })
    }
}
