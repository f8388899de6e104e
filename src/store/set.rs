//! Profile sets: folders with `user/*.toml`, `global.toml`, `stamp/*.toml`, `fallback.toml` and `labels/*.toml`.
//!
//! Keeps one rule: what a named folder lacks is empty, never defaulted. A later folder's file replaces an earlier one of the same
//! name; an empty file masks it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::shipped::SHIPPED;
use crate::profile::{Fault, File, Kind, Layer, Policy, Setup};

/// The administrator's profiles.
const SYSTEM_DIR: &str = "/etc/portreeve/profiles";
/// A profile of this size was not written by a person.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// More files than any machine has programs.
const MAX_FILES: usize = 20_000;

/// The files of a set by their path inside the set's folder, and the places that they come from.
#[derive(Clone, Debug, Default)]
pub struct Set {
    files: BTreeMap<PathBuf, File>,
    /// The folders that were read, in order; "shipped" for the set inside the binary.
    pub places: Vec<PathBuf>,
}

impl Set {
    /// Compiles the set.
    ///
    /// # Errors
    ///
    /// All faults of all files.
    pub fn compile(self, setup: Setup) -> Result<Policy, Vec<Fault>> {
        let files: Vec<File> = self.files.into_values().collect();
        Policy::compile(&files, setup)
    }

    /// The files of the set.
    pub fn files(&self) -> impl Iterator<Item = &File> {
        self.files.values()
    }

    fn add_shipped(&mut self) {
        self.places.push(PathBuf::from("shipped"));
        for (path, text) in SHIPPED {
            if let Some(kind) = kind_of(Path::new(path)) {
                let file = File { kind, path: Path::new("shipped").join(path), text: (*text).to_owned() };
                self.files.insert(PathBuf::from(path), file);
            }
        }
    }

    fn add_dir(&mut self, dir: &Path, faults: &mut Vec<Fault>) {
        self.places.push(dir.to_owned());
        let folders = ["user", "stamp", "labels"].map(Path::new);
        let mut paths: Vec<PathBuf> = ["global.toml", "fallback.toml"].map(PathBuf::from).into();
        for folder in folders {
            match toml_files(&dir.join(folder)) {
                Ok(names) => paths.extend(names.into_iter().map(|name| folder.join(name))),
                Err(error) => faults.push(unreadable(&dir.join(folder), &error)),
            }
        }
        for path in paths {
            let full = dir.join(&path);
            match (kind_of(&path), read(&full)) {
                (Some(kind), Ok(Some(text))) => {
                    self.files.insert(path, File { kind, path: full, text });
                }
                (Some(_), Err(error)) => faults.push(unreadable(&full, &error)),
                // Its name is in the folder: without it the set might allow what it forbids.
                (Some(_), Ok(None)) if path.components().count() > 1 => {
                    let what = "cannot be read: it went away meanwhile, or is a link that leads nowhere";
                    faults.push(Fault::of_file(&full, what, "read the set again, or remove the link"));
                }
                (None, _) | (Some(_), Ok(None)) => {}
            }
        }
        if self.files.len() > MAX_FILES {
            faults.push(Fault::of_file(
                dir,
                format!("the set has more than {MAX_FILES} files"),
                "use folder profiles ([match] prefix)",
            ));
        }
    }
}

/// Reads the set in `dir`, which replaces all others.
///
/// # Errors
///
/// What cannot be read.
pub fn read_set(dir: &Path) -> Result<Set, Vec<Fault>> {
    let mut set = Set::default();
    let mut faults = Vec::new();
    match fs::metadata(dir) {
        Ok(metadata) if metadata.is_dir() => set.add_dir(dir, &mut faults),
        Ok(_) => faults.push(Fault::of_file(dir, "this is no folder", "name the folder that holds user/, global.toml and so on")),
        Err(error) => faults.push(unreadable(dir, &error)),
    }
    if faults.is_empty() { Ok(set) } else { Err(faults) }
}

/// Reads the shipped set and `dirs` over it; a folder that does not exist adds nothing.
///
/// # Errors
///
/// What cannot be read.
pub fn read_default(dirs: &[PathBuf]) -> Result<Set, Vec<Fault>> {
    let mut set = Set::default();
    let mut faults = Vec::new();
    set.add_shipped();
    for dir in dirs {
        match fs::metadata(dir) {
            Ok(_) => set.add_dir(dir, &mut faults),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => faults.push(unreadable(dir, &error)),
        }
    }
    if faults.is_empty() { Ok(set) } else { Err(faults) }
}

/// The folders over the shipped set: the administrator's, then, for `exec` as an ordinary user, the user's own.
#[must_use]
pub fn default_dirs(with_user: bool) -> Vec<PathBuf> {
    let mut dirs = vec![PathBuf::from(SYSTEM_DIR)];
    if with_user {
        let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let config = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")));
        dirs.extend(config.filter(|config| is_ours(config)).map(|config| config.join("portreeve/profiles")));
    }
    dirs
}

/// Whether a folder, or the nearest one above it that exists, belongs to the user who runs this. HOME outlives `setpriv` and `sudo`:
/// another user's folder is not this user's configuration, readable or not.
fn is_ours(dir: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let uid = rustix::process::geteuid().as_raw();
    let nearest = dir.ancestors().find_map(|folder| match fs::metadata(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        other => Some(other),
    });
    matches!(nearest, Some(Ok(metadata)) if metadata.uid() == uid)
}

/// Loads the set in `dir`, which replaces all others.
///
/// # Errors
///
/// All faults of all files.
pub fn load_set(dir: &Path, setup: Setup) -> Result<Policy, Vec<Fault>> {
    read_set(dir)?.compile(setup)
}

