//! What a process was when it made a UDP socket, for when it is gone: a program that sends one datagram and ends leaves nothing in /proc.
//!
//! Theory of operation. While a socket is made, the kernel runs our program in the process that makes it. That follows the kernel's own
//! structures, whose fields it finds by the kernel's description of itself (`btf`), to what /proc would say: the executable and the working
//! directory, each as a file of a filesystem with the names that lead there from the filesystem's root; the arguments; the parent. It is
//! kept in a place that the socket's cookie leads to, until another's leads there, and is read only where the process is gone. Who draws has the
//! place to itself: a process may be stopped in the midst of it. Who finds it taken is not portrayed.
//!
//! Keeps one rule: a portrait is whole or it is none, but for the working directory and the arguments, which are whole or not there.

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;

use super::draw::Fields;
use super::record::part;
use super::sys::{Map, MapKind, since_boot};
use crate::process::{Place, Portrait};

/// Places for UDP sockets that were made lately; a power of two.
pub(super) const PLACES: u32 = 1024;
/// Room for the names of one path.
pub(super) const NAMES: i16 = 512;
/// Room for the arguments.
pub(super) const ARGUMENTS: i16 = 512;

/// Of a place, from its begin: inode, device, mount, length of the names, and these.
pub(super) const INODE: i16 = 0;
pub(super) const DEVICE: i16 = 8;
pub(super) const MOUNT: i16 = 12;
pub(super) const LEN: i16 = 16;
pub(super) const TEXT: i16 = 24;
const PLACE: i16 = TEXT + NAMES;
/// Of a portrait: who draws it, the cookie of its socket, at its begin and at its end, and its parts.
pub(super) const TAKEN: i16 = 0;
pub(super) const OF: i16 = TAKEN + 8;
pub(super) const EXE: i16 = OF + 8;
pub(super) const CWD: i16 = EXE + PLACE;
pub(super) const CGROUP_LEN: i16 = CWD + PLACE;
pub(super) const CGROUP: i16 = CGROUP_LEN + 8;
pub(super) const ROOT_INODE: i16 = CGROUP + NAMES;
pub(super) const STARTED: i16 = ROOT_INODE + 8;
pub(super) const ROOT_DEVICE: i16 = STARTED + 8;
pub(super) const USER: i16 = ROOT_DEVICE + 4;
pub(super) const PARENT: i16 = USER + 4;
pub(super) const TOGETHER: i16 = PARENT + 4;
pub(super) const CMDLINE_LEN: i16 = TOGETHER + 4;
pub(super) const CMDLINE: i16 = CMDLINE_LEN + 8;
pub(super) const SCRIPT_INODE: i16 = CMDLINE + ARGUMENTS;
pub(super) const SCRIPT_DEVICE: i16 = SCRIPT_INODE + 8;
pub(super) const OF_AGAIN: i16 = SCRIPT_DEVICE + 8;
const PORTRAIT_LEN: usize = 2184;

/// None: it is not whole, or another's.
fn read(cookie: u64, bytes: &[u8; PORTRAIT_LEN]) -> Option<Portrait> {
    let word = |at| part(bytes, at).map(u32::from_ne_bytes);
    let wide = |at| part(bytes, at).map(u64::from_ne_bytes);
    let text = |len, at: i16| bytes.get(usize::try_from(at).ok()?..)?.get(..usize::try_from(wide(len)?).ok()?);
    let names = |len, at| {
        let mut names: Vec<Vec<u8>> = text(len, at)?.strip_suffix(&[0])?.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
        // The root, whose own name says nothing, was written last.
        names.pop();
        names.reverse();
        Some(names)
    };
    let place = |at: i16| {
        let names = names(at + LEN, at + TEXT)?;
        Some(Place { device: word(at + DEVICE)?, inode: wide(at + INODE)?, mount: word(at + MOUNT)?, names })
    };
    let cgroup = names(CGROUP_LEN, CGROUP)?.iter().map(|name| format!("/{}", String::from_utf8_lossy(name))).collect();
    if (wide(OF)?, wide(OF_AGAIN)?) != (cookie, cookie) {
        return None;
    }
    Some(Portrait {
        exe: place(EXE)?,
        cwd: place(CWD),
        root: (word(ROOT_DEVICE)?, wide(ROOT_INODE)?),
        script: Some((word(SCRIPT_DEVICE)?, wide(SCRIPT_INODE)?)).filter(|(_, inode)| *inode != 0),
        uid: word(USER)?,
        parent: word(PARENT)?,
        is_with_parent: word(TOGETHER)? == 1,
        cgroup: Some(cgroup),
        started: wide(STARTED)?,
        cmdline: text(CMDLINE_LEN, CMDLINE)?.to_vec(),
    })
}

