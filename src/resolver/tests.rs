//! Questions through the whole room, against fake upstreams on loopback.

mod answers;
mod bounds;
mod encrypted;
mod loops;
mod refusals;
mod transport;
