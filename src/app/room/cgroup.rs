//! How much memory the cgroup of this process may have.

use std::path::{Path, PathBuf};

/// The smallest limit on the way from this process's cgroup to the root; None: there is none, or it is not to be seen.
pub(super) fn memory_limit() -> Option<u64> {
    let of_process = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    smallest(&of_process, Path::new("/sys/fs/cgroup"))
}

/// `of_process`: as /proc/PID/cgroup has it (cgroups(7)). A cgroup of a container that does not see its own path has what its root says.
fn smallest(of_process: &str, mounted: &Path) -> Option<u64> {
    let limits = of_process.lines().flat_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        let (root, file) = if controllers.is_empty() {
            (mounted.to_owned(), "memory.max")
        } else if controllers.split(',').any(|controller| controller == "memory") {
            (mounted.join("memory"), "memory.limit_in_bytes")
        } else {
            return Vec::new();
        };
        let own: PathBuf = root.join(path.trim_start_matches('/'));
        own.ancestors().take_while(|dir| dir.starts_with(&root)).filter_map(|dir| read(&dir.join(file))).collect()
    });
    limits.min()
}

/// "max", and the first version's largest number of pages, are no limit.
fn read(file: &Path) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok().filter(|bytes| *bytes < 1 << 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smallest_limit_on_the_way_up_holds_in_both_versions() {
        let mounted = tempfile::tempdir().expect("a folder");
        let write = |file: &str, text: &str| {
            let path = mounted.path().join(file);
            std::fs::create_dir_all(path.parent().expect("it has one")).expect("a folder");
            std::fs::write(path, text).expect("a file");
        };
        write("a/b/memory.max", "max\n");
        write("a/memory.max", "50000000\n");
        write("memory/c/memory.limit_in_bytes", "9223372036854771712\n");
        write("memory/memory.limit_in_bytes", "70000000\n");
        let smallest = |of_process| smallest(of_process, mounted.path());
        assert_eq!(smallest("0::/a/b\n"), Some(50_000_000));
        assert_eq!(smallest("4:cpu:/x\n3:memory:/c\n"), Some(70_000_000));
        assert_eq!(smallest("0::/not/seen\n"), None);
        assert_eq!(smallest("4:cpu:/a\n"), None);
    }
}
