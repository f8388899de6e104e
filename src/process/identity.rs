//! The program behind a flow, as far as the kernel could tell.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How sure the attribution is. Rules and people can see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// Nobody was found.
    None,
    /// Several processes hold the socket; the strictest verdict among them holds.
    Ambiguous,
    /// Found, but one fact could not be checked (an unreadable binary, a socket matched by its wildcard address).
    Likely,
    /// Exactly one owner, its executable compared by device and inode.
    Exact,
}

/// An executable. Device and inode are the identity, the path is its label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Exe {
    pub path: PathBuf,
    pub device: u64,
    pub inode: u64,
    /// False when the path, looked up in our mount namespace, is another file: a forgery or a container's own file.
    /// Profiles that match by path or prefix do not apply then.
    pub path_is_ours: bool,
}

/// A process above the program in the process tree, nearest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ancestor {
    pub pid: u32,
    /// Empty where it is not this host's ([`Exe::path_is_ours`]), or cannot be read.
    pub path: PathBuf,
    pub cmdline: Vec<String>,
    pub cwd: Option<PathBuf>,
    pub uid: u32,
}

/// A label such as `unit:ssh.service`, `flatpak:org.example.App` or `portreeve:unattributed`, always `kind:value`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(pub String);

impl Tag {
    /// A flow whose owner could not be found.
    pub const UNATTRIBUTED: &'static str = "portreeve:unattributed";
    /// A packet that another host or container sent through this one.
    pub const FORWARDED: &'static str = "portreeve:forwarded";
    /// A packet of the kernel itself.
    pub const KERNEL: &'static str = "portreeve:kernel";
}

/// Everything known of the program behind a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub exe: Option<Exe>,
    pub pid: Option<u32>,
    /// Start time in clock ticks since boot (proc(5), stat field 22): tells a reused PID from its forerunner.
    pub start_ticks: u64,
    /// Kept even when the PID is not found: the kernel's socket table knows it.
    pub uid: Option<u32>,
    /// The user is root or a member of sudo, wheel or admin.
    pub is_admin: bool,
    /// The user has an active login session or a connected Portreeve UI.
    pub has_session: bool,
    pub cmdline: Vec<String>,
    pub cwd: Option<PathBuf>,
    /// Home directory of the user, for `~/`.
    pub home: Option<PathBuf>,
    /// Path of the cgroup below its root, "" when unknown.
    pub cgroup: String,
    pub tags: Vec<Tag>,
    /// Parent first.
    pub ancestors: Vec<Ancestor>,
    pub confidence: Confidence,
}

impl Identity {
    /// The identity of nobody: only its tag can match a profile.
    #[must_use]
    pub fn tagged(tag: &str, uid: Option<u32>) -> Self {
        Self {
            exe: None,
            pid: None,
            start_ticks: 0,
            uid,
            is_admin: uid == Some(0),
            has_session: false,
            cmdline: Vec::new(),
            cwd: None,
            home: None,
            cgroup: String::new(),
            tags: vec![Tag(tag.to_owned())],
            ancestors: Vec::new(),
            confidence: Confidence::None,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.exe, self.tags.first()) {
            (Some(exe), _) => write!(f, "{}", exe.path.display()),
            (None, Some(tag)) => f.write_str(&tag.0),
            (None, None) => f.write_str("?"),
        }
    }
}
