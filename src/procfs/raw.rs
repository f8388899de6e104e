//! Raw sockets, which can send packets in the name of any port: the tables `/proc/PID/net/{raw,raw6}`, which every kernel has (raw_diag
//! may be missing).
//!
//! Keeps one rule: all raw sockets that can have sent a packet are told, or none. Addresses exclude none of them: who gives the header
//! himself (`IP_HDRINCL`) writes any.

use std::io::Read as _;
use std::sync::Arc;

use super::search::{Processes, ambiguous, is_same_program};
use super::text::net_lines;
use crate::packet::Protocol;
use crate::process::{Confidence, Identity, Socket};

/// A longer table is not read: the packet loop waits for it. A laptop has a handful of raw sockets, at some 110 bytes each.
const TABLE_LEN: u64 = 16 * 1024;
/// More possible senders than these are not searched for.
const MOST_SENDERS: usize = 16;
/// A raw socket for whole packets of any protocol (raw(7), `IPPROTO_RAW`).
const ANY: u16 = 255;

/// The raw sockets of one family in one network namespace, each with its protocol.
#[derive(Debug, Default)]
pub struct RawTable(Vec<(u16, Socket)>);

impl RawTable {
    fn parse(text: &[u8]) -> Self {
        let socket = |inode, uid| Socket { inode, uid, cookie: 0, cgroup_id: None, mark: 0, confidence: Confidence::Likely };
        let open = net_lines(text).filter(|line| line.inode != 0);
        Self(open.map(|line| (line.local.port(), socket(line.inode, line.uid))).collect())
    }

    /// The sockets that can have sent a packet of this protocol; `None` where these are too many to be judged.
    #[must_use]
    pub fn senders(&self, protocol: Protocol) -> Option<Vec<Socket>> {
        let can_send = |(of, _): &&(u16, Socket)| *of == u16::from(protocol.0) || *of == ANY;
        let senders: Vec<Socket> = self.0.iter().filter(can_send).map(|(_, socket)| *socket).collect();
        (senders.len() <= MOST_SENDERS).then_some(senders)
    }
}

impl Processes {
    /// The raw sockets of a family. `None` where the table cannot be read, or not to its end.
    ///
    /// `netns_of` is a process in the network namespace of the packets; `None` is the calling thread's own.
    #[must_use]
    pub fn raw_table(&self, v4: bool, netns_of: Option<u32>) -> Option<RawTable> {
        let path = self.net_dir(netns_of).join(if v4 { "raw" } else { "raw6" });
        let mut text = Vec::with_capacity(4096);
        let read = std::fs::File::open(path).and_then(|file| file.take(TABLE_LEN).read_to_end(&mut text));
        let whole = read.is_ok_and(|len| u64::try_from(len).is_ok_and(|len| len < TABLE_LEN));
        whole.then(|| RawTable::parse(&text))
    }

    /// Each program and user once, as those of whom any may be meant.
    #[must_use]
    pub fn one_of(identities: impl IntoIterator<Item = Arc<Identity>>) -> Vec<Arc<Identity>> {
        let mut found: Vec<Arc<Identity>> = Vec::new();
        for identity in identities {
            if !found.iter().any(|other| other.uid == identity.uid && is_same_program(other, &identity)) {
                found.push(identity);
            }
        }
        ambiguous(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::Options;

    /// A line of the table: protocol and inode.
    fn line(protocol: u8, inode: u64) -> String {
        format!(
            "  1: 00000000:{protocol:04X} 00000000:0000 07 00000000:00000000 00:00000000 00000000  1000        0 {inode} 2 0 0\n"
        )
    }

    fn senders(text: &str, protocol: Protocol) -> Vec<u64> {
        RawTable::parse(text.as_bytes()).senders(protocol).expect("few").iter().map(|socket| socket.inode).collect()
    }

    #[test]
    fn sockets_of_the_protocol_and_those_for_whole_packets_can_have_sent_it() {
        let text = [line(1, 10), line(6, 11), line(17, 12), line(255, 13), line(6, 0), line(58, 14)].concat();
        assert_eq!(senders(&text, Protocol::TCP), [11, 13]);
        assert_eq!(senders(&text, Protocol::UDP), [12, 13]);
        assert_eq!(senders(&text, Protocol::ICMPV6), [13, 14]);
        assert!(senders(&[line(1, 10), line(58, 14)].concat(), Protocol::UDP).is_empty(), "a ping daemon sends no datagrams");
    }

    #[test]
    fn address_of_a_raw_socket_excludes_nothing() {
        let bound = "1: 0200090A:0011 0100007F:0000 01 0:0 0:0 0 1000 0 4711 2 0 0";
        assert_eq!(senders(bound, Protocol::UDP), [4711]);
    }

    #[test]
    fn too_many_senders_are_nobody() {
        let many = |count| (1..=count).map(|inode| line(6, inode)).collect::<String>();
        assert_eq!(senders(&many(16), Protocol::TCP).len(), MOST_SENDERS);
        assert!(RawTable::parse(many(17).as_bytes()).senders(Protocol::TCP).is_none());
    }

    #[test]
    fn table_is_told_whole_or_not_at_all() {
        let dir = tempfile::tempdir().expect("a directory");
        let net = dir.path().join("7/net");
        std::fs::create_dir_all(&net).expect("the folder is ours");
        let processes = Processes::new(Options { proc_root: dir.path().to_owned(), ..Options::default() });
        let told = |v4| processes.raw_table(v4, Some(7))?.senders(Protocol::UDP).map(|senders| senders.len());
        assert_eq!((told(true), told(false)), (None, None), "there is no table");
        std::fs::write(net.join("raw"), line(17, 1)).expect("written");
        std::fs::write(net.join("raw6"), [line(17, 1), line(255, 2)].concat()).expect("written");
        assert_eq!((told(true), told(false)), (Some(1), Some(2)));
        std::fs::write(net.join("raw"), [line(17, 1), line(1, 2).repeat(200)].concat()).expect("written");
        assert!(told(true).is_none() && processes.raw_table(true, Some(8)).is_none(), "cut off; no namespace");
    }
}
