//! Profile sets for tests, written as a person would write them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A set folder that vanishes with this value.
pub(crate) struct Profiles {
    dir: TempDir,
}

impl Profiles {
    /// An empty set: everything is refused.
    pub(crate) fn empty() -> Self {
        let dir = tempfile::Builder::new().prefix("portreeve-profiles.").tempdir().expect("a temporary folder can be made");
        // A test may run the router as an ordinary user, who must be able to read the set.
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path(), readable).expect("the folder is ours");
        std::fs::create_dir(dir.path().join("user")).expect("the folder is ours");
        Self { dir }
    }

    /// Whatever no other profile refuses is accepted.
    pub(crate) fn accepting() -> Self {
        let set = Self::empty();
        set.fallback(
            "mode = \"blacklist\"\n[scope]\ninternet = true\nlan = true\nlocalhost = true\n[flags]\npeer_to_peer = true\n",
        );
        set
    }

    /// Writes fallback.toml.
    pub(crate) fn fallback(&self, keys: &str) {
        self.write("fallback.toml", &format!("name = \"Fallback\"\n{keys}"));
    }

    /// Writes the profile of one program.
    pub(crate) fn user(&self, name: &str, program: &Path, keys: &str) {
        let mut text = format!("name = \"{name}\"\n{keys}\n");
        write!(text, "[match]\npath = [{:?}]\n", program.to_string_lossy()).expect("text grows");
        self.write(&format!("user/{name}.toml"), &text);
    }

    pub(crate) fn write(&self, file: &str, text: &str) {
        let path = self.dir.path().join(file);
        std::fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// The file that really runs when `program` is called: profiles match paths without symbolic links.
///
/// # Panics
/// Where no such program is installed.
pub(crate) fn executable(program: &str) -> PathBuf {
    let found = if program.contains('/') {
        Some(PathBuf::from(program))
    } else {
        ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
            .iter()
            .map(|dir| Path::new(dir).join(program))
            .find(|path| path.exists())
    };
    let found = found.unwrap_or_else(|| panic!("{program} is not installed; scripts/prepare test installs it"));
    found.canonicalize().unwrap_or_else(|error| panic!("{}: {error}", found.display()))
}
