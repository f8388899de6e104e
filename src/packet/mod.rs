//! Bytes ⇄ meaning, on `smoltcp::wire`: the five-tuple, the checked view of a packet, and the RST and ICMP answers.
//!
//! Keeps one rule: nothing outside this room indexes packet bytes. Does not decide anything.
#![deny(clippy::disallowed_methods)]

mod tuple;

pub use tuple::{FiveTuple, Protocol};
