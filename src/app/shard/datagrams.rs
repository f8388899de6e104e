//! UDP, echo and DNS datagrams.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Instant;

use super::Shard;
use super::lanes::{EchoLane, Lane, UdpLane};
use crate::app::dns::{Datagram, DnsAsker};
use crate::egress::{DialError, Trouble};
use crate::flow::FlowId;
use crate::packet::{
    Checksums, FiveTuple, IpPacket, Protocol, Transport, VNET_HEADER_LEN, echo_reply, echo_request, time_exceeded, udp_datagram,
};
use crate::router::{Counter, Input};
use crate::verdict::Permit;

/// Datagrams read in a row from one socket.
const TURN_DATAGRAMS: usize = 64;
/// Errors taken in a row from one socket.
const TURN_ERRORS: usize = 16;
/// The hop limit of answers that we give ourselves.
const HOP_LIMIT: u8 = 64;

impl Shard {
    pub(super) fn open_udp(&self, id: FlowId, permit: Permit, to: SocketAddr) -> Result<(Lane, RawFd), DialError> {
        let socket = self.dialer.udp(permit, to)?;
        let fd = socket.as_raw_fd();
        Ok((Lane::Udp(UdpLane { id, socket }), fd))
    }

    pub(super) fn open_echo(&self, id: FlowId, permit: Permit, to: SocketAddr) -> Result<(Lane, RawFd), DialError> {
        let socket = self.dialer.ping(permit, to)?;
        let fd = socket.as_raw_fd();
        Ok((Lane::Echo(EchoLane { id, socket }), fd))
    }

    pub(super) fn send_datagram(&mut self, id: FlowId, packet: &IpPacket<'_>, now: Instant) {
        let slot = id.index();
        let sent = match (self.lanes.lane_mut(slot), packet.transport()) {
            (Some(Lane::Udp(lane)), Transport::Udp(data)) => {
                // An error that came back for an earlier datagram takes the place of one send; it is told below.
                let mut send = || lane.socket.send(data, packet.hop_limit());
                send().or_else(|_| send()).map(|()| data.len())
            }
            (Some(Lane::Echo(lane)), Transport::Echo(echo)) => {
                let mut send = || lane.socket.send(echo.ident, echo.sequence, echo.data, packet.hop_limit());
                send().or_else(|_| send()).map(|()| echo.data.len())
            }
            (Some(Lane::Dns(_)), Transport::Udp(data)) => return self.hand_question(id, data),
            _ => return,
        };
        if let Ok(len) = sent {
            self.router.account(id, u64::try_from(len).unwrap_or(0), 0, now);
        }
    }

    fn hand_question(&mut self, id: FlowId, data: &[u8]) {
        let Some(flow) = self.router.flow(id) else { return };
        let asker = DnsAsker::of(flow);
        let datagram = Datagram { flow: id, from: flow.tuple.local, asked: flow.tuple.remote, payload: data.to_vec(), asker };
        if self.dns.try_send(datagram).is_err() {
            self.router.count(Counter::HandOverFull);
        }
    }

    /// The resolver's answer goes out from the address that was asked.
    pub(super) fn answer_dns(&mut self, id: FlowId, payload: &[u8], now: Instant) {
        let Some(tuple) = self.router.flow(id).map(|flow| flow.tuple) else { return };
        self.out.clear();
        self.out.resize(VNET_HEADER_LEN, 0);
        udp_datagram(tuple.remote, tuple.local, HOP_LIMIT, payload, &mut self.out);
        self.write_out();
        self.router.account(id, 0, u64::try_from(payload.len()).unwrap_or(0), now);
    }

    pub(super) fn on_datagram_event(&mut self, slot: usize, now: Instant) {
        let all_taken = self.take_troubles(slot, now);
        let all_read = (0..TURN_DATAGRAMS).any(|_| !self.receive_one(slot, now));
        if all_taken && all_read {
            return;
        }
        // There may be more, and its edge is gone: a new registration makes a new one.
        if let Some(fd) = self.lanes.lane(slot).and_then(fd_of) {
            let again = self.poll.registry().reregister(&mut mio::unix::SourceFd(&fd), mio::Token(slot), mio::Interest::READABLE);
            if again.is_err() {
                self.router.count(Counter::HandOverFull);
            }
        }
    }

