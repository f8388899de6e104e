//! Case → Decision: an ordered walk of small checks, and the permit that only an Accept mints.
//!
//! Keeps one rule: no decision without a reason; an error on the way is a refusal.
#![deny(clippy::disallowed_methods)]

mod case;
mod decide;
mod decision;

pub use case::{Answer, Case, Target};
pub use decide::{answer_allowed, decide};
pub use decision::{Check, Decision, Epoch, Lane, Permit, Reason, Verdict};
