//! UDP, echo and DNS datagrams.
//!
//! Keeps one rule: what a program sent as one datagram leaves as one and comes back as one, however many move in one system call.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Instant;

use super::Shard;
use super::closed::{Fresh, Words};
use super::lanes::{EchoLane, Lane};
use super::runs::{Run, Runs, Shape};
use crate::app::dns::{Datagram, DnsAsker};
use crate::egress::{DialError, Received, failure_of};
use crate::flow::FlowId;
use crate::packet::{
    Arrival, FiveTuple, IpPacket, Marks, Reassembly, Transport, VNET_HEADER_LEN, echo_reply, frame_datagrams, frame_room,
    udp_datagram,
};
use crate::router::{Counter, Input};
use crate::verdict::Permit;

/// Datagrams read in a row from one socket.
const TURN_DATAGRAMS: usize = 64;
/// So many in a row, and more are expected.
const MANY: usize = 8;
/// The hop limit of answers that we give ourselves.
const HOP_LIMIT: u8 = 64;
/// The largest datagram.
const DATAGRAM_MAX: usize = 65_535;

/// What datagram flows share.
pub(super) struct Datagrams {
    runs: Runs,
    /// Headers and the datagrams of a run on their way down; behind a full run there is room for one more.
    frame: Box<[u8]>,
    /// The TUN takes datagrams together.
    together: bool,
    /// What programs send in fragments.
    pub(super) fragments: Reassembly,
    pub(super) fresh: Fresh,
    pub(super) words: Words,
}

impl Default for Datagrams {
    fn default() -> Self {
        Self {
            runs: Runs::default(),
            frame: Box::default(),
            together: true,
            fragments: Reassembly::default(),
            fresh: Fresh::default(),
            words: Words::default(),
        }
    }
}

/// Datagrams of one flow on their way down.
struct Inbound {
    id: FlowId,
    tuple: FiveTuple,
    marks: Marks,
    shape: Shape,
}

impl Shard {
    pub(super) fn open_echo(&self, id: FlowId, permit: Permit, to: SocketAddr) -> Result<(Lane, RawFd), DialError> {
        let socket = self.dialer.leaving_from(self.bound_to(id)).ping(permit, to)?;
        let fd = socket.as_raw_fd();
        Ok((Lane::Echo(EchoLane { id, socket }), fd))
    }

    pub(super) fn send_datagram(&mut self, id: FlowId, packet: &IpPacket<'_>, now: Instant) {
        match (self.lanes.lane_mut(id.index()), packet.transport(), packet.arrival()) {
            (Some(Lane::Udp(_)), Transport::Udp(data), Arrival::Together(size)) => {
                // What waits was sent before.
                self.send_runs(now);
                self.send_up(id, data, Some(size), packet.marks(), now);
            }
            (Some(Lane::Udp(_)), Transport::Udp(data), Arrival::Whole | Arrival::Finished | Arrival::Fragments) => {
                if let Some(run) = self.datagrams.runs.add(id, packet.marks(), data) {
                    self.send_run(run, now);
                }
            }
            (Some(Lane::Echo(lane)), Transport::Echo(echo), _) => {
                let mut send = || lane.socket.send(echo.ident, echo.sequence, echo.data, packet.marks());
                match send().or_else(|_| send()) {
                    Ok(()) => self.router.account(id, u64::try_from(echo.data.len()).unwrap_or(0), 0, now),
                    Err(error) if is_stranded(&error) => self.end_stranded(id, now),
                    // Lost, as on any wire; the error queue knows more.
                    Err(_) => {}
                }
            }
            (Some(Lane::Dns(_)), Transport::Udp(data), _) => self.hand_question(id, data),
            (Some(Lane::Link(_)), _, _) => self.send_linked(id, packet, now),
            _ => {}
        }
    }

    /// Ends the echo flows whose address this host has lost. Their sockets never take another one, and where nobody says so (IPv6) send on.
    pub(super) fn end_all_stranded(&mut self, now: Instant) {
        let lost = |lane: &EchoLane| lane.socket.source().is_some_and(|source| !self.is_own(source));
        let stranded: Vec<FlowId> = self
            .lanes
            .iter()
            .filter_map(|lane| match lane {
                Lane::Echo(lane) => lost(lane).then_some(lane.id),
                Lane::Tcp(_) | Lane::Udp(_) | Lane::Dns(_) | Lane::Link(_) | Lane::Express(_) => None,
            })
            .collect();
        stranded.into_iter().for_each(|id| self.end_stranded(id, now));
    }

