//! Mounts where paths mean what they mean to us.
//!
//! Keeps one rule: whose mount a file lies in is asked of the file, not of the process that runs it: a process of our mount namespace can
//! execute a file of any other, by a descriptor that it was passed or by `/proc/PID/root`.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, makedev, statx};

use super::process::FileId;
use crate::process::Place;

/// More is not read of a list of mounts; what stands behind is not ours.
const LIST_LEN: usize = 4 << 20;

/// The lists of our own mount namespace, and of an enclosure's, where just root can arrange mounts.
#[derive(Debug, Default)]
pub(super) struct Mounts(Vec<File>);

impl Mounts {
    /// The lists that these processes have now: another mount namespace that one of them may have later does not count.
    pub(super) fn of(proc_root: &Path, processes: impl IntoIterator<Item = String>) -> Self {
        let list = |process: String| File::open(proc_root.join(process).join("mountinfo")).ok();
        Self(processes.into_iter().filter_map(list).collect())
    }

    /// Whether a mount is among them. Read anew: a number is given again once its mount is gone.
    pub(super) fn have(&self, mount: u64) -> bool {
        self.0.iter().any(|list| lists(&read(list), mount))
    }

    /// The path of a file in our own mount namespace, where that very file is there: by the mount that it was reached by, or by the only
    /// one that leads there.
    pub(super) fn path(&self, place: &Place) -> Option<(PathBuf, FileId)> {
        let text = read(self.0.first()?);
        let mounts = text.split(|byte| *byte == b'\n').filter_map(Mount::read);
        let mut found: Vec<(u64, PathBuf, FileId)> = mounts.filter_map(|mount| mount.find(place)).collect();
        let numbers: Vec<u64> = found.iter().map(|(number, ..)| *number).collect();
        let (_, path, file) = found.swap_remove(the_one(&numbers, place)?);
        Some((path, file))
    }

    /// The same without a look at the file, which may lie on a file system that does not answer: something else may be there by now.
    pub(super) fn path_by_name(&self, place: &Place) -> Option<PathBuf> {
        let text = read(self.0.first()?);
        let mounts = text.split(|byte| *byte == b'\n').filter_map(Mount::read);
        let (numbers, mut paths): (Vec<u64>, Vec<PathBuf>) =
            mounts.filter_map(|mount| Some((mount.number, mount.path(place)?))).unzip();
        Some(paths.swap_remove(the_one(&numbers, place)?))
    }

    /// Whether a path of ours leads to this file: the filesystem's number, and the inode.
    pub(super) fn is_at(&self, path: &Path, file: (u32, u64)) -> bool {
        self.0.first().is_some_and(|list| device_and_inode(&read(list), path) == Some(file))
    }
}

/// Which of these mounts has a place: that by which it was reached, else the only one.
fn the_one(numbers: &[u64], place: &Place) -> Option<usize> {
    let same = numbers.iter().position(|number| *number == u64::from(place.mount));
    same.or(if numbers.len() == 1 { Some(0) } else { None })
}

/// A file by its path, as the kernel has it: the filesystem's number and the inode.
fn device_and_inode(text: &[u8], path: &Path) -> Option<(u32, u64)> {
    let stat = statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::INO | StatxFlags::MNT_ID).ok()?;
    let mut mounts = text.split(|byte| *byte == b'\n').filter_map(Mount::read);
    let mount =
        mounts.find(|mount| mount.number == stat.stx_mnt_id).filter(|_| stat.stx_mask & StatxFlags::MNT_ID.bits() != 0)?;
    Some((mount.device, stat.stx_ino))
}

/// A line of a list of mounts.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    number: u64,
    device: u32,
    /// What of the filesystem is mounted, and where.
    root: Vec<u8>,
    point: Vec<u8>,
}

impl Mount {
    fn read(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let number = str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        let (major, minor) = str::from_utf8(fields.nth(1)?).ok()?.split_once(':')?;
        let (major, minor) = (major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?);
        let device = major.checked_mul(1 << 20)?.checked_add(minor)?;
        Some(Self { number, device, root: unescaped(fields.next()?), point: unescaped(fields.next()?) })
    }

