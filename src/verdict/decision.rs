//! The answer to a case, and the ticket to egress.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::profile::{Layer, Source};

/// What happens to the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Accept,
    /// Held until a person answers.
    Ask,
    /// Refused; the program is told.
    Block,
    /// Refused in silence.
    Drop,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Accept => "accept",
            Self::Ask => "ask",
            Self::Block => "block",
            Self::Drop => "drop",
        })
    }
}

/// How an accepted flow leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    Direct,
    Gate,
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Gate => "gate",
        })
    }
}

/// Counts policy changes. A permit of an older epoch is judged again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub u64);

/// The steps of a decision, in the order of the walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    RefusedName,
    Infrastructure,
    Identity,
    RunAs,
    Direction,
    Scope,
    PeerToPeer,
    Endpoints,
    DomainWhitelist,
    ConnectPorts,
    Bypass,
    Labels,
    Strict,
    Mode,
    Gate,
    /// A person's answer, or its absence until the deadline.
    Prompt,
    /// A bound was reached before a verdict could be.
    Limit,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::RefusedName => "refused_name",
            Self::Infrastructure => "infrastructure",
            Self::Identity => "identity",
            Self::RunAs => "run_as",
            Self::Direction => "direction",
            Self::Scope => "scope",
            Self::PeerToPeer => "peer_to_peer",
            Self::Endpoints => "endpoints",
            Self::DomainWhitelist => "domain_whitelist",
            Self::ConnectPorts => "connect_ports",
            Self::Bypass => "bypass",
            Self::Labels => "labels",
            Self::Strict => "strict",
            Self::Mode => "mode",
            Self::Gate => "gate",
            Self::Prompt => "prompt",
            Self::Limit => "limit",
        })
    }
}

/// Why: the check that concluded, and the line of the profile that it read, if any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    pub check: Check,
    pub layer: Option<Layer>,
    pub profile: Option<Arc<str>>,
    /// The endpoint rule or setting as typed, e.g. `- *` or `internet = false`; for checks without one, a short phrase.
    pub rule: Option<Arc<str>>,
    pub file: Option<Arc<PathBuf>>,
    /// 1-based.
    pub line: Option<u32>,
    /// Why the rule came out so, where its text alone does not say it.
    pub note: Option<&'static str>,
}

impl Reason {
    /// A reason that no profile line stands behind.
    #[must_use]
    pub fn of(check: Check) -> Self {
        Self { check, layer: None, profile: None, rule: None, file: None, line: None, note: None }
    }

    /// A reason that a line of a profile stands behind. Copies no text.
    #[must_use]
    pub fn at(check: Check, source: &Source) -> Self {
        let Source { layer, profile, text, file, line } = source;
        Self {
            check,
            layer: Some(*layer),
            profile: Some(Arc::clone(profile)),
            rule: Some(Arc::clone(text)),
            file: Some(Arc::clone(file)),
            line: Some(*line),
            note: None,
        }
    }

    /// A reason in words, where no line of a profile stands behind it.
    #[must_use]
    pub fn because(check: Check, phrase: &str) -> Self {
        Self { rule: Some(Arc::from(phrase)), ..Self::of(check) }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.check)?;
        if let Some(rule) = &self.rule {
            write!(f, " `{rule}`")?;
        }
        if let Some(profile) = &self.profile {
            write!(f, " of {profile}")?;
        }
        if let (Some(file), Some(line)) = (&self.file, self.line) {
            write!(f, " ({}:{line})", file.display())?;
        }
        if let Some(note) = self.note {
            write!(f, ": {note}")?;
        }
        Ok(())
    }
}

impl Reason {
    /// The rule with its file and line, as records show it.
    #[must_use]
    pub fn rule_text(&self) -> Option<String> {
        let rule = self.rule.as_deref()?;
        match (&self.file, self.line) {
            (Some(file), Some(line)) => Some(format!("{rule} ({}:{line})", file.display())),
            (_, _) => Some(rule.to_owned()),
        }
    }
}

/// Verdict and reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub verdict: Verdict,
    pub lane: Lane,
    pub reason: Reason,
    sealed: Sealed,
}

/// The verdict that the walk came to. Keeps `Decision` from being built, or turned into an Accept, outside this room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sealed(Verdict);

impl Decision {
    /// Only the walk calls this.
    pub(super) fn new(verdict: Verdict, lane: Lane, reason: Reason) -> Self {
        Self { verdict, lane, reason, sealed: Sealed(verdict) }
    }

    /// A refusal that needs no walk: a limit was reached, a prompt expired, nobody could be asked.
    #[must_use]
    pub fn refused(reason: Reason) -> Self {
        Self::new(Verdict::Block, Lane::Direct, reason)
    }

    /// A decision that no walk came to.
    #[cfg(test)]
    pub(crate) fn for_test(verdict: Verdict, reason: Reason) -> Self {
        Self::new(verdict, Lane::Direct, reason)
    }

    /// The ticket to egress; None unless the verdict is Accept.
    #[must_use]
    pub fn permit(&self, epoch: Epoch) -> Option<Permit> {
        (self.sealed == Sealed(Verdict::Accept) && self.verdict == Verdict::Accept).then_some(Permit { epoch, lane: self.lane })
    }
}

/// The only ticket to egress, made by an accepting decision alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit {
    epoch: Epoch,
    lane: Lane,
}

impl Permit {
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    #[must_use]
    pub fn lane(&self) -> Lane {
        self.lane
    }
}
