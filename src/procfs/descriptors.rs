//! The descriptors of a process, and the sockets among them.
//!
//! Keeps one rule: whoever looks says how many links may be read, and a program with more descriptors is not looked through.

use std::fmt::{self, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;

use rustix::fs::{Mode, OFlags, RawDir, Stat as FileStat, fstat, openat, readlinkat_raw};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::process::Process;

/// Descriptors tried one by one in a process whose descriptor list is closed to us.
const GUESSED_FDS: u32 = 64;
/// Numbers without a descriptor that a climb passes before it takes the last one for the highest.
const GAP: usize = 4;
/// Links read behind the socket in a whole walk: somebody waits, and a program may open sockets as fast as they are listed.
const BEHIND: usize = 1024;
/// Sockets noted in one walk.
pub(super) const MOST_PASSED: usize = 16_384;

/// What a socket is called in `/proc/PID/fd`: `socket:[4711]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct SocketLink {
    bytes: [u8; 32],
    length: usize,
    inode: u64,
}

impl SocketLink {
    pub(super) fn new(inode: u64) -> Self {
        let text = format!("socket:[{inode}]");
        let mut bytes = [0; 32];
        for (to, from) in bytes.iter_mut().zip(text.bytes()) {
            *to = from;
        }
        Self { bytes, length: text.len(), inode }
    }

    fn is(&self, target: &[u8]) -> bool {
        self.bytes.get(..self.length) == Some(target)
    }
}

/// What a search may cost, and what it saw beside what it was after.
#[derive(Debug)]
pub(super) struct Walk {
    /// Links that may still be read, over all processes.
    pub(super) budget: usize,
    /// Goes on for a while behind the socket, so that whoever asks for the next one need not come again.
    is_whole: bool,
    /// Other sockets of the process looked at last, by inode and descriptor.
    passed: Vec<(u64, u32)>,
}

impl Walk {
    /// As far as the socket.
    pub(super) fn short(budget: usize) -> Self {
        Self { budget, is_whole: false, passed: Vec::new() }
    }

    /// Some way further, which a climb goes on with later.
    pub(super) fn whole(budget: usize) -> Self {
        Self { is_whole: true, ..Self::short(budget) }
    }

    /// The other sockets seen since this was asked last, by inode and descriptor.
    pub(super) fn take_passed(&mut self) -> Vec<(u64, u32)> {
        std::mem::take(&mut self.passed)
    }

    /// Takes one link of the budget.
    fn step(&mut self) -> Option<()> {
        self.budget = self.budget.checked_sub(1)?;
        Some(())
    }

    fn pass(&mut self, target: &[u8], number: u32) {
        if self.passed.len() < MOST_PASSED {
            self.passed.extend(inode_of(target).map(|inode| (inode, number)));
        }
    }
}

impl Process {
    /// True when descriptor `fd` of the process is this socket.
    pub(super) fn holds(&self, fd: u32, socket: &SocketLink) -> bool {
        is_link_to(self.dir(), format_args!("fd/{fd}"), socket)
    }

    /// As [`Self::holds`]; another socket that is found there is passed.
    pub(super) fn is_at(&self, fd: u32, socket: &SocketLink, walk: &mut Walk) -> bool {
        let mut target = [MaybeUninit::<u8>::uninit(); 64];
        let Some(name) = walk.step().and_then(|()| FdName::new(format_args!("fd/{fd}"))) else { return false };
        let Ok((target, _)) = readlinkat_raw(self.dir(), name.as_bytes(), &mut target) else { return false };
        let found = socket.is(target);
        if !found {
            walk.pass(target, fd);
        }
        found
    }

    /// Looks at the descriptors above the highest one seen, one number after the other: a program that opens many at once gets these.
    pub(super) fn climb(&self, socket: &SocketLink, walk: &mut Walk) -> Option<u32> {
        self.follow(self.top.load(Relaxed), usize::MAX, socket, walk)
    }

