//! The configuration file and the places where things are.
//!
//! Keeps one rule: a `Config` exists only after every key of its file was understood; all faults are reported at once, each
//! with its place and what would be right. Profiles and route plans have rooms of their own.

mod fault;
mod file;
pub mod paths;

pub use fault::Fault;
pub use file::{Config, ConfigError, Dns, Geo};
