//! One process of /proc, held by a descriptor of its directory.
//!
//! Keeps one rule: every fact is read through that descriptor. The kernel binds it to the process, not to the number: when the
//! process is gone, and even when its PID is in use again, reading fails instead of describing somebody else.
//!
//! Does not look at threads: a program whose first thread has ended, or whose threads do not share their descriptors, is not
//! found here and stays unattributed.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;

use rustix::fs::{AtFlags, Mode, OFlags, RawDir, Stat as FileStat, StatxFlags, fstat, makedev, openat, statat, statx};
use rustix::io::Errno;

use super::text::{self, Stat};

/// Command lines are kept up to this length; a program may have megabytes of them.
const CMDLINE_LEN: u64 = 16 * 1024;
/// A stat or cgroup file is one short line or a few.
const SMALL_FILE_LEN: u64 = 16 * 1024;

/// A process that was alive when it was opened.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) start_ticks: u64,
    dir: OwnedFd,
    /// The highest of its descriptors that was looked at.
    pub(super) top: AtomicU32,
}

/// Device and inode of a file.
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

impl Process {
    /// Opens `PID` below the root of a proc filesystem; `None` when there is no such process.
    pub(super) fn open(root: &Path, pid: u32) -> Option<Self> {
        Self::glance(root, pid)?.confirm()
    }

    /// The same with its stat line, which need not be read twice then.
    pub(super) fn open_with_stat(root: &Path, pid: u32) -> Option<(Self, Stat)> {
        let mut process = Self::glance(root, pid)?;
        let stat = process.stat()?;
        process.start_ticks = stat.start_ticks;
        Some((process, stat))
    }

    /// Opens a process of which the start time is not wanted yet: the stat line costs more than the rest of a look.
    pub(super) fn glance(root: &Path, pid: u32) -> Option<Self> {
        let path = root.join(pid.to_string());
        let dir = openat(rustix::fs::CWD, &path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        Some(Self { pid, start_ticks: 0, dir, top: AtomicU32::new(0) })
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

    /// The file behind a name of the directory, links followed by the kernel, not by their text.
    pub(super) fn file(&self, name: &str) -> Result<FileId, Errno> {
        id_at(&self.dir, name)
    }

    /// The number of the mount that this file lies in (Linux 5.8).
    pub(super) fn mount(&self, name: &str) -> Option<u64> {
        let stat = statx(&self.dir, name, AtFlags::STATX_DONT_SYNC, StatxFlags::MNT_ID).ok()?;
        (stat.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(stat.stx_mnt_id)
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
    id_at(rustix::fs::CWD, path.as_os_str().as_bytes()).ok()
}

/// Device and inode are known here also of a file on a network or in user space (FUSE), so nobody is asked who may not answer.
fn id_at(dir: impl AsFd, name: impl rustix::path::Arg) -> Result<FileId, Errno> {
    let stat = statx(dir, name, AtFlags::STATX_DONT_SYNC, StatxFlags::INO)?;
    Ok(FileId { device: makedev(stat.stx_dev_major, stat.stx_dev_minor), inode: stat.stx_ino })
}

#[cfg(test)]
mod tests {
    use super::*;

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
