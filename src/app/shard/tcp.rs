//! TCP: the upstream connection comes first, then bytes move between it and the program's socket in smoltcp.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mio::Interest;
use smoltcp::socket::tcp::{Socket, State};

use super::lanes::{Lane, TcpLane, Upstream};
use super::{Shard, Sink, TURN_BYTES};
use crate::egress::{DialError, Opener, Progress, Stream, failure_of};
use crate::flow::FlowId;
use crate::packet::{Checksums, IpPacket, Protocol, Transport};
use crate::router::{Counter, Failure, Input, answer_to};
use crate::stack::{AcceptError, Opening, Stack};
use crate::verdict::Permit;

/// How long a program may take to read what a peer said before its connection broke; a program that reads nothing is told then.
const LAST_WORDS: Duration = Duration::from_secs(60);

/// From the handshake to the earliest reset. On a wire lies a round trip between the two, in which the program wakes up and sees that its
/// connection stands.
const WAKING_UP: Duration = Duration::from_millis(2);

/// How a turn of the pump ended.
enum Turn {
    /// Nothing more to do until an event or a packet.
    Rest,
    /// There is more; the next flow first.
    More,
    /// There is something to be said then.
    At(Instant),
    /// Both sides said their last word.
    Closed,
    /// The program reset the connection.
    ProgramReset,
    /// The upstream connection broke.
    Broken(Failure),
}

impl Shard {
    pub(super) fn open(&mut self, id: FlowId, permit: Permit, to: SocketAddr, now: Instant) {
        let Some(protocol) = self.router.flow(id).map(|flow| flow.tuple.protocol) else { return };
        if let Some(header) = self.lanes.link(id) {
            return self.open_linked(id, permit, (to, header.link), now);
        }
        if self.open_express(id, permit, to, now) {
            return;
        }
        let opened = match protocol {
            Protocol::TCP => {
                let Some(opener) = self.opener(id) else { return };
                self.dialer_for(id).tcp(permit, to, opener).map(|socket| {
                    let fd = socket.as_raw_fd();
                    (Lane::Tcp(TcpLane::new(id, Upstream::Connecting(socket))), fd)
                })
            }
            Protocol::UDP => self.open_udp(id, permit, to),
            _ => self.open_echo(id, permit, to),
        };
        let failure = match opened {
            Ok((lane, fd)) => {
                // Writability says that a connection stands or goes on; datagrams that do not fit are lost, as on any wire.
                let both = Interest::READABLE | Interest::WRITABLE;
                let interest = if matches!(lane, Lane::Tcp(_)) { both } else { Interest::READABLE };
                self.lanes.put(lane);
                self.register(id.index(), fd, interest).err().map(|error| failure_of(&error))
            }
            Err(error) => Some(failure_by(&error)),
        };
        if let Some(failure) = failure {
            self.lanes.take(id.index());
            if failure == Failure::Exhausted {
                self.tell_exhausted();
            }
            return self.router.handle(Input::Failed { flow: id, failure }, now);
        }
        if protocol != Protocol::TCP {
            self.datagrams.fresh.add(id, now);
            self.router.handle(Input::Opened(id), now);
        }
    }

    /// What the SYN that waits says.
    fn opener(&self, id: FlowId) -> Option<Opener> {
        let flow = self.router.flow(id)?;
        let hop_limit = IpPacket::parse(flow.parked().first()?, Checksums::Unfinished).ok()?.marks().hop_limit;
        Some(Opener { port: flow.tuple.local.port(), hop_limit })
    }

