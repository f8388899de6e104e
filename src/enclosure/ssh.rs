//! Which files of ssh's configuration ssh would refuse inside, and what stands in for them.
//!
//! ssh ends at an included file, and at the user's own configuration, that belongs neither to root nor to the user, or that others
//! may write (`read_config_file_depth` in OpenSSH's readconf.c). In a user namespace that maps one user alone, root's files belong
//! to neither. So the user gets copies to own, in the places of the originals.
//!
//! Keeps one rule: copied is what ssh accepts outside because it is root's, and nothing else; what ssh refuses outside stays
//! refused. Understands no directive but `Include`, and of its values neither `%` and `${}` nor names with blanks: who uses those
//! for root's files has ssh as it is without copies.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::mounts::StandIn;

/// Where ssh begins for everyone; the second is openSUSE's. These two it accepts of any owner.
const SYSTEM: [&str; 2] = ["/etc/ssh/ssh_config", "/usr/etc/ssh/ssh_config"];

/// What a relative name in a system's file is relative to.
const SYSTEM_DIR: &str = "/etc/ssh";

/// Files that are read at most, and the length of each; distributions ship two or three of a few lines.
const FILES: usize = 64;
const FILE_LEN: u64 = 256 * 1024;

const ROOT: u32 = 0;

/// What ssh gets to see instead of root's files.
#[derive(Debug, Default)]
pub(super) struct Copies {
    pub(super) files: Vec<StandIn>,
    /// Whether there was more to read than the bounds permit.
    pub(super) incomplete: bool,
}

/// A file that ssh would open.
struct Named {
    path: PathBuf,
    /// What relative names in it are relative to.
    dir: PathBuf,
    checked: bool,
}

impl Copies {
    /// Looks at this machine's configuration, from outside the user namespace: inside, no owner but the user can be told.
    pub(super) fn make() -> Self {
        let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
        let own = home.iter().map(|home| home.join(".ssh")).map(|dir| Named { path: dir.join("config"), dir, checked: true });
        let system = SYSTEM.map(|path| Named { path: path.into(), dir: SYSTEM_DIR.into(), checked: false });
        Self::follow(own.chain(system).collect(), home.as_deref(), ROOT)
    }

    /// Reads from `waiting` on what includes name; copies what belongs to `owner`.
    fn follow(mut waiting: VecDeque<Named>, home: Option<&Path>, owner: u32) -> Self {
        let mut copies = Self::default();
        let mut seen = BTreeSet::new();
        while let Some(Named { path, dir, checked }) = waiting.pop_front() {
            let Ok(path) = fs::canonicalize(path) else { continue };
            if !seen.insert(path.clone()) {
                continue;
            }
            copies.incomplete |= seen.len() > FILES;
            if copies.incomplete {
                break;
            }
            let Some((content, meta)) = read(&path, &mut copies.incomplete) else { continue };
            for pattern in includes(&String::from_utf8_lossy(&content)).filter_map(|name| absolute(&name, &dir, home)) {
                // One more than are read, so that the excess is seen.
                let room = (FILES + 1).saturating_sub(waiting.len());
                waiting.extend(expand(&pattern).take(room).map(|path| Named { path, dir: dir.clone(), checked: true }));
            }
            // A copy that its group may write is accepted by Debian's ssh where the original is not: the owner counts there.
            if checked && meta.uid() == owner && meta.mode() & 0o022 == 0 {
                // Nobody writes it inside either; the owner reads it as the user could before.
                copies.files.push(StandIn { path, mode: meta.mode() & 0o555 | 0o400, content });
            }
        }
        copies
    }
}

/// A plain file within bounds. One that is not to be read is none of ours: ssh says what it thinks of it.
fn read(path: &Path, too_long: &mut bool) -> Option<(Vec<u8>, fs::Metadata)> {
    // Before the file is opened: a FIFO waits for its writer.
    fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    let file = File::open(path).ok()?;
    let meta = file.metadata().ok()?;
    let mut content = Vec::new();
    file.take(FILE_LEN + 1).read_to_end(&mut content).ok()?;
    let fits = u64::try_from(content.len()).is_ok_and(|len| len <= FILE_LEN);
    *too_long |= !fits;
    fits.then_some((content, meta))
}

/// The names behind each `Include`, as ssh_config(5) writes them: in any case, with blanks or one `=` behind the keyword.
fn includes(text: &str) -> impl Iterator<Item = String> + '_ {
    text.lines().flat_map(|line| {
        let line = line.trim();
        let end = line.find(|c: char| c.is_whitespace() || c == '=').unwrap_or(line.len());
        let (keyword, rest) = line.split_at(end);
        let rest = if keyword.eq_ignore_ascii_case("include") { rest.trim_start() } else { "" };
        let words = rest.strip_prefix('=').unwrap_or(rest).split_whitespace();
        words.take_while(|word| !word.starts_with('#')).map(|word| word.trim_matches('"').to_owned())
    })
}

fn absolute(name: &str, dir: &Path, home: Option<&Path>) -> Option<PathBuf> {
    match name.strip_prefix("~/") {
        Some(rest) => home.map(|home| home.join(rest)),
        None => Some(dir.join(name)),
    }
}

/// The paths that a pattern names, whether or not they exist where it holds no wildcard.
fn expand(pattern: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let mut found = vec![PathBuf::new()];
    for part in pattern.components().map(Component::as_os_str) {
        let wild = part.as_bytes().iter().any(|byte| b"*?[".contains(byte));
        found = match wild {
            true => found.iter().flat_map(|dir| matching(dir, part)).take(FILES + 1).collect(),
            false => found.iter().map(|dir| dir.join(part)).collect(),
        };
    }
    found.into_iter()
}

