//! Start order, event loops, shutdown: the only room that sees all.
//!
//! Keeps one rule: rules are loaded before the first packet can come, and what `up` installed is undone by whoever started it.

mod asker;
mod core;
mod daemon;
mod dns;
mod engine;
mod exec;
mod levels;
mod network;
mod older;
mod policies;
mod prompts;
mod room;
mod searchers;
mod shard;
mod shared;
mod signals;
mod threads;
mod up;
mod upkeep;
mod watchdog;

pub use exec::exec;
pub use levels::level_features;
pub use policies::setup;
pub use up::up;
