//! Which profile fits a program: tag > path > longest prefix; the command line only narrows a path or prefix.
//!
//! Keeps one rule: what a program can choose freely (its arguments) never selects a profile by itself.

use std::path::{Component, Path, PathBuf};

use regex::Regex;

use super::{Identity, Tag};

/// People's user IDs start here (login.defs(5), UID_MIN).
pub const UID_MIN: u32 = 1000;

/// The `[match]` table of a profile.
#[derive(Clone, Debug, Default)]
pub struct Matching {
    pub paths: Vec<HomePath>,
    pub prefixes: Vec<HomePath>,
    pub cmdlines: Vec<Regex>,
    pub tags: Vec<Tag>,
}

/// How well a profile fits. Greater is stronger; equal is a tie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strength {
    /// Length in bytes of the folder as it reads for this program.
    Prefix(usize),
    Path,
    Tag,
}

/// A path that may begin with `~/`, which stands for every user's home.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HomePath {
    Plain(PathBuf),
    /// The part below the home.
    Home(PathBuf),
}

/// The program as it is looked up: at first as the kernel knows it, later as a framework rewrote it.
#[derive(Clone, Copy, Debug)]
pub struct Looked<'a> {
    /// None: no path may match.
    pub path: Option<&'a Path>,
    pub cmdline: &'a str,
    pub home: Option<&'a Path>,
    pub tags: &'a [Tag],
}

impl<'a> Looked<'a> {
    /// The program as the kernel knows it. Another file under a known path is another program, so its path counts for nothing.
    #[must_use]
    pub fn first(identity: &'a Identity, cmdline: &'a str) -> Self {
        let path = identity.exe.as_ref().filter(|exe| exe.path_is_ours).map(|exe| exe.path.as_path());
        // Daemons have homes such as / and /usr/sbin, which are nobody's.
        let is_person = identity.uid.is_none_or(|uid| uid == 0 || uid >= UID_MIN);
        let home = identity.home.as_deref().filter(|home| is_person && home.parent().is_some());
        Self { path, cmdline, home, tags: &identity.tags }
    }
}

impl Matching {
    /// The strongest entry that fits.
    #[must_use]
    pub fn strength(&self, looked: &Looked<'_>) -> Option<Strength> {
        if self.tags.iter().any(|tag| looked.tags.contains(tag)) {
            return Some(Strength::Tag);
        }
        if !self.cmdlines.is_empty() && !self.cmdlines.iter().any(|regex| regex.is_match(looked.cmdline)) {
            return None;
        }
        let path = looked.path?;
        if self.paths.iter().any(|own| own.is(path, looked.home)) {
            return Some(Strength::Path);
        }
        self.prefixes.iter().filter_map(|own| own.length_above(path, looked.home)).max().map(Strength::Prefix)
    }
}

impl HomePath {
    /// Reads a path as typed; the final slash of a folder does not matter.
    #[must_use]
    pub fn new(text: &str) -> Self {
        match text.strip_prefix("~/") {
            Some(rest) => Self::Home(tidy(Path::new(rest))),
            None => Self::Plain(tidy(Path::new(text))),
        }
    }

    fn is(&self, path: &Path, home: Option<&Path>) -> bool {
        match self {
            Self::Plain(own) => own == path,
            Self::Home(own) => homes(path, home).into_iter().flatten().any(|home| path.strip_prefix(home) == Ok(own)),
        }
    }

    /// The length of this folder where `path` lies below it.
    fn length_above(&self, path: &Path, home: Option<&Path>) -> Option<usize> {
        let length = |path: &Path| path.as_os_str().len();
        match self {
            Self::Plain(own) => (path.starts_with(own) && path != own).then(|| length(own)),
            Self::Home(own) => {
                let below = |home: &&Path| path.strip_prefix(home).is_ok_and(|rest| rest.starts_with(own) && rest != own);
                let found = homes(path, home).into_iter().flatten().filter(below).map(length).max();
                let slash = usize::from(!own.as_os_str().is_empty());
                found.map(|home| home + slash + length(own))
            }
        }
    }
}

/// The homes that `path` may lie in: that of the program's user, and /root and /home/NAME, since `~/` means every user's home.
fn homes<'a>(path: &'a Path, own: Option<&'a Path>) -> [Option<&'a Path>; 2] {
    let usual = if path.starts_with("/root") {
        Some(Path::new("/root"))
    } else {
        path.ancestors().find(|above| above.parent() == Some(Path::new("/home")))
    };
    [own, usual.filter(|usual| own != Some(usual))]
}

