//! Making the control socket so that nobody can stand in its place.
//!
//! Keeps one rule: the socket appears under its name with its final owner and mode, in a folder where only its owner and root can
//! replace it, and never over a socket that still answers. It is removed by whoever made it, and only if it is still the same.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, RenameFlags};

use super::access::{Access, group_gid};

/// unix(7): `sun_path` holds 108 bytes with the closing zero; the temporary name next to the socket must fit, too.
const MAX_PATH_BYTES: usize = 107;

/// A control socket that listens. Dropping it removes its file.
#[derive(Debug)]
pub struct Listener {
    pub(super) socket: UnixListener,
    pub(super) access: Access,
    path: PathBuf,
    /// Device and inode of the file that we made.
    file: (u64, u64),
    /// A fork that drops its copy must not take the file away from the process that serves.
    pid: u32,
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("a Portreeve answers at {} already; `portreeve down` ends it, `--socket PATH` stands beside it", path.display())]
    Running { path: PathBuf },
    #[error("{} exists and is no socket; remove it or choose another with --socket PATH", path.display())]
    NotASocket { path: PathBuf },
    #[error("{} is {length} bytes long; a socket's path may have {MAX_PATH_BYTES}", path.display())]
    TooLong { path: PathBuf, length: usize },
    #[error("the control socket may not lie in {}: {why}", dir.display())]
    UnsafeDir { dir: PathBuf, why: &'static str },
    #[error("{what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

impl Listener {
    /// Makes the socket at `path`. The folder of it is made, too, if it alone is missing; a socket of a process that ended is
    /// replaced. Called by the process that serves, after any fork: the one that made the file removes it.
    ///
    /// # Errors
    ///
    /// The folder can be written to by others, something else is at `path`, or a Portreeve answers there.
    pub fn bind(path: &Path, access: Access) -> Result<Self, BindError> {
        let (dir, name) = split(path)?;
        let lock = open_dir(&dir, access)?;
        // Two that start at once would each find the other's fresh socket stale between bind and listen.
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(|errno| failed("lock", &dir, errno))?;
        remove_stale(path)?;
        let unready = dir.join(format!(".pr-{}", std::process::id()));
        let _ = fs::remove_file(&unready);
        let socket = UnixListener::bind(&unready).map_err(|source| failed("make a socket beside", path, source))?;
        let made = settle(&unready, access)
            .and_then(|()| socket.set_nonblocking(true))
            .and_then(|()| fs::symlink_metadata(&unready))
            .and_then(|file| {
                let temporary = unready.file_name().unwrap_or_default();
                rustix::fs::renameat_with(&lock, temporary, &lock, name, RenameFlags::NOREPLACE)?;
                Ok((file.dev(), file.ino()))
            });
        match made {
            Ok(file) => Ok(Self { socket, access, path: path.to_path_buf(), file, pid: std::process::id() }),
            Err(source) => {
                let _ = fs::remove_file(&unready);
                Err(failed("make the control socket", path, source))
            }
        }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.file);
        if is_ours && self.pid == std::process::id() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn failed(what: &'static str, path: &Path, source: impl Into<io::Error>) -> BindError {
    BindError::Io { what, path: path.to_path_buf(), source: source.into() }
}

fn split(path: &Path) -> Result<(PathBuf, &std::ffi::OsStr), BindError> {
    let length = path.as_os_str().len();
    if length > MAX_PATH_BYTES {
        return Err(BindError::TooLong { path: path.to_path_buf(), length });
    }
    let not_a_socket = || BindError::NotASocket { path: path.to_path_buf() };
    let name = path.file_name().ok_or_else(not_a_socket)?;
    let dir = path.parent().ok_or_else(not_a_socket)?;
    // A bare file name has the parent "".
    Ok((if dir.as_os_str().is_empty() { PathBuf::from(".") } else { dir.to_path_buf() }, name))
}

/// Opens the folder, makes it if it alone is missing, and refuses one that others could change things in.
fn open_dir(dir: &Path, access: Access) -> Result<OwnedFd, BindError> {
    let mode = match access {
        Access::Machine => 0o755,
        Access::Own => 0o700,
    };
    let made = match DirBuilder::new().mode(mode).create(dir) {
        // The umask may have taken bits that the group needs to reach the socket.
        Ok(()) => fs::set_permissions(dir, Permissions::from_mode(mode)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    };
    made.map_err(|source| failed("make the folder", dir, source))?;
    let unsafe_dir = |dir: &Path, why| BindError::UnsafeDir { dir: dir.to_path_buf(), why };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(dir, flags, Mode::empty()).map_err(|errno| match errno {
        // open(2): a symbolic link is ELOOP with O_NOFOLLOW and ENOTDIR when O_DIRECTORY is there, too.
        rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR => unsafe_dir(dir, "it is no folder but a link or a file"),
        other => failed("open the folder", dir, other),
    })?;
    let real = fs::canonicalize(dir).map_err(|source| failed("look at", dir, source))?;
    let own = Own::of_this_process();
    for above in real.ancestors() {
        let meta = fs::symlink_metadata(above).map_err(|source| failed("look at", above, source))?;
        if let Some(why) = danger(meta.mode(), meta.uid(), meta.gid(), own) {
            return Err(unsafe_dir(above, why));
        }
    }
    Ok(opened)
}

/// Who we are, for telling our files from others'.
#[derive(Clone, Copy, Debug)]
struct Own {
    uid: u32,
    gid: u32,
    /// As whom the files of root appear where root has no number of its own: in the user namespace of an enclosure
    /// (user_namespaces(7), "unmapped user and group IDs").
    unmapped: Option<u32>,
}

impl Own {
    fn of_this_process() -> Self {
        let overflow = fs::read_to_string("/proc/sys/kernel/overflowuid").ok().and_then(|text| text.trim().parse().ok());
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        Self {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            unmapped: overflow.filter(|uid| !has_root(&map) && !is_mapped(&map, *uid)),
        }
    }
}

/// Whether root outside has a number here, be it another one; and 0 here may be somebody else (`unshare -r`).
fn has_root(map: &str) -> bool {
    map.is_empty() || map.lines().any(|line| range(line).is_none_or(|(_, outside, _)| outside == 0))
}

/// Whether somebody has this number here. An unreadable map maps everything.
fn is_mapped(map: &str, uid: u32) -> bool {
    let is_in = |(inside, _, count): (u64, u64, u64)| (inside..inside.saturating_add(count)).contains(&u64::from(uid));
    map.is_empty() || map.lines().any(|line| range(line).is_none_or(is_in))
}

/// A line of /proc/self/uid_map: first number inside, first number outside, count.
fn range(line: &str) -> Option<(u64, u64, u64)> {
    let mut numbers = line.split_whitespace().map_while(|number| number.parse().ok());
    Some((numbers.next()?, numbers.next()?, numbers.next()?))
}

/// Why a folder lets others replace what lies in it; None when it does not.
fn danger(mode: u32, uid: u32, gid: u32, own: Own) -> Option<&'static str> {
    let sticky = mode & 0o1000 != 0;
    let group_is_others = gid != 0 && gid != own.gid;
    if uid != 0 && uid != own.uid && Some(uid) != own.unmapped {
        Some("it belongs to another user")
    } else if mode & 0o002 != 0 && !sticky {
        Some("everybody may write to it and it has no sticky bit")
    } else if mode & 0o020 != 0 && group_is_others && !sticky {
        Some("a group may write to it and it has no sticky bit")
    } else {
        None
    }
}

/// Removes the socket of a process that ended. One that answers, or might, stays.
///
/// # Errors
///
/// Something else is at `path`, a router answers there, or the folder is not ours to change.
pub fn remove_stale(path: &Path) -> Result<(), BindError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(failed("look at", path, source)),
        Ok(meta) if !meta.file_type().is_socket() => return Err(BindError::NotASocket { path: path.to_path_buf() }),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|source| failed("remove the stale socket", path, source))
        }
        Ok(_) | Err(_) => Err(BindError::Running { path: path.to_path_buf() }),
    }
}