    /// The next request opens another flow, by the way that there is then: a socket that pings without us takes it, too.
    fn end_stranded(&mut self, id: FlowId, now: Instant) {
        self.cut(id, now);
        self.input(Input::Ended { flow: id, outcome: "address gone" }, now);
    }

    /// Sends what waits for more of its kind; nothing waits longer than a batch.
    pub(super) fn send_runs(&mut self, now: Instant) {
        while let Some(run) = self.datagrams.runs.pop() {
            self.send_run(run, now);
        }
    }

    fn send_run(&mut self, run: Run, now: Instant) {
        self.send_up(run.id, run.bytes(), run.shape.segment(), run.marks, now);
        self.datagrams.runs.done(run);
    }

    fn send_up(&mut self, id: FlowId, data: &[u8], segment: Option<u16>, marks: Marks, now: Instant) {
        let Some(Lane::Udp(lane)) = self.lanes.lane_mut(id.index()).filter(|lane| lane.id() == id) else { return };
        let sent = match lane.socket.send(data, segment, marks) {
            Err(error) if lane.socket.lacks_port(&error) => self.send_by_port(id, data, segment, marks),
            sent => sent,
        };
        match sent {
            Ok(()) => self.router.account(id, u64::try_from(data.len()).unwrap_or(0), 0, now),
            // Lost, as on any wire.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS)) => {
                self.router.count(Counter::UpstreamFull);
            }
            // The error queue knows more.
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {}
            Err(error) => self.input(Input::Failed { flow: id, failure: failure_of(&error) }, now),
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
        match self.lanes.link(id) {
            None => self.write_out(),
            came_by => {
                let answer = self.out.split_off(VNET_HEADER_LEN);
                self.reply_by(came_by, &answer);
            }
        }
        self.note_answer(id);
        self.router.account(id, 0, u64::try_from(payload.len()).unwrap_or(0), now);
    }

    /// What came in for a flow; `troubled` when errors did.
    pub(super) fn on_datagram_event(&mut self, slot: usize, troubled: bool, now: Instant) {
        let all_taken = !troubled || self.take_troubles(slot, now);
        let all_read = match self.lanes.lane(slot) {
            Some(Lane::Udp(_)) => self.receive_datagrams(slot, now),
            Some(Lane::Echo(_)) => (0..TURN_DATAGRAMS).any(|_| !self.receive_echo(slot, now)),
            Some(Lane::Tcp(_) | Lane::Dns(_) | Lane::Link(_) | Lane::Express(_)) | None => return,
        };
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

    /// Passes datagrams on to the program; false when there may be more.
    fn receive_datagrams(&mut self, slot: usize, now: Instant) -> bool {
        let Some(Lane::Udp(lane)) = self.lanes.lane(slot) else { return true };
        let Some(tuple) = self.router.flow(lane.id).map(|flow| flow.tuple) else { return true };
        let marks = Marks { hop_limit: HOP_LIMIT, traffic_class: 0, dont_fragment: true };
        let mut inbound = Inbound { id: lane.id, tuple, marks, shape: Shape::default() };
        let mut frame = std::mem::take(&mut self.datagrams.frame);
        if frame.is_empty() {
            frame = vec![0; frame_room(false) + 2 * DATAGRAM_MAX].into_boxed_slice();
        }
        let mut all_read = false;
        for turn in 0..TURN_DATAGRAMS {
            let Some(Lane::Udp(lane)) = self.lanes.lane_mut(slot) else { break };
            if turn == MANY {
                lane.socket.expect_many(self.datagrams.together);
            }
            let begin = frame_room(tuple.local.is_ipv4()) + inbound.shape.len;
            let Some(room) = frame.get_mut(begin..begin + DATAGRAM_MAX) else { break };
            match lane.socket.receive(room) {
                Ok(received) => self.join(&mut inbound, &received, &mut frame, now),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    all_read = true;
                    break;
                }
                // An error stands before the datagrams behind it; its cause is in the error queue.
                Err(_) => {}
            }
        }
        self.write_down(&mut inbound, &mut frame, now);
        self.datagrams.frame = frame;
        all_read
    }

