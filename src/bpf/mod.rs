//! Whose socket it was that is closed already: programs of ours in the kernel note who makes and who closes UDP sockets.
//!
//! Theory of operation. A program may send one datagram from a new socket and close it before anybody looks; then neither the socket tables
//! nor /proc know of it any more. The kernel runs a BPF program of the root cgroup when a socket is made and when it is released
//! (net/ipv4/af_inet.c, `inet_create` and `inet_release`), still in the process that does it and with addresses and ports still set.
//! Ours write that down in maps of bounded size (`program`), which are asked when no socket is found. Others note when a process
//! executes another program, since its PID and its start stay the same then, and when it begins one that inherits its sockets.
//!
//! Raw sockets that are closed are noted too (`raw`): some programs make one for each packet. And who made a socket just now is the first to be
//! looked at when its holder is searched for.
//!
//! What made a UDP socket is portrayed (`portrait`), for when it is gone by the time that /proc is asked.
//!
//! Which of several sockets of a UDP port sent a packet is noted by a program at the TUN (`sent`).
//!
//! Only sockets of one network namespace are noted, and none of our own process: what these send does not come by the TUN, so they cannot
//! be asked about, and one upstream socket for each flow would cost as much as the programs' own. On others it is a tenth of a microsecond.
//!
//! Keeps one rule: no guess. Who closed a UDP socket sent what it sent only where that process made the socket itself, has executed nothing
//! since, and nobody else has just closed a socket of that port. The programs decide nothing, so nothing of the machine's sockets changes.
//!
//! All of it goes with our descriptors, also after SIGKILL. Where the kernel or our rights do not allow it (an ordinary user, Linux before
//! 5.14, a PID namespace of our own), we are without: nobody is known then, as before.

mod btf;
mod code;
mod draw;
mod portrait;
mod program;
mod raw;
mod record;
mod sent;
mod sys;
mod watch;

pub use raw::{RawNotes, RawSender};
pub use record::Sender;
pub use sent::{LastSender, Sending};
pub use sys::since_boot;
pub use watch::{ClosedSockets, Without};
