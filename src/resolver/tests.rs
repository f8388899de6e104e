//! Questions through the whole room, against fake upstreams on loopback.

mod answers;
mod bounds;
mod encrypted;
mod refusals;
mod transport;
