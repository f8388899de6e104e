//! Packets as they are, by the link that their program named.
//!
//! Keeps one rule: nothing is read here; answers of others go to the program by the kernel's own way.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;

use socket2::{Domain, MsgHdr, Protocol, SockAddr, SockAddrStorage, SockRef, Socket, Type};

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
    /// Where packets of either family go; a link without headers cannot tell it by them.
    v4: SockAddr,
    v6: SockAddr,
    /// The link's own, where its packets have Ethernet headers.
    address: Option<[u8; 6]>,
}

impl Link {
    pub(super) fn open(index: u32, mark: Option<u32>) -> io::Result<Self> {
        let index = i32::try_from(index).map_err(io::Error::other)?;
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), Some(Protocol::from(NOTHING)))?;
        if let Some(mark) = mark {
            socket.set_mark(mark)?;
        }
        set_int(&SockRef::from(&socket), libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
        // All flows of the link share it, so it holds what their own buffers would.
        make_room(&SockRef::from(&socket), true);
        socket.bind(&place(index, NOTHING)?)?;
        let address = address_of(&socket)?;
        Ok(Self { socket, v4: place(index, libc::ETH_P_IP)?, v6: place(index, libc::ETH_P_IPV6)?, address })
    }

    /// Sends one packet, or what the kernel shall cut into several.
    ///
    /// # Errors
    ///
    /// The link is full, down or gone, or the packet does not fit.
    pub fn send(&self, header: LinkHeader, packet: &[u8]) -> io::Result<()> {
        let Some(ethernet) = header.ethernet(self.address) else {
            return Err(io::Error::other("the packet came by a link of another kind"));
        };
        let ethernet = ethernet.as_ref().map_or(&[][..], |ethernet| ethernet);
        let parts = [IoSlice::new(header.vnet()), IoSlice::new(ethernet), IoSlice::new(packet)];
        let to = if packet.first().is_some_and(|first| first >> 4 == 4) { &self.v4 } else { &self.v6 };
        self.socket.sendmsg(&MsgHdr::new().with_addr(to).with_buffers(&parts), libc::MSG_NOSIGNAL).map(drop)
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

/// The link with this index, for packets of this protocol.
fn place(index: i32, protocol: i32) -> io::Result<SockAddr> {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is a kind of socket address, and of integers alone.
    let place = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    place.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    place.sll_protocol = u16::try_from(protocol).map_err(io::Error::other)?.to_be();
    place.sll_ifindex = index;
    // SAFETY: the length is that of what was written.
    Ok(unsafe { SockAddr::new(storage, ADDRESS_LEN) })
}

/// The link's own address, if its packets have Ethernet headers.
fn address_of(socket: &Socket) -> io::Result<Option<[u8; 6]>> {
    let address = socket.local_addr()?;
    if i32::from(address.family()) != libc::AF_PACKET {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // SAFETY: the kernel wrote an address of this family; the storage holds any, and the rest of it is zero.
    let link = unsafe { address.as_ptr().cast::<libc::sockaddr_ll>().read_unaligned() };
    let [first @ .., _, _] = link.sll_addr;
    Ok((link.sll_hatype == libc::ARPHRD_ETHER).then_some(first))
}

const ADDRESS_LEN: libc::socklen_t = 20;

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
