//! Sockets that were passed on: who holds one anywhere, at whatever number, and which program is known to be the only one.
//!
//! Keeps one rule: what a look at all processes did not see to its end is nobody's, too.

use std::sync::Arc;
use std::time::Instant;

use super::hints::Holder;
use super::process::all;
use super::search::{Effort, Processes, Search, is_same_program};
use crate::process::{Identity, Socket};

impl Processes {
    /// As [`Self::find`], and whoever else holds the socket, be it a stranger to the first holder. Takes milliseconds: every descriptor of
    /// every process is looked at.
    #[must_use]
    pub fn find_everywhere(&self, socket: &Socket) -> Vec<Arc<Identity>> {
        let mut found = self.find(socket);
        if found.iter().all(|identity| identity.pid.is_none()) {
            return found;
        }
        let (now, mut search) = (Instant::now(), Search::new(socket));
        for (pid, _) in all(&self.options().proc_root) {
            let Some(holder) = self.search_in(pid, &mut search) else { continue };
            if let Some(identity) = self.identify_holder(&holder, socket, now, Effort::Read) {
                found.push(identity);
            } else if is_there(&holder, &search) {
                found.push(self.nobody(socket.uid));
            }
        }
        if search.walk.budget == 0 {
            found.push(self.nobody(socket.uid));
        }
        let found = Self::one_of(found);
        if found.len() > 1 {
            self.hints().ambiguous.insert(socket.inode, ());
        }
        found
    }

    /// The program of the process that made `socket`, at `made`, whether it holds it still or not; None: it is gone.
    #[must_use]
    pub fn find_live_maker(&self, pid: u32, made: u64, socket: &Socket) -> Option<Arc<Identity>> {
        let (process, _) = self.maker(pid, made)?;
        let identity = self.identify(&process, socket, Instant::now(), Effort::Read);
        identity.or_else(|| process.file("exe").is_ok().then(|| self.nobody(socket.uid)))
    }

    /// Remembers that a program alone has the socket with this cookie: whoever else has it later got it from that one.
    pub fn vouch(&self, cookie: u64, only: &Arc<Identity>) {
        self.hints().only.insert(cookie, Arc::clone(only));
    }

    /// Whether this is the program that alone had the socket with this cookie.
    #[must_use]
    pub fn is_vouched(&self, cookie: u64, found: &Identity) -> bool {
        self.hints().only.find(&cookie).is_some_and(|only| is_same_program(only, found))
    }
}

/// Whether a holder that became another program while it was read is no more than that.
fn is_there((process, fd): &Holder, search: &Search) -> bool {
    process.holds(*fd, &search.link) && process.file("exe").is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Confidence;
    use crate::procfs::Options;

    #[test]
    fn stranger_that_holds_a_socket_at_another_number_is_found_everywhere_and_the_only_program_is_vouched_for() {
        let open = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback");
        let stat = rustix::fs::fstat(&open).expect("open");
        let uid = rustix::process::geteuid().as_raw();
        let socket =
            Socket { inode: stat.st_ino, uid, cookie: 7, cgroup_id: None, mark: 0, link: 0, confidence: Confidence::Exact };
        let processes = Processes::new(Options::default());
        let found = processes.find_everywhere(&socket);
        let [only] = &*found else { panic!("{found:?}") };
        assert_eq!(only.pid, Some(std::process::id()));
        assert!(!processes.is_vouched(7, only));
        processes.vouch(7, only);
        assert!(processes.is_vouched(7, only) && !processes.is_vouched(8, only));

        let copy = std::os::fd::OwnedFd::from(open.try_clone().expect("room"));
        // Not our child: its parent has ended.
        let script = "exec 9<&0; sleep 60 </dev/null >/dev/null 2>&1 & echo $!";
        let told = std::process::Command::new("sh").args(["-c", script]).stdin(copy).output().expect("sh runs").stdout;
        let stranger = String::from_utf8_lossy(&told).trim().to_owned();
        let is_sleep = || std::fs::read(format!("/proc/{stranger}/cmdline")).is_ok_and(|words| words.starts_with(b"sleep"));
        while !is_sleep() {
            std::thread::yield_now();
        }
        let found = processes.find_everywhere(&socket);
        assert!(std::process::Command::new("kill").arg(&stranger).status().expect("kill runs").success());
        let mut pids: Vec<u32> = found.iter().filter_map(|identity| identity.pid).collect();
        pids.sort_unstable();
        let mut both = [std::process::id(), stranger.parse().expect("a number")];
        both.sort_unstable();
        assert_eq!(pids, both);
        assert!(found.iter().all(|identity| identity.confidence == Confidence::Ambiguous));
        assert_eq!(found.iter().filter(|identity| processes.is_vouched(7, identity)).count(), 1, "the other one is not");
    }

    #[test]
    fn maker_is_found_where_it_does_not_hold_the_socket_and_is_none_once_it_is_gone() {
        let (processes, uid) = (Processes::new(Options::default()), rustix::process::geteuid().as_raw());
        let socket = Socket { inode: 1, uid, cookie: 7, cgroup_id: None, mark: 0, link: 0, confidence: Confidence::Exact };
        let find = |pid: u32, made| processes.find_live_maker(pid, made, &socket).and_then(|found| found.pid);
        assert_eq!(find(std::process::id(), u64::MAX), Some(std::process::id()));
        assert_eq!((find(std::process::id(), 0), find(u32::MAX, u64::MAX)), (None, None), "it began later, or is gone");
    }
}
