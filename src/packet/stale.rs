//! A segment that comes too late or too early for its connection, so that the other end repeats its last word.

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpProtocol, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber};

use super::FiveTuple;
use super::build::start;

const HOP_LIMIT: u8 = 64;

/// Appends an empty segment from the remote end to the local one. Whoever finds its sequence number outside of the window
/// says which one it waits for (RFC 9293 §3.10.7.4).
pub fn stale_segment(tuple: &FiveTuple, sequence: u32, out: &mut Vec<u8>) {
    let FiveTuple { protocol: _, local, remote } = tuple;
    let repr = TcpRepr {
        src_port: remote.port(),
        dst_port: local.port(),
        control: TcpControl::None,
        seq_number: TcpSeqNumber(i32::from_ne_bytes(sequence.to_ne_bytes())),
        ack_number: Some(TcpSeqNumber(0)),
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    let Some(body) = start(remote.ip(), local.ip(), IpProtocol::Tcp, repr.buffer_len(), HOP_LIMIT, out) else { return };
    let ends = (remote.ip().into(), local.ip().into());
    repr.emit(&mut TcpPacket::new_unchecked(body), &ends.0, &ends.1, &ChecksumCapabilities::default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Checksums, IpPacket, Protocol, Transport};

    #[test]
    fn segment_is_whole_and_goes_to_the_local_end() {
        for (local, remote) in [("10.9.0.2:40000", "203.0.113.10:80"), ("[fd09::2]:40000", "[2001:db8::10]:80")] {
            let tuple = FiveTuple {
                protocol: Protocol::TCP,
                local: local.parse().expect("an end"),
                remote: remote.parse().expect("an end"),
            };
            let mut segment = Vec::new();
            stale_segment(&tuple, 1 << 31, &mut segment);
            let packet = IpPacket::parse(&segment, Checksums::Finished).expect("a whole packet");
            assert_eq!((packet.tuple().local, packet.tuple().remote), (tuple.remote, tuple.local));
            assert!(matches!(packet.transport(), Transport::Tcp(segment) if segment.sequence == 1 << 31 && segment.has_ack));
        }
    }
}
