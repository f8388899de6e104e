//! Domain names, rule patterns and sightings ("this address was given to this program as this name, until t").
//!
//! Keeps one rule: a name exists only in canonical form (lower case, A-labels, no last dot).
#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

mod name;
mod pattern;
mod sightings;

pub use name::{Name, NameError};
pub use pattern::{Pattern, PatternError};
pub use sightings::{Asker, Sighting, Sightings};
