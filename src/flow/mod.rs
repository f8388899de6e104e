//! Who talks to whom: the flow table, lifecycle, limits and records.
//!
//! Keeps one rule: a flow that ends writes exactly one record.
#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

mod record;
mod table;

pub use crate::packet::Direction;
pub use record::Record;
pub use table::{Flow, FlowId, Owner, Parked, Service, State, Table};
