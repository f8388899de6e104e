//! The walk.

use std::net::IpAddr;

use super::{Case, Check, Decision, Reason};
use crate::names::Name;
use crate::profile::{Level, Policy, Subject};

/// Walks the checks; the first that concludes wins.
#[must_use]
pub fn decide(policy: &Policy, case: &Case<'_>) -> Decision {
    let _ = (policy, case);
    Decision::refused(Reason::of(Check::Mode))
}

/// Whether the answer to a question of `subject` for `name` may hold `address`: rebinding, scopes and addresses that the program
/// may not use are filtered out.
///
/// # Errors
///
/// The reason why the address must not be told.
pub fn answer_allowed(policy: &Policy, subject: &Subject, level: Level, name: &Name, address: IpAddr) -> Result<(), Reason> {
    let _ = (policy, subject, level, name, address);
    Err(Reason::of(Check::Scope))
}
