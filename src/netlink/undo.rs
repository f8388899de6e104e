//! What there is to undo, and the way back from it.
//!
//! Keeps one rule: what `up` will change is on disk before it is changed, so that `cleanup` needs neither the router nor its
//! memory. Going back is idempotent: what is gone already is no error. Holding the lock means that a router is alive.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkMessage;
use serde::{Deserialize, Serialize};

use super::express;
use super::mark::MASK;
use super::nft::{self, NftError};
use super::rule::{Marks, Rule};
use super::run_dir::RunDir;
use super::setup::{ignoring, index_of};
use super::steer;
use super::{RequestError, RouteSocket};

/// Why the way back failed.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    #[error("a router is active here ({0}); `portreeve down` ends it")]
    Active(PathBuf),
    #[error("a router is active here with another control socket; `portreeve --socket PATH down` ends it")]
    ActiveElsewhere,
    #[error("{0} belongs to another network namespace; run this inside that one, or delete the file if it is gone")]
    Elsewhere(PathBuf),
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("{path} is not an undo file of this version: {detail}; `portreeve route show` prints what to remove by hand")]
    Unreadable { path: PathBuf, detail: String },
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Nft(#[from] NftError),
    #[error("open a netlink socket: {0}")]
    Netlink(io::Error),
}

/// One changed kernel setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Setting {
    pub(super) path: PathBuf,
    pub(super) before: String,
    pub(super) after: String,
}

/// Everything that an `up` changes and that outlives it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Undo {
    /// The inode of the network namespace; numbers of one namespace mean nothing in another.
    pub(super) namespace: u64,
    pub(super) device: String,
    /// The guard has an owner and goes with it; removing it before is refused.
    pub(super) owned: bool,
    pub(super) rules: Vec<Rule>,
    pub(super) tables: Vec<u32>,
    pub(super) settings: Vec<Setting>,
}

/// What `cleanup` found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cleaned {
    /// An undo file was there; its changes are taken back.
    Restored,
    /// No undo file. Tables of our names, if there were any, are removed all the same.
    Nothing,
}

/// Takes back what a killed `up` left in this network namespace. Without privilege nothing is changed.
///
/// # Errors
///
/// A router is alive, the undo file is of another namespace or unreadable, or the kernel refuses a step.
pub fn cleanup(run_dir: &Path) -> Result<Cleaned, CleanupError> {
    let run_dir = RunDir::lock(run_dir)?;
    let mut socket = RouteSocket::open().map_err(CleanupError::Netlink)?;
    let undo = run_dir.read()?;
    nft::live_is_gone().map_err(|error| match error {
        NftError::Silent { .. } => CleanupError::ActiveElsewhere,
        other => other.into(),
    })?;
    let Some(undo) = undo else {
        nft::run("remove the guard", super::guard::REMOVE_PLAIN)?;
        // What a killed `up` had only begun to write.
        run_dir.forget()?;
        return Ok(Cleaned::Nothing);
    };
    undo.restore(&mut socket)?;
    run_dir.forget()?;
    Ok(Cleaned::Restored)
}

impl CleanupError {
    /// Whether more privilege would help.
    #[must_use]
    pub fn is_privilege(&self) -> bool {
        match self {
            Self::File { source, .. } | Self::Netlink(source) => source.kind() == io::ErrorKind::PermissionDenied,
            Self::Request(error) => matches!(error.errno(), Some(libc::EPERM | libc::EACCES)),
            Self::Nft(error) => error.is_privilege(),
            Self::Active(_) | Self::ActiveElsewhere | Self::Elsewhere(_) | Self::Unreadable { .. } => false,
        }
    }
}

impl Undo {
    /// Takes everything back, last change first. Goes on after a failure and returns the first one.
    pub(super) fn restore(&self, socket: &mut RouteSocket) -> Result<(), CleanupError> {
        let Self { namespace: _, device, owned: _, rules, tables, settings } = self;
        let mut first: Result<(), CleanupError> = Ok(());
        let mut note = |result: Result<(), CleanupError>| {
            if first.is_ok() {
                first = result;
            }
        };
        self.forget_carried();
        note(steer::remove_rules(socket, rules).map_err(Into::into));
        for setting in settings.iter().rev() {
            note(setting.restore());
        }
        note(nft::run("remove the guard", super::guard::REMOVE_PLAIN).map(|_| ()).map_err(Into::into));
        let index = index_of(socket, device).ok();
        for table in tables {
            note(steer::remove_table(socket, *table, index).map_err(Into::into));
        }
        first
    }