/// The portraits of those who made UDP sockets lately.
#[derive(Debug)]
pub(super) struct Portraits {
    pub(super) map: Map,
    pub(super) fields: Fields,
    /// What [`Portrait::root`] is of processes that have our root directory, once there is one of ourselves.
    root: Option<(u32, u64)>,
    /// Whether [`Portrait::cgroup`] is what /proc says.
    tells_cgroups: bool,
}

impl Portraits {
    /// None where the kernel does not describe itself as expected, or has no room.
    pub(super) fn make() -> Option<Self> {
        let fields = Fields::find()?;
        let map = Map::make(MapKind::Array, 4, PORTRAIT_LEN, PLACES).ok()?;
        Some(Self { map, fields, root: None, tells_cgroups: false })
    }

    /// Of who made the socket with this cookie, if our root directory was its own.
    pub(super) fn find(&self, cookie: u64) -> Option<Portrait> {
        let portrait = self.any(cookie).filter(|portrait| self.root == Some(portrait.root))?;
        let cgroup = portrait.cgroup.filter(|_| self.tells_cgroups);
        Some(Portrait { cgroup, ..portrait })
    }

    fn any(&self, cookie: u64) -> Option<Portrait> {
        let place = u32::try_from(cookie % u64::from(PLACES)).ok()?.to_ne_bytes();
        let [once, again] = [(); 2].map(|()| self.map.find::<PORTRAIT_LEN>(&place));
        // Another one may have been drawn there meanwhile.
        read(cookie, &once.filter(|_| once == again)?)
    }

    /// The trial: whether this is a portrait of ourselves, who made that socket.
    pub(super) fn know_us(&mut self, cookie: u64) -> bool {
        let inode = |path: &str| std::fs::metadata(path).ok().map(|file| file.ino());
        let name = std::fs::read_link("/proc/self/exe").ok().and_then(|path| Some(path.file_name()?.as_bytes().to_vec()));
        let cmdline = std::fs::read("/proc/self/cmdline").ok();
        let us = self.any(cookie).filter(|us| {
            let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_pid().cast_unsigned());
            [Some(us.exe.inode), Some(us.root.1)] == ["/proc/self/exe", "/"].map(inode)
                && us.cwd.as_ref().is_none_or(|cwd| Some(cwd.inode) == inode("/proc/self/cwd"))
                && us.exe.names.last() == name.as_ref()
                && (us.uid, us.parent) == (rustix::process::geteuid().as_raw(), parent)
                && (us.cmdline.is_empty() || Some(&us.cmdline) == cmdline.as_ref())
                && (1..=since_boot()).contains(&us.started)
        });
        let cgroups = std::fs::read_to_string("/proc/self/cgroup").ok();
        self.root = us.as_ref().map(|us| us.root);
        self.tells_cgroups = us.and_then(|us| us.cgroup).zip(cgroups).is_some_and(|(ours, lines)| is_only(&lines, &ours));
        self.root.is_some()
    }
}

