//! Stories of rooms working together, without privileges and without the network.

#[cfg(feature = "edges")]
mod control;
#[cfg(feature = "edges")]
mod resolver;
