//! The kernel's socket tables: who owns this five-tuple.
//!
//! Theory of operation. An exact query (no dump) takes one hash lookup in the kernel, some 3 µs. TCP is asked as it is; a
//! socket that sent a SYN is hashed before the SYN leaves. UDP is asked with its ends swapped (net/ipv4/udp_diag.c,
//! `udp_dump_one`), and the kernel's lookup falls through to sockets bound to a wildcard by itself. Only a UDP flow that this
//! misses (a connected socket that sends elsewhere, a socket bound to a device) costs a dump of its port.
//!
//! Keeps one rule: an answer is believed only after its addresses were compared with the question. The kernel's TCP lookup ends
//! at listeners, its dump filter compares ports alone, and both would blame a program that did not send.
//!
//! Does not know processes. Not for packets that this host only forwards: their ports may be those of a local program.

mod carried;
mod conversations;
mod ports;
mod servers;
mod stranded;
mod wire;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, SOCK_DESTROY, SOCK_DIAG_BY_FAMILY, TCP_TIME_WAIT};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, sockopt};

use crate::packet::{FiveTuple, Protocol};
use crate::process::{Confidence, Socket};
pub use carried::Carried;
pub use conversations::Conversation;
pub use ports::PortUse;
use wire::{Answer, Found};

/// The kernel answers within the send call; only a starved machine needs longer. 100 µs is known to fail under load.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(50);
/// A dump comes in pieces of at most 32 KiB (net/netlink/af_netlink.c, `netlink_dump`).
const RECEIVE_LEN: usize = 32 * 1024;
/// The most sockets that one dump may yield; more end the dump with an error.
const MAX_DUMPED: usize = 65_536;
/// Dumps that [`SocketTable::owner`] may do in a second; a dump takes 0.3 ms beside 5 000 sockets.
const DUMPS_A_SECOND: u32 = 100;
/// "Any cookie" (`INET_DIAG_NOCOOKIE`); zeros are a cookie that no socket has.
const ANY_COOKIE: [u8; 8] = [0xff; 8];

/// One blocking sock_diag socket with its buffers. Each data-plane thread has its own.
#[derive(Debug)]
pub struct SocketTable {
    fd: OwnedFd,
    interface: u32,
    sequence: u32,
    buffer: Box<[u8]>,
    /// Start of the running second, and the dumps done in it.
    dumps: (Instant, u32),
}