/// Whether the text of /proc/PID/cgroup tells this cgroup, and of no other hierarchy.
fn is_only(lines: &str, cgroup: &str) -> bool {
    let path = if cgroup.is_empty() { "/" } else { cgroup };
    lines.strip_prefix("0::").and_then(|rest| rest.strip_suffix('\n')) == Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOKIE: u64 = 77;

    fn drawn() -> [u8; PORTRAIT_LEN] {
        let mut bytes = [0; PORTRAIT_LEN];
        let mut put = |at: i16, what: &[u8]| {
            let at = usize::try_from(at).expect("within");
            bytes[at..at + what.len()].copy_from_slice(what);
        };
        [OF, OF_AGAIN].into_iter().for_each(|at| put(at, &COOKIE.to_ne_bytes()));
        for (place, names) in [(EXE, &b"curl\0bin\0usr\0/\0"[..]), (CWD, &b"/\0"[..])] {
            put(place + INODE, &7_u64.to_ne_bytes());
            put(place + DEVICE, &8_u32.to_ne_bytes());
            put(place + MOUNT, &9_u32.to_ne_bytes());
            put(place + LEN, &u64::try_from(names.len()).expect("small").to_ne_bytes());
            put(place + TEXT, names);
        }
        put(CGROUP_LEN, &21_u64.to_ne_bytes());
        put(CGROUP, b"ssh.service\0x.slice\0\0");
        put(PARENT, &5_u32.to_ne_bytes());
        put(CMDLINE_LEN, &8_u64.to_ne_bytes());
        put(CMDLINE, b"curl\0-s\0");
        bytes
    }

    fn with_script() -> [u8; PORTRAIT_LEN] {
        let (mut bytes, at) = (drawn(), usize::try_from(SCRIPT_INODE).expect("within"));
        bytes[at..at + 8].copy_from_slice(&6_u64.to_ne_bytes());
        bytes[at + 8..at + 12].copy_from_slice(&8_u32.to_ne_bytes());
        bytes
    }

    #[test]
    fn names_are_read_from_the_root_downwards() {
        let portrait = read(COOKIE, &drawn()).expect("whole");
        assert_eq!(portrait.exe.names, [&b"usr"[..], b"bin", b"curl"]);
        assert_eq!((portrait.exe.inode, portrait.exe.device, portrait.exe.mount), (7, 8, 9));
        assert!(portrait.cwd.is_some_and(|cwd| cwd.names.is_empty()), "the root itself");
        assert_eq!((portrait.script, read(COOKIE, &with_script()).expect("whole").script), (None, Some((8, 6))));
        assert_eq!(portrait.cgroup.as_deref(), Some("/x.slice/ssh.service"));
        assert_eq!((portrait.parent, &portrait.cmdline[..]), (5, &b"curl\0-s\0"[..]));
    }

    #[test]
    fn portrait_that_is_not_whole_is_none() {
        let with = |at: i16, value: u64| {
            let mut bytes = drawn();
            let at = usize::try_from(at).expect("within");
            bytes[at..at + 8].copy_from_slice(&value.to_ne_bytes());
            read(COOKIE, &bytes)
        };
        assert!(with(OF, COOKIE).is_some());
        assert_eq!((with(OF, 0), with(OF_AGAIN, COOKIE + 1), read(COOKIE + 1, &drawn())), (None, None, None), "another socket's");
        for at in [EXE + LEN, CGROUP_LEN] {
            assert_eq!((with(at, 0), with(at, u64::MAX)), (None, None), "{at}");
        }
        assert_eq!(with(CMDLINE_LEN, 4096), None);
        assert!(with(CWD + LEN, 0).is_some_and(|portrait| portrait.cwd.is_none()));
        assert!(with(CMDLINE_LEN, 0).is_some_and(|portrait| portrait.cmdline.is_empty()));
    }

    #[test]
    fn cgroup_is_told_where_there_is_one_hierarchy_and_it_is_ours() {
        assert!(is_only("0::/a.slice/b.scope\n", "/a.slice/b.scope") && is_only("0::/\n", ""));
        for (lines, cgroup) in
            [("0::/a\n", "/b"), ("0::/\n", "/a"), ("1:name=systemd:/a\n0::/a\n", "/a"), ("0::/a\n1:cpu:/\n", "/a"), ("", "")]
        {
            assert!(!is_only(lines, cgroup), "{lines}");
        }
    }

    #[test]
    fn portrait_has_the_length_that_the_program_writes() {
        assert_eq!(usize::try_from(OF_AGAIN + 8), Ok(PORTRAIT_LEN));
    }
}
