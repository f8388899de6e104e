//! The quick search for a socket's holder: where it most likely is.
//!
//! Keeps one rule: it reads a bounded number of links, whatever the number of processes and of their descriptors.

use std::sync::Arc;
use std::time::Instant;

use super::cache::Candidate;
use super::descriptors::{SocketLink, Walk};
use super::hints::Holder;
use super::identity::Snapshot;
use super::process::Process;
use super::search::{Effort, IDENTITY_AGE, IsSame, Processes};
use crate::process::{Identity, Socket};

/// Links that the quick search may read: some 0.6 µs each.
pub(super) const QUICK_LINKS: usize = 256;
/// Hot processes that the quick search looks at.
const QUICK_PROCESSES: usize = 32;
/// Descriptors looked at behind the newest socket's, where a program has too many for a search.
const FOLLOWED: usize = 32;

/// A way to look through a process.
type Look = fn(&Processes, &Candidate, &SocketLink, &mut Walk) -> Option<u32>;

impl Processes {
    /// The holder of a socket where it most likely is; `None` means "ask [`Self::find`], off the data path".
    ///
    /// What was asked about had been sent by the time of `sent`: a program that was read after it need not be read again. Stops at the
    /// first holder, except that a socket which `find` saw in several programs is left to `find` again. Where it is known which process made
    /// the socket, one of another number is not looked at.
    #[must_use]
    pub fn find_quick(&self, socket: &Socket, maker: Option<u32>, sent: Instant, effort: Effort<'_>) -> Option<Arc<Identity>> {
        if self.hints().ambiguous.find(&socket.inode).is_some() {
            return None;
        }
        let holder = self.quick_holder(socket, maker, sent)?;
        let identity = self.identify_holder(&holder, socket, sent, effort)?;
        let (process, fd) = holder;
        self.remember(&process, socket, fd);
        Some(identity)
    }

    /// The program closes the socket with this cookie, so that descriptor is soon another's.
    pub fn closing(&self, cookie: u64) {
        let mut hints = self.hints();
        if let Some((process, fd)) = hints.seen_with(cookie) {
            hints.hot.closing(&process, fd);
        }
    }

    /// The program got an answer at the socket with this cookie, and may close it now.
    pub fn answered(&self, cookie: u64) {
        let mut hints = self.hints();
        if let Some((process, fd)) = hints.seen_with(cookie) {
            hints.hot.answered(&process, fd);
        }
    }

    /// The identity of a process that was found holding a socket. An exec since then closes most sockets, and then the socket was never the
    /// new program's; so the descriptor is looked at once more behind the identity.
    pub(super) fn identify_holder(
        &self,
        (process, fd): &Holder,
        socket: &Socket,
        sent: Instant,
        effort: Effort<'_>,
    ) -> Option<Arc<Identity>> {
        let identity = self.identify(process, socket, sent, effort)?;
        let link = SocketLink::new(socket.inode);
        let holds = process.holds(*fd, &link) || process.search(&link, &mut Walk::short(QUICK_LINKS)).is_some();
        holds.then_some(identity)
    }

    /// What was read of a process not long ago and is so still. Nothing is read that waits for a file system or for the process's memory,
    /// unless `is_same` does not know of the process: then its arguments are compared, which lie in its memory.
    pub(super) fn known(&self, process: &Process, socket: &Socket, is_same: IsSame<'_>) -> Option<Arc<Identity>> {
        let exe = process.file("exe").ok()?;
        let key = (process.pid, process.start_ticks, Some(exe), socket.uid, socket.confidence);
        let (snapshot, read_at, identity) = self.hints().identities.find(&key).cloned()?;
        let is_fresh = read_at.elapsed() < IDENTITY_AGE;
        let is_same = || match is_same(process.pid, read_at) {
            Some(is_same) => is_same,
            None => Snapshot::take(process).is_some_and(|now| now == snapshot),
        };
        (is_fresh && is_same()).then_some(identity)
    }

