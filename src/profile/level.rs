//! The security level, and sets of levels.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How careful to be. Ordered: Dynamic < Secure < Fortress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    #[default]
    Dynamic,
    Secure,
    Fortress,
}

impl Level {
    pub const ALL: [Self; 3] = [Self::Dynamic, Self::Secure, Self::Fortress];
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dynamic => "dynamic",
            Self::Secure => "secure",
            Self::Fortress => "fortress",
        })
    }
}

/// The text is no level.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no security level; levels are dynamic, secure and fortress")]
pub struct LevelError(String);

impl FromStr for Level {
    type Err = LevelError;

    fn from_str(text: &str) -> Result<Self, LevelError> {
        Self::ALL.into_iter().find(|level| level.to_string() == text).ok_or_else(|| LevelError(text.to_owned()))
    }
}

/// One value for each level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PerLevel<T> {
    pub dynamic: T,
    pub secure: T,
    pub fortress: T,
}

impl<T> PerLevel<T> {
    /// Makes each value from its level.
    pub fn from_fn(mut make: impl FnMut(Level) -> T) -> Self {
        Self { dynamic: make(Level::Dynamic), secure: make(Level::Secure), fortress: make(Level::Fortress) }
    }

    #[must_use]
    pub fn at(&self, level: Level) -> &T {
        match level {
            Level::Dynamic => &self.dynamic,
            Level::Secure => &self.secure,
            Level::Fortress => &self.fortress,
        }
    }

    pub fn at_mut(&mut self, level: Level) -> &mut T {
        match level {
            Level::Dynamic => &mut self.dynamic,
            Level::Secure => &mut self.secure,
            Level::Fortress => &mut self.fortress,
        }
    }
}

/// The levels in which something is on.
pub type Levels = PerLevel<bool>;

impl Levels {
    pub const NONE: Self = Self { dynamic: false, secure: false, fortress: false };
    pub const ALL: Self = Self { dynamic: true, secure: true, fortress: true };
}

impl fmt::Display for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ALL || *self == Self::NONE {
            return write!(f, "{}", self.dynamic);
        }
        let on: Vec<String> = Level::ALL.into_iter().filter(|l| *self.at(*l)).map(|l| format!("\"{l}\"")).collect();
        write!(f, "[{}]", on.join(", "))
    }
}
