//! What stands on disk: profile sets, and the data of countries and AS numbers.
//!
//! Keeps one rule: a set with a fault is not loaded, so that the last good policy stays. Does not decide anything.

mod geo;
mod set;
mod shipped;

pub use geo::GeoData;
pub use set::{Set, default_dirs, load_default, load_set, read_default, read_set};
