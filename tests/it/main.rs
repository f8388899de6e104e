//! Stories of rooms working together, without privileges and without the network.

mod architecture;
mod chaos;
#[cfg(feature = "edges")]
mod control;
mod counting;
#[cfg(feature = "edges")]
mod datapath;
mod names;
mod policy;
#[cfg(feature = "edges")]
mod resolver;
mod world;
