//! One upstream echo flow: a ping socket (icmp(7)), or a raw socket where ping sockets are not allowed.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};

use smoltcp::wire::{Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet, Ipv4Packet};
use socket2::{SockAddr, SockRef, Socket};

use super::message::{self, Received, Trouble};
use super::options::{self, Options};
use crate::packet::Marks;

/// A connected ICMP socket.
#[derive(Debug)]
pub struct Pings {
    socket: Socket,
    v4: bool,
    raw: bool,
    options: Options,
    out: Vec<u8>,
}

/// An echo reply that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    pub sequence: u16,
    pub data: &'a [u8],
    pub hop_limit: u8,
    pub traffic_class: u8,
}

impl Pings {
    pub(super) fn datagram(socket: Socket, to: SocketAddr, source: Option<IpAddr>) -> io::Result<Self> {
        Self::new(socket, (source, to), false)
    }

    pub(super) fn raw(socket: Socket, to: SocketAddr, source: Option<IpAddr>) -> io::Result<Self> {
        Self::new(socket, (source, to), true)
    }

    fn new(socket: Socket, (source, to): (Option<IpAddr>, SocketAddr), raw: bool) -> io::Result<Self> {
        let v4 = to.is_ipv4();
        socket.set_broadcast(true)?;
        options::ask_for_details(&SockRef::from(&socket), v4)?;
        if let Some(source) = source {
            socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
        }
        // ICMP has no ports; a raw socket refuses one (raw(7)).
        socket.connect(&SockAddr::from(SocketAddr::new(to.ip(), 0)))?;
        Ok(Self { socket, v4, raw, options: Options::new(to.ip()), out: Vec::new() })
    }

    /// Sends one echo request. A ping socket puts its own identifier in; a raw one keeps `ident`.
    ///
    /// # Errors
    ///
    /// `WouldBlock`, or an error that came back for an earlier request.
    pub fn send(&mut self, ident: u16, sequence: u16, data: &[u8], marks: Marks) -> io::Result<()> {
        self.options.apply(&SockRef::from(&self.socket), marks, data.len())?;
        self.out.clear();
        self.out.resize(8, 0);
        self.out.extend_from_slice(data);
        if self.v4 {
            let mut icmp = Icmpv4Packet::new_unchecked(&mut self.out);
            icmp.set_msg_type(Icmpv4Message::EchoRequest);
            icmp.set_msg_code(0);
            icmp.set_echo_ident(ident);
            icmp.set_echo_seq_no(sequence);
            icmp.fill_checksum();
        } else {
            // The kernel fills in the checksum of ICMPv6 (RFC 3542 §3.1).
            let mut icmp = Icmpv6Packet::new_unchecked(&mut self.out);
            icmp.set_msg_type(Icmpv6Message::EchoRequest);
            icmp.set_msg_code(0);
            icmp.set_echo_ident(ident);
            icmp.set_echo_seq_no(sequence);
        }
        self.socket.send(&self.out).map(|_| ())
    }

    /// Receives one message; `Ok(None)` is one that is no reply to `ident`.
    ///
    /// # Errors
    ///
    /// `WouldBlock`, or an error that came back; [`Pings::trouble`] tells which.
    pub fn receive<'b>(&self, ident: u16, buffer: &'b mut [u8]) -> io::Result<Option<Reply<'b>>> {
        let Received { len, hop_limit, traffic_class, .. } = message::receive(&SockRef::from(&self.socket), buffer)?;
        let Some(mut message) = buffer.get(..len) else { return Ok(None) };
        let mut hop_limit = hop_limit.unwrap_or(64);
        if self.raw && self.v4 {
            let Ok(ip) = Ipv4Packet::new_checked(message) else { return Ok(None) };
            (hop_limit, message) = (ip.hop_limit(), ip.payload());
        }
        let Some(data) = message.get(8..) else { return Ok(None) };
        let (is_reply, answers, sequence) = if self.v4 {
            let icmp = Icmpv4Packet::new_unchecked(message);
            (icmp.msg_type() == Icmpv4Message::EchoReply, icmp.echo_ident(), icmp.echo_seq_no())
        } else {
            let icmp = Icmpv6Packet::new_unchecked(message);
            (icmp.msg_type() == Icmpv6Message::EchoReply, icmp.echo_ident(), icmp.echo_seq_no())
        };
        // A ping socket gets nobody else's replies; a raw socket gets everybody's.
        let ours = is_reply && (!self.raw || answers == ident);
        Ok(ours.then_some(Reply { sequence, data, hop_limit, traffic_class }))
    }

    /// The address that requests leave from.
    #[must_use]
    pub fn source(&self) -> Option<IpAddr> {
        self.socket.local_addr().ok()?.as_socket().map(|address| address.ip())
    }

    /// Takes one error off the queue. What it quotes of the request, ICMP header first, goes to `quoted`; its length is returned.
    #[must_use]
    pub fn trouble(&self, quoted: &mut [u8]) -> (Trouble, usize) {
        message::trouble(&SockRef::from(&self.socket), quoted)
    }
}

impl AsRawFd for Pings {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
