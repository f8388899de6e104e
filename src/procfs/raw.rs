//! Raw sockets, which can send packets in the name of any port: the tables `/proc/PID/net/{raw,raw6}`, which every kernel has (raw_diag
//! may be missing), and who holds them.
//!
//! Keeps one rule: all raw sockets that can have sent a packet are told, and all their holders, or none. Neither addresses nor protocols
//! exclude one: who gives the header himself (`IP_HDRINCL`, `IPV6_HDRINCL`) writes any, and an IPv6 socket of an extension header's number
//! sends what comes behind that.

use std::io::Read as _;
use std::sync::Arc;
use std::time::Instant;

use super::descriptors::{SocketLink, Walk};
use super::hints::Holder;
use super::identity;
use super::process::all;
use super::search::{Effort, Processes, THOROUGH_LINKS, ambiguous, is_same_program};
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
        let socket =
            |inode, uid| Socket { inode, uid, cookie: 0, cgroup_id: None, mark: 0, link: 0, confidence: Confidence::Likely };
        let open = net_lines(text).filter(|line| line.inode != 0);
        Self(open.map(|line| (line.local.port(), socket(line.inode, line.uid))).collect())
    }

    /// Without the sockets with these inodes.
    #[must_use]
    pub fn but_of(mut self, inodes: &[u64]) -> Self {
        self.0.retain(|(_, socket)| !inodes.contains(&socket.inode));
        self
    }

    /// The sockets that can have sent a packet of this protocol, the likeliest first; `None` where these are too many to be judged.
    #[must_use]
    pub fn senders(&self, protocol: Protocol) -> Option<Vec<Socket>> {
        let is_likely = |of: u16| of == u16::from(protocol.0) || of == ANY;
        let those = |likely| self.0.iter().filter(move |(of, _)| is_likely(*of) == likely).map(|(_, socket)| *socket);
        (self.0.len() <= MOST_SENDERS).then(|| those(true).chain(those(false)).collect())
    }
}

/// Who held some sockets at a time, in all processes.
#[derive(Debug)]
pub struct Holders {
    began: Instant,
    of: Vec<u64>,
    found: Vec<(u64, Holder)>,
}

impl Holders {
    /// Whether this says who held these sockets at some time behind `sent`.
    #[must_use]
    pub fn are_of(&self, sockets: &[Socket], sent: Instant) -> bool {
        self.began >= sent && sockets.iter().all(|socket| self.of.contains(&socket.inode))
    }

    /// When they were looked for.
    #[must_use]
    pub fn began(&self) -> Instant {
        self.began
    }

    /// The processes that held a socket.
    pub fn pids(&self, socket: &Socket) -> impl Iterator<Item = u32> {
        self.of_socket(socket).map(|(process, _)| process.pid)
    }

    fn of_socket(&self, socket: &Socket) -> impl Iterator<Item = &Holder> {
        let inode = socket.inode;
        self.found.iter().filter(move |(of, _)| *of == inode).map(|(_, holder)| holder)
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

    /// Looks through all processes for the holders of some sockets: may take tens of milliseconds. `None`: these are too many to be looked
    /// through.
    #[must_use]
    pub fn all_holders(&self, sockets: &[Socket]) -> Option<Holders> {
        let (began, none) = (Instant::now(), SocketLink::new(0));
        let of: Vec<u64> = sockets.iter().map(|socket| socket.inode).collect();
        let (mut walk, mut found) = (Walk::whole(THOROUGH_LINKS), Vec::new());
        for (pid, _) in all(&self.options().proc_root) {
            let Some(process) = self.inside(pid) else { continue };
            process.search(&none, &mut walk);
            let mut held = walk.take_passed();
            held.retain(|(inode, _)| of.contains(inode));
            // One descriptor of each is enough.
            held.sort_unstable();
            held.dedup_by_key(|(inode, _)| *inode);
            if walk.budget == 0 {
                return None;
            }
            let process = if held.is_empty() { None } else { process.confirm().map(Arc::new) };
            found.extend(process.iter().flat_map(|process| held.iter().map(|(inode, fd)| (*inode, (Arc::clone(process), *fd)))));
        }
        Some(Holders { began, of, found })
    }

    /// The programs among the holders of a socket: nobody for each of whom that cannot be said any more, or not with such effort.
    #[must_use]
    pub fn programs_of(&self, holders: &Holders, socket: &Socket, sent: Instant, effort: Effort<'_>) -> Vec<Arc<Identity>> {
        let identify = |holder| self.identify_holder(holder, socket, sent, effort);
        let nobody = || Arc::new(identity::nobody(socket.uid, self.users()));
        holders.of_socket(socket).map(|holder| identify(holder).unwrap_or_else(nobody)).collect()
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
    fn every_raw_socket_can_have_sent_it_and_those_of_its_protocol_and_for_whole_packets_are_the_likeliest() {
        let text = [line(1, 10), line(6, 11), line(17, 12), line(255, 13), line(6, 0), line(58, 14)].concat();
        assert_eq!(senders(&text, Protocol::TCP), [11, 13, 10, 12, 14]);
        assert_eq!(senders(&text, Protocol::UDP), [12, 13, 10, 11, 14]);
        assert_eq!(senders(&text, Protocol::ICMPV6), [13, 14, 10, 11, 12]);
    }

    #[test]
    fn all_processes_that_hold_a_socket_are_its_holders_at_whatever_number() {
        let made = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback");
        let copy = std::os::fd::OwnedFd::from(made.try_clone().expect("room"));
        let stat = rustix::fs::fstat(&made).expect("open");
        let socket =
            Socket { inode: stat.st_ino, uid: 0, cookie: 0, cgroup_id: None, mark: 0, link: 0, confidence: Confidence::Likely };
        // Its parent is a shell in between, which holds it, too.
        let mut shell = std::process::Command::new("sh");
        let mut shell = shell.args(["-c", "exec 9<&0; sleep 60 </dev/null & wait"]).stdin(copy).spawn().expect("sh runs");
        let (processes, before) = (Processes::new(Options::default()), Instant::now());
        let programs = |holders: &Holders| {
            let mut names: Vec<_> = processes
                .programs_of(holders, &socket, Instant::now(), Effort::Read)
                .iter()
                .filter_map(|program| Some(program.exe.as_ref()?.path.file_name()?.to_string_lossy().into_owned()))
                .collect();
            names.sort_unstable();
            names
        };
        let holders = loop {
            let holders = processes.all_holders(&[socket]).expect("few");
            if programs(&holders).iter().any(|name| name == "sleep") {
                break holders;
            }
            assert!(before.elapsed().as_secs() < 20, "{holders:?}");
        };
        assert_eq!(programs(&holders).len(), 3, "{holders:?}");
        assert!(holders.pids(&socket).any(|pid| pid == std::process::id()));
        assert!(holders.are_of(&[socket], before) && !holders.are_of(&[socket], Instant::now()));
        assert!(!holders.are_of(&[Socket { inode: 1, ..socket }], before));
        let children = format!("/proc/{0}/task/{0}/children", shell.id());
        let asleep = std::fs::read_to_string(children).expect("it runs").trim().parse().ok();
        let asleep = asleep.and_then(rustix::process::Pid::from_raw).expect("its child");
        rustix::process::kill_process(asleep, rustix::process::Signal::KILL).expect("ours to kill");
        shell.wait().expect("ours to reap");
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
