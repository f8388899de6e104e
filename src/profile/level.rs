//! The security level.

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
