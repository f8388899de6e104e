//! Links, routes, rules, socket tables and the nftables guard: install, show, undo.
//!
//! Keeps one rule: whatever is installed here is written to the undo file first and taken back by its owner, and by
//! `cleanup` when the owner was killed. Judges no packet; repair of what others remove is not here yet.

mod route_socket;
pub mod setup;
mod sockdiag;

pub use route_socket::{RequestError, RouteSocket};
pub use sockdiag::SocketTable;