    /// Looks at the descriptors above a number, at most so many, until there are none.
    pub(super) fn follow(&self, from: u32, most: usize, socket: &SocketLink, walk: &mut Walk) -> Option<u32> {
        let mut target = [MaybeUninit::<u8>::uninit(); 64];
        let mut gap = 0;
        for number in (from.checked_add(1)?..=u32::MAX).take(most) {
            walk.step()?;
            let name = FdName::new(format_args!("fd/{number}"))?;
            match readlinkat_raw(self.dir(), name.as_bytes(), &mut target) {
                Ok((target, _)) => {
                    gap = 0;
                    self.top.fetch_max(number, Relaxed);
                    if socket.is(target) {
                        return Some(number);
                    }
                    walk.pass(target, number);
                }
                Err(_) => gap += 1,
            }
            if gap == GAP {
                break;
            }
        }
        None
    }

    /// Searches all descriptors for the socket.
    pub(super) fn search(&self, socket: &SocketLink, walk: &mut Walk) -> Option<u32> {
        match openat(self.dir(), "fd", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fds) => self.search_listed(&fds, socket, walk),
            Err(Errno::ACCESS) => self.search_unlisted(socket, walk),
            Err(_) => None,
        }
    }

    /// A process that is not dumpable has its descriptor list owned by root. Whoever may trace it (as the creator of its user
    /// namespace does) can still ask for its descriptors by number (pidfd_getfd(2)).
    fn search_unlisted(&self, socket: &SocketLink, walk: &mut Walk) -> Option<u32> {
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Alive after the open: so the number has not passed on to somebody else before it.
        self.stat()?;
        for number in 0..GUESSED_FDS {
            walk.step()?;
            match pidfd_getfd(&pidfd, i32::try_from(number).ok()?, PidfdGetfdFlags::empty()) {
                Ok(copy) if fstat(&copy).is_ok_and(|stat| is_socket(&stat, socket)) => return Some(number),
                Ok(_) | Err(Errno::BADF) => {}
                Err(_) => return None,
            }
        }
        None
    }

    fn search_listed(&self, fds: &OwnedFd, socket: &SocketLink, walk: &mut Walk) -> Option<u32> {
        let mut buffer = [MaybeUninit::<u8>::uninit(); 8192];
        let mut entries = RawDir::new(fds, &mut buffer);
        let mut target = [MaybeUninit::<u8>::uninit(); 64];
        let (mut found, mut behind, mut top) = (None, 0, 0);
        while let Some(Ok(entry)) = entries.next() {
            // `.` and `..` have no number.
            let Some(number) = entry.file_name().to_str().ok().and_then(|name| name.parse().ok()) else { continue };
            if behind >= BEHIND || walk.step().is_none() {
                self.top.fetch_max(top, Relaxed);
                return found;
            }
            behind += usize::from(found.is_some());
            top = top.max(number);
            match readlinkat_raw(fds, entry.file_name(), &mut target) {
                Ok((target, _)) if socket.is(target) => {
                    found = Some(number);
                    if !walk.is_whole {
                        self.top.fetch_max(number, Relaxed);
                        return found;
                    }
                }
                Ok((target, _)) => walk.pass(target, number),
                Err(_) => {}
            }
        }
        self.top.store(top, Relaxed);
        found
    }
}

/// The inode in `socket:[4711]`.
fn inode_of(target: &[u8]) -> Option<u64> {
    std::str::from_utf8(target.strip_prefix(b"socket:[")?.strip_suffix(b"]")?).ok()?.parse().ok()
}

fn is_socket(stat: &FileStat, socket: &SocketLink) -> bool {
    rustix::fs::FileType::from_raw_mode(stat.st_mode).is_socket() && stat.st_ino == socket.inode
}

/// True when descriptor `fd` of process `pid` is this socket, without opening the process first.
pub(super) fn holds(root: BorrowedFd<'_>, pid: u32, fd: u32, socket: &SocketLink) -> bool {
    is_link_to(root, format_args!("{pid}/fd/{fd}"), socket)
}

