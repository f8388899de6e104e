//! From a cgroup's id to the processes in it.
//!
//! The id in a socket is the inode of the cgroup's directory below the cgroup2 mount, so a bounded walk finds the directory and
//! `cgroup.procs` its processes. Keeps one rule: this only narrows a search. An unknown id, the root cgroup or a hierarchy that
//! is not mounted yields nothing, and the search goes on without it.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Directories looked at in one walk.
const WALK_LIMIT: usize = 8192;
/// Ids remembered; when full, all are forgotten and found again.
const REMEMBERED: usize = 4096;
/// Time between two walks that look for ids which the last one did not see.
const WALK_PAUSE: Duration = Duration::from_secs(1);
/// A cgroup with more processes than this narrows nothing.
const MEMBERS_LIMIT: usize = 512;

#[derive(Debug)]
pub(super) struct Cgroups {
    root: Option<PathBuf>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    paths: HashMap<u64, PathBuf>,
    walked: Option<Instant>,
}

impl Cgroups {
    /// `mountinfo` is the text of `/proc/self/mountinfo`, which says where the unified hierarchy is mounted.
    pub(super) fn new(mountinfo: &str) -> Self {
        Self { root: mount_point(mountinfo), known: Mutex::default() }
    }

    /// The PIDs in a cgroup, newest number first; nothing when it cannot be told or would be no help.
    pub(super) fn members(&self, id: u64) -> Vec<u32> {
        let Some(path) = self.path(id) else { return Vec::new() };
        let Ok(text) = std::fs::read_to_string(path.join("cgroup.procs")) else { return Vec::new() };
        // A process of another PID namespace is listed as 0.
        let mut pids: Vec<u32> = text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid != 0).collect();
        if pids.len() > MEMBERS_LIMIT {
            return Vec::new();
        }
        pids.sort_unstable_by(|one, other| other.cmp(one));
        pids
    }

    fn path(&self, id: u64) -> Option<PathBuf> {
        let root = self.root.as_ref()?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = known.paths.get(&id) {
            if std::fs::metadata(path).is_ok_and(|dir| dir.ino() == id) {
                return Some(path.clone());
            }
            known.paths.remove(&id);
        }
        if known.walked.is_some_and(|at| at.elapsed() < WALK_PAUSE) {
            return None;
        }
        known.paths.clear();
        walk(root, &mut known.paths);
        known.walked = Some(Instant::now());
        known.paths.get(&id).cloned()
    }
}

/// Breadth first, without the root itself: every process is below that.
fn walk(root: &Path, paths: &mut HashMap<u64, PathBuf>) {
    let mut queue = std::collections::VecDeque::from([root.to_owned()]);
    let mut left = WALK_LIMIT;
    while let Some(dir) = queue.pop_front() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            if left == 0 || paths.len() >= REMEMBERED {
                return;
            }
            left -= 1;
            if let Ok(file) = entry.metadata() {
                paths.insert(file.ino(), entry.path());
            }
            queue.push_back(entry.path());
        }
    }
}

/// Fields of mountinfo before the ` - ` are the mount's, those behind it the filesystem's (proc_pid_mountinfo(5)).
fn mount_point(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?;
        filesystem.starts_with("cgroup2 ").then(|| PathBuf::from(point.replace("\\040", " ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unified_hierarchy_is_found_on_unified_and_hybrid_hosts_and_missed_on_old_ones() {
        let unified = "25 1 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
        let hybrid =
            "30 1 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n31 1 0:27 / /sys/fs/cgroup/unified rw - cgroup2 none rw\n";
        let old = "30 1 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\nbroken\n";
        assert_eq!(mount_point(unified).as_deref(), Some(Path::new("/sys/fs/cgroup")));
        assert_eq!(mount_point(hybrid).as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(mount_point(old), None);
    }

    #[test]
    fn members_are_found_by_the_inode_of_the_directory_and_a_removed_one_is_forgotten() {
        let dir = tempfile::tempdir().expect("a directory");
        let service = dir.path().join("system.slice/a.service");
        std::fs::create_dir_all(&service).expect("made");
        std::fs::write(service.join("cgroup.procs"), "7\n0\n90\nx\n").expect("written");
        let id = std::fs::metadata(&service).expect("there").ino();
        let cgroups = Cgroups { root: Some(dir.path().to_owned()), known: Mutex::default() };
        assert_eq!(cgroups.members(id), [90, 7]);
        std::fs::remove_dir_all(&service).expect("removed");
        assert_eq!(cgroups.members(id), Vec::<u32>::new());
    }

    #[test]
    fn root_cgroup_and_unknown_ids_narrow_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("cgroup.procs"), "1\n2\n").expect("written");
        let id = std::fs::metadata(dir.path()).expect("there").ino();
        let cgroups = Cgroups { root: Some(dir.path().to_owned()), known: Mutex::default() };
        assert_eq!(cgroups.members(id), Vec::<u32>::new());
        assert_eq!(cgroups.members(u64::MAX), Vec::<u32>::new());
        assert_eq!(Cgroups::new("").members(id), Vec::<u32>::new());
    }

    #[test]
    fn crowded_cgroup_is_no_help() {
        let dir = tempfile::tempdir().expect("a directory");
        let scope = dir.path().join("crowd.scope");
        std::fs::create_dir(&scope).expect("made");
        let pids: String = (1..=MEMBERS_LIMIT + 1).map(|pid| format!("{pid}\n")).collect();
        std::fs::write(scope.join("cgroup.procs"), pids).expect("written");
        let id = std::fs::metadata(&scope).expect("there").ino();
        let cgroups = Cgroups { root: Some(dir.path().to_owned()), known: Mutex::default() };
        assert!(cgroups.members(id).is_empty());
    }
}
