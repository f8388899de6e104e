//! Packets as they are, by the link that their program named.
//!
//! Keeps one rule: nothing is read here; answers of others go to the program by the kernel's own way.

use std::io::{self, IoSlice, Write};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::options::{make_room, set_int};
use crate::packet::LinkHeader;

/// `PACKET_VNET_HDR` (include/uapi/linux/if_packet.h): a virtio header stands in front of each frame.
const PACKET_VNET_HDR: i32 = 15;
/// Protocol 0 of a packet socket: nothing that comes in is wanted (packet(7)).
const NOTHING: i32 = 0;

/// A packet socket that is bound to one link.
#[derive(Debug)]
pub struct Link {
    socket: Socket,
    address: [u8; 6],
}

impl Link {
    pub(super) fn open(index: u32, mark: Option<u32>) -> io::Result<Self> {
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), Some(Protocol::from(NOTHING)))?;
        if let Some(mark) = mark {
            socket.set_mark(mark)?;
        }
        set_int(&SockRef::from(&socket), libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
        // All flows of the link share it, so it holds what their own buffers would.
        make_room(&SockRef::from(&socket), true);
        bind(&socket, index)?;
        let address = address_of(&socket)?;
        Ok(Self { socket, address })
    }

    /// Sends one packet, or what the kernel shall cut into several.
    ///
    /// # Errors
    ///
    /// The link is full, down or gone, or the packet does not fit.
    pub fn send(&self, header: LinkHeader, packet: &[u8]) -> io::Result<()> {
        let headers = header.outgoing(self.address);
        (&self.socket).write_vectored(&[IoSlice::new(&headers), IoSlice::new(packet)]).map(drop)
    }
}

/// Brings an IP packet to a socket of this host that is bound to the link with this index, as if it had come in there: the kernel takes
/// what a socket of the same link sends to this host for that (`rt_iif` in net/ipv4/route.c, `IP6CB(skb)->iif` in net/ipv6/ip6_input.c).
/// It needs no permit since it does not leave; and without our mark it cannot.
///
/// # Errors
///
/// The link is gone, or there is no CAP_NET_RAW.
pub fn tell_own(index: u32, to: IpAddr, packet: &[u8]) -> io::Result<()> {
    // Protocol 255: whole packets, with the sender's header (raw(7)).
    let socket = Socket::new(Domain::for_address((to, 0).into()), Type::RAW.cloexec(), Some(Protocol::from(libc::IPPROTO_RAW)))?;
    match to {
        IpAddr::V4(_) => socket.bind_device_by_index_v4(NonZeroU32::new(index))?,
        IpAddr::V6(_) => socket.bind_device_by_index_v6(NonZeroU32::new(index))?,
    }
    socket.send_to(packet, &SocketAddr::new(to, 0).into()).map(drop)
}

fn bind(socket: &Socket, index: u32) -> io::Result<()> {
    let address = libc::sockaddr_ll { sll_ifindex: i32::try_from(index).map_err(io::Error::other)?, ..nowhere()? };
    // SAFETY: the descriptor is open for the whole call; the pointer is to an address that lives as long, and the length is its size.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), ADDRESS_LEN) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The link's own address.
fn address_of(socket: &Socket) -> io::Result<[u8; 6]> {
    let (mut address, mut len) = (nowhere()?, ADDRESS_LEN);
    // SAFETY: the descriptor is open for the whole call; both pointers are to places that live as long, and `len` is the room at the first.
    let result = unsafe { libc::getsockname(socket.as_raw_fd(), (&raw mut address).cast(), &raw mut len) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let [first @ .., _, _] = address.sll_addr;
    let is_ethernet = address.sll_halen == 6;
    is_ethernet.then_some(first).ok_or_else(|| io::Error::other("the link has no Ethernet address"))
}

const ADDRESS_LEN: libc::socklen_t = 20;

fn nowhere() -> io::Result<libc::sockaddr_ll> {
    Ok(libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?,
        sll_protocol: 0,
        sll_ifindex: 0,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_an_address_is_its_size() {
        assert_eq!(usize::try_from(ADDRESS_LEN).expect("small"), size_of::<libc::sockaddr_ll>());
    }

    #[test]
    fn link_that_is_not_there_is_an_error() {
        // Without CAP_NET_RAW there is no packet socket at all.
        assert!(Link::open(u32::MAX / 2, None).is_err());
    }
}
