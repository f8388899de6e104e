//! Mounts where paths mean what they mean to us.
//!
//! Keeps one rule: whose mount a file lies in is asked of the file, not of the process that runs it: a process of our mount namespace can
//! execute a file of any other, by a descriptor that it was passed or by `/proc/PID/root`.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

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
}
