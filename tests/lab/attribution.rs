//! Attribution against the real kernel: sockets of real programs, in network namespaces made for each test.
//!
//! Needs root. Each test runs in a thread of its own that leaves the first network namespace before anything else, so nothing
//! of the machine's network is touched, and the namespace ends with the thread and the programs it started.

mod closed;
mod forgery;
mod harness;
mod icmp;
mod sending;
mod sharing;
mod signatures;
mod tables;