    /// Port 53 over TCP: the "upstream" is a pair of sockets whose other end the resolver reads.
    pub(super) fn open_dns(&mut self, id: FlowId, now: Instant) {
        let Some(flow) = self.router.flow(id) else { return };
        if flow.tuple.protocol != Protocol::TCP {
            self.lanes.put(Lane::Dns(id));
            return self.router.handle(Input::Opened(id), now);
        }
        let stream = self.dns_stream(id);
        match stream {
            Ok(stream) => {
                let fd = stream.as_raw_fd();
                self.lanes.put(Lane::Tcp(TcpLane { writable: true, ..TcpLane::new(id, Upstream::Open(stream)) }));
                let registered = self.register(id.index(), fd, Interest::READABLE | Interest::WRITABLE);
                let input = match registered {
                    Ok(()) => Input::Opened(id),
                    Err(error) => {
                        self.lanes.take(id.index());
                        Input::Failed { flow: id, failure: failure_of(&error) }
                    }
                };
                self.router.handle(input, now);
            }
            Err(error) => self.router.handle(Input::Failed { flow: id, failure: failure_of(&error) }, now),
        }
    }

    fn dns_stream(&mut self, id: FlowId) -> io::Result<Stream> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        let full = || io::Error::from_raw_os_error(libc::ENOBUFS);
        let flow = self.router.flow(id).ok_or_else(full)?;
        let asker = super::super::dns::DnsAsker::of(flow);
        let stream = super::super::dns::Stream { stream: theirs, from: flow.tuple.local, asked: flow.tuple.remote, asker };
        self.streams.try_send(stream).map_err(|_| full())?;
        Ok(Stream::from(ours))
    }

    pub(super) fn on_tcp_event(&mut self, slot: usize, now: Instant) {
        let Some(Lane::Tcp(lane)) = self.lanes.lane_mut(slot) else { return };
        let id = lane.id;
        if !matches!(lane.upstream, Upstream::Connecting(_)) {
            return self.mark(slot);
        }
        if !lane.writable {
            return;
        }
        let stands = !lane.hung_up;
        let Upstream::Connecting(connecting) = std::mem::replace(&mut lane.upstream, Upstream::Gone) else { return };
        match connecting.finish(stands) {
            Progress::Open(stream) => lane.upstream = Upstream::Open(stream),
            Progress::Reset(stream) => {
                lane.upstream = Upstream::Open(stream);
                (lane.broken, lane.readable, lane.hung_up) = (Some((Failure::Reset, now)), true, true);
            }
            Progress::Waiting(connecting) => {
                lane.upstream = Upstream::Connecting(connecting);
                lane.writable = false;
                return;
            }
            Progress::Failed(failure) => {
                self.lanes.take(slot);
                let failure = self.tellable(failure);
                return self.input(Input::Failed { flow: id, failure }, now);
            }
        }
        self.input(Input::Opened(id), now);
        self.mark(slot);
    }

    /// The upstream connection stands: the SYN that waited may be answered.
    pub(super) fn accept_tcp(&mut self, id: FlowId, packet: &IpPacket<'_>, now: Instant) {
        let Transport::Tcp(segment) = packet.transport() else { return };
        let opening = Opening { syn: packet.bytes(), max_segment: segment.max_segment, has_timestamps: segment.has_timestamps };
        let accepted = self.stack.accept(id.index(), &packet.tuple(), opening, &mut Sink(&self.tun), now);
        if let Err(why) = accepted {
            if matches!(why, AcceptError::Memory(_)) {
                self.router.count(Counter::Exhausted);
                self.tell_exhausted();
            }
            if let Some(answer) = answer_to(packet, Failure::Exhausted) {
                self.reply_by(self.lanes.link(id), &answer);
            }
            self.cut(id, now);
            self.router.handle(Input::Ended { flow: id, outcome: why.outcome() }, now);
        }
    }

    /// Moves what can be moved for one flow, then sends what became due.
    pub(super) fn pump(&mut self, slot: usize, now: Instant) {
        self.look_for_answer(slot, now);
        self.send_held(slot, now);
        let Some(Lane::Tcp(lane)) = self.lanes.lane_mut(slot) else { return };
        let (id, had_finished, had_ended) = (lane.id, lane.program_finished, lane.finished_down);
        let Some(up) = self.stack.with_socket(slot, |socket| move_up(lane, socket, now)) else { return };
        let down = move_down(lane, &mut self.stack, &mut Sink(&self.tun), now);
        let Some(turn) = self.stack.with_socket(slot, |socket| end_turn(lane, socket, up.max(down), now)) else { return };
        let closes = lane.program_finished != had_finished || matches!(turn, Turn::ProgramReset);
        let ends = lane.finished_down != had_ended;
        if up + down > 0 {
            lane.carried += up + down;
            self.router.account(id, up, down, now);
        }
        if (closes || ends)
            && let Some(cookie) = self.lanes.cookie(slot)
        {
            if closes { self.attributor.closing(cookie) } else { self.attributor.answered(cookie) }
        }
        if let Turn::Broken(_) = turn {
            // Who hears of it may want the same port at once.
            self.hang_up(slot);
            // A peer that finished before it reset has said both.
            self.stack.flush(slot, &mut Sink(&self.tun), now);
            self.stack.with_socket(slot, Socket::abort);
        }
        self.stack.flush(slot, &mut Sink(&self.tun), now);
        match turn {
            Turn::Rest => {}
            Turn::More => self.mark(slot),
            Turn::At(at) => {
                self.later.insert((at, slot));
            }
            Turn::Closed => self.end_tcp(slot, now, Input::Ended { flow: id, outcome: "closed" }),
            Turn::ProgramReset => {
                if let Some(Lane::Tcp(lane)) = self.lanes.lane_mut(slot)
                    && let Upstream::Open(stream) = std::mem::replace(&mut lane.upstream, Upstream::Gone)
                {
                    stream.reset();
                }
                self.end_tcp(slot, now, Input::Ended { flow: id, outcome: "reset by program" });
            }
            // Also where the peer has only fallen silent: what it did not take is acknowledged, so no clock of the program's runs.
            Turn::Broken(failure) => self.end_tcp(slot, now, Input::Failed { flow: id, failure }),
        }
    }

    fn end_tcp(&mut self, slot: usize, now: Instant, input: Input<'_>) {
        self.hang_up(slot);
        if let Some(Lane::Tcp(lane)) = self.lanes.take(slot) {
            self.stack.remove(slot, lane.carried);
        }
        self.input(input, now);
    }

    /// Closes the upstream socket of a flow, if it is still open.
    fn hang_up(&mut self, slot: usize) {
        if let Some(Lane::Tcp(lane)) = self.lanes.lane_mut(slot)
            && let Upstream::Open(stream) = std::mem::replace(&mut lane.upstream, Upstream::Gone)
            && let Some(rtt) = stream.rtt_us()
        {
            self.router.note_rtt(lane.id, rtt);
        }
    }

    /// Ends a flow at both ends at once: a reset each way.
    pub(super) fn cut(&mut self, id: FlowId, now: Instant) {
        if self.lanes.lane(id.index()).is_none_or(|lane| lane.id() != id) {
            return;
        }
        let Some(lane) = self.lanes.take(id.index()) else { return };
        if let Lane::Express(lane) = lane {
            return self.cut_express(lane);
        }
        if let Lane::Tcp(lane) = lane {
            self.stack.with_socket(id.index(), Socket::abort);
            self.stack.flush(id.index(), &mut Sink(&self.tun), now);
            self.stack.remove(id.index(), lane.carried);
            if let Upstream::Open(stream) = lane.upstream {
                stream.reset();
            }
        }
    }
}

