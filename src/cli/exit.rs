//! Exit codes, the same for every verb.

use std::process::ExitCode;

/// How a verb ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done,
    Failed,
    /// Wrong flags or arguments.
    Usage,
    /// Portreeve is not active here.
    NotActive,
    /// Something should be there but does not answer.
    Unreachable,
    NotPermitted,
    /// A profile, plan or configuration file is faulty.
    Configuration,
    /// `explain`: the verdict is a refusal.
    Refused,
    /// `explain`: the verdict is ask.
    Ask,
    /// `exec`: the status of the command, or 125–127 for `exec`'s own failures as env(1) has them.
    Command(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::NotActive => 3,
            Exit::Unreachable => 4,
            Exit::NotPermitted => 5,
            Exit::Configuration => 6,
            Exit::Refused => 7,
            Exit::Ask => 8,
            Exit::Command(status) => status,
        })
    }
}