/// Loads the shipped set with the administrator's over it and, for `exec` as an ordinary user, the user's own over both.
///
/// # Errors
///
/// All faults of all files.
pub fn load_default(with_user: bool, setup: Setup) -> Result<Policy, Vec<Fault>> {
    read_default(&default_dirs(with_user))?.compile(setup)
}

/// What a file of a set is, by its path inside the set.
fn kind_of(path: &Path) -> Option<Kind> {
    match path.to_str()? {
        "global.toml" => Some(Kind::Profile(Layer::Global)),
        "fallback.toml" => Some(Kind::Profile(Layer::Fallback)),
        text if text.starts_with("user/") => Some(Kind::Profile(Layer::User)),
        text if text.starts_with("stamp/") => Some(Kind::Profile(Layer::Stamp)),
        text if text.starts_with("labels/") => Some(Kind::Labels),
        _ => None,
    }
}

/// Names of the `.toml` files in a folder, sorted; hidden files and editors' leavings are no profiles.
fn toml_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries.take(MAX_FILES + 1) {
        let name = PathBuf::from(entry?.file_name());
        let is_hidden = name.to_string_lossy().starts_with(['.', '#']);
        if !is_hidden && name.extension().is_some_and(|extension| extension == "toml") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// The text of a file; None when there is none.
fn read(path: &Path) -> io::Result<Option<String>> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "this is no regular file"));
    }
    if metadata.len() > MAX_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the file is larger than 1 MiB"));
    }
    let bytes = fs::read(path)?;
    String::from_utf8(bytes).map(Some).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the file is no UTF-8 text"))
}

fn unreadable(path: &Path, error: &io::Error) -> Fault {
    Fault::of_file(path, format!("cannot be read: {error}"), "make it a readable text file, or remove it")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(dir: &Path, path: &str, text: &str) {
        let full = dir.join(path);
        fs::create_dir_all(full.parent().expect("a path below a folder")).expect("a folder");
        fs::write(full, text).expect("a file");
    }

    fn names(policy: &Policy) -> Vec<String> {
        policy.profiles().map(|profile| profile.name.to_string()).collect()
    }

    #[test]
    fn a_named_folder_replaces_everything_and_what_it_lacks_is_empty() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let policy = load_set(dir.path(), Setup::default()).expect("an empty set");
        assert!(names(&policy).is_empty());
    }

    #[test]
    fn a_folder_that_is_not_there_is_a_fault_where_it_was_named_and_nothing_otherwise() {
        let missing = Path::new("/nonexistent/portreeve");
        let faults = load_set(missing, Setup::default()).expect_err("no folder");
        assert!(faults.first().expect("a fault").to_string().starts_with("/nonexistent/portreeve:1:1: cannot be read"));
        assert!(read_default(&[missing.to_owned()]).is_ok());
    }

    #[test]
    fn later_folders_replace_files_and_an_empty_file_masks() {
        let (etc, own) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        put(etc.path(), "user/a.toml", "name = \"a from etc\"");
        put(etc.path(), "user/b.toml", "name = \"b from etc\"");
        put(own.path(), "user/a.toml", "");
        put(own.path(), "user/b.toml", "name = \"b of one's own\"");
        put(own.path(), "user/.hidden.toml", "nonsense");
        put(own.path(), "user/b.toml~", "nonsense");
        let set = read_default(&[etc.path().to_owned(), own.path().to_owned()]).expect("a readable set");
        let policy = set.compile(Setup::default()).expect("a valid set");
        let names = names(&policy);
        assert!(names.contains(&"b of one's own".to_owned()));
        assert!(!names.iter().any(|name| name.contains("from etc")));
    }

    #[test]
    fn all_faults_of_all_files_come_at_once() {
        let dir = tempfile::tempdir().expect("a folder");
        put(dir.path(), "user/a.toml", "name = \"a\"\nmodes = \"prompt\"\nendpoints = [\"+ 1.2.3.*\"]\n");
        put(dir.path(), "global.toml", "[match]\npath = [\"/x\"]\n");
        let faults = load_set(dir.path(), Setup::default()).expect_err("three faults");
        let text: Vec<String> =
            faults.iter().map(|fault| fault.to_string().replace(&*dir.path().to_string_lossy(), "D")).collect();
        assert_eq!(text.len(), 3, "{text:?}");
        assert!(text.iter().any(|t| t.starts_with("D/user/a.toml:2:1: unknown key `modes`; did you mean `mode`?")), "{text:?}");
        assert!(text.iter().any(|t| t.starts_with("D/user/a.toml:3:14: ") && t.contains("CIDR")), "{text:?}");
        assert!(text.iter().any(|t| t.starts_with("D/global.toml:1:2: ")), "{text:?}");
    }

    #[test]
    fn a_name_without_a_file_is_a_fault_and_a_missing_layer_is_none() {
        let dir = tempfile::tempdir().expect("a folder");
        put(dir.path(), "user/a.toml", "name = \"a\"");
        assert!(read_set(dir.path()).is_ok(), "neither global nor fallback");
        std::os::unix::fs::symlink("/nonexistent", dir.path().join("user/b.toml")).expect("a link");
        let faults = read_set(dir.path()).expect_err("a link that leads nowhere");
        assert_eq!(faults.len(), 1);
        assert!(faults[0].to_string().contains("user/b.toml:1:1: cannot be read"), "{}", faults[0]);
    }

    #[test]
    fn what_is_no_text_is_a_fault() {
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join("global.toml"), [0xff, 0xfe]).expect("a file");
        assert!(load_set(dir.path(), Setup::default()).is_err());
    }
}
