//! What there is to undo, and the way back from it.
//!
//! Keeps one rule: what `up` will change is on disk before it is changed, so that `cleanup` needs neither the router nor its
//! memory. Going back is idempotent: what is gone already is no error. Holding the lock means that a router is alive.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkMessage;
use serde::{Deserialize, Serialize};

use super::mark::{MASK, Mark};
use super::nft::{self, NftError};
use super::plan::{Failure, Plan};
use super::rule::{Marks, Rule};
use super::run_dir::RunDir;
use super::setup::{ignoring, index_of, settings_of_host};
use super::{Host, RequestError, RouteSocket};
use super::{datagrams, express};
use super::{steer, stranded};

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
    /// Of the device. An undo file of an older version does not tell them.
    #[serde(default)]
    pub(super) addresses: Vec<IpAddr>,
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
    /// What `plan` will change, together with what an earlier, killed `up` has changed.
    pub(super) fn of(plan: &Plan, mark: Mark, host: &Host, found: Option<&Self>) -> Result<Self, CleanupError> {
        let mut undo = Self {
            namespace: namespace()?,
            device: plan.device.clone(),
            addresses: found.map(|found| found.addresses.clone()).unwrap_or_default(),
            owned: plan.failure == Failure::Open,
            rules: found.map(|found| found.rules.clone()).unwrap_or_default(),
            tables: found.map(|found| found.tables.clone()).unwrap_or_default(),
            settings: found.map(|found| found.settings.clone()).unwrap_or_default(),
        };
        let added: Vec<IpAddr> = plan.addresses.iter().map(IpNet::addr).filter(|ip| !undo.addresses.contains(ip)).collect();
        undo.addresses.extend(added);
        undo.rules.extend(steer::rules(plan, host, mark));
        if !undo.tables.contains(&plan.table) {
            undo.tables.push(plan.table);
        }
        for (path, value) in settings_of_host(host) {
            undo.settings.extend(Setting::plan(&format!("/proc/sys/net/{path}"), value));
        }
        Ok(undo)
    }

    /// Takes everything back, last change first. Goes on after a failure and returns the first one.
    pub(super) fn restore(&self, socket: &mut RouteSocket) -> Result<(), CleanupError> {
        let Self { namespace: _, device, addresses, owned: _, rules, tables, settings } = self;
        let mut first: Result<(), CleanupError> = Ok(());
        let mut note = |result: Result<(), CleanupError>| {
            if first.is_ok() {
                first = result;
            }
        };
        self.forget_carried();
        // Before programs speak by their own ports again: conntrack would have these taken.
        self.forget_datagrams();
        note(steer::remove_rules(socket, rules).map_err(Into::into));
        for setting in settings.iter().rev() {
            note(setting.restore());
        }
        // Once programs get addresses of the uplink again, and while the guard still refuses what is said from ours, resets too.
        stranded::end_all(socket, device, addresses);
        note(nft::run("remove the guard", super::guard::REMOVE_PLAIN).map(|_| ()).map_err(Into::into));
        let index = index_of(socket, device).ok();
        for table in tables {
            note(steer::remove_table(socket, *table, index).map_err(Into::into));
        }
        first
    }

    /// Has conntrack forget what was left to the kernel alone, which would keep its ports for days.
    pub(super) fn forget_carried(&self) {
        self.marks().into_iter().for_each(express::forget_old);
    }

    /// Has conntrack forget the datagrams of whoever had these rules, and hears none any more.
    pub(super) fn forget_datagrams(&self) {
        self.marks().into_iter().for_each(datagrams::forget_old);
    }

    fn marks(&self) -> Vec<Mark> {
        let marks = self.rules.iter().filter_map(|rule| match rule.selector.marks {
            Marks::Not(mark) | Marks::ByMain(mark) => Some(mark & MASK),
            Marks::Any | Marks::None => None,
        });
        marks.collect::<BTreeSet<u32>>().into_iter().filter_map(|mark| Mark::new(mark.into()).ok()).collect()
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
    let host = Host { links: Vec::new(), addresses: Vec::new(), uplinks: BTreeSet::new(), ways: Vec::new(), ipv6: true };
    let rules = steer::rules(&Plan::default(), &host, Mark::new(0x2a00_0000).expect("a mark"));
    let setting = Setting { path: "/proc/sys/x".into(), before: "0".to_owned(), after: "1".to_owned() };
    let namespace = namespace().expect("a namespace");
    let addresses = vec![[198, 18, 0, 1].into()];
    Undo {
        namespace,
        device: "portreeve0".to_owned(),
        addresses,
        owned: false,
        rules,
        tables: vec![1717],
        settings: vec![setting],
    }
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
    fn undo_file_of_an_older_version_is_read_and_tells_no_addresses() {
        let mut older = serde_json::to_value(sample()).expect("a file");
        older.as_object_mut().expect("with keys").remove("addresses").expect("it is told today");
        let read: Undo = serde_json::from_value(older).expect("an undo file");
        assert_eq!(read, Undo { addresses: Vec::new(), ..sample() });
    }

    #[test]
    fn addresses_of_a_killed_router_are_kept_beside_those_of_the_next() {
        let mut socket = RouteSocket::open().expect("a netlink socket");
        let host = Host::read(&mut socket).expect("a snapshot");
        let found = Undo { addresses: vec![[198, 18, 0, 1].into(), [198, 18, 0, 7].into()], ..sample() };
        let (plan, mark) = (Plan::default(), Mark::new(0x2a00_0000).expect("a mark"));
        let undo = Undo::of(&plan, mark, &host, Some(&found)).expect("a plan");
        let wanted: [IpAddr; 3] = ["198.18.0.1", "198.18.0.7", "2001:2::1"].map(|ip| ip.parse().expect("an address"));
        assert_eq!(undo.addresses, wanted);
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