    /// Has conntrack forget what was left to the kernel alone, which would keep its ports for days.
    pub(super) fn forget_carried(&self) {
        let marks = self.rules.iter().filter_map(|rule| match rule.selector.marks {
            Marks::Not(mark) | Marks::ByMain(mark) => Some(mark & MASK),
            Marks::Any | Marks::None => None,
        });
        marks.collect::<BTreeSet<u32>>().into_iter().for_each(express::forget_old);
    }
}

impl Setting {
    /// Reads what is there now; `None` when it is `after` already or this kernel has no such setting.
    pub(super) fn plan(path: &str, after: &str) -> Option<Self> {
        let before = std::fs::read_to_string(path).ok()?.trim().to_owned();
        (before != after).then(|| Self { path: path.into(), before, after: after.to_owned() })
    }

    /// Whether it is as we set it. One that is gone has nothing to hold.
    pub(super) fn holds(&self) -> bool {
        std::fs::read_to_string(&self.path).map_or(true, |now| now.trim() == self.after)
    }

    pub(super) fn apply(&self) -> Result<(), CleanupError> {
        std::fs::write(&self.path, &self.after).map_err(|source| CleanupError::File { path: self.path.clone(), source })
    }

    /// Writes the old value back, unless someone else changed it since.
    fn restore(&self) -> Result<(), CleanupError> {
        let fail = |source| CleanupError::File { path: self.path.clone(), source };
        if std::fs::read_to_string(&self.path).map_err(fail)?.trim() == self.after {
            std::fs::write(&self.path, &self.before).map_err(fail)?;
        }
        Ok(())
    }
}

/// The inode of the calling thread's network namespace.
pub(super) fn namespace() -> Result<u64, CleanupError> {
    let path = Path::new("/proc/thread-self/ns/net");
    std::fs::metadata(path).map(|meta| meta.ino()).map_err(|source| CleanupError::File { path: path.to_owned(), source })
}

pub(super) fn remove_link(socket: &mut RouteSocket, device: &str, index: u32) -> Result<(), RequestError> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    ignoring(libc::ENODEV, socket.change(&format!("remove the link {device}"), RouteNetlinkMessage::DelLink(link), 0))
}

/// What the default plan would have changed.
#[cfg(test)]
pub(super) fn sample() -> Undo {
    let host = super::Host { links: Vec::new(), addresses: Vec::new(), uplinks: BTreeSet::new(), ways: Vec::new(), ipv6: true };
    let rules = steer::rules(&super::Plan::default(), &host, super::Mark::new(0x2a00_0000).expect("a mark"));
    let setting = Setting { path: "/proc/sys/x".into(), before: "0".to_owned(), after: "1".to_owned() };
    let namespace = namespace().expect("a namespace");
    Undo { namespace, device: "portreeve0".to_owned(), owned: false, rules, tables: vec![1717], settings: vec![setting] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_router_and_cleanup_are_refused_while_one_is_alive() {
        let dir = tempfile::tempdir().expect("a folder");
        let _alive = RunDir::lock(dir.path()).expect("the lock");
        assert!(matches!(RunDir::lock(dir.path()), Err(CleanupError::Active(_))));
        assert!(matches!(cleanup(dir.path()), Err(CleanupError::Active(_))));
    }

    #[test]
    fn a_setting_that_someone_else_changed_since_is_left_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("src_valid_mark");
        for (now, expected) in [("1", "0"), ("2", "2")] {
            std::fs::write(&path, now).expect("written");
            let setting = Setting { path: path.clone(), before: "0".to_owned(), after: "1".to_owned() };
            setting.restore().expect("restored");
            assert_eq!(std::fs::read_to_string(&path).expect("read"), expected);
        }
    }

    #[test]
    fn a_setting_that_holds_already_needs_no_change() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("src_valid_mark");
        std::fs::write(&path, "1\n").expect("written");
        assert_eq!(Setting::plan(&path.display().to_string(), "1"), None);
        assert_eq!(Setting::plan("/proc/sys/net/no-such-setting", "1"), None);
    }
}
