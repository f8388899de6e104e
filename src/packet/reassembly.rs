//! Fragments put together again (RFC 791 §3.2, RFC 8200 §4.5).
//!
//! Keeps one rule: nothing is said about a packet before all of it is there, so that no header hides in a later fragment. Fragments that
//! overlap end the whole packet (RFC 5722). Memory and time are bounded; under pressure the oldest packet goes.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6Packet};

use super::extension;

/// Packets under way at a time.
const MAX_CONTEXTS: usize = 64;
/// Bytes of all of them together.
const MAX_BYTES: usize = 1 << 20;
/// As long as Linux waits (`net.ipv4.ipfrag_time`).
const PATIENCE: Duration = Duration::from_secs(30);
/// A sender's kernel sends in order; whoever leaves more gaps than this is no kernel.
const MAX_GAPS: usize = 64;
/// The longest packet behind its first header.
const MAX_PAYLOAD: usize = 65_535;
const FRAGMENT_HEADER_LEN: usize = 8;

/// Why a packet in fragments is lost. Each is a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lost {
    /// A fragment without sense: cut short, not a multiple of eight, two ends, too many gaps.
    Malformed,
    Overlap,
    /// Longer than any packet may be.
    TooLarge,
    /// The rest did not come in time.
    Expired,
    /// It gave its place up to another.
    Evicted,
}

impl Lost {
    pub const ALL: [Self; 5] = [Self::Malformed, Self::Overlap, Self::TooLarge, Self::Expired, Self::Evicted];
}

/// Which packet a fragment is of. The protocol counts for IPv4 alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    ident: u32,
}

/// One fragment as it came.
struct Piece<'a> {
    key: Key,
    /// Everything in front of the data, with the fragment's own fields, and where the next-header byte stands (IPv6).
    header: &'a [u8],
    next_at: usize,
    next: u8,
    offset: usize,
    more: bool,
    data: &'a [u8],
}

/// One packet under way.
#[derive(Debug)]
struct Context {
    key: Key,
    since: Instant,
    /// What goes in front of the data, once the first fragment is there.
    header: Option<Vec<u8>>,
    data: Vec<u8>,
    /// Which bytes of `data` are there: sorted, apart from each other.
    ranges: Vec<(usize, usize)>,
    total: Option<usize>,
    /// It is lost, and so is what still comes of it.
    dead: bool,
}

/// Packets that come in fragments.
#[derive(Debug, Default)]
pub struct Reassembly {
    contexts: Vec<Context>,
}

impl Reassembly {
    /// Takes one IP packet that is a fragment; returns the whole packet once it is there. `lost` is told of each packet that will
    /// never be.
    pub fn take(&mut self, packet: &[u8], now: Instant, lost: &mut impl FnMut(Lost)) -> Option<Vec<u8>> {
        self.expire(now, lost);
        let Some(piece) = Piece::read(packet) else {
            lost(Lost::Malformed);
            return None;
        };
        // Alone, whatever else bears its number (RFC 6946 §4).
        if piece.offset == 0 && !piece.more {
            return whole(&piece.front(), piece.data);
        }
        let index = self.place(piece.key, now, lost);
        let context = self.contexts.get_mut(index)?;
        if context.dead {
            return None;
        }
        match context.add(&piece) {
            Err(why) => {
                context.kill();
                lost(why);
                None
            }
            Ok(()) if context.is_whole() => {
                let Context { header, data, .. } = self.contexts.swap_remove(index);
                whole(&header?, &data)
            }
            Ok(()) => {
                self.shrink(piece.key, lost);
                None
            }
        }
    }

    fn expire(&mut self, now: Instant, lost: &mut impl FnMut(Lost)) {
        self.contexts.retain(|context| {
            let lives = now.saturating_duration_since(context.since) < PATIENCE;
            if !lives && !context.dead {
                lost(Lost::Expired);
            }
            lives
        });
    }

    /// The place of a packet, an old one or a new one.
    fn place(&mut self, key: Key, now: Instant, lost: &mut impl FnMut(Lost)) -> usize {
        if let Some(index) = self.contexts.iter().position(|context| context.key == key) {
            return index;
        }
        if self.contexts.len() >= MAX_CONTEXTS {
            self.evict(None, lost);
        }
        let (data, ranges) = (Vec::new(), Vec::new());
        self.contexts.push(Context { key, since: now, header: None, data, ranges, total: None, dead: false });
        self.contexts.len() - 1
    }

    /// Keeps within the bytes; the packet that grew last stays.
    fn shrink(&mut self, grown: Key, lost: &mut impl FnMut(Lost)) {
        while self.contexts.iter().map(|context| context.data.capacity()).sum::<usize>() > MAX_BYTES && self.contexts.len() > 1 {
            self.evict(Some(grown), lost);
        }
    }

    fn evict(&mut self, but: Option<Key>, lost: &mut impl FnMut(Lost)) {
        let candidates = self.contexts.iter().enumerate().filter(|(_, context)| Some(context.key) != but);
        let Some((oldest, _)) = candidates.min_by_key(|(_, context)| context.since) else { return };
        if !self.contexts.swap_remove(oldest).dead {
            lost(Lost::Evicted);
        }
    }
}

