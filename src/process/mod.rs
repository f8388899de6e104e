//! Who a program is: identity, fingerprints, framework (interpreter → script).
//!
//! Keeps one rule: this room never looks at /proc or at any file; `procfs` hands it facts.
#![deny(clippy::disallowed_methods)]

mod fingerprint;
mod framework;
mod identity;
mod portrait;
mod socket;

pub use fingerprint::{HomePath, Looked, Matching, Strength, UID_MIN, tidy};
pub use framework::{Framework, Surroundings, check_template, rewrite};
pub use identity::{Ancestor, Confidence, Exe, Identity, Tag};
pub use portrait::{Place, Portrait};
pub use socket::Socket;