/// What a program is told where there is no upstream socket.
pub(super) fn failure_by(error: &DialError) -> Failure {
    match error {
        DialError::NoGate => Failure::Unreachable(crate::packet::Unreachable::Prohibited),
        DialError::Kernel { source, .. } => failure_of(source),
    }
}

/// Moves the program's bytes, at most a turn's worth; says how many.
fn move_up(lane: &mut TcpLane, socket: &mut Socket<'_>, now: Instant) -> u64 {
    let Upstream::Open(stream) = &lane.upstream else { return 0 };
    let mut up = 0;
    while lane.writable && lane.broken.is_none() && socket.can_recv() && up < TURN_BYTES {
        match socket.recv(|bytes| split(stream.write(bytes))) {
            Ok(Ok(sent)) => up += sent,
            Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => lane.writable = false,
            // What the peer said before it hung up is still to be read.
            Ok(Err(error)) => (lane.broken, lane.readable, lane.hung_up) = (Some((failure_of(&error), now)), true, true),
            Err(_) => break,
        }
    }
    // Seen before the socket can be closed by it: between the two lies a FIN of ours, which only a turn sends.
    lane.program_finished |= matches!(socket.state(), State::CloseWait | State::LastAck | State::Closing | State::TimeWait);
    if lane.program_finished && !lane.finished_up && socket.recv_queue() == 0 {
        stream.finish_writing();
        lane.finished_up = true;
    }
    up
}