impl Context {
    fn add(&mut self, piece: &Piece<'_>) -> Result<(), Lost> {
        let (begin, end) = (piece.offset, piece.offset + piece.data.len());
        if end > MAX_PAYLOAD {
            return Err(Lost::TooLarge);
        }
        if piece.data.is_empty() || (piece.more && !piece.data.len().is_multiple_of(8)) {
            return Err(Lost::Malformed);
        }
        let known_end = self.ranges.last().map_or(0, |range| range.1);
        let beyond = if piece.more { self.total.is_some_and(|total| end >= total) } else { end < known_end };
        if self.ranges.iter().any(|range| begin < range.1 && range.0 < end) {
            // The same fragment twice is no overlap (RFC 8200 §4.5).
            let known = self.ranges.iter().any(|range| range.0 <= begin && end <= range.1);
            let same = known && self.data.get(begin..end) == Some(piece.data);
            return if same { Ok(()) } else { Err(Lost::Overlap) };
        }
        if beyond || (!piece.more && self.total.is_some()) {
            return Err(Lost::Malformed);
        }
        if !piece.more {
            self.total = Some(end);
        }
        if begin == 0 {
            self.header = Some(piece.front());
        }
        if self.data.len() < end {
            self.data.resize(end, 0);
        }
        self.data.get_mut(begin..end).ok_or(Lost::Malformed)?.copy_from_slice(piece.data);
        self.note(begin, end)
    }

    /// Notes that these bytes are there.
    fn note(&mut self, begin: usize, end: usize) -> Result<(), Lost> {
        let index = self.ranges.partition_point(|range| range.0 < begin);
        self.ranges.insert(index, (begin, end));
        self.ranges.dedup_by(|later, earlier| {
            let touches = earlier.1 == later.0;
            if touches {
                earlier.1 = later.1;
            }
            touches
        });
        if self.ranges.len() > MAX_GAPS { Err(Lost::Malformed) } else { Ok(()) }
    }

    fn is_whole(&self) -> bool {
        self.header.is_some() && self.total.is_some_and(|total| self.ranges == [(0, total)])
    }

    fn kill(&mut self) {
        self.dead = true;
        (self.header, self.data, self.ranges) = (None, Vec::new(), Vec::new());
    }
}

impl<'a> Piece<'a> {
    fn read(packet: &'a [u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Self::read_v4(packet),
            6 => Self::read_v6(packet),
            _ => None,
        }
    }

    fn read_v4(packet: &'a [u8]) -> Option<Self> {
        let ip = Ipv4Packet::new_checked(packet).ok()?;
        let protocol = ip.next_header().into();
        let key = Key { from: ip.src_addr().into(), to: ip.dst_addr().into(), protocol, ident: ip.ident().into() };
        let (offset, more) = (usize::from(ip.frag_offset()), ip.more_frags());
        let header = packet.get(..ip.header_len().into())?;
        let data = packet.get(header.len()..ip.total_len().into())?;
        Some(Self { key, header, next_at: 0, next: 0, offset, more, data })
    }

    fn read_v6(packet: &'a [u8]) -> Option<Self> {
        let ip = Ipv6Packet::new_checked(packet).ok()?;
        let (protocol, offset) = extension::walk(ip.next_header(), ip.payload()).ok()?;
        if protocol != IpProtocol::Ipv6Frag {
            return None;
        }
        let end = ip.header_len() + usize::from(ip.payload_len());
        let at = ip.header_len() + offset;
        let [next, _, high, low, ident @ ..]: [u8; FRAGMENT_HEADER_LEN] = *packet.get(at..end)?.first_chunk()?;
        let place = u16::from_be_bytes([high, low]);
        let key = Key { from: ip.src_addr().into(), to: ip.dst_addr().into(), protocol: 0, ident: u32::from_be_bytes(ident) };
        let next_at = last_next_header(packet, at)?;
        let data = packet.get(at + FRAGMENT_HEADER_LEN..end)?;
        let (offset, more) = (usize::from(place & !7), place & 1 != 0);
        Some(Self { key, header: packet.get(..at)?, next_at, next, offset, more, data })
    }

    /// What stands in front of the data of the whole packet; its length is not known yet.
    fn front(&self) -> Vec<u8> {
        let mut header = self.header.to_vec();
        if self.key.from.is_ipv4() {
            let mut ip = Ipv4Packet::new_unchecked(&mut header);
            ip.set_more_frags(false);
            ip.set_dont_frag(false);
            ip.set_frag_offset(0);
        } else if let Some(next) = header.get_mut(self.next_at) {
            *next = self.next;
        }
        header
    }
}

/// Where the byte stands that names the header at `at`, behind an IPv6 header and the extension headers that were walked before.
fn last_next_header(packet: &[u8], at: usize) -> Option<usize> {
    let (mut names, mut position) = (6, 40);
    while position < at {
        names = position;
        position += (usize::from(*packet.get(position + 1)?) + 1) * 8;
    }
    (position == at).then_some(names)
}

/// The packet of this header and this data.
fn whole(front: &[u8], data: &[u8]) -> Option<Vec<u8>> {
    let mut packet = Vec::with_capacity(front.len() + data.len());
    packet.extend_from_slice(front);
    packet.extend_from_slice(data);
    let v4 = front.first()? >> 4 == 4;
    let length = u16::try_from(packet.len() - if v4 { 0 } else { 40 }).ok()?;
    if v4 {
        let mut ip = Ipv4Packet::new_unchecked(&mut packet);
        ip.set_total_len(length);
        ip.fill_checksum();
    } else {
        Ipv6Packet::new_unchecked(&mut packet).set_payload_len(length);
    }
    Some(packet)
}

#[cfg(test)]
mod tests;