fn matching(dir: &Path, pattern: &OsStr) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| matches(pattern, &entry.file_name())).take(FILES + 1).map(|entry| entry.path()).collect()
}

/// As glob(7) has it: a wildcard is never a leading dot.
fn matches(pattern: &OsStr, name: &OsStr) -> bool {
    let [Ok(pattern), Ok(name)] = [pattern, name].map(|text| CString::new(text.as_bytes())) else { return false };
    // SAFETY: both are strings that end in NUL and live until the call returns, and it keeps neither.
    unsafe { libc::fnmatch(pattern.as_ptr(), name.as_ptr(), libc::FNM_PERIOD) == 0 }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// A folder in the place of /etc/ssh, whose files are the test's own as the real ones are root's.
    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new(files: &[(&str, &str, u32)]) -> Self {
            let folder = Self(tempfile::tempdir().expect("a directory"));
            fs::create_dir(folder.0.path().join("ssh_config.d")).expect("a directory");
            for (name, text, mode) in files {
                let path = folder.0.path().join(name);
                fs::write(&path, text).expect("written");
                fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).expect("the file is ours");
            }
            folder
        }

        fn follow(&self, owner: u32) -> Copies {
            let dir = fs::canonicalize(self.0.path()).expect("it exists");
            let start = Named { path: dir.join("ssh_config"), dir, checked: false };
            Copies::follow(VecDeque::from([start]), Some(self.0.path()), owner)
        }

        fn owner(&self) -> u32 {
            fs::metadata(self.0.path()).expect("it exists").uid()
        }

        /// The names of what would be copied.
        fn copied(&self) -> Vec<String> {
            let files = self.follow(self.owner()).files;
            files.iter().filter_map(|file| Some(file.path.file_name()?.to_str()?.to_owned())).collect()
        }
    }

    #[test]
    fn an_include_is_read_however_it_is_written() {
        let read = |line: &str| includes(line).collect::<Vec<_>>();
        assert_eq!(read("Include a b"), ["a", "b"]);
        assert_eq!(read("\tINCLUDE=\"a\"  # b"), ["a"]);
        assert_eq!(read("include = a\nHost *\n  Include b"), ["a", "b"]);
        for none in ["", "Include", "#Include a", "IncludeX a", "Host include a", "Include #a"] {
            assert_eq!(read(none), [""; 0], "{none}");
        }
    }

    #[test]
    fn a_wildcard_means_what_a_shell_means() {
        let matches = |pattern: &str, name: &str| matches(pattern.as_ref(), name.as_ref());
        assert!(matches("*.conf", "20-a.conf") && matches("[0-9]?-*", "20-a.conf"));
        assert!(!matches("*.conf", "20-a.conf.dpkg-new") && !matches("*.conf", ".conf") && !matches("?", "ab"));
    }

    #[test]
    fn what_includes_name_is_copied_and_the_beginning_is_not() {
        let folder = Folder::new(&[
            ("ssh_config", "Include ssh_config.d/*.conf\nInclude ~/absent\n", 0o644),
            ("ssh_config.d/50-a.conf", "Include back-end ssh_config\n", 0o644),
            ("ssh_config.d/README", "Include unread\n", 0o644),
            ("back-end", "Include ~/ssh_config.d/50-a.conf\n", 0o600),
            ("unread", "", 0o644),
        ]);
        assert_eq!(folder.copied(), ["50-a.conf", "back-end"]);
        let files = folder.follow(folder.owner()).files;
        assert_eq!(files.iter().map(|file| file.mode).collect::<Vec<_>>(), [0o444, 0o400]);
    }

    #[test]
    fn a_link_is_followed_to_where_the_file_is() {
        let folder = Folder::new(&[("ssh_config", "Include ssh_config.d/*.conf\n", 0o644), ("shipped", "Host unix/*\n", 0o644)]);
        symlink("../shipped", folder.0.path().join("ssh_config.d/20-proxy.conf")).expect("linked");
        symlink("../nowhere", folder.0.path().join("ssh_config.d/30-broken.conf")).expect("linked");
        assert_eq!(folder.copied(), ["shipped"]);
    }

    #[test]
    fn what_ssh_refuses_outside_is_not_copied() {
        let folder = Folder::new(&[
            ("ssh_config", "Include ssh_config.d/*\n", 0o644),
            ("ssh_config.d/group", "", 0o664),
            ("ssh_config.d/world", "", 0o646),
            ("ssh_config.d/good", "", 0o644),
        ]);
        assert_eq!(folder.copied(), ["good"]);
        assert!(folder.follow(folder.owner() + 1).files.is_empty(), "another's files");
    }

    #[test]
    fn more_than_the_bounds_permit_is_left_and_said() {
        let long = "#".repeat(256 * 1024 + 1);
        let folder = Folder::new(&[
            ("ssh_config", "Include ssh_config.d/*\n", 0o644),
            ("ssh_config.d/long", &long, 0o644),
            ("ssh_config.d/short", "", 0o644),
        ]);
        assert_eq!(folder.copied(), ["short"]);
        assert!(folder.follow(folder.owner()).incomplete);
        let many = Folder::new(&[("ssh_config", "Include ssh_config.d/*\n", 0o644)]);
        for number in 0..=FILES {
            fs::write(many.0.path().join(format!("ssh_config.d/{number}")), "").expect("written");
        }
        let copies = many.follow(many.owner());
        assert!(copies.incomplete && copies.files.len() == FILES - 1, "{}", copies.files.len());
    }
}
