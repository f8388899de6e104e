//! Flows that raw sockets send: `traceroute -T`, `mtr -u`. No TCP or UDP socket owns them.
//!
//! Whoever holds a raw socket of a packet's protocol, or one for whole packets (`IPPROTO_RAW`), can send it under any address and port,
//! so all these sockets are asked about: one program's flow is that program's, of several the strictest verdict holds. Raw ICMP sockets
//! send no segments and no datagrams.
//!
//! Keeps one rule: what a TCP or UDP socket sent that has been closed since is no raw socket's, whatever raw sockets there are. Such
//! a socket leaves the checksum to the device; a raw one cannot. Not told apart are datagrams whose checksum the kernel finishes before the
//! device: of `MSG_MORE` and `SO_NO_CHECK`. Fragments are finished in either case and stay nobody's.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::Shard;
use crate::app::shared::locked;
use crate::flow::FlowId;
use crate::packet::{Arrival, FiveTuple, IpPacket, Protocol};
use crate::process::Socket;
use crate::procfs::RawTable;

/// An answer to a raw datagram may come so late: so long traceroute(8) waits. No socket tells whether it is still waited for.
pub(super) const WAITED_FOR: Duration = Duration::from_secs(5);

/// The raw sockets of both families as last read: once for all packets of a batch.
#[derive(Default)]
pub(super) struct RawTables {
    v4: Mutex<Option<Known>>,
    v6: Mutex<Option<Known>>,
}

/// When it was read.
type Known = (Instant, RawTable);

impl RawTables {
    /// The sockets that may have sent what had been sent by the time of `sent`; `read` gives the family's table.
    pub(super) fn senders(&self, tuple: &FiveTuple, sent: Instant, read: impl FnOnce() -> RawTable) -> Vec<Socket> {
        let place = if tuple.local.is_ipv4() { &self.v4 } else { &self.v6 };
        if let Some((at, table)) = &*locked(place)
            && *at >= sent
        {
            return table.senders(tuple.protocol);
        }
        let (at, table) = (Instant::now(), read());
        let senders = table.senders(tuple.protocol);
        *locked(place) = Some((at, table));
        senders
    }
}

impl Shard {
    /// The raw sockets behind a flow that has no other, the first one apart.
    pub(super) fn raw_senders(&mut self, id: FlowId, tuple: &FiveTuple, sent: Instant) -> (Option<Socket>, Vec<Socket>) {
        // Tunnels and modems leave it to the UDP socket to finish its checksum.
        if tuple.protocol == Protocol::UDP && self.lanes.link(id).is_some_and(|header| header.is_bare()) {
            return (None, Vec::new());
        }
        if self.router.flow(id).and_then(|flow| flow.parked().arrival()) != Some(Arrival::Finished) {
            return (None, Vec::new());
        }
        let mut senders = self.attributor.raw_senders(tuple, sent);
        self.lanes.note_raw(id, inodes(&senders));
        let others = senders.split_off(senders.len().min(1));
        (senders.pop(), others)
    }

    /// Whether a datagram of a raw sockets' flow may be theirs, and theirs alone.
    pub(super) fn is_still_raw(&mut self, id: FlowId, tuple: &FiveTuple, packet: Option<&IpPacket<'_>>, now: Instant) -> bool {
        let attributor = &self.attributor;
        packet.is_some_and(|packet| packet.arrival() == Arrival::Finished)
            && self.lanes.still_raw(id, now, || inodes(&attributor.raw_senders(tuple, now)))
    }
}

fn inodes(sockets: &[Socket]) -> Box<[u64]> {
    sockets.iter().map(|socket| socket.inode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_read_once_for_what_had_been_sent_before_and_again_for_what_was_sent_later() {
        for (local, remote) in [("10.9.0.2:5", "192.0.2.1:80"), ("[fd09::2]:5", "[2001:db8::1]:80")] {
            let [local, remote] = [local, remote].map(|end| end.parse().expect("an address"));
            let tuple = FiveTuple { protocol: Protocol::TCP, local, remote };
            let (tables, before) = (RawTables::default(), Instant::now());
            assert!(tables.senders(&tuple, before, RawTable::default).is_empty());
            assert!(tables.senders(&tuple, before, || panic!("it is known")).is_empty());
            let (later, mut read) = (Instant::now() + Duration::from_secs(1), false);
            tables.senders(&tuple, later, || {
                read = true;
                RawTable::default()
            });
            assert!(read);
        }
    }
}
