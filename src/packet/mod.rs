//! Bytes ⇄ meaning, on `smoltcp::wire`: the five-tuple, the checked view of a packet, and the RST and ICMP answers.
//!
//! Keeps one rule: nothing outside this room indexes packet bytes. Does not decide anything.
#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

mod build;
mod extension;
mod offload;
mod reject;
mod tuple;
mod view;

pub use build::{echo_reply, echo_request, udp_datagram};
pub use offload::{VNET_HEADER_LEN, is_unfinished, unfinished_tcp};
pub use reject::{Unreachable, reset, time_exceeded, unreachable};
pub use tuple::{Direction, FiveTuple, Protocol};
pub use view::{Checksums, Echo, IpPacket, Malformed, Segment, Transport};
