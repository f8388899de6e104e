//! Stories in a simulated world: no network, no daemon.

mod policy;
