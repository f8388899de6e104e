//! How the command of an enclosure ended.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How the command ended, or why it never began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CommandStatus {
    Exited(u8),
    /// The number of the signal that killed it.
    Killed(i32),
    /// No such program, here or on the PATH.
    NotFound {
        command: String,
    },
    /// The program is there, and the kernel refused to run it for this reason.
    NotExecutable {
        command: String,
        cause: String,
    },
}

impl CommandStatus {
    /// The exit code as env(1) and the shells have it.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Exited(code) => *code,
            Self::Killed(signal) => u8::try_from(*signal).map_or(u8::MAX, |signal| signal.saturating_add(128)),
            Self::NotFound { .. } => 127,
            Self::NotExecutable { .. } => 126,
        }
    }
}

impl fmt::Display for CommandStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "the command exited with {code}"),
            Self::Killed(signal) => write!(f, "the command was killed by signal {signal}"),
            Self::NotFound { command } => write!(f, "{command}: not found; give a path, or a name that is on the PATH"),
            Self::NotExecutable { command, cause } => write!(f, "{command}: cannot be run: {cause}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_env_and_the_shells() {
        let command = || "x".to_owned();
        let cases = [
            (CommandStatus::Exited(0), 0),
            (CommandStatus::Exited(3), 3),
            (CommandStatus::Killed(9), 137),
            (CommandStatus::Killed(64), 192),
            (CommandStatus::NotExecutable { command: command(), cause: "Permission denied".into() }, 126),
            (CommandStatus::NotFound { command: command() }, 127),
        ];
        for (status, code) in cases {
            assert_eq!(status.code(), code, "{status}");
        }
    }
}
