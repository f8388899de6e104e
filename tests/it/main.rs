//! Stories in a simulated world: no network, no daemon.

mod names;
mod policy;