/// Gives the file its final owner and mode. A client needs the write bit to connect (unix(7)).
fn settle(path: &Path, access: Access) -> io::Result<()> {
    match access {
        Access::Own => fs::set_permissions(path, Permissions::from_mode(0o600)),
        Access::Machine => {
            // Only root can give a file to a group that it is no member of; without the group the file stays ours alone.
            if let Some(gid) = group_gid().filter(|_| rustix::process::geteuid().is_root()) {
                chown(path, Some(0), Some(gid))?;
            }
            fs::set_permissions(path, Permissions::from_mode(0o660))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn mode_of(path: &Path) -> u32 {
        fs::symlink_metadata(path).expect("the file exists").mode() & 0o7777
    }

    fn dir() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary folder can be made")
    }

    #[test]
    fn the_socket_has_its_mode_and_goes_when_it_is_dropped() {
        let dir = dir();
        for (access, mode) in [(Access::Own, 0o600), (Access::Machine, 0o660)] {
            let path = dir.path().join("run/s.sock");
            let listener = Listener::bind(&path, access).expect("the folder is ours");
            assert_eq!(mode_of(&path), mode, "{access:?}");
            drop(listener);
            assert!(!path.exists());
        }
        assert_eq!(
            fs::read_dir(dir.path().join("run")).expect("the folder stays").count(),
            0,
            "nothing is left beside the socket"
        );
    }

    #[test]
    fn a_socket_that_answers_is_not_replaced() {
        let dir = dir();
        let path = dir.path().join("s.sock");
        let first = Listener::bind(&path, Access::Own).expect("nothing is there");
        assert!(matches!(Listener::bind(&path, Access::Own), Err(BindError::Running { .. })));
        UnixStream::connect(first.path()).expect("the first still listens");
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let dir = dir();
        let path = dir.path().join("s.sock");
        drop(UnixListener::bind(&path).expect("nothing is there"));
        assert!(path.exists(), "the standard library leaves the file");
        let _listener = Listener::bind(&path, Access::Own).expect("nobody answers there");
        UnixStream::connect(&path).expect("the new one listens");
    }

    #[test]
    fn a_file_or_a_link_in_its_place_is_left_alone() {
        let dir = dir();
        let file = dir.path().join("file");
        fs::write(&file, "mine").expect("the folder is ours");
        let link = dir.path().join("link");
        symlink(&file, &link).expect("the folder is ours");
        for path in [&file, &link] {
            assert!(matches!(Listener::bind(path, Access::Own), Err(BindError::NotASocket { .. })), "{}", path.display());
        }
        assert_eq!(fs::read_to_string(&file).expect("the file stays"), "mine");
    }

    #[test]
    fn a_folder_that_everybody_may_write_to_needs_the_sticky_bit() {
        let dir = dir();
        let open = dir.path().join("open");
        fs::create_dir(&open).expect("the folder is ours");
        fs::set_permissions(&open, Permissions::from_mode(0o777)).expect("the folder is ours");
        let refused = Listener::bind(&open.join("s"), Access::Own);
        assert!(matches!(refused, Err(BindError::UnsafeDir { .. })));
        let below = open.join("below");
        fs::create_dir(&below).expect("the folder is ours");
        let refused = Listener::bind(&below.join("s"), Access::Own);
        assert!(matches!(refused, Err(BindError::UnsafeDir { dir, .. }) if dir.ends_with("open")), "a folder above counts, too");
        fs::set_permissions(&open, Permissions::from_mode(0o1777)).expect("the folder is ours");
        Listener::bind(&open.join("s"), Access::Own).expect("sticky is enough");
    }

    #[test]
    fn a_linked_folder_is_refused() {
        let dir = dir();
        let link = dir.path().join("link");
        symlink("/tmp", &link).expect("the folder is ours");
        let refused = Listener::bind(&link.join("s"), Access::Own);
        assert!(matches!(refused, Err(BindError::UnsafeDir { .. })));
    }

    #[test]
    fn folders_of_others_are_refused_by_owner_and_group() {
        let own = Own { uid: 1000, gid: 1000, unmapped: None };
        for (mode, uid, gid, safe) in [
            (0o700, 1000, 1000, true),
            (0o755, 0, 0, true),
            (0o775, 1000, 1000, true),
            (0o1777, 0, 0, true),
            (0o700, 1001, 1000, false),
            (0o1777, 1001, 0, false),
            (0o777, 1000, 1000, false),
            (0o775, 1000, 50, false),
        ] {
            assert_eq!(danger(mode, uid, gid, own).is_none(), safe, "{mode:o} {uid}:{gid}");
        }
    }

    #[test]
    fn where_root_has_no_number_its_files_are_trusted_as_they_appear() {
        let inside = Own { uid: 1000, gid: 1000, unmapped: Some(65534) };
        assert_eq!(danger(0o1777, 65534, 65534, inside), None);
        assert!(danger(0o777, 65534, 65534, inside).is_some());
        let outside = Own { unmapped: None, ..inside };
        assert!(danger(0o755, 65534, 65534, outside).is_some(), "outside, nobody is somebody");
        for (map, uid, mapped) in [
            ("         0          0 4294967295\n", 65534, true),
            ("1000 1000 1\n", 0, false),
            ("1000 1000 1\n", 1000, true),
            ("0 1000 1\n", 0, true),
            ("", 0, true),
            ("odd\n", 0, true),
        ] {
            assert_eq!(is_mapped(map, uid), mapped, "{map:?} {uid}");
        }
        for (map, root) in
            [("0 0 4294967295\n", true), ("1000 1000 1\n", false), ("0 1000 1\n", false), ("1000 0 1\n", true), ("", true)]
        {
            assert_eq!(has_root(map), root, "{map:?}");
        }
    }

    #[test]
    fn a_path_that_the_kernel_cannot_hold_is_refused() {
        let long = Path::new("/tmp").join("x".repeat(120));
        assert!(matches!(Listener::bind(&long, Access::Own), Err(BindError::TooLong { length: 125, .. })));
    }

    #[test]
    fn a_file_that_took_its_place_is_not_removed() {
        let dir = dir();
        let path = dir.path().join("s.sock");
        let listener = Listener::bind(&path, Access::Own).expect("nothing is there");
        fs::remove_file(&path).expect("the folder is ours");
        fs::write(&path, "other").expect("the folder is ours");
        drop(listener);
        assert!(path.exists());
    }
}
