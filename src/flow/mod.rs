//! Who talks to whom: the flow table, lifecycle, limits and records.
//!
//! Keeps one rule: a flow that ends writes exactly one record.
#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

mod accounts;
mod numbers;
mod parked;
mod record;
mod table;
mod twin;

/// The bit of the packet mark that says that the routes of the main table lead on, whatever rules come before it.
pub const BY_MAIN: u32 = 0x0000_1000;

/// The bit of the packet mark that says that the kernel alone carries a connection on, past the router.
pub const EXPRESS: u32 = 0x0020_0000;
/// Beside it, for the first segment of such a connection. It is taken away on the way, so that the segment is routed like all that follow.
pub const EXPRESS_FIRST: u32 = 0x0040_0000;

pub use crate::packet::Direction;
pub use accounts::{Amounts, Bound, Program};
pub use numbers::Numbers;
pub use parked::Parked;
pub use record::Record;
pub use table::{Crowding, Flow, FlowId, Owner, Service, State, Table};
pub use twin::{HEARS, WAY_MASK, WAYS, Way};
