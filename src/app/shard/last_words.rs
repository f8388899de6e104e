//! Datagrams of sockets that are closed by the time that they are looked for: `echo hi >/dev/udp/…` of a shell, a line to statsd.
//!
//! Keeps one rule: they are whose the kernel's notes of closed sockets say only where everything else says nobody: no socket is there, and
//! the packet left its checksum to the device, as a raw socket's cannot. Whatever is uncertain stays nobody's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shard;
use super::identify::{Attributor, unattributed};
use crate::bpf::{ClosedSockets, Sender};
use crate::flow::FlowId;
use crate::packet::{Arrival, FiveTuple, IpPacket, Protocol};
use crate::process::{Confidence, Identity, Socket};
use crate::procfs::Effort;

/// The most that the search waits for a socket that is just being closed.
const MOMENT: Duration = Duration::from_millis(1);

impl Attributor {
    /// Who made the socket of a flow, if it is closed. With its cookie it is the very socket, and a search through the programs is in vain.
    pub(super) fn maker_of_closed(&self, socket: &Socket) -> Option<Arc<Identity>> {
        let sender = self.closed.as_ref()?.maker(socket.cookie)?;
        self.identity_of(&sender, Instant::now(), Effort::Read)
    }

    /// The same after a search in vain, during which it may have been closed. Its descriptor ends a moment before its closing is noted.
    pub(super) fn maker_of_closing(&self, tuple: &FiveTuple, socket: &Socket) -> Option<Arc<Identity>> {
        if self.closed.is_none() || tuple.protocol != Protocol::UDP {
            return None;
        }
        self.maker_of_closed(socket).or_else(|| {
            std::thread::sleep(MOMENT);
            self.maker_of_closed(socket)
        })
    }

    /// Who made and closed a socket, if the process was looked at before.
    pub(super) fn known_maker(&self, sender: &Sender, sent: Instant) -> Option<Arc<Identity>> {
        self.identity_of(sender, sent, Effort::Known(&|pid, since| self.is_same(pid, since)))
    }

    /// The same of whomever; nobody where that is not certain.
    pub(super) fn maker_of(&self, sender: &Sender) -> Arc<Identity> {
        self.identity_of(sender, Instant::now(), Effort::Read).unwrap_or_else(|| unattributed(Some(sender.uid)))
    }

    /// Whether the socket with this cookie, closed by now, sent another packet of its flow, or another one of the same program did. The
    /// port may be another program's by now. `after`: when the packet was sent at the earliest; 0: that is not known.
    fn is_last_word_of(&self, cookie: u64, tuple: &FiveTuple, arrival: Arrival, after: u64, now: Instant) -> bool {
        is_a_sockets(arrival) && (self.has_sent_alone(tuple, cookie, after) || self.is_last_word_by_tables(cookie, tuple, now))
    }

    fn is_last_word_by_tables(&self, cookie: u64, tuple: &FiveTuple, now: Instant) -> bool {
        let is_one_of = |other| self.may_have_sent(tuple, &[cookie, other]);
        match self.look_with_holder(tuple, None, now) {
            Ok(None) => self.closed.as_ref().and_then(|closed| closed.sender(tuple)).is_some_and(|sender| {
                is_one_of(sender.cookie) && (sender.cookie == cookie || self.is_process_of(cookie, sender.pid))
            }),
            // Its closing is noted a moment before it leaves the tables.
            Ok(Some((socket, holder))) => {
                let is_process = || holder.and_then(|holder| holder.pid).is_some_and(|pid| self.is_process_of(cookie, pid));
                is_one_of(socket.cookie) && (socket.cookie == cookie || is_process())
            }
            Err(_) => false,
        }
    }

    /// Whether this process made the socket with this cookie, which was closed just now, and has been the same program since.
    fn is_process_of(&self, cookie: u64, pid: u32) -> bool {
        let closed = self.closed.as_ref().and_then(|closed| Some((closed, closed.maker(cookie)?)));
        closed.is_some_and(|(closed, maker)| maker.pid == pid && closed.is_same_program(&maker))
    }

    /// Whether the socket of a flow is closed, as far as is known: by the note of its closing, else by the kernel's tables, which cost
    /// more to ask.
    pub(super) fn is_closed(&self, tuple: &FiveTuple, link: Option<u32>, cookie: Option<u64>) -> bool {
        let is_noted = |cookie| self.closed.as_ref().is_some_and(|closed| closed.maker(cookie).is_some());
        cookie.is_some_and(is_noted) || !self.is_there(tuple, link)
    }

