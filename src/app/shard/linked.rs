//! What programs send by a link that they name: `SO_BINDTODEVICE`, link-local IPv6, a subnet's broadcast address, `SO_DONTROUTE`.
//!
//! The kernel would bring no answer of ours to a socket that is bound to another link than the TUN. So such packets are led here as
//! frames, judged as everything is, and what is accepted goes out as it is; answers come past us, by the link itself.
//!
//! Keeps one rule: each packet is that of a flow with a permit, or it goes nowhere.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::Shard;
use super::lanes::Lane;
use super::tcp::failure_by;
use crate::egress::{DialError, Link, tell_own};
use crate::flow::FlowId;
use crate::packet::{Arrival, Checksums, IpPacket, LinkHeader, Malformed, Transport, datagrams_together, is_unfinished};
use crate::router::{Counter, Input};
use crate::verdict::Permit;

/// A flow by one link.
pub(super) struct LinkLane {
    pub(super) id: FlowId,
    pub(super) link: Arc<Link>,
}

/// The ways out that flows have now, by the index of their link.
#[derive(Default)]
pub(super) struct Links(Vec<(u32, Weak<Link>)>);

impl Links {
    /// The way out by one link; `open` makes it where there is none.
    fn by(&mut self, index: u32, open: impl FnOnce() -> Result<Link, DialError>) -> Result<Arc<Link>, DialError> {
        self.0.retain(|(_, link)| link.strong_count() > 0);
        if let Some(link) = self.0.iter().find(|(of, _)| *of == index).and_then(|(_, link)| link.upgrade()) {
            return Ok(link);
        }
        let link = Arc::new(open()?);
        self.0.push((index, Arc::downgrade(&link)));
        Ok(link)
    }
}

impl Shard {
    /// A frame that the guard led into the TUN.
    pub(super) fn on_frame(&mut self, header: LinkHeader, packet: &[u8], now: Instant) {
        let vnet = header.vnet();
        let checksums = if is_unfinished(vnet) { Checksums::Unfinished } else { Checksums::Finished };
        let whole = if checksums == Checksums::Finished { Arrival::Finished } else { Arrival::Whole };
        let arrival = datagrams_together(vnet).map_or(whole, Arrival::Together);
        match IpPacket::parse(packet, checksums) {
            Ok(packet) => self.on_linked(header, &packet.arrived(arrival), now),
            Err(Malformed::Fragment) => self.on_framed_fragment(header, packet, now),
            Err(why) => self.router.count(Counter::Malformed(why)),
        }
    }

    /// What the kernel cut into fragments is judged when it is whole; the kernel cuts it anew.
    fn on_framed_fragment(&mut self, header: LinkHeader, fragment: &[u8], now: Instant) {
        let router = &mut self.router;
        let whole = self.datagrams.fragments.take(fragment, now, &mut |why| router.count(Counter::Fragments(why)));
        let Some(whole) = whole else { return };
        match IpPacket::parse(&whole, Checksums::Finished) {
            Ok(packet) => {
                let packet = packet.arrived(Arrival::Fragments);
                self.on_linked(header.for_kept(&packet), &packet, now);
            }
            Err(why) => self.router.count(Counter::Malformed(why)),
        }
    }

    pub(super) fn on_linked(&mut self, header: LinkHeader, packet: &IpPacket<'_>, now: Instant) {
        if let Some(id) = self.router.find(&packet.tuple())
            && self.lanes.link(id).map(|noted| noted.link) != Some(header.link)
        {
            // The same ends by another way: maybe another program's, since sockets of different links may share a port.
            self.abandon(id, now);
            self.obey(None, now);
        }
        self.came_by = Some(header);
        self.router.handle(Input::Linked(packet), now);
        self.obey(Some(packet), now);
        self.came_by = None;
    }

    /// Whether a packet came by a link, or did not, as its flow did. The kernel itself ends a TCP connection without naming the link again.
    pub(super) fn came_the_same_way(&self, id: FlowId, packet: &IpPacket<'_>) -> bool {
        let [flows, its] = [self.lanes.link(id), self.came_by].map(|header| header.map(|header| header.link));
        flows == its || its.is_none() && matches!(packet.transport(), Transport::Tcp(_))
    }

    pub(super) fn open_linked(&mut self, id: FlowId, permit: Permit, (to, index): (SocketAddr, u32), now: Instant) {
        let dialer = &self.dialer;
        match self.links.by(index, || dialer.link(permit, to, index)) {
            Ok(link) => {
                self.lanes.put(Lane::Link(LinkLane { id, link }));
                self.router.handle(Input::Opened(id), now);
            }
            Err(error) => self.router.handle(Input::Failed { flow: id, failure: failure_by(&error) }, now),
        }
    }

    pub(super) fn end_if_gone(&mut self, id: FlowId, now: Instant) {
        if let Some(lane) = self.lanes.lane(id.index()).and_then(Lane::express) {
            return self.end_express_if_gone(lane, now);
        }
        let Some(tuple) = self.router.flow(id).map(|flow| flow.tuple) else { return };
        if !self.attributor.is_there(&tuple, self.lanes.link(id).map(|header| header.link)) {
            self.cut(id, now);
            self.router.handle(Input::Ended { flow: id, outcome: "closed" }, now);
        }
    }

    /// Tells a program what became of its packet: by the TUN, or by the link that it named.
    pub(super) fn reply_by(&mut self, came_by: Option<LinkHeader>, reply: &[u8]) {
        let Some(LinkHeader { link, .. }) = came_by else { return self.reply(reply) };
        // What is no address of this host any more would lead the answer out of it.
        let parsed = IpPacket::parse(reply, Checksums::Finished).ok();
        let to = parsed.map(|reply| reply.tuple().remote.ip()).filter(|to| self.own_addresses.contains(to));
        if let Some(Err(error)) = to.map(|to| tell_own(link, to, reply)) {
            tracing::debug!("a program is not told what became of its packet: {error}");
        }
    }

    /// Sends a packet of an open flow on. What the link does not take is lost, as on any wire.
    pub(super) fn send_linked(&mut self, id: FlowId, packet: &IpPacket<'_>, now: Instant) {
        if let Some(header) = self.came_by {
            // The neighbour may have another address by now.
            self.lanes.note_link(id, header);
        }
        let header = self.came_by.or_else(|| self.lanes.link(id).map(|header| header.for_kept(packet)));
        let (Some(header), Some(Lane::Link(lane))) = (header, self.lanes.lane(id.index())) else { return };
        match lane.link.send(header, packet.bytes()) {
            Ok(()) => self.router.account(id, u64::try_from(packet.bytes().len()).unwrap_or(0), 0, now),
            Err(_) => self.router.count(Counter::UpstreamFull),
        }
    }
}
