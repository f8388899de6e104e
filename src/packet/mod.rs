//! Bytes ⇄ meaning, on `smoltcp::wire`: the five-tuple, the checked view of a packet, and the RST and ICMP answers.
//!
//! Keeps one rule: nothing outside this room indexes packet bytes. Does not decide anything.
#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

mod bare;
mod build;
mod extension;
mod extent;
mod frame;
mod headers;
mod offload;
mod reassembly;
mod reject;
mod renumber;
mod signature;
mod tuple;
mod view;

pub use bare::LinkNumber;
pub use build::{echo_reply, echo_request, frame_datagrams, frame_room, udp_datagram};
pub use extent::{acknowledged, answer_of, resets, split_stream, stream_bytes, stream_end};
pub use frame::{FRAME_HEADER_LEN, LED, LinkHeader};
pub use headers::{HEADERS_MAX, Piece, StreamHeaders, plain_headers, stamp_of, tells_of_doubles, window_shift};
pub use offload::{VNET_HEADER_LEN, datagrams_together, finished_tcp, is_unfinished, unfinished_tcp};
pub use reassembly::{Lost, Reassembly};
pub use reject::{ErrorMessage, Unreachable, error_message, reset, unreachable};
pub use renumber::{acknowledge_more, step_back, step_forward, under_headers};
pub use signature::Signature;
pub use tuple::{Direction, FiveTuple, Protocol};
pub use view::{Arrival, Checksums, Echo, IpPacket, Kept, Malformed, Marks, Segment, Transport};
