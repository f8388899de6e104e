//! Who a program is: identity, fingerprints, framework (interpreter → script).
//!
//! Keeps one rule: this room never looks at /proc or at any file; `procfs` hands it facts.
#![deny(clippy::disallowed_methods)]

mod identity;
mod socket;

pub use identity::{Ancestor, Confidence, Exe, Identity, Tag};
pub use socket::Socket;
