//! Case → Decision: an ordered walk of small checks, and the permit that only an Accept mints.
//!
//! Keeps one rule: no decision without a reason; an error on the way is a refusal.
#![deny(clippy::disallowed_methods)]

mod answer;
mod bypass;
mod case;
mod decide;
mod decision;
mod flow;
mod infrastructure;
mod outcome;
mod question;
mod related;
mod trace;

pub use answer::{HOST_LOOPBACK_NAME, answer_allowed};
pub use case::{Answer, Case, Target};
pub use decide::{REFUSED_V4, REFUSED_V6, chain_allowed, decide, explain};
pub use decision::{Check, Decision, Epoch, Lane, Permit, Reason, Verdict};
pub use infrastructure::{EXEMPTIONS, Exemption};
pub use related::is_related;
pub use trace::Step;