    /// Lets what was received, which stands behind the run so far, join the run; where it cannot, the run goes first.
    fn join(&mut self, inbound: &mut Inbound, received: &Received, frame: &mut [u8], now: Instant) {
        let hop_limit = received.hop_limit.unwrap_or(HOP_LIMIT);
        let marks = Marks { hop_limit, traffic_class: received.traffic_class, dont_fragment: true };
        let alone = received.segment.is_some() || received.from.is_some();
        if !inbound.shape.is_empty() && (alone || marks != inbound.marks || !inbound.shape.takes(received.len)) {
            let room = frame_room(inbound.tuple.local.is_ipv4());
            let begin = room + inbound.shape.len;
            self.write_down(inbound, frame, now);
            frame.copy_within(begin..begin + received.len, room);
        }
        inbound.marks = marks;
        if let Some(stranger) = received.from {
            let end = frame_room(inbound.tuple.local.is_ipv4()) + received.len;
            let frame = frame.get_mut(..end).unwrap_or(&mut []);
            return self.hear(inbound.id, (stranger, marks), received.segment, frame, now);
        }
        match received.segment {
            Some(size) => {
                inbound.shape = Shape::together(received.len, size.into());
                self.write_down(inbound, frame, now);
            }
            None => inbound.shape.add(received.len),
        }
    }

    /// Writes a run to the program: at once where the kernel cuts it, else one by one.
    fn write_down(&mut self, inbound: &mut Inbound, frame: &mut [u8], now: Instant) {
        let Inbound { id, tuple, marks, shape } = inbound;
        let shape = std::mem::take(shape);
        if shape.is_empty() {
            return;
        }
        let room = frame_room(tuple.local.is_ipv4());
        let Some(frame) = frame.get_mut(..room + shape.len) else { return };
        let written = shape.segment().is_none_or(|_| self.datagrams.together) && {
            let framed = frame_datagrams(frame, tuple.remote, tuple.local, *marks, shape.segment());
            let written = framed.is_some().then(|| self.tun.write(frame));
            // A kernel older than 6.2 takes no datagrams together.
            let refused = matches!(&written, Some(Err(error)) if error.kind() == ErrorKind::InvalidInput);
            self.datagrams.together &= !refused;
            matches!(written, Some(Ok(_)))
        };
        if !written {
            self.write_each(tuple, *marks, shape, frame);
        }
        self.note_answer(*id);
        self.router.account(*id, 0, u64::try_from(shape.len).unwrap_or(0), now);
    }

    /// The headers of each datagram go where the one before has been.
    fn write_each(&mut self, tuple: &FiveTuple, marks: Marks, shape: Shape, frame: &mut [u8]) {
        let room = frame_room(tuple.local.is_ipv4());
        let size = shape.segment().map_or(shape.len, usize::from).max(1);
        for begin in (0..shape.len).step_by(size) {
            let end = (begin + size).min(shape.len);
            let Some(one) = frame.get_mut(begin..room + end) else { return };
            let framed = frame_datagrams(one, tuple.remote, tuple.local, marks, None);
            if framed.is_none() || self.tun.write(one).is_err() {
                self.router.count(Counter::TunFull);
            }
        }
    }

    /// Passes one echo reply on to the program, or takes an error that came instead; false when there is nothing.
    fn receive_echo(&mut self, slot: usize, now: Instant) -> bool {
        let mut buffer = std::mem::take(&mut self.buffer);
        let more = self.receive_echo_into(slot, &mut buffer, now);
        self.buffer = buffer;
        more
    }

    fn receive_echo_into(&mut self, slot: usize, buffer: &mut [u8], now: Instant) -> bool {
        let Some(Lane::Echo(lane)) = self.lanes.lane(slot) else { return false };
        let Some(tuple) = self.router.flow(lane.id).map(|flow| flow.tuple) else { return false };
        let (from, to, ident) = (tuple.remote.ip(), tuple.local.ip(), tuple.local.port());
        self.out.clear();
        self.out.resize(VNET_HEADER_LEN, 0);
        let (id, len) = match lane.socket.receive(ident, buffer) {
            Ok(Some(reply)) => {
                let marks = Marks { hop_limit: reply.hop_limit, traffic_class: reply.traffic_class, dont_fragment: true };
                echo_reply(from, to, marks, ident, reply.sequence, reply.data, &mut self.out);
                (lane.id, reply.data.len())
            }
            Ok(None) => return true,
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        };
        self.write_out();
        self.router.account(id, 0, u64::try_from(len).unwrap_or(0), now);
        true
    }
}

/// Whether the kernel finds no way for the address that a socket has (`ip_route_output_key_hash_rcu` in net/ipv4/route.c).
fn is_stranded(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENETUNREACH))
}

fn fd_of(lane: &Lane) -> Option<RawFd> {
    match lane {
        Lane::Udp(lane) => Some(lane.socket.as_raw_fd()),
        Lane::Echo(lane) => Some(lane.socket.as_raw_fd()),
        Lane::Tcp(_) | Lane::Dns(_) | Lane::Link(_) | Lane::Express(_) => None,
    }
}
