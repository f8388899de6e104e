//! From a process to an identity: the executable, its path's honesty, and everything rules may ask of a program.
//!
//! Theory of operation. `/proc/PID/exe` followed by the kernel is the executable: device and inode cannot be forged. The text of
//! the link can: with a mount namespace of its own a program shows any path. So the path is looked up in our mount namespace
//! and `path_is_ours` only when that is the same file. A file deleted under a running program (a package upgrade) has no
//! path to look up any more; its old one stays valid only when the file lies in a mount of our mount namespace, or of the
//! enclosure's, where just root can arrange mounts.
//!
//! Keeps one rule: what could not be read lowers the confidence and is left empty. Nothing is filled in from the program's words.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::mounts::Mounts;
use super::process::{FileId, Process, file_id};
use super::tags;
use super::text;
use super::users::Users;
use crate::process::{Ancestor, Confidence, Exe, Identity, Socket, Tag};

/// Ancestors kept; frameworks look one or two up.
const ANCESTORS: usize = 8;
/// What the kernel puts behind the path of an unlinked file (fs/d_path.c). A file may be named so, too.
const DELETED: &[u8] = b" (deleted)";

/// Where identities are read.
#[derive(Debug)]
pub(super) struct Surroundings<'a> {
    pub(super) proc_root: &'a Path,
    pub(super) users: &'a Users,
    pub(super) mounts: &'a Mounts,
}

/// What is compared before an identity read earlier is believed again: an exec changes at least one of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) exe: Option<FileId>,
    pub(super) cmdline: Vec<u8>,
    cwd: Option<PathBuf>,
}

impl Snapshot {
    /// `None` when the process is gone, or ending: then it has no executable any more though its descriptors are still listed.
    /// One that we may not look at has an executable; only its file stays unknown.
    pub(super) fn take(process: &Process) -> Option<Self> {
        let exe = match process.file("exe") {
            Ok(file) => Some(file),
            Err(Errno::SRCH | Errno::NOENT) => return None,
            Err(_) => None,
        };
        Some(Self { exe, cmdline: process.cmdline(), cwd: process.link("cwd").ok() })
    }
}

/// Reads everything; `None` when the process ended or became another program meanwhile.
pub(super) fn read(process: &Process, socket: &Socket, snapshot: &Snapshot, around: &Surroundings<'_>) -> Option<Identity> {
    let (exe, certain) = executable(process, around.mounts);
    let user = around.users.user(socket.uid);
    let cmdline = text::cmdline(&snapshot.cmdline);
    let cgroup = process.cgroup();
    let parent = process.stat()?.parent;
    let (pids, ancestors) = ancestors(parent, process.start_ticks, around).into_iter().unzip::<u32, _, Vec<_>, Vec<_>>();
    let facts = tags::Facts {
        process,
        proc_root: around.proc_root,
        exe: exe.as_ref(),
        cmdline: &cmdline,
        cwd: snapshot.cwd.as_deref(),
        cgroup: &cgroup,
        home: user.home.as_deref(),
        ancestors: &pids,
    };
    let tags = tags::tags(&facts);
    let now = process.file("exe").ok();
    // Who has an executable is there.
    if now != snapshot.exe || exe.as_ref().map(exe_file) != now || now.is_none() && process.stat().is_none() {
        return None;
    }
    let confidence = if certain { socket.confidence } else { socket.confidence.min(Confidence::Likely) };
    Some(Identity {
        exe,
        pid: Some(process.pid),
        start_ticks: process.start_ticks,
        uid: Some(socket.uid),
        is_admin: user.is_admin,
        has_session: around.users.has_session(socket.uid, &user.name),
        cmdline,
        cwd: snapshot.cwd.clone(),
        home: user.home,
        cgroup,
        tags,
        ancestors,
        confidence,
    })
}

/// The identity of nobody; of the user alone is known what the files say.
pub(super) fn nobody(uid: u32, users: &Users) -> Identity {
    let user = users.user(uid);
    let has_session = users.has_session(uid, &user.name);
    Identity { is_admin: user.is_admin, home: user.home, has_session, ..Identity::tagged(Tag::UNATTRIBUTED, Some(uid)) }
}

pub(super) fn exe_file(exe: &Exe) -> FileId {
    FileId { device: exe.device, inode: exe.inode }
}

/// The executable, and whether its path could be compared.
fn executable(process: &Process, mounts: &Mounts) -> (Option<Exe>, bool) {
    let (Ok(file), Ok(shown)) = (process.file("exe"), process.link("exe")) else { return (None, false) };
    let exe = |path: PathBuf, path_is_ours| Exe { path, device: file.device, inode: file.inode, path_is_ours };
    if shown.is_absolute() && file_id(&shown) == Some(file) {
        return (Some(exe(shown, true)), true);
    }
    let Some(path) = without_deleted(&shown) else { return (Some(exe(shown, false)), true) };
    let path_is_ours = path.is_absolute() && process.mount("exe").is_some_and(|mount| mounts.have(mount));
    (Some(exe(path, path_is_ours)), false)
}

fn without_deleted(shown: &Path) -> Option<PathBuf> {
    shown.as_os_str().as_bytes().strip_suffix(DELETED).map(|path| PathBuf::from(OsStr::from_bytes(path)))
}