/// The path without `.`, `..` and doubled slashes; purely by its text.
#[must_use]
pub fn tidy(path: &Path) -> PathBuf {
    let mut tidy = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                tidy.pop();
            }
            Component::RootDir | Component::Normal(_) | Component::Prefix(_) => tidy.push(component),
        }
    }
    tidy
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matching(paths: &[&str], prefixes: &[&str], cmdlines: &[&str], tags: &[&str]) -> Matching {
        Matching {
            paths: paths.iter().map(|p| HomePath::new(p)).collect(),
            prefixes: prefixes.iter().map(|p| HomePath::new(p)).collect(),
            cmdlines: cmdlines.iter().map(|c| Regex::new(c).expect("a regular expression")).collect(),
            tags: tags.iter().map(|t| Tag((*t).to_owned())).collect(),
        }
    }

    fn looked<'a>(path: &'a str, cmdline: &'a str, tags: &'a [Tag]) -> Looked<'a> {
        Looked { path: Some(Path::new(path)), cmdline, home: Some(Path::new("/srv/ann")), tags }
    }

    #[test]
    fn tag_is_stronger_than_path_and_path_than_any_prefix() {
        let tags = [Tag("unit:x.service".to_owned())];
        let program = looked("/usr/bin/x", "x", &tags);
        assert_eq!(matching(&["/usr/bin/x"], &[], &[], &["unit:x.service"]).strength(&program), Some(Strength::Tag));
        assert_eq!(matching(&["/usr/bin/x"], &["/"], &[], &["unit:y"]).strength(&program), Some(Strength::Path));
        assert!(Strength::Tag > Strength::Path && Strength::Path > Strength::Prefix(usize::MAX));
    }

    #[test]
    fn a_prefix_is_a_folder_and_the_longest_counts() {
        for prefix in ["/tmp", "/tmp/"] {
            let tmp = matching(&[], &[prefix], &[], &[]);
            assert_eq!(tmp.strength(&looked("/tmp/x", "", &[])), Some(Strength::Prefix(4)));
            assert_eq!(tmp.strength(&looked("/tmpfoo/x", "", &[])), None);
            assert_eq!(tmp.strength(&looked("/tmp", "", &[])), None);
        }
        assert_eq!(
            matching(&[], &["/", "/usr/bin"], &[], &[]).strength(&looked("/usr/bin/x", "", &[])),
            Some(Strength::Prefix(8))
        );
    }

    #[test]
    fn the_tilde_stands_for_every_users_home() {
        let downloads = matching(&["~/bin/x"], &["~/Downloads/"], &[], &[]);
        for home in ["/srv/ann", "/home/bob", "/root"] {
            let file = format!("{home}/Downloads/x");
            assert_eq!(downloads.strength(&looked(&file, "", &[])), Some(Strength::Prefix(home.len() + 10)), "{file}");
            assert_eq!(downloads.strength(&looked(&format!("{home}/bin/x"), "", &[])), Some(Strength::Path));
        }
        assert_eq!(downloads.strength(&looked("/var/Downloads/x", "", &[])), None);
        assert_eq!(downloads.strength(&looked("/home/Downloads/x", "", &[])), None);
    }

    #[test]
    fn a_home_and_its_full_path_tie() {
        let tilde = matching(&[], &["~/"], &[], &[]).strength(&looked("/home/bob/x", "", &[]));
        assert_eq!(tilde, matching(&[], &["/home/bob/"], &[], &[]).strength(&looked("/home/bob/x", "", &[])));
        assert_eq!(tilde, Some(Strength::Prefix(9)));
    }

    #[test]
    fn the_command_line_narrows_but_never_matches_alone() {
        let narrowed = matching(&["/usr/bin/x"], &[], &["--api"], &[]);
        assert_eq!(narrowed.strength(&looked("/usr/bin/x", "x --api", &[])), Some(Strength::Path));
        assert_eq!(narrowed.strength(&looked("/usr/bin/x", "x", &[])), None);
        assert_eq!(narrowed.strength(&looked("/usr/bin/y", "y --api", &[])), None);
        assert_eq!(matching(&[], &[], &["--api"], &[]).strength(&looked("/usr/bin/y", "y --api", &[])), None);
    }
}