fn is_link_to(dir: BorrowedFd<'_>, name: fmt::Arguments<'_>, socket: &SocketLink) -> bool {
    let mut target = [MaybeUninit::<u8>::uninit(); 64];
    let Some(path) = FdName::new(name) else { return false };
    readlinkat_raw(dir, path.as_bytes(), &mut target).is_ok_and(|(target, _)| socket.is(target))
}

/// `PID/fd/N`, on the stack.
#[derive(Default)]
struct FdName {
    bytes: [u8; 32],
    length: usize,
}

impl FdName {
    fn new(name: fmt::Arguments<'_>) -> Option<Self> {
        let mut path = Self::default();
        path.write_fmt(name).is_ok().then_some(path)
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl fmt::Write for FdName {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length + text.len();
        self.bytes.get_mut(self.length..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::MetadataExt as _;
    use std::path::Path;

    fn ours() -> Process {
        Process::open(Path::new("/proc"), std::process::id()).expect("we run")
    }

    fn ours_up_to(top: u32) -> Process {
        let us = ours();
        us.top.store(top, Relaxed);
        us
    }

    fn socket() -> (UdpSocket, SocketLink, u32) {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback");
        let fd = socket.as_raw_fd();
        let inode = std::fs::metadata(format!("/proc/self/fd/{fd}")).expect("open").ino();
        (socket, SocketLink::new(inode), u32::try_from(fd).expect("positive"))
    }

    #[test]
    fn socket_is_found_in_the_process_that_holds_it() {
        let (_open, link, fd) = socket();
        assert!(ours().holds(fd, &link));
        assert_eq!(ours().search(&link, &mut Walk::short(100_000)), Some(fd));
        assert_eq!(ours_up_to(fd - 1).climb(&link, &mut Walk::short(1)), Some(fd));
    }

    #[test]
    fn whole_walk_sees_what_lies_behind_and_a_short_one_does_not() {
        let (_one, first, _) = socket();
        let (_other, second, _) = socket();
        let behind = |mut walk: Walk| {
            ours().search(&first, &mut walk).expect("it is ours");
            walk.take_passed().iter().any(|(inode, _)| *inode == second.inode)
        };
        assert!(behind(Walk::whole(100_000)));
        assert!(!behind(Walk::short(100_000)));
    }

    #[test]
    fn look_at_one_descriptor_notes_which_other_socket_is_there() {
        let (_one, first, at) = socket();
        let (_other, second, other) = socket();
        let mut walk = Walk::short(2);
        assert!(ours().is_at(at, &first, &mut walk));
        assert!(!ours().is_at(other, &first, &mut walk));
        assert_eq!(walk.take_passed(), [(second.inode, other)]);
        assert!(!ours().is_at(at, &first, &mut walk), "two looks were all");
    }

    #[test]
    fn climb_notes_what_it_passes_and_ends_above_the_highest_descriptor() {
        let (_open, _, fd) = socket();
        let mut walk = Walk::short(100_000);
        let us = ours_up_to(fd - 1);
        assert_eq!(us.climb(&SocketLink::new(u64::MAX), &mut walk), None);
        assert!(walk.take_passed().iter().any(|(_, number)| *number == fd));
        assert!(us.top.load(Relaxed) >= fd);
        assert!(walk.budget > 90_000, "it ends by itself");
    }

    #[test]
    fn socket_of_nobody_is_not_found_and_a_spent_budget_ends_the_search() {
        assert_eq!(ours().search(&SocketLink::new(u64::MAX), &mut Walk::whole(100_000)), None);
        let (_open, link, _) = socket();
        let mut walk = Walk::short(1);
        assert_eq!(ours().search(&link, &mut walk), None);
        assert_eq!(walk.budget, 0);
        assert_eq!(ours().climb(&link, &mut walk), None);
    }

    #[test]
    fn descriptor_number_with_many_digits_is_no_panic() {
        assert!(!ours().holds(u32::MAX, &SocketLink::new(1)));
        assert_eq!(ours_up_to(u32::MAX).climb(&SocketLink::new(1), &mut Walk::short(1)), None);
    }
}