    pub(super) fn quick_holder(&self, socket: &Socket, maker: Option<u32>, sent: Instant) -> Option<Holder> {
        if socket.inode == 0 {
            // Closed by its program; whoever had it may have become another one since.
            return None;
        }
        let link = SocketLink::new(socket.inode);
        let known = self.hints().seen_with(socket.cookie);
        if let Some((process, fd)) = known
            && process.holds(fd, &link)
        {
            return Some((process, fd));
        }
        let is_maker = |process: &Process| maker.is_none_or(|maker| process.pid == maker);
        let passed = self.hints().take_passed(socket.inode).filter(|((process, _), _)| is_maker(process));
        if let Some(((process, fd), looked)) = passed
            && (looked >= sent || process.holds(fd, &link))
        {
            return Some((process, fd));
        }
        let mut hot = self.hints().hot.candidates(socket, QUICK_PROCESSES, sent);
        hot.retain(|entry| is_maker(&entry.process));
        let mut walk = Walk::short(QUICK_LINKS);
        let likely =
            hot.iter().find_map(|entry| Some((Arc::clone(&entry.process), self.look_where_likely(entry, &link, &mut walk)?)));
        if likely.is_some() {
            return likely;
        }
        // Programs open many at once; who passes by the others need not come again for each.
        let looks: [Look; 2] = [Self::climb, Self::look_through];
        for (look, entry) in looks.iter().flat_map(|look| hot.iter().map(move |entry| (look, entry))) {
            let (process, now) = (&entry.process, Instant::now());
            let found = look(self, entry, &link, &mut walk);
            self.hints().note_passed(process, walk.take_passed(), now);
            if let Some(fd) = found {
                return Some((Arc::clone(process), fd));
            }
            if walk.budget == 0 {
                break;
            }
        }
        for Candidate { process, .. } in hot {
            if process.file("stat").is_err() {
                self.hints().hot.drop_process(&process);
            }
        }
        None
    }

    fn climb(&self, entry: &Candidate, link: &SocketLink, walk: &mut Walk) -> Option<u32> {
        entry.process.climb(link, walk)
    }

    /// Looks through all descriptors, unless that took all that may be spent just now, and in vain: then behind the newest alone, where a
    /// program that opens one after the other has the next ones. The thorough search finds the rest.
    fn look_through(&self, entry: &Candidate, link: &SocketLink, walk: &mut Walk) -> Option<u32> {
        let now = Instant::now();
        if self.hints().has_many(&entry.process, now) {
            return entry.process.follow(entry.newest, FOLLOWED, link, walk);
        }
        let found = entry.process.search(link, walk);
        if found.is_none() && walk.budget == 0 {
            self.hints().note_many(&entry.process, now);
        }
        found
    }

