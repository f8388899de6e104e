//! One blocking rtnetlink socket: a request and its acknowledgement, or a dump and its end.
//!
//! Keeps one rule: every answer is matched with its question by sequence number, and a kernel that stays silent is an error
//! after [`ANSWER_LIMIT`]. Blocking on purpose: configuration happens before any event loop runs.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::time::Duration;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// The kernel answers configuration at once; only a dead-locked one does not.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Messages of one dump that are read at most: a host with a full routing table has a million routes.
const DUMP_LIMIT: usize = 2_000_000;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("{what}: {source}")]
    Kernel { what: String, source: io::Error },
    #[error("{what}: the kernel's answer is not understood: {detail}")]
    Answer { what: String, detail: String },
}

impl RequestError {
    /// The errno with which the kernel refused, if it did.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel { source, .. } => source.raw_os_error(),
            Self::Answer { .. } => None,
        }
    }
}

/// A `NETLINK_ROUTE` socket of the network namespace in which it was opened.
#[derive(Debug)]
pub struct RouteSocket {
    socket: Socket,
    sequence: u32,
}

impl RouteSocket {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// The kernel gives no netlink socket.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        Self::prepare(socket)
    }

    /// Takes over a `NETLINK_ROUTE` socket that was opened elsewhere, for example in another namespace. The kernel also looks
    /// at the caller's own privilege there, so changes may be refused while questions are answered.
    ///
    /// # Errors
    ///
    /// The descriptor is not a netlink socket.
    pub fn adopt(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: `into_raw_fd` gives up ownership of an open descriptor, so the socket is its only owner.
        let socket = unsafe { Socket::from_raw_fd(fd.into_raw_fd()) };
        Self::prepare(socket)
    }

    fn prepare(socket: Socket) -> io::Result<Self> {
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_ext_ack(true)?;
        socket2::SockRef::from(&socket).set_read_timeout(Some(ANSWER_LIMIT))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends one change and waits for its acknowledgement. `what` says in the error what was attempted.
    ///
    /// # Errors
    ///
    /// The kernel refuses the change or does not answer.
    pub fn change(&mut self, what: &str, message: RouteNetlinkMessage, flags: u16) -> Result<(), RequestError> {
        let sequence = self.send(what, message, NLM_F_ACK | flags)?;
        self.receive(what, sequence, &mut |_| ()).map(|_| ())
    }

    /// Asks for a list and returns its entries.
    ///
    /// # Errors
    ///
    /// The kernel refuses the question, does not answer, or answers what cannot be parsed.
    pub fn dump(&mut self, what: &str, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, RequestError> {
        let sequence = self.send(what, message, NLM_F_DUMP)?;
        let mut entries = Vec::new();
        self.receive(what, sequence, &mut |entry| entries.push(entry))?;
        Ok(entries)
    }

    fn send(&mut self, what: &str, message: RouteNetlinkMessage, flags: u16) -> Result<u32, RequestError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map_err(|source| kernel(what, source))?;
        Ok(self.sequence)
    }

    /// Reads until the acknowledgement, the error or the end of the dump with this sequence number.
    fn receive(&self, what: &str, sequence: u32, each: &mut dyn FnMut(RouteNetlinkMessage)) -> Result<(), RequestError> {
        let mut seen = 0;
        loop {
            let (datagram, _) = self.socket.recv_from_full().map_err(|source| kernel(what, source))?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|error| RequestError::Answer { what: what.to_owned(), detail: error.to_string() })?;
                rest = rest.get(aligned_length(&message.header, rest.len())..).unwrap_or_default();
                if message.header.sequence_number != sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(kernel(what, error.to_io())),
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::InnerMessage(entry) if seen < DUMP_LIMIT => {
                        seen += 1;
                        each(entry);
                    }
                    _ => return Err(RequestError::Answer { what: what.to_owned(), detail: "an overrun".to_owned() }),
                }
            }
        }
    }
}

impl AsFd for RouteSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for RouteSocket {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}

fn kernel(what: &str, source: io::Error) -> RequestError {
    RequestError::Kernel { what: what.to_owned(), source }
}

/// Messages start at multiples of four (`NLMSG_ALIGN`); a length of nothing must not loop.
fn aligned_length(header: &NetlinkHeader, rest: usize) -> usize {
    usize::try_from(header.length).map_or(rest, |length| length.next_multiple_of(4).max(16)).min(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_route::link::LinkMessage;
    use netlink_packet_route::rule::RuleMessage;

    #[test]
    fn links_can_be_listed_without_privilege() {
        let mut socket = RouteSocket::open().expect("a netlink socket");
        let links = socket.dump("list links", RouteNetlinkMessage::GetLink(LinkMessage::default())).expect("a list");
        assert!(!links.is_empty());
    }

    #[test]
    fn a_refusal_carries_its_errno_and_what_was_attempted() {
        let mut socket = RouteSocket::open().expect("a netlink socket");
        // A rule of no address family is refused before anything is changed.
        let error =
            socket.change("delete nothing", RouteNetlinkMessage::DelRule(RuleMessage::default()), 0).expect_err("refused");
        assert!(error.errno().is_some());
        assert!(error.to_string().starts_with("delete nothing: "));
    }
}
