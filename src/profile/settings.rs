//! The settings of a profile, valid by type.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::level::{Level, Levels, PerLevel};
use super::list::RuleList;
use super::source::{Held, Layer};
use super::transport::Transport;
use crate::names::Pattern;
use crate::process::{Framework, Matching};

/// What happens to a flow that no rule speaks of. Ordered by precedence on a tie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    Whitelist,
    Prompt,
    Blacklist,
}

impl Mode {
    pub const ALL: [Self; 3] = [Self::Whitelist, Self::Prompt, Self::Blacklist];
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Whitelist => "whitelist",
            Self::Prompt => "prompt",
            Self::Blacklist => "blacklist",
        })
    }
}

/// Who may run the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RunAs {
    /// A user ID below UID_MIN, root included.
    System,
    /// Root or a member of sudo, wheel or admin.
    Admin,
    /// A person who is logged in.
    User,
}

impl RunAs {
    pub const ALL: [Self; 3] = [Self::System, Self::Admin, Self::User];
}

impl fmt::Display for RunAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::System => "system",
            Self::Admin => "admin",
            Self::User => "user",
        })
    }
}

/// A switch that is on in a set of levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Flag {
    Internet,
    Lan,
    Localhost,
    Related,
    Strict,
    Gateway,
    PeerToPeer,
    Service,
    Independent,
    RequireGate17,
}

impl Flag {
    pub const ALL: [Self; 10] = [
        Self::Internet,
        Self::Lan,
        Self::Localhost,
        Self::Related,
        Self::Strict,
        Self::Gateway,
        Self::PeerToPeer,
        Self::Service,
        Self::Independent,
        Self::RequireGate17,
    ];

    /// The key in the file.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Internet => "internet",
            Self::Lan => "lan",
            Self::Localhost => "localhost",
            Self::Related => "related",
            Self::Strict => "strict",
            Self::Gateway => "gateway",
            Self::PeerToPeer => "peer_to_peer",
            Self::Service => "service",
            Self::Independent => "independent",
            Self::RequireGate17 => "require_gate17",
        }
    }

    /// The value that allows less; it holds where two profiles tie.
    #[must_use]
    pub fn stricter(self) -> bool {
        match self {
            Self::Strict | Self::Independent | Self::RequireGate17 => true,
            Self::Internet | Self::Lan | Self::Localhost | Self::Related | Self::Gateway | Self::PeerToPeer | Self::Service => {
                false
            }
        }
    }
}

/// One value for each flag.
#[derive(Clone, Debug, Default)]
pub struct PerFlag<T> {
    pub internet: T,
    pub lan: T,
    pub localhost: T,
    pub related: T,
    pub strict: T,
    pub gateway: T,
    pub peer_to_peer: T,
    pub service: T,
    pub independent: T,
    pub require_gate17: T,
}

impl<T> PerFlag<T> {
    /// Makes each value from its flag.
    pub fn from_fn(mut make: impl FnMut(Flag) -> T) -> Self {
        Self {
            internet: make(Flag::Internet),
            lan: make(Flag::Lan),
            localhost: make(Flag::Localhost),
            related: make(Flag::Related),
            strict: make(Flag::Strict),
            gateway: make(Flag::Gateway),
            peer_to_peer: make(Flag::PeerToPeer),
            service: make(Flag::Service),
            independent: make(Flag::Independent),
            require_gate17: make(Flag::RequireGate17),
        }
    }

    #[must_use]
    pub fn of(&self, flag: Flag) -> &T {
        match flag {
            Flag::Internet => &self.internet,
            Flag::Lan => &self.lan,
            Flag::Localhost => &self.localhost,
            Flag::Related => &self.related,
            Flag::Strict => &self.strict,
            Flag::Gateway => &self.gateway,
            Flag::PeerToPeer => &self.peer_to_peer,
            Flag::Service => &self.service,
            Flag::Independent => &self.independent,
            Flag::RequireGate17 => &self.require_gate17,
        }
    }
}

/// A profile: exists only after every key of its file was understood.
#[derive(Debug)]
pub struct Profile {
    pub name: Arc<str>,
    pub layer: Layer,
    pub file: Arc<PathBuf>,
    /// Line and column of the name's text; 1 where there is none.
    pub line: u32,
    pub column: u32,
    pub matching: Matching,
    /// The minimum level.
    pub level: Option<Held<Level>>,
    /// Unset at the levels that a per-level mode does not name.
    pub mode: PerLevel<Option<Held<Mode>>>,
    pub flags: PerFlag<Option<Held<Levels>>>,
    pub run_as: Option<Held<RunAs>>,
    /// Outbound.
    pub endpoints: RuleList,
    /// Inbound.
    pub service_endpoints: RuleList,
    /// Empty list: no restriction.
    pub domain_whitelist: Option<Held<Vec<Pattern>>>,
    pub connect_ports: Option<Held<Vec<Transport>>>,
    pub listen_ports: Option<Held<Vec<Transport>>>,
    pub blocked_labels: Option<Held<Vec<Box<str>>>>,
    pub framework: Option<Held<Framework>>,
    pub expects: Vec<Expect>,
}

/// A policy test beside the profile that it tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expect {
    /// `HOST|IP[:PORT]`; a bare name counts as an Internet address known by it.
    pub to: String,
    /// Lower case: accept, block, drop or ask; `refused` means block or drop.
    pub verdict: String,
    pub check: Option<String>,
    pub proto: Option<String>,
    /// A sighting of the address in `to`.
    pub name: Option<String>,
    pub level: Level,
    pub inbound: bool,
    pub question: bool,
    pub uid: Option<u32>,
    pub exe: Option<String>,
    pub cmdline: Option<String>,
    pub line: u32,
}
