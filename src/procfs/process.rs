//! One process of /proc, held by a descriptor of its directory.
//!
//! Keeps one rule: every fact is read through that descriptor. The kernel binds it to the process, not to the number: when the
//! process is gone, and even when its PID is in use again, reading fails instead of describing somebody else.
//!
//! Does not look at threads: a program whose first thread has ended, or whose threads do not share their descriptors, is not
//! found here and stays unattributed.

use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::Read as _;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, RawDir, Stat as FileStat, fstat, openat, readlinkat_raw, statat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::text::{self, Stat};

/// Command lines are kept up to this length; a program may have megabytes of them.
const CMDLINE_LEN: u64 = 16 * 1024;
/// A stat or cgroup file is one short line or a few.
const SMALL_FILE_LEN: u64 = 16 * 1024;
/// Descriptors tried one by one in a process whose descriptor list is closed to us.
const GUESSED_FDS: u32 = 64;

/// A process that was alive when it was opened.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) start_ticks: u64,
    dir: OwnedFd,
}

/// Device and inode of a file, and how many names it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FileId {
    pub(super) device: u64,
    pub(super) inode: u64,
}

impl From<&FileStat> for FileId {
    fn from(stat: &FileStat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino }
    }
}

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

impl Process {
    /// Opens `PID` below the root of a proc filesystem; `None` when there is no such process.
    pub(super) fn open(root: &Path, pid: u32) -> Option<Self> {
        Self::glance(root, pid)?.confirm()
    }

    /// Opens a process of which the start time is not wanted yet: the stat line costs more than the rest of a look.
    pub(super) fn glance(root: &Path, pid: u32) -> Option<Self> {
        let path = root.join(pid.to_string());
        let dir = openat(rustix::fs::CWD, &path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        Some(Self { pid, start_ticks: 0, dir })
    }

    /// Reads the start time; `None` when the process is gone.
    pub(super) fn confirm(mut self) -> Option<Self> {
        self.start_ticks = self.stat()?.start_ticks;
        Some(self)
    }

    /// Reads the stat line; `None` when the process is gone.
    pub(super) fn stat(&self) -> Option<Stat> {
        text::stat(&self.read("stat", SMALL_FILE_LEN).ok()?)
    }

    pub(super) fn cmdline(&self) -> Vec<u8> {
        self.read("cmdline", CMDLINE_LEN).unwrap_or_default()
    }

    pub(super) fn cgroup(&self) -> String {
        text::cgroup_path(&self.read("cgroup", SMALL_FILE_LEN).unwrap_or_default())
    }

    /// Reads a file below the process's directory, at most `limit` bytes of it.
    pub(super) fn read(&self, name: &str, limit: u64) -> std::io::Result<Vec<u8>> {
        let file = openat(&self.dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut bytes = Vec::with_capacity(1024);
        File::from(file).take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads a link such as `exe` or `cwd`.
    pub(super) fn link(&self, name: &str) -> Result<PathBuf, Errno> {
        let target = rustix::fs::readlinkat(&self.dir, name, Vec::new())?;
        Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
    }

    /// Looks at the file behind a name of the directory, links followed by the kernel, not by their text.
    pub(super) fn file(&self, name: &str) -> Result<FileStat, Errno> {
        statat(&self.dir, name, AtFlags::empty())
    }

    /// The user who owns the directory: the effective user, or root for a process that is not dumpable.
    pub(super) fn owner(&self) -> Option<u32> {
        fstat(&self.dir).ok().map(|stat| stat.st_uid)
    }

    /// The children of the first thread, where the kernel lists them (CONFIG_PROC_CHILDREN).
    pub(super) fn children(&self) -> Vec<u32> {
        let text = self.read(&format!("task/{}/children", self.pid), SMALL_FILE_LEN).unwrap_or_default();
        String::from_utf8_lossy(&text).split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    pub(super) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// True when descriptor `fd` of the process is this socket.
    pub(super) fn holds(&self, fd: u32, socket: &SocketLink) -> bool {
        is_link_to(self.dir.as_fd(), format_args!("fd/{fd}"), socket)
    }

    /// Searches all descriptors for the socket. `budget` counts the links that may still be read, over all processes; `passed` is
    /// told of the other sockets on the way, by inode and descriptor.
    pub(super) fn search(&self, socket: &SocketLink, budget: &mut usize, passed: &mut impl FnMut(u64, u32)) -> Option<u32> {
        match openat(&self.dir, "fd", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fds) => search_listed(&fds, socket, budget, passed),
            Err(Errno::ACCESS) => self.search_unlisted(socket, budget),
            Err(_) => None,
        }
    }

    /// A process that is not dumpable has its descriptor list owned by root. Whoever may trace it (as the creator of its user
    /// namespace does) can still ask for its descriptors by number (pidfd_getfd(2)).
    fn search_unlisted(&self, socket: &SocketLink, budget: &mut usize) -> Option<u32> {
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Alive after the open: so the number has not passed on to somebody else before it.
        self.stat()?;
        for number in 0..GUESSED_FDS {
            *budget = budget.checked_sub(1)?;
            match pidfd_getfd(&pidfd, i32::try_from(number).ok()?, PidfdGetfdFlags::empty()) {
                Ok(copy) if fstat(&copy).is_ok_and(|stat| is_socket(&stat, socket)) => return Some(number),
                Ok(_) | Err(Errno::BADF) => {}
                Err(_) => return None,
            }
        }
        None
    }

    /// True when one of the first `limit` descriptors is this very file.
    pub(super) fn has_open(&self, file: FileId, limit: usize) -> bool {
        let Ok(fds) = openat(&self.dir, "fd", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) else {
            return false;
        };
        let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
        let mut entries = RawDir::new(&fds, &mut buffer);
        let mut left = limit;
        while let Some(Ok(entry)) = entries.next() {
            if left == 0 {
                return false;
            }
            left -= 1;
            if statat(&fds, entry.file_name(), AtFlags::empty()).is_ok_and(|stat| FileId::from(&stat) == file) {
                return true;
            }
        }
        false
    }
}

fn search_listed(fds: &OwnedFd, socket: &SocketLink, budget: &mut usize, passed: &mut impl FnMut(u64, u32)) -> Option<u32> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); 8192];
    let mut entries = RawDir::new(fds, &mut buffer);
    let mut target = [MaybeUninit::<u8>::uninit(); 64];
    while let Some(Ok(entry)) = entries.next() {
        // `.` and `..` have no number.
        let Some(number) = entry.file_name().to_str().ok().and_then(|name| name.parse().ok()) else { continue };
        *budget = budget.checked_sub(1)?;
        match readlinkat_raw(fds, entry.file_name(), &mut target) {
            Ok((target, _)) if socket.is(target) => return Some(number),
            Ok((target, _)) => inode_of(target).into_iter().for_each(|inode| passed(inode, number)),
            Err(_) => {}
        }
    }
    None
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
    let mut path = FdName::default();
    let mut target = [MaybeUninit::<u8>::uninit(); 64];
    path.write_fmt(name).is_ok() && readlinkat_raw(dir, path.as_bytes(), &mut target).is_ok_and(|(target, _)| socket.is(target))
}

