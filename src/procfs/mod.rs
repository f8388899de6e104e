//! /proc and cgroups → identity: which program holds this socket, and what is known of it.
//!
//! Theory of operation. The kernel's tables name a socket by its inode; only the descriptor lists of /proc say who holds it.
//! Looking at all of them takes milliseconds, so [`Processes::find_quick`] looks, within a fixed number of links, where the
//! socket most likely is: at the last owner of this cookie, then at the programs that lately owned sockets of this user or
//! cgroup, their last descriptor number first. Where it is known who made a socket just now, [`Processes::find_at_maker`] looks there.
//! What both miss goes to [`Processes::find`] off the data path: members of the cgroup, the user's processes, all; newest first. A cached answer is only a hint of where to look: the descriptor, the
//! executable's device and inode, the arguments and the working directory are read again for every flow; once for those that were
//! sent before they are read. A packet loop leaves out what may wait: where the kernel notes who executes programs, that stands for the
//! arguments, and whoever was not read before goes to [`Processes::find`] ([`Effort`]).
//!
//! Keeps one rule: no guess. A socket whose holder is not seen belongs to nobody, with its user kept.
//!
//! Does not see: forwarded packets (their ports mean nothing here), senders that ended before the look (but `find_ended` tells what others
//! noted of them), who made a socket that is closed (but `find_maker` looks at whom others name), descriptors passed to a process that the
//! search had no reason to visit (but `find_everywhere` visits all), and sockets that are held without a descriptor (io_uring, a message on
//! its way).

mod cache;
mod cgroups;
mod descriptors;
mod ended;
mod hints;
mod identity;
mod maker;
mod mounts;
mod passed;
mod process;
mod quick;
mod raw;
mod search;
mod sockets;
mod tags;
mod text;
mod users;

pub use raw::{Holders, RawTable};
pub use search::{Effort, IsSame, Options, Processes};
