//! A socket as the kernel's tables describe it: what leads from a five-tuple to a process.

use super::Confidence;

/// The owner side of a five-tuple, before any process is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Socket {
    /// Inode in sockfs, the number of `socket:[N]` in `/proc/PID/fd`. 0 when the program has closed the socket already.
    pub inode: u64,
    /// The user who made the socket, as the namespace of the asking netlink socket sees it.
    pub uid: u32,
    /// Never reused while the kernel runs. 0 when unknown (tables of /proc do not tell it).
    pub cookie: u64,
    /// Inode of the cgroup directory that the socket was made in.
    pub cgroup_id: Option<u64>,
    /// `SO_MARK` of the socket; 0 also where nobody tells.
    pub mark: u32,
    /// The index of the link that it is bound to; 0: of none, and where nobody tells.
    pub link: u32,
    pub confidence: Confidence,
}