    /// Where this mount has a file, if that is so.
    fn find(&self, place: &Place) -> Option<(u64, PathBuf, FileId)> {
        let path = self.path(place)?;
        let wanted = StatxFlags::INO | StatxFlags::MNT_ID;
        let stat = statx(CWD, &path, AtFlags::STATX_DONT_SYNC | AtFlags::SYMLINK_NOFOLLOW, wanted).ok()?;
        // Another mount may lie upon it.
        let is_it = wanted.bits() & !stat.stx_mask == 0 && (stat.stx_mnt_id, stat.stx_ino) == (self.number, place.inode);
        let file = FileId { device: makedev(stat.stx_dev_major, stat.stx_dev_minor), inode: stat.stx_ino };
        is_it.then_some((self.number, path, file))
    }

    fn path(&self, place: &Place) -> Option<PathBuf> {
        let mut names = place.names.iter().map(Vec::as_slice);
        if self.device != place.device || !names_of(&self.root).all(|name| names.next() == Some(name)) {
            return None;
        }
        let mut path = PathBuf::from(OsStr::from_bytes(&self.point));
        path.extend(names.map(OsStr::from_bytes));
        Some(path)
    }
}

fn names_of(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
}

/// White space and backslashes are written in octal.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let (mut text, mut rest) = (Vec::with_capacity(field.len()), field);
    while let Some((first, behind)) = rest.split_first() {
        let octal = behind.get(..3).filter(|_| *first == b'\\').and_then(|digits| str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                text.push(byte);
                rest = rest.get(4..).unwrap_or_default();
            }
            None => {
                text.push(*first);
                rest = behind;
            }
        }
    }
    text
}

fn read(list: &File) -> Vec<u8> {
    let mut text = vec![0; 64 * 1024];
    let mut len = 0;
    while let Ok(more @ 1..) = list.read_at(text.get_mut(len..).unwrap_or_default(), len.try_into().unwrap_or(u64::MAX)) {
        len += more;
        if text.len() - len < 4096 && len < LIST_LEN {
            text.resize(2 * text.len(), 0);
        }
    }
    text.truncate(len);
    text
}

/// The first field of a line is the mount's number (proc_pid_mountinfo(5)).
fn lists(text: &[u8], mount: u64) -> bool {
    let number = |line: &[u8]| str::from_utf8(line.split(|byte| *byte == b' ').next()?).ok()?.parse().ok();
    text.split(|byte| *byte == b'\n').any(|line| number(line) == Some(mount))
}