impl SocketTable {
    /// Opens the tables of the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// The kernel refuses a netlink socket.
    pub fn open() -> io::Result<Self> {
        let kind = SocketType::DGRAM;
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, kind, SocketFlags::CLOEXEC, Some(netlink::SOCK_DIAG))?;
        Self::adopt(fd)
    }

    /// Takes over a sock_diag socket; it answers for the network namespace that it was made in.
    ///
    /// # Errors
    ///
    /// `fd` is not a netlink socket.
    pub fn adopt(fd: OwnedFd) -> io::Result<Self> {
        // Connected to port 0, so that nobody but the kernel can put an answer into the socket.
        rustix::net::connect(&fd, &netlink::SocketAddrNetlink::new(0, 0))?;
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(ANSWER_TIMEOUT))?;
        let buffer = vec![0; RECEIVE_LEN].into_boxed_slice();
        Ok(Self { fd, interface: 0, sequence: 0, buffer, dumps: (Instant::now(), 0) })
    }

    /// Names the link that the packets came in by (the TUN's index), so that sockets bound to it are found as well.
    pub fn set_interface(&mut self, index: u32) {
        self.interface = index;
    }

    /// Asks about what was sent by another link, where one is named: sockets that are bound to that one are found.
    pub fn by_link<T>(&mut self, link: Option<u32>, ask: impl FnOnce(&mut Self) -> T) -> T {
        let own = self.interface;
        self.interface = link.unwrap_or(own);
        let answer = ask(self);
        self.interface = own;
        answer
    }

    /// The socket behind a TCP or UDP flow; `None` is "nobody", also for other protocols.
    ///
    /// A listener never owns a flow here, nor does a connection in TIME-WAIT, which no program holds any more. A UDP socket that
    /// is not connected is `Likely`: others may share its port. A UDP flow that the exact query misses costs a dump.
    ///
    /// # Errors
    ///
    /// The kernel does not answer in time, or refuses the question; or it would take more dumps than are done in a second, and whether
    /// there is a socket is not known.
    pub fn owner(&mut self, tuple: &FiveTuple) -> io::Result<Option<Socket>> {
        match tuple.protocol {
            Protocol::TCP => Ok(self.exact(tuple)?.filter(|found| is_connection(found, tuple)).map(socket)),
            Protocol::UDP => match self.exact(tuple)?.filter(|found| is_sender(found, tuple)) {
                Some(found) => Ok(Some(socket(found))),
                None => self.owner_by_port(tuple),
            },
            _ => Ok(None),
        }
    }

    /// Whether any socket takes what comes for this TCP or UDP flow. Never costs a dump.
    ///
    /// # Errors
    ///
    /// As [`Self::owner`].
    pub fn is_there(&mut self, tuple: &FiveTuple) -> io::Result<bool> {
        Ok(!tuple.protocol.has_ports() || self.exact(tuple)?.is_some())
    }

    /// Ends a TCP connection or a connected UDP socket: its program sees ECONNABORTED, a TCP peer a RST. False when there is none.
    ///
    /// The socket is named by its cookie, so that neither a listener nor a successor on the same ports can be hit.
    ///
    /// # Errors
    ///
    /// No CAP_NET_ADMIN over the namespace, a kernel without CONFIG_INET_DIAG_DESTROY, or neither TCP nor UDP.
    pub fn destroy(&mut self, tuple: &FiveTuple) -> io::Result<bool> {
        if !tuple.protocol.has_ports() {
            let what = format!("sock_diag: destroy {tuple}: it has no socket table");
            return Err(io::Error::new(io::ErrorKind::Unsupported, what));
        }
        match self.exact(tuple)?.filter(|found| is_connection(found, tuple)) {
            Some(found) => self.destroy_found(tuple, &found),
            None => Ok(false),
        }
    }

    fn destroy_found(&mut self, tuple: &FiveTuple, found: &Found) -> io::Result<bool> {
        // Unlike the question, this has the ends of UDP as they are (net/ipv4/udp_diag.c, `__udp_diag_destroy`).
        let mut request = request(tuple, tuple.local, tuple.remote, found.interface);
        request.socket_id.cookie = found.cookie.to_ne_bytes();
        match self.ask(&request, SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, |_| {}) {
            Ok(()) => Ok(true),
            Err(error) if is_gone(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn exact(&mut self, tuple: &FiveTuple) -> io::Result<Option<Found>> {
        self.exact_at(tuple, self.interface)
    }

    fn exact_at(&mut self, tuple: &FiveTuple, interface: u32) -> io::Result<Option<Found>> {
        let (source, destination) =
            if tuple.protocol == Protocol::UDP { (tuple.remote, tuple.local) } else { (tuple.local, tuple.remote) };
        let request = request(tuple, source, destination, interface);
        let mut first = None;
        match self.ask(&request, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, |found| first = Some(found)) {
            Ok(()) => Ok(first),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn owner_by_port(&mut self, tuple: &FiveTuple) -> io::Result<Option<Socket>> {
        if !self.may_dump(Instant::now()) {
            return Err(io::Error::other(format!("sock_diag: {tuple} needs one more dump than {DUMPS_A_SECOND} a second")));
        }
        let mut senders = self.senders(tuple)?.into_iter();
        let Some(first) = senders.next() else { return Ok(None) };
        let confidence = if senders.next().is_some() { Confidence::Ambiguous } else { Confidence::Likely };
        Ok(Some(Socket { confidence, ..socket(first) }))
    }

    fn may_dump(&mut self, now: Instant) -> bool {
        let (since, done) = &mut self.dumps;
        if now.duration_since(*since) >= Duration::from_secs(1) {
            (*since, *done) = (now, 0);
        }
        *done = done.saturating_add(1);
        *done <= DUMPS_A_SECOND
    }

    /// The UDP sockets of the tuple's port and address. Those that have the tuple's remote end, or none, come alone if there are
    /// any: a socket connected elsewhere is a sender only when no better one exists.
    fn senders(&mut self, tuple: &FiveTuple) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for family in [AF_INET, AF_INET6] {
            if family == AF_INET && tuple.local.is_ipv6() {
                continue;
            }
            let port = tuple.local.port();
            found.extend(self.dump(family, Protocol::UDP, StateFlags::all(), port, |found| is_bound_for(found, tuple))?);
        }
        if found.iter().any(|found| is_sender(found, tuple)) {
            found.retain(|found| is_sender(found, tuple));
        }
        Ok(found)
    }

    fn dump(
        &mut self,
        family: u8,
        protocol: Protocol,
        states: StateFlags,
        local_port: u16,
        keep: impl Fn(&Found) -> bool,
    ) -> io::Result<Vec<Found>> {
        let mut socket_id = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
        socket_id.source_port = local_port;
        let request = InetRequest { family, protocol: protocol.0, extensions: ExtensionFlags::empty(), states, socket_id };
        let mut kept = Vec::new();
        let mut overflow = false;
        self.ask(&request, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, |found| {
            if kept.len() >= MAX_DUMPED {
                overflow = true;
            } else if keep(&found) {
                kept.push(found);
            }
        })?;
        if overflow {
            return Err(io::Error::other(format!("sock_diag: more than {MAX_DUMPED} sockets of protocol {protocol}")));
        }
        Ok(kept)
    }

    /// Sends one request and reads to the end of its answer.
    fn ask(&mut self, request: &InetRequest, message_type: u16, flags: u16, mut take: impl FnMut(Found)) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = wire::encode(request, message_type, flags, self.sequence);
        retry(|| rustix::net::send(&self.fd, &bytes, SendFlags::empty()))?;
        loop {
            let received = retry(|| rustix::net::recv(&self.fd, &mut *self.buffer, RecvFlags::empty()));
            let (length, _) = received.map_err(unanswered)?;
            let datagram = self.buffer.get(..length).unwrap_or_default();
            for answer in wire::answers(datagram, self.sequence) {
                match answer? {
                    Answer::Done => return Ok(()),
                    Answer::Refused(error) => return Err(error),
                    Answer::Socket(found) => {
                        take(found);
                        if flags & NLM_F_DUMP != NLM_F_DUMP {
                            return Ok(());
                        }
                    }
                }
            }
        }
    }
}

impl AsFd for SocketTable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn request(tuple: &FiveTuple, source: SocketAddr, destination: SocketAddr, interface_id: u32) -> InetRequest {
    InetRequest {
        family: if tuple.local.is_ipv4() { AF_INET } else { AF_INET6 },
        protocol: tuple.protocol.0,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id: SocketId {
            source_port: source.port(),
            destination_port: destination.port(),
            source_address: source.ip(),
            destination_address: destination.ip(),
            interface_id,
            cookie: ANY_COOKIE,
        },
    }
}

fn socket(found: Found) -> Socket {
    let connected = !found.remote.ip().is_unspecified();
    Socket {
        inode: u64::from(found.inode),
        uid: found.uid,
        cookie: found.cookie,
        cgroup_id: found.cgroup_id,
        mark: found.mark,
        link: found.interface,
        confidence: if connected { Confidence::Exact } else { Confidence::Likely },
    }
}

fn is_connection(found: &Found, tuple: &FiveTuple) -> bool {
    found.state != TCP_TIME_WAIT && same(found.local, tuple.local) && same(found.remote, tuple.remote)
}

/// Bound for the flow, and connected to its remote end or to none.
fn is_sender(found: &Found, tuple: &FiveTuple) -> bool {
    is_bound_for(found, tuple) && (found.remote.ip().is_unspecified() || same(found.remote, tuple.remote))
}

/// What is bound to a group hears that group alone, and sends from whatever address the routes choose (`__inet_bind` in
/// net/ipv4/af_inet.c).
fn is_bound_for(found: &Found, tuple: &FiveTuple) -> bool {
    let wildcard = match (found.local.ip(), tuple.local.is_ipv4()) {
        (IpAddr::V4(address), true) => address.is_unspecified() || address.is_multicast() || address.is_broadcast(),
        (IpAddr::V6(address), true) => address.is_unspecified() && !found.v6_only,
        (IpAddr::V6(address), false) => address.is_unspecified() || address.is_multicast(),
        (IpAddr::V4(_), false) => false,
    };
    found.local.port() == tuple.local.port() && (wildcard || found.local.ip() == tuple.local.ip())
}

/// Address and port; a `SocketAddrV6` may differ in flow label and scope, which a packet does not carry.
fn same(one: SocketAddr, other: SocketAddr) -> bool {
    one.ip() == other.ip() && one.port() == other.port()
}

/// ENOENT: no such socket. ESTALE: another one has taken its place.
fn is_gone(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::STALE))
}

fn unanswered(error: Errno) -> io::Error {
    if error == Errno::AGAIN {
        return io::Error::new(io::ErrorKind::TimedOut, format!("sock_diag: no answer within {} ms", ANSWER_TIMEOUT.as_millis()));
    }
    error.into()
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests;