    fn look_where_likely(&self, entry: &Candidate, link: &SocketLink, walk: &mut Walk) -> Option<u32> {
        let now = Instant::now();
        let mut missed = 0;
        // What the budget does not reach was not looked at.
        let found = entry.likely.iter().take(walk.budget).find(|fd| {
            let found = entry.process.is_at(**fd, link, walk);
            missed += usize::from(!found);
            found
        });
        if missed > 0 {
            let mut hints = self.hints();
            hints.note_passed(&entry.process, walk.take_passed(), now);
            hints.hot.missed(&entry.process, entry.likely.get(..missed).unwrap_or_default(), now);
        }
        found.copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::MetadataExt as _;
    use std::path::Path;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use crate::process::Confidence;
    use crate::procfs::search::Options;

    #[test]
    fn program_that_was_executed_behind_the_look_at_a_descriptor_did_not_hold_what_that_closed() {
        let code = "import os, socket, sys\n\
            s = socket.socket(type=socket.SOCK_DGRAM); s.set_inheritable(sys.argv[1] == 'kept')\n\
            print(s.fileno(), os.fstat(s.fileno()).st_ino, flush=True); os.read(0, 1); os.execvp('cat', ['cat'])";
        for (word, keeps) in [("kept", true), ("closed", false)] {
            let mut command = Command::new("python3");
            let mut child =
                command.args(["-c", code, word]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python runs");
            let (mut to, from) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
            let mut lines = BufReader::new(from).lines().map(|line| line.expect("text"));
            let said = lines.next().expect("a line");
            let (fd, inode) = said.split_once(' ').expect("two numbers");
            let uid = rustix::process::geteuid().as_raw();
            let inode = inode.parse().expect("a number");
            let socket = Socket { inode, uid, cookie: 0, cgroup_id: None, mark: 0, link: 0, confidence: Confidence::Exact };
            let process = Arc::new(Process::open(Path::new("/proc"), child.id()).expect("it runs"));
            let holder = (process, fd.parse().expect("a number"));
            let processes = Processes::new(Options::default());
            let identify = || processes.identify_holder(&holder, &socket, Instant::now(), Effort::Read);
            let before = identify().expect("it holds the socket");
            // It is `cat` as soon as it says again what it is told.
            to.write_all(b"\nnow\n").expect("it reads");
            assert_eq!(lines.next().as_deref(), Some("now"));
            let after = identify();
            assert_eq!(after.is_some(), keeps, "{word}: {after:#?}");
            assert_ne!(after.and_then(|after| after.exe.clone()), before.exe);
            drop(to);
            child.wait().expect("ours to reap");
        }
    }

    #[test]
    fn who_waits_for_nobody_is_told_what_was_read_before_of_what_is_the_same_program_still() {
        let made = UdpSocket::bind("127.0.0.1:0").expect("loopback");
        let inode = std::fs::metadata(format!("/proc/self/fd/{}", made.as_raw_fd())).expect("open").ino();
        let uid = rustix::process::geteuid().as_raw();
        let socket = Socket { inode, uid, cookie: 7, cgroup_id: None, mark: 0, link: 0, confidence: Confidence::Exact };
        let processes = Processes::new(Options::default());
        let process = Arc::new(Process::open(Path::new("/proc"), std::process::id()).expect("we run"));
        let holder = (process, u32::try_from(made.as_raw_fd()).expect("positive"));
        let before = Instant::now();
        let known = |is_same: Option<bool>| {
            let is_same = |pid, since| {
                assert!(pid == std::process::id() && since >= before);
                is_same
            };
            processes.identify_holder(&holder, &socket, Instant::now(), Effort::Known(&is_same)).is_some()
        };
        assert!(!known(Some(true)) && !known(None), "it was never read");
        assert!(processes.identify_holder(&holder, &socket, Instant::now(), Effort::Read).is_some());
        assert!(known(Some(true)));
        assert!(!known(Some(false)), "it executed a program");
        assert!(known(None), "its arguments are the same");
    }

    #[test]
    fn socket_that_a_look_passed_is_looked_at_again_for_what_was_sent_after_that_look_alone() {
        let processes = Processes::new(Options::default());
        let process = Arc::new(Process::open(Path::new("/proc"), std::process::id()).expect("we run"));
        let socket =
            Socket { inode: u64::MAX, uid: 0, cookie: 7, cgroup_id: None, mark: 0, link: 0, confidence: Confidence::Exact };
        let looked = Instant::now();
        for (sent, found) in [(looked, Some(3)), (looked + Duration::from_micros(1), None)] {
            processes.hints().note_passed(&process, vec![(u64::MAX, 3)], looked);
            assert_eq!(processes.quick_holder(&socket, None, sent).map(|(_, fd)| fd), found, "it is not there any more");
        }
    }

    #[test]
    fn program_with_too_many_descriptors_is_looked_at_behind_the_newest_alone_for_a_moment() {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback");
        let fd = u32::try_from(socket.as_raw_fd()).expect("positive");
        let link = SocketLink::new(std::fs::metadata(format!("/proc/self/fd/{fd}")).expect("open").ino());
        let processes = Processes::new(Options::default());
        let process = Arc::new(Process::open(Path::new("/proc"), std::process::id()).expect("we run"));
        let look = |newest: u32, budget: usize| {
            let mut walk = Walk::short(budget);
            let entry = Candidate { process: Arc::clone(&process), likely: vec![], newest };
            (processes.look_through(&entry, &link, &mut walk), budget - walk.budget)
        };
        assert_eq!(look(100_000, 1_000).0, Some(fd), "few are looked through");
        assert_eq!(look(100_000, 2), (None, 2), "too many for what may be spent");
        assert_eq!(look(fd - 1, 1_000), (Some(fd), 1));
        let (found, cost) = look(fd, 1_000);
        assert!(found.is_none() && cost <= FOLLOWED, "{cost}");
        assert!(!processes.hints().has_many(&process, Instant::now() + Duration::from_secs(1)), "looked through again later");
    }
}
