//! The mount namespace: /proc and /sys of the new namespaces, masks over the ways around our DNS, and files in place of others.
//!
//! Keeps one rule: nothing that is mounted here is seen outside, and nothing of the host is written. Masked are the unix
//! sockets by which the C library would have names resolved outside (systemd-resolved, nscd); the session and system D-Bus
//! stay reachable.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind, mount_change, move_mount,
    open_tree, unmount,
};

use super::resolv::ResolvConf;
use super::{EncloseError, error};

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Directories whose sockets answer for names from outside.
const MASKED: [&str; 3] = ["/run/systemd/resolve", "/run/nscd", "/var/run/nscd"];

/// Files of a masked directory that are copied back at most, and their size: they are resolv.conf files.
const COPIED_FILES: usize = 16;
const COPIED_LEN: u64 = 64 * 1024;

/// A file that is seen in the place of another.
#[derive(Debug)]
pub(super) struct StandIn {
    /// Of the other, without links.
    pub(super) path: PathBuf,
    /// The permission bits.
    pub(super) mode: u32,
    pub(super) content: Vec<u8>,
}

/// Makes the mounts. Returns what resolv.conf says.
pub(super) fn make(around: &error::Surroundings) -> Result<ResolvConf, EncloseError> {
    let attempt = |what: String, source: io::Error| error::explain(&what, &source, around);
    // Mounts that the host makes later still arrive (a USB stick), ours do not leave.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .map_err(|source| attempt("make / a slave mount".into(), source.into()))?;
    let conf = ResolvConf::parse(&fs::read_to_string(RESOLV_CONF).unwrap_or_default());
    // Before the masks: the file may lie beneath one.
    let conf_path = fs::canonicalize(RESOLV_CONF).ok();
    for dir in masked_dirs() {
        mask(&dir).map_err(|source| attempt(format!("mask {}", dir.display()), source))?;
    }
    if let (Some(text), Some(path)) = (conf.replacement(), conf_path) {
        let attempted = format!("cover {}", path.display());
        let file = StandIn { path, mode: 0o644, content: text.into_bytes() };
        cover(&[file]).map_err(|source| attempt(attempted, source))?;
    }
    fresh_proc().map_err(|source| explain_proc(source, around))?;
    fresh_sys();
    Ok(conf)
}

/// The masked directories that exist, each once: /var/run is a link to /run nearly everywhere.
fn masked_dirs() -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = MASKED.iter().filter_map(|dir| fs::canonicalize(dir).ok()).filter(|dir| dir.is_dir()).collect();
    dirs.sort();
    dirs.dedup();
    dirs
}

/// Puts an empty file system over a directory, then its plain files back: resolv.conf may be a link to one of them.
fn mask(dir: &Path) -> io::Result<()> {
    let files = plain_files(dir);
    mount("tmpfs", dir, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, c"mode=0755,size=4m")?;
    for (name, content) in files {
        fs::write(dir.join(name), content)?;
    }
    Ok(())
}

fn plain_files(dir: &Path) -> Vec<(std::ffi::OsString, Vec<u8>)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.metadata().is_ok_and(|meta| meta.is_file() && meta.len() <= COPIED_LEN))
        .filter_map(|entry| Some((entry.file_name(), fs::read(entry.path()).ok()?)))
        .take(COPIED_FILES)
        .collect()
}

/// Binds each file over the one that it stands in for. They live on a file system that is seen nowhere else afterwards. One that
/// fails keeps no other from its place.
pub(super) fn cover(files: &[StandIn]) -> io::Result<()> {
    const STAGE: &str = "/proc";
    if files.is_empty() {
        return Ok(());
    }
    mount("tmpfs", STAGE, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, c"mode=0755,size=32m")?;
    let place = |(number, file): (usize, &StandIn)| {
        let staged = Path::new(STAGE).join(number.to_string());
        fs::write(&staged, &file.content)?;
        fs::set_permissions(&staged, fs::Permissions::from_mode(file.mode))?;
        Ok(mount_bind(&staged, &file.path)?)
    };
    let placed: Vec<io::Result<()>> = files.iter().enumerate().map(place).collect();
    unmount(STAGE, UnmountFlags::DETACH)?;
    placed.into_iter().collect()
}

fn fresh_proc() -> io::Result<()> {
    Ok(mount("proc", "/proc", "proc", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None)?)
}

/// The kernel gives a user namespace a /proc only where it sees all of its own (`mount_too_revealing` in fs/namespace.c).
fn explain_proc(source: io::Error, around: &error::Surroundings) -> EncloseError {
    let shown = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let covered = mount_points(&shown).any(|point| point != Path::new("/proc") && point.starts_with("/proc"));
    match source.raw_os_error() {
        Some(libc::EPERM) if around.user_namespace && covered => EncloseError::step(
            "mount /proc in the enclosure",
            "refused, because parts of /proc are covered here, as containers do it; \
             a container needs --security-opt systempaths=unconfined or --cap-add SYS_ADMIN",
        ),
        _ => error::explain("mount /proc in the enclosure", &source, around),
    }
}

/// Mounts a /sys that shows the links inside, with what was mounted below the old one (cgroups). A kernel that refuses leaves
/// the old one, which shows the host's links and permits nothing.
fn fresh_sys() {
    let below = submounts(Path::new("/sys"));
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    // A read-only /sys may only be followed by a read-only one.
    if mount("sysfs", "/sys", "sysfs", flags, None).is_err()
        && mount("sysfs", "/sys", "sysfs", flags | MountFlags::RDONLY, None).is_err()
    {
        return;
    }
    for (path, tree) in below {
        // One that cannot move is missing below /sys and nowhere else.
        let _ = move_mount(&tree, "", CWD, &path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH);
    }
}

/// Copies of the mounts right below `dir`, each with all that is mounted below it.
fn submounts(dir: &Path) -> Vec<(PathBuf, OwnedFd)> {
    let shown = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut points: Vec<PathBuf> = mount_points(&shown).filter(|point| point != dir && point.starts_with(dir)).collect();
    points.sort();
    let mut top: Vec<PathBuf> = Vec::new();
    for point in points {
        if !top.iter().any(|above| point.starts_with(above)) {
            top.push(point);
        }
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    top.into_iter().filter_map(|point| Some((point.clone(), open_tree(CWD, &point, flags).ok()?))).collect()
}

/// The fifth field of each line (proc_pid_mountinfo(5)), with its octal escapes undone.
fn mount_points(mountinfo: &str) -> impl Iterator<Item = PathBuf> + '_ {
    mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape)
}

fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let code = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|d| u8::from_str_radix(d, 8).ok());
        match (first, code) {
            (b'\\', Some(byte)) => {
                bytes.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_with_their_escapes() {
        let shown = "22 1 0:20 / /proc rw - proc proc rw\n23 22 0:21 / /mnt/a\\040b\\134c rw - tmpfs x rw\n\n";
        let points: Vec<PathBuf> = mount_points(shown).collect();
        assert_eq!(points, [PathBuf::from("/proc"), PathBuf::from("/mnt/a b\\c")]);
    }

    #[test]
    fn only_small_plain_files_come_back_under_a_mask() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("stub-resolv.conf"), "nameserver 127.0.0.53\n").expect("written");
        fs::write(dir.path().join("large"), vec![0; 65 * 1024]).expect("written");
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("io.systemd.Resolve")).expect("bound");
        let names: Vec<_> = plain_files(dir.path()).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["stub-resolv.conf"]);
    }
}