    /// Whether a program has closed a UDP socket of this port so lately that its last words may still come.
    pub(super) fn was_left_just_now(&self, port: u16) -> bool {
        self.closed.as_ref().is_some_and(|closed| closed.was_left_just_now(port))
    }

    pub(super) fn identity_of(&self, sender: &Sender, sent: Instant, effort: Effort<'_>) -> Option<Arc<Identity>> {
        let (closed, socket) = (self.closed.as_ref()?, socket_of(sender));
        let maker = self.processes.find_maker(sender.pid, sender.made, &socket, sent, effort);
        let ended = || match effort {
            Effort::Known(_) => None,
            Effort::Read => {
                let ended = self.processes.find_ended(sender.pid, &closed.portrait(sender)?, &socket)?;
                closed.stayed_the_same(sender).then_some(ended)
            }
        };
        let maker = maker.or_else(ended)?;
        // After the look: what was looked at is what made the socket.
        closed.is_same_program(sender).then_some(maker)
    }
}

fn socket_of(sender: &Sender) -> Socket {
    let Sender { uid, cookie, .. } = *sender;
    Socket { inode: 0, uid, cookie, cgroup_id: None, mark: 0, link: 0, confidence: Confidence::Likely }
}

impl Shard {
    /// Who made and closed the socket that the first packet of a flow is of, and the socket, where the tables know no socket: by the kernel's
    /// notes it may have sent last.
    pub(super) fn likely_sender_of_last_word(&self, id: FlowId, tuple: &FiveTuple) -> Option<(Sender, Socket)> {
        let noted = self.noted_sender_of_last_word(id, tuple);
        noted.or_else(|| {
            // One that has left the port without being closed is noted to have sent last.
            let sender =
                self.closed_for(id)?.sender(tuple).filter(|sender| self.attributor.may_have_sent(tuple, &[sender.cookie]))?;
            Some((sender, socket_of(&sender)))
        })
    }

    /// The same where the tables cannot be asked: it is noted that it sent last, and alone. Then it does not matter how long this waited for us.
    pub(super) fn noted_sender_of_last_word(&self, id: FlowId, tuple: &FiveTuple) -> Option<(Sender, Socket)> {
        let after = self.noted_after(self.router.flow(id)?.parked().arrival());
        let sender =
            self.closed_for(id)?.closer(tuple).filter(|sender| self.attributor.has_sent_alone(tuple, sender.cookie, after))?;
        Some((sender, socket_of(&sender)))
    }

    /// The notes of closed sockets, for a flow whose first packet may be of one.
    fn closed_for(&self, id: FlowId) -> Option<&ClosedSockets> {
        let arrival = self.router.flow(id)?.parked().arrival()?;
        self.attributor.closed.as_ref().filter(|_| is_a_sockets(arrival))
    }

    /// Notes the socket of a flow as closed if it is so by now: then the port may be another's, who may have sent what is parked last.
    pub(super) fn note_if_closed(&mut self, id: FlowId) {
        let (Some(flow), Some(cookie)) = (self.router.flow(id), self.lanes.cookie(id.index())) else { return };
        // Of fragments it could not be told later whose they are.
        let is_told = flow.parked().arrival().is_some_and(is_a_sockets);
        if is_told && self.attributor.closed.as_ref().is_some_and(|closed| closed.maker(cookie).is_some()) {
            self.lanes.note_closed(id);
        }
    }

    /// Whether the socket with this cookie, which was closed when it was noted as a flow's, sent another packet of the flow.
    pub(super) fn is_last_word_of(
        &self,
        (cookie, noted): (u64, Instant),
        tuple: &FiveTuple,
        packet: Option<&IpPacket<'_>>,
        after: u64,
        now: Instant,
    ) -> bool {
        // In the turn in which it was noted: what is parked was sent before, and no socket was there then.
        noted == now || packet.is_some_and(|packet| self.attributor.is_last_word_of(cookie, tuple, packet.arrival(), after, now))
    }
}

/// Raw sockets finish their checksums themselves; of fragments it cannot be told.
fn is_a_sockets(arrival: Arrival) -> bool {
    match arrival {
        Arrival::Whole | Arrival::Together(_) => true,
        Arrival::Finished | Arrival::Fragments => false,
    }
}
