//! The profile set inside the binary: the repository's `profiles/`.
//!
//! Keeps one rule: every file of that folder is listed here (tested).

macro_rules! shipped {
    ($($path:literal),* $(,)?) => { &[$(($path, include_str!(concat!("../../profiles/", $path)))),*] };
}

/// Path inside the set, and text.
pub(super) const SHIPPED: &[(&str, &str)] = shipped![
    "fallback.toml",
    "global.toml",
    "stamp/apt.toml",
    "stamp/avahi.toml",
    "stamp/chromium.toml",
    "stamp/curl.toml",
    "stamp/firefox.toml",
    "stamp/flatpak.toml",
    "stamp/folder-dropped.toml",
    "stamp/folder-home.toml",
    "stamp/folder-usr-bin.toml",
    "stamp/folder-usr-sbin.toml",
    "stamp/framework-java.toml",
    "stamp/framework-node.toml",
    "stamp/framework-perl.toml",
    "stamp/framework-php.toml",
    "stamp/framework-python.toml",
    "stamp/framework-ruby.toml",
    "stamp/framework-shell.toml",
    "stamp/framework-wine.toml",
    "stamp/git.toml",
    "stamp/networkmanager.toml",
    "stamp/ssh.toml",
    "stamp/systemd-resolved.toml",
    "stamp/systemd-timesyncd.toml",
    "stamp/thunderbird.toml",
];

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    fn files_below(dir: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path());
        entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
    }

    #[test]
    fn every_file_of_the_folder_is_inside_the_binary() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles");
        let mut found: Vec<String> = files_below(&root)
            .iter()
            .map(|path| path.strip_prefix(&root).expect("a path below the folder").display().to_string())
            .collect();
        found.sort();
        let listed: Vec<&str> = SHIPPED.iter().map(|(path, _)| *path).collect();
        assert_eq!(found, listed);
    }
}
