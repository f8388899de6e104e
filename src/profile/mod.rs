//! What was typed → what holds: profile files, layers, levels, flags and endpoint rules.
//!
//! Keeps one rule: a `Profile` exists only after every key of its file was understood; a bad file never widens what is allowed.
#![deny(clippy::disallowed_methods)]

mod level;
mod policy;

pub use level::Level;
pub use policy::{Layer, Policy, Subject};
