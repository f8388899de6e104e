//! Where a setting stands, so that every decision can name the line behind it.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Where a profile comes from, in order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    User,
    Global,
    Stamp,
    Fallback,
}

impl Layer {
    pub const ALL: [Self; 4] = [Self::User, Self::Global, Self::Stamp, Self::Fallback];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Global => "global",
            Self::Stamp => "stamp",
            Self::Fallback => "fallback",
        }
    }
}

/// A line of a profile. Cheap to clone: no text is copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub layer: Layer,
    pub profile: Arc<str>,
    /// The rule or setting as typed.
    pub text: Arc<str>,
    pub file: Arc<PathBuf>,
    /// 1-based.
    pub line: u32,
}

/// A value together with the line that sets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held<T> {
    pub value: T,
    pub source: Source,
}
