//! Questions to a person.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Instant;

use crate::flow::FlowId;
use crate::names::{Asker, Name};
use crate::verdict::Answer;

/// What an answer holds for: this program, this name (or this address, where no name is known).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PromptKey {
    pub asker: Asker,
    /// The program behind an interpreter: what is allowed to one script is not to the next.
    pub actor: Option<PathBuf>,
    pub target: Target,
}

/// What the program wants to reach, as a person would say it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    Name(Name),
    Address(IpAddr),
}

/// A question that goes out to a person; the flow waits.
#[derive(Clone, Debug)]
pub struct Question {
    pub id: u64,
    pub flow: FlowId,
    pub deadline: Instant,
}

/// How a prompt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptEnd {
    Answered(Answer),
    /// Nobody answered in time.
    Expired,
    /// The program gave up, or other rules decided.
    Gone,
}

/// More open questions than anyone could read are a flood; further flows are refused.
pub(super) const MAX_OPEN: usize = 50;
/// Of which one program may have so many, so that it does not silence the others.
pub(super) const MAX_OPEN_EACH: usize = 10;
/// Flows that wait for one answer, so that one program does not fill the place for undecided flows.
pub(super) const MAX_WAITING: usize = 64;
/// Remembered answers; past that, the program is asked about again.
pub(super) const MAX_ANSWERS: usize = 4096;

/// A question that waits, and the flows that wait with it.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) key: PromptKey,
    pub(super) flows: Vec<FlowId>,
    pub(super) deadline: Instant,
}
