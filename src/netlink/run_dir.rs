//! The run directory: the lock that tells that a router is alive, and the undo file.
//!
//! Keeps one rule: an undo file is whole or not there, and a disk that fills up while a router runs keeps none from being written.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};

use super::undo::{CleanupError, Undo, namespace};

const UNDO_FILE: &str = "undo.json";
/// The one before or the next one.
const DRAFT_FILE: &str = "undo.json.new";
/// An undo file's room grows in such steps, so that the usual one keeps what it got at the start: some 60 rules.
const ROOM: usize = 16 << 10;

const LOCK_FILE: &str = "up.lock";

/// The run directory while a router is alive, or while one is being cleaned up after.
#[derive(Debug)]
pub(super) struct RunDir {
    dir: PathBuf,
    _lock: File,
}

/// How a killed router left this network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftBehind {
    /// It is alive, and somebody has removed its control socket. Its process, where that is known.
    Alive(Option<u32>),
    /// Its guard refuses what would leave.
    Closed,
    /// The guard has gone with it.
    Open,
    /// Its undo file cannot be read: it is root's, or torn.
    Unread,
}

/// What an `up` that was killed left, in whose plan's failure mode. None: nothing, or that of another network namespace. Asked
/// where nothing runs.
#[must_use]
pub fn left_behind(run_dir: &Path) -> Option<LeftBehind> {
    let path = run_dir.join(UNDO_FILE);
    let undo = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        text => text.ok().and_then(|text| serde_json::from_str::<Undo>(&text).ok()),
    };
    let Some(undo) = undo else { return Some(LeftBehind::Unread) };
    let is_ours = namespace().map_or(true, |namespace| namespace == undo.namespace);
    let left = || match (holder_of_lock(run_dir), undo.owned) {
        (Some(pid), _) => LeftBehind::Alive(pid),
        (None, true) => LeftBehind::Open,
        (None, false) => LeftBehind::Closed,
    };
    is_ours.then(left)
}

/// Who holds the lock; None: nobody, or it cannot be told.
fn holder_of_lock(run_dir: &Path) -> Option<Option<u32>> {
    let mut lock = File::open(run_dir.join(LOCK_FILE)).ok()?;
    let is_held = matches!(flock(&lock, FlockOperation::NonBlockingLockShared), Err(rustix::io::Errno::WOULDBLOCK));
    let mut text = String::new();
    is_held.then(|| lock.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok()))
}

impl RunDir {
    /// Makes the directory where it is missing and takes the lock.
    pub(super) fn lock(dir: &Path) -> Result<Self, CleanupError> {
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |source| CleanupError::File { path, source }
        };
        std::fs::create_dir_all(dir).map_err(fail(dir))?;
        let path = dir.join(LOCK_FILE);
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(fail(&path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => Err(CleanupError::Active(dir.to_owned())),
            Err(error) => Err(fail(&path)(error.into())),
            Ok(()) => {
                // For whoever finds it held; on a full disk they find nothing.
                let _ = lock.set_len(0).and_then(|()| (&lock).write_all(std::process::id().to_string().as_bytes()));
                Ok(Self { dir: dir.to_owned(), _lock: lock })
            }
        }
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The undo file of an `up` that did not end by itself.
    pub(super) fn read(&self) -> Result<Option<Undo>, CleanupError> {
        let path = self.file(UNDO_FILE);
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(CleanupError::File { path, source }),
            Ok(text) => text,
        };
        let undo: Undo = serde_json::from_str(&text)
            .map_err(|error| CleanupError::Unreadable { path: path.clone(), detail: error.to_string() })?;
        if undo.namespace == namespace()? { Ok(Some(undo)) } else { Err(CleanupError::Elsewhere(path)) }
    }

    /// Puts `undo` on disk, whole or not at all. The two files take turns, and each keeps its room: a disk that is full by then is no
    /// obstacle.
    pub(super) fn write(&self, undo: &Undo) -> Result<(), CleanupError> {
        let path = self.file(UNDO_FILE);
        let draft = self.file(DRAFT_FILE);
        let mut text = serde_json::to_vec_pretty(undo)
            .map_err(|error| CleanupError::Unreadable { path: path.clone(), detail: error.to_string() })?;
        text.resize(text.len().next_multiple_of(ROOM), b' ');
        let put = || {
            fill(&draft, &text)?;
            match renameat_with(CWD, &draft, CWD, &path, RenameFlags::EXCHANGE) {
                Ok(()) => Ok(()),
                // The first one, or a file system that cannot.
                Err(_) => {
                    std::fs::rename(&draft, &path)?;
                    // Without room for two there is none to keep.
                    let _ = fill(&draft, &vec![b' '; text.len()]);
                    Ok(())
                }
            }
        };
        put().map_err(|source: io::Error| CleanupError::File { path: path.clone(), source })
    }