/// The place of a file of ours, for tests.
#[cfg(test)]
pub(super) fn place_of(path: &Path) -> Place {
    let stat = statx(CWD, path, AtFlags::empty(), StatxFlags::INO | StatxFlags::MNT_ID).expect("there");
    let text = std::fs::read("/proc/self/mountinfo").expect("the kernel lists mounts");
    let mount = text.split(|byte| *byte == b'\n').filter_map(Mount::read).find(|mount| mount.number == stat.stx_mnt_id);
    let Mount { number, device, root, point } = mount.expect("listed");
    let below = path.strip_prefix(Path::new(OsStr::from_bytes(&point))).expect("below it").as_os_str().as_bytes();
    let names = names_of(&root).chain(names_of(below)).map(<[u8]>::to_vec).collect();
    Place { device, inode: stat.stx_ino, mount: number.try_into().expect("small"), names }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::process::Process;

    #[test]
    fn mount_is_known_by_the_first_field_of_a_line_alone() {
        let text = b"36 35 98:0 /mnt1 /mnt2 rw - ext3 /dev/root rw\n350 36 0:20 / /proc rw - proc proc rw\n";
        assert!(lists(text, 36) && lists(text, 350));
        assert!(!lists(text, 35) && !lists(text, 98) && !lists(text, 3) && !lists(b"", 0));
    }

    #[test]
    fn what_we_run_lies_in_a_mount_of_ours_and_a_file_in_memory_does_not() {
        let (proc_root, us) = (Path::new("/proc"), std::process::id());
        let ours = Process::open(proc_root, us).expect("we run");
        let mounts = Mounts::of(proc_root, ["self".to_owned()]);
        assert!(mounts.have(ours.mount("exe").expect("the kernel tells")));
        assert!(mounts.have(ours.mount("exe").expect("the kernel tells")), "again");
        assert!(!Mounts::default().have(ours.mount("exe").expect("the kernel tells")));
        let memory = rustix::fs::memfd_create("curl", rustix::fs::MemfdFlags::CLOEXEC).expect("memory");
        let name = format!("fd/{}", std::os::fd::AsRawFd::as_raw_fd(&memory));
        assert!(!mounts.have(ours.mount(&name).expect("the kernel tells")));
    }

    #[test]
    fn line_of_a_mount_says_what_of_which_filesystem_is_where() {
        let line = b"36 35 254:3 /@home /mnt/a\\040b\\134 rw,noatime shared:1 - btrfs /dev/vda3 rw,subvol=/@home";
        let mount = Mount::read(line).expect("well-formed");
        let expected = Mount { number: 36, device: 254 << 20 | 3, root: b"/@home".to_vec(), point: b"/mnt/a b\\".to_vec() };
        assert_eq!(mount, expected);
        let place = |device, names: &[&str]| {
            let names = names.iter().map(|name| name.as_bytes().to_vec()).collect();
            mount.path(&Place { device, inode: 1, mount: 0, names })
        };
        let device = 254 << 20 | 3;
        assert_eq!(place(device, &["@home", "bin", "x"]).as_deref(), Some(Path::new("/mnt/a b\\/bin/x")));
        assert_eq!(place(device, &["@home"]).as_deref(), Some(Path::new("/mnt/a b\\")));
        for (device, names) in [(device, &["@other", "x"][..]), (device, &[]), (device + 1, &["@home", "x"])] {
            assert_eq!(place(device, names), None, "{names:?}");
        }
        for broken in [&b""[..], b"36", b"36 35 254:3 /", b"36 35 254 / /mnt", b"x 35 254:3 / /mnt", b"36 35 99999:3 / /mnt"] {
            assert_eq!(Mount::read(broken), None, "{}", String::from_utf8_lossy(broken));
        }
    }

    #[test]
    fn place_of_a_file_leads_back_to_its_path_while_that_is_the_file() {
        let mounts = Mounts::of(Path::new("/proc"), ["self".to_owned()]);
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().canonicalize().expect("there").join("a b");
        std::fs::write(&file, "one").expect("written");
        let place = place_of(&file);
        assert_eq!(mounts.path(&place).map(|(path, _)| path), Some(file.clone()));
        assert_eq!(mounts.path_by_name(&place), Some(file.clone()));
        assert!(mounts.is_at(&file, (place.device, place.inode)));
        assert!(!mounts.is_at(&file, (place.device, place.inode + 1)) && !mounts.is_at(&file, (place.device + 1, place.inode)));
        assert!(!mounts.is_at(&file.join("none"), (place.device, place.inode)));
        let elsewhere = Place { mount: u32::MAX, ..place.clone() };
        assert_eq!(mounts.path(&elsewhere).map(|(path, _)| path), Some(file.clone()), "there is one path alone");
        assert_eq!(mounts.path(&Place { inode: place.inode + 1, ..place.clone() }), None);
        assert_eq!(mounts.path(&Place { device: u32::MAX, ..place.clone() }), None);
        let kept = File::open(&file).expect("there");
        std::fs::remove_file(&file).expect("ours");
        std::fs::write(&file, "another").expect("written");
        assert_eq!(mounts.path(&place), None, "another file has its path");
        assert_eq!(mounts.path_by_name(&place), Some(file), "which is not looked at");
        drop(kept);
    }
}