/// `PID/fd/N`, on the stack.
#[derive(Default)]
struct FdName {
    bytes: [u8; 32],
    length: usize,
}

impl FdName {
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

/// All PIDs of a proc filesystem, with the owner of each, the newest number first.
pub(super) fn all(root: &Path) -> Vec<(u32, u32)> {
    let Ok(dir) = openat(rustix::fs::CWD, root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) else {
        return Vec::new();
    };
    let mut buffer = Vec::with_capacity(32 * 1024);
    let mut entries = RawDir::new(&dir, buffer.spare_capacity_mut());
    let mut found = Vec::new();
    while let Some(Ok(entry)) = entries.next() {
        let Some(pid) = entry.file_name().to_str().ok().and_then(|name| name.parse().ok()) else { continue };
        if let Ok(stat) = statat(&dir, entry.file_name(), AtFlags::empty()) {
            found.push((pid, stat.st_uid));
        }
    }
    found.sort_unstable_by(|one, other| other.cmp(one));
    found
}

/// The identity of the file at a path of our own mount namespace.
pub(super) fn file_id(path: &Path) -> Option<FileId> {
    rustix::fs::stat(path.as_os_str().as_bytes()).ok().map(|stat| FileId::from(&stat))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::MetadataExt as _;

    fn ours() -> Process {
        Process::open(Path::new("/proc"), std::process::id()).expect("we run")
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
        assert_eq!(ours().search(&link, &mut 100_000, &mut |_, _| ()), Some(fd));
    }

    #[test]
    fn socket_of_nobody_is_not_found_and_a_spent_budget_ends_the_search() {
        assert_eq!(ours().search(&SocketLink::new(u64::MAX), &mut 100_000, &mut |_, _| ()), None);
        let (_open, link, _) = socket();
        let mut budget = 1;
        assert_eq!(ours().search(&link, &mut budget, &mut |_, _| ()), None);
        assert_eq!(budget, 0);
    }

    #[test]
    fn descriptor_number_with_many_digits_is_no_panic() {
        assert!(!ours().holds(u32::MAX, &SocketLink::new(1)));
    }

    #[test]
    fn process_that_ended_reads_as_gone_through_the_held_directory() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep runs");
        let process = Process::open(Path::new("/proc"), child.id()).expect("it runs");
        assert!(process.stat().is_some());
        child.kill().expect("ours to kill");
        child.wait().expect("ours to reap");
        assert_eq!(process.stat(), None);
        assert!(process.file("exe").is_err() && process.cmdline().is_empty());
    }

    #[test]
    fn pid_of_nobody_cannot_be_opened() {
        assert!(Process::open(Path::new("/proc"), u32::MAX).is_none());
        assert!(Process::open(Path::new("/nowhere"), 1).is_none());
    }

    #[test]
    fn process_list_holds_us_and_starts_with_the_newest() {
        let list = all(Path::new("/proc"));
        assert!(list.iter().any(|(pid, _)| *pid == std::process::id()));
        assert!(list.is_sorted_by(|one, other| one.0 > other.0));
    }
}