    pub(super) fn forget(&self) -> Result<(), CleanupError> {
        let path = self.file(UNDO_FILE);
        // It says nothing.
        let _ = std::fs::remove_file(self.file(DRAFT_FILE));
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|source| CleanupError::File { path, source }),
        }
    }
}

/// Writes the file over, where it is there in the room that it has.
fn fill(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(text)?;
    file.set_len(u64::try_from(text.len()).unwrap_or(u64::MAX))?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::netlink::undo::sample;

    #[test]
    fn what_is_written_is_read_back_and_then_forgotten() {
        let dir = tempfile::tempdir().expect("a folder");
        let run_dir = RunDir::lock(&dir.path().join("run")).expect("the lock");
        assert_eq!(run_dir.read().expect("no file"), None);
        run_dir.write(&sample()).expect("written");
        assert_eq!(run_dir.read().expect("a file"), Some(sample()));
        run_dir.forget().and_then(|()| run_dir.forget()).expect("twice is fine");
        assert_eq!(run_dir.read().expect("no file"), None);
    }

    #[test]
    fn the_two_files_take_turns_in_the_room_that_they_have() {
        let dir = tempfile::tempdir().expect("a folder");
        let run_dir = RunDir::lock(dir.path()).expect("the lock");
        let inodes = || {
            [UNDO_FILE, DRAFT_FILE]
                .map(|name| std::fs::metadata(dir.path().join(name)).expect("a file"))
                .map(|m| (m.ino(), m.len()))
        };
        run_dir.write(&sample()).expect("written");
        let [first, spare] = inodes();
        let other = Undo { device: "other0".to_owned(), ..sample() };
        run_dir.write(&other).expect("written");
        assert_eq!((inodes(), first.1, spare.1), ([spare, first], 16 << 10, 16 << 10));
        assert_eq!(run_dir.read().expect("a file"), Some(other));
        run_dir.forget().expect("gone");
        assert_eq!(std::fs::read_dir(dir.path()).expect("the folder").count(), 1, "the lock alone");
    }

    #[test]
    fn only_the_owner_can_read_the_undo_file() {
        let dir = tempfile::tempdir().expect("a folder");
        let run_dir = RunDir::lock(dir.path()).expect("the lock");
        run_dir.write(&sample()).expect("written");
        let mode = std::fs::metadata(dir.path().join(UNDO_FILE)).expect("the file").mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn an_undo_file_of_another_namespace_is_not_acted_upon() {
        let dir = tempfile::tempdir().expect("a folder");
        let run_dir = RunDir::lock(dir.path()).expect("the lock");
        run_dir.write(&Undo { namespace: 1, ..sample() }).expect("written");
        assert!(matches!(run_dir.read(), Err(CleanupError::Elsewhere(_))));
    }

    #[test]
    fn what_was_left_behind_is_told_by_its_failure_mode_and_only_in_its_own_namespace() {
        let dir = tempfile::tempdir().expect("a folder");
        let lock = || RunDir::lock(dir.path()).expect("the lock");
        let us = Some(LeftBehind::Alive(Some(std::process::id())));
        assert_eq!(left_behind(dir.path()), None);
        for (undo, expected) in [
            (sample(), Some(LeftBehind::Closed)),
            (Undo { owned: true, ..sample() }, Some(LeftBehind::Open)),
            (Undo { namespace: 1, ..sample() }, None),
        ] {
            let run_dir = lock();
            run_dir.write(&undo).expect("written");
            assert_eq!(left_behind(dir.path()), expected.and(us), "{undo:?}");
            drop(run_dir);
            assert_eq!(left_behind(dir.path()), expected, "{undo:?}");
        }
        std::fs::write(dir.path().join(UNDO_FILE), "{").expect("written");
        assert_eq!(left_behind(dir.path()), Some(LeftBehind::Unread));
    }

    #[test]
    fn a_torn_undo_file_is_an_error_and_not_an_empty_one() {
        let dir = tempfile::tempdir().expect("a folder");
        let run_dir = RunDir::lock(dir.path()).expect("the lock");
        std::fs::write(dir.path().join(UNDO_FILE), "{\"namespace\": 1").expect("written");
        assert!(matches!(run_dir.read(), Err(CleanupError::Unreadable { .. })));
    }
}