/// Moves the peer's bytes, at most a turn's worth; says how many.
fn move_down(lane: &mut TcpLane, stack: &mut Stack, sink: &mut Sink<'_>, now: Instant) -> u64 {
    let (slot, Upstream::Open(stream)) = (lane.id.index(), &lane.upstream) else { return 0 };
    let mut down = 0;
    while lane.readable && !lane.finished_down && down < TURN_BYTES {
        let Some(drawn) = stack.draw(slot, |room| stream.read(room), sink, now) else { break };
        match drawn.read {
            Ok(0) => {
                if lane.broken.is_none() {
                    stack.with_socket(slot, Socket::close);
                }
                lane.finished_down = true;
            }
            Ok(read) => {
                down += u64::try_from(read).unwrap_or(0);
                // A short read of a stream has emptied it (epoll(7)); the next bytes make a new edge.
                lane.readable = lane.hung_up || read == drawn.room;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => lane.readable = false,
            Err(error) => {
                lane.broken.get_or_insert((failure_of(&error), now));
                lane.finished_down = true;
            }
        }
    }
    down
}

/// Ends a turn in which the busier way had `moved` bytes.
fn end_turn(lane: &mut TcpLane, socket: &Socket<'_>, moved: u64, now: Instant) -> Turn {
    let Upstream::Open(stream) = &lane.upstream else { return Turn::Rest };
    if !matches!(socket.state(), State::Listen | State::SynReceived) {
        lane.answered.get_or_insert(now);
    }
    if lane.troubled && lane.finished_down {
        // A reset behind the peer's last word: no read tells of it, and a write only if the program has something to say.
        lane.troubled = false;
        lane.broken = lane.broken.or_else(|| stream.take_error().map(|error| (failure_of(&error), now)));
    }
    turn_of(lane, socket, moved, now)
}

/// How the turn ended, `moved` being the busier way's bytes.
fn turn_of(lane: &TcpLane, socket: &Socket<'_>, moved: u64, now: Instant) -> Turn {
    let more = if moved >= TURN_BYTES { Turn::More } else { Turn::Rest };
    let state = socket.state();
    if let Some((failure, since)) = lane.broken {
        let nothing_waits = lane.finished_down && socket.send_queue() == 0;
        if let Some(awake) = lane.answered.map(|at| at + WAKING_UP)
            && nothing_waits
            && now < awake
            && state != State::Closed
        {
            return Turn::At(awake);
        }
        return if nothing_waits || state == State::Closed || now >= since + LAST_WORDS { Turn::Broken(failure) } else { more };
    }
    let both_finished = lane.program_finished && lane.finished_down;
    match state {
        State::TimeWait | State::Closed if both_finished && lane.finished_up => Turn::Closed,
        // The program is gone in good order; the upstream socket has not taken all of its bytes yet.
        State::TimeWait | State::Closed if both_finished => more,
        State::Closed => Turn::ProgramReset,
        _ => more,
    }
}

/// What smoltcp wants of a closure: how many bytes were moved, and what to hand on.
fn split(result: io::Result<usize>) -> (usize, io::Result<u64>) {
    match result {
        Ok(moved) => (moved, Ok(u64::try_from(moved).unwrap_or(u64::MAX))),
        Err(error) => (0, Err(error)),
    }
}
