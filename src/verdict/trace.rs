//! What the walk saw, step by step.
//!
//! Keeps one rule: the walk that explains is the walk that decides; only this witness differs.

use serde::Serialize;

use super::Check;
use crate::profile::Source;

/// Sees the checks of a walk that did not conclude.
pub(super) trait Witness: Default {
    /// `check` did not conclude, because of `why`, which the line `by` says.
    fn passed(&mut self, check: Check, why: &'static str, by: Option<&Source>);
}

/// Sees nothing and costs nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unseen;

impl Witness for Unseen {
    fn passed(&mut self, _: Check, _: &'static str, _: Option<&Source>) {}
}

/// One step of an explained walk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    pub check: Check,
    /// `passed`, or the verdict that it concluded with.
    pub outcome: String,
    pub note: String,
}

/// Keeps every step.
#[derive(Clone, Debug, Default)]
pub(super) struct Trace(pub Vec<Step>);

impl Witness for Trace {
    fn passed(&mut self, check: Check, why: &'static str, by: Option<&Source>) {
        let note = match by {
            Some(Source { layer: _, profile, text, file, line }) => {
                format!("{why}: `{text}` of {profile} ({}:{line})", file.display())
            }
            None => why.to_owned(),
        };
        self.0.push(Step { check, outcome: "passed".to_owned(), note });
    }
}
