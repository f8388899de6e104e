//! What a process was, seen from within the kernel while it was there: for who is gone by the time that /proc is asked.

/// A file or directory, as its filesystem has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The filesystem's number: 12 bits of the major one, and 20 of the minor one.
    pub device: u32,
    pub inode: u64,
    /// The number of the mount by which the process has it.
    pub mount: u32,
    /// From the filesystem's root downwards.
    pub names: Vec<Vec<u8>>,
}

/// A process at the time at which it made a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Portrait {
    pub exe: Place,
    /// None: its names are too long.
    pub cwd: Option<Place>,
    /// Device and inode of its root directory.
    pub root: (u32, u64),
    /// The same of the file that a shell keeps open while it runs it; None: there was none, or it is not known where such a program has it.
    pub script: Option<(u32, u64)>,
    /// The effective user.
    pub uid: u32,
    /// The PID of its parent.
    pub parent: u32,
    /// Whether that is in the same cgroups, of all hierarchies.
    pub is_with_parent: bool,
    /// As [`super::Identity::cgroup`]; None where there are several hierarchies, so that only /proc tells.
    pub cgroup: Option<String>,
    /// In nanoseconds since boot.
    pub started: u64,
    /// Each argument with a zero behind it; empty where they are too long, or were not in memory.
    pub cmdline: Vec<u8>,
}