/// The parents upwards. A "parent" younger than its child has only inherited the number.
pub(super) fn ancestors(parent: u32, child_start: u64, around: &Surroundings<'_>) -> Vec<(u32, Ancestor)> {
    let mut line = Vec::new();
    let (mut pid, mut start) = (parent, child_start);
    while line.len() < ANCESTORS && pid != 0 {
        let opened = Process::open_with_stat(around.proc_root, pid).filter(|(process, _)| process.start_ticks <= start);
        let Some((process, stat)) = opened else { break };
        let (exe, _) = executable(&process, around.mounts);
        line.push((
            pid,
            Ancestor {
                pid,
                path: exe.filter(|exe| exe.path_is_ours).map(|exe| exe.path).unwrap_or_default(),
                cmdline: text::cmdline(&process.cmdline()),
                cwd: process.link("cwd").ok(),
                uid: process.owner().unwrap_or(u32::MAX),
            },
        ));
        (pid, start) = (stat.parent, process.start_ticks);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A child once it is its own program: until exec is done it is a copy of this one, then for an instant one without arguments.
    fn started(pid: u32) -> Process {
        let ours = Process::open(Path::new("/proc"), std::process::id()).expect("we run");
        let file = |process: &Process| process.file("exe").ok();
        loop {
            let process = Process::open(Path::new("/proc"), pid).expect("it runs");
            if file(&process) != file(&ours) && !process.cmdline().is_empty() {
                return process;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    fn read_child(command: &mut std::process::Command, mounts: &Mounts) -> Identity {
        let mut child = command.spawn().expect("it runs");
        let process = started(child.id());
        let users = Users::new(Path::new("/etc"), Path::new("/run"));
        let around = Surroundings { proc_root: Path::new("/proc"), users: &users, mounts };
        let socket = Socket { inode: 1, uid: 0, cookie: 1, cgroup_id: None, mark: 0, link: 0, confidence: Confidence::Exact };
        let snapshot = Snapshot::take(&process).expect("alive");
        let identity = read(&process, &socket, &snapshot, &around);
        child.kill().expect("ours to kill");
        child.wait().expect("ours to reap");
        assert_eq!(Snapshot::take(&process), None, "gone");
        assert_eq!(read(&process, &socket, &snapshot, &around), None, "gone");
        identity.expect("alive")
    }

    /// By another process: a descriptor open for writing here would be inherited by the children of tests that run beside this
    /// one, and the copy could not be executed (ETXTBSY).
    fn copy(from: &str, to: &Path) {
        assert!(std::process::Command::new("cp").arg(from).arg(to).status().expect("cp runs").success());
    }

    fn copy_of_sleep(dir: &Path, name: &OsStr) -> PathBuf {
        let path = dir.join(name);
        copy("/bin/sleep", &path);
        path
    }

    #[test]
    fn ordinary_program_is_exact_with_its_arguments_and_us_as_its_parent() {
        let identity = read_child(std::process::Command::new("sleep").arg("60"), &Mounts::default());
        let exe = identity.exe.expect("readable");
        assert!(exe.path_is_ours && exe.path.is_absolute());
        assert_eq!(identity.cmdline, ["sleep", "60"]);
        assert_eq!(identity.confidence, Confidence::Exact);
        assert_eq!(identity.ancestors.first().map(|parent| parent.pid), Some(std::process::id()));
        assert!(identity.is_admin && identity.uid == Some(0));
    }

    #[test]
    fn file_that_is_named_deleted_keeps_its_name_and_is_exact() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = copy_of_sleep(dir.path(), OsStr::new("curl (deleted)"));
        let identity = read_child(std::process::Command::new(&path).arg("60"), &Mounts::default());
        assert_eq!(identity.exe.map(|exe| (exe.path, exe.path_is_ours)), Some((path, true)));
        assert_eq!(identity.confidence, Confidence::Exact);
    }

    #[test]
    fn path_that_is_no_text_is_kept_as_it_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = copy_of_sleep(dir.path(), OsStr::from_bytes(b"\xff\xfe name"));
        let identity = read_child(std::process::Command::new(&path).arg("60"), &Mounts::default());
        assert_eq!(identity.exe.map(|exe| exe.path), Some(path));
    }

    #[test]
    fn upgraded_program_keeps_its_path_in_our_mounts_and_loses_it_in_others() {
        let ours = Mounts::of(Path::new("/proc"), ["self".to_owned()]);
        for (mounts, expected) in [(ours, true), (Mounts::default(), false)] {
            let dir = tempfile::tempdir().expect("a directory");
            let path = copy_of_sleep(dir.path(), OsStr::new("tool"));
            copy("/bin/cat", &dir.path().join("tool.new"));
            let mut child = std::process::Command::new(&path).arg("60").spawn().expect("it runs");
            let process = started(child.id());
            std::fs::rename(dir.path().join("tool.new"), &path).expect("replaced");
            let (exe, certain) = executable(&process, &mounts);
            child.kill().expect("ours to kill");
            child.wait().expect("ours to reap");
            let exe = exe.expect("readable");
            assert_eq!((exe.path, exe.path_is_ours), (path, expected));
            assert!(!certain, "a deleted file's path cannot be compared");
        }
    }

    #[test]
    fn path_of_a_deleted_file_ends_before_what_the_kernel_says_of_it() {
        assert_eq!(without_deleted(Path::new("/a/b (deleted)")), Some(PathBuf::from("/a/b")));
        assert_eq!(without_deleted(Path::new("/a/b")), None);
    }

    #[test]
    fn ancestor_that_is_younger_than_its_child_is_not_one() {
        let (proc_root, users) = (Path::new("/proc"), Users::new(Path::new("/etc"), Path::new("/run")));
        let around = Surroundings { proc_root, users: &users, mounts: &Mounts::default() };
        assert!(ancestors(std::process::id(), 0, &around).is_empty());
        assert!(!ancestors(std::process::id(), u64::MAX, &around).is_empty());
        assert!(ancestors(0, u64::MAX, &around).is_empty());
    }
}