    /// Passes one datagram on to the program, or takes an error that came instead; false when there is nothing.
    fn receive_one(&mut self, slot: usize, now: Instant) -> bool {
        let mut buffer = std::mem::take(&mut self.buffer);
        let more = self.receive_into(slot, &mut buffer, now);
        self.buffer = buffer;
        more
    }

    fn receive_into(&mut self, slot: usize, buffer: &mut [u8], now: Instant) -> bool {
        self.out.clear();
        self.out.resize(VNET_HEADER_LEN, 0);
        let (id, len) = match self.lanes.lane(slot) {
            Some(Lane::Udp(lane)) => {
                let received = match lane.socket.receive(buffer) {
                    Ok(received) => received,
                    // An error stands before the datagrams behind it; its cause is in the error queue.
                    Err(error) => return error.kind() != ErrorKind::WouldBlock,
                };
                let Some((tuple, data)) = self.router.flow(lane.id).map(|f| f.tuple).zip(buffer.get(..received.len)) else {
                    return false;
                };
                udp_datagram(tuple.remote, tuple.local, received.hop_limit.unwrap_or(HOP_LIMIT), data, &mut self.out);
                (lane.id, data.len())
            }
            Some(Lane::Echo(lane)) => {
                let Some(tuple) = self.router.flow(lane.id).map(|flow| flow.tuple) else { return false };
                let (from, to, ident) = (tuple.remote.ip(), tuple.local.ip(), tuple.local.port());
                match lane.socket.receive(ident, buffer) {
                    Ok(Some(reply)) => {
                        echo_reply(from, to, reply.hop_limit, ident, reply.sequence, reply.data, &mut self.out);
                        (lane.id, reply.data.len())
                    }
                    Ok(None) => return true,
                    Err(error) => return error.kind() != ErrorKind::WouldBlock,
                }
            }
            Some(Lane::Tcp(_) | Lane::Dns(_)) | None => return false,
        };
        self.write_out();
        self.router.account(id, 0, u64::try_from(len).unwrap_or(0), now);
        true
    }

    /// Tells the program of ICMP errors that came back; false when there may be more.
    fn take_troubles(&mut self, slot: usize, now: Instant) -> bool {
        for _ in 0..TURN_ERRORS {
            let (id, trouble, sequence) = match self.lanes.lane(slot) {
                Some(Lane::Udp(lane)) => (lane.id, lane.socket.trouble(), 0),
                Some(Lane::Echo(lane)) => {
                    let (trouble, sequence) = lane.socket.trouble();
                    (lane.id, trouble, sequence)
                }
                Some(Lane::Tcp(_) | Lane::Dns(_)) | None => return true,
            };
            match trouble {
                Trouble::None => return true,
                Trouble::Other => {}
                Trouble::Failure(failure) => self.input(Input::Failed { flow: id, failure }, now),
                Trouble::TimeExceeded(hop) => self.tell_time_exceeded(id, hop, sequence),
            }
        }
        false
    }

    fn tell_time_exceeded(&mut self, id: FlowId, hop: IpAddr, sequence: u16) {
        let Some(tuple) = self.router.flow(id).map(|flow| flow.tuple) else { return };
        let quoted = quote(&tuple, sequence);
        let Ok(packet) = IpPacket::parse(&quoted, Checksums::Unfinished) else { return };
        let mut reply = Vec::new();
        time_exceeded(&packet, hop, &mut reply);
        if !reply.is_empty() {
            self.reply(&reply);
        }
    }
}

/// The beginning of what the program sent, as far as its kernel needs it to find the socket.
fn quote(tuple: &FiveTuple, sequence: u16) -> Vec<u8> {
    let mut quoted = Vec::new();
    if tuple.protocol == Protocol::UDP {
        udp_datagram(tuple.local, tuple.remote, 1, &[], &mut quoted);
    } else {
        echo_request(tuple.local.ip(), tuple.remote.ip(), tuple.local.port(), sequence, &mut quoted);
    }
    quoted
}

fn fd_of(lane: &Lane) -> Option<RawFd> {
    match lane {
        Lane::Udp(lane) => Some(lane.socket.as_raw_fd()),
        Lane::Echo(lane) => Some(lane.socket.as_raw_fd()),
        Lane::Tcp(_) | Lane::Dns(_) => None,
    }
}
