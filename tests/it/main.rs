//! Stories of rooms working together, without privileges and without the network.

mod architecture;
#[cfg(feature = "edges")]
mod control;
mod names;
mod policy;
#[cfg(feature = "edges")]
mod resolver;
mod world;
