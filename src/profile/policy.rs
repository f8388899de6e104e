//! The compiled profile set, and what of it holds for one program.

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::process::Identity;

/// Where a profile comes from, in order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    User,
    Global,
    Stamp,
    Fallback,
}

/// A compiled set of profiles. Immutable; a reload makes a new one.
#[derive(Debug, Default)]
pub struct Policy {}

/// A program together with the layers that hold for it under one policy. Made once per identity and policy, not per flow.
#[derive(Clone, Debug)]
pub struct Subject {
    pub identity: Arc<Identity>,
}

impl Policy {
    /// Finds the profiles of `identity`: fingerprints, framework rewriting, merging. `exists` answers whether a rewritten path
    /// exists as seen by the program.
    #[must_use]
    pub fn subject(&self, identity: Arc<Identity>, exists: &dyn Fn(&Path) -> bool) -> Subject {
        let _ = exists;
        Subject { identity }
    }
}

impl Subject {
    /// The profile to show beside a flow: the User profile's name, else the strongest that matched.
    #[must_use]
    pub fn profile_name(&self) -> Option<&str> {
        None
    }
}
