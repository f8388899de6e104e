//! Runs the program `nft`: scripts that end at once, and one that stays because its tables live as long as it does.
//!
//! Keeps one rule: a script is one transaction; what nft complains about comes back word for word. A table with `flags owner`
//! belongs to the netlink socket that made it, so [`Live`] keeps `nft -i` running with a pipe as its input: when we end, in
//! whatever way, the kernel closes the pipe, nft reads the end of its input and ends, and the tables go with it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// How long nft may take to load or to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of a complaint that are read.
const COMPLAINT_LIMIT: u64 = 8192;

/// Between two looks whether the live tables are there.
const PAUSE: Duration = Duration::from_millis(5);

/// Why nft did not do it.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    #[error("the program nft is not installed; install the package nftables")]
    Missing,
    #[error("{what} needs CAP_NET_ADMIN in this network namespace; run as root")]
    Privilege { what: &'static str },
    #[error("{what}: nft says: {said}")]
    Refused { what: &'static str, said: String },
    #[error(
        "{what}: this kernel lacks a part of nftables ({said}); it takes Linux 5.16 with NETFILTER_EGRESS, NF_TABLES_ARP, NFT_CT, \
         NFT_FIB_INET, NFT_REJECT_INET, NFT_NAT, NFT_REDIR, NFT_SOCKET and NFT_FWD_NETDEV"
    )]
    Kernel { what: &'static str, said: String },
    #[error("{what}: nft did not answer within 5 s")]
    Silent { what: &'static str },
    #[error("{what}: {source}")]
    Io { what: &'static str, source: io::Error },
}

/// Runs a script as one transaction. Returns what nft printed.
pub(super) fn run(what: &'static str, script: &str) -> Result<String, NftError> {
    run_with(&["-f", "-"], what, script)
}

/// The tables as they are, without what changes by itself: the values of counters. One question each, since nft 1.0.6 looks up
/// one table alone.
pub(super) fn list(tables: &[&str]) -> Result<String, NftError> {
    let one = |table: &&str| match run_with(&["-s", "-f", "-"], "list a table", &format!("list table {table}\n")) {
        // Here alone it is the table that does not exist.
        Err(NftError::Kernel { what, .. }) => {
            Err(NftError::Refused { what, said: format!("there is no table {table}; somebody removes it") })
        }
        other => other,
    };
    tables.iter().map(one).collect()
}

fn run_with(options: &[&str], what: &'static str, script: &str) -> Result<String, NftError> {
    let mut child = spawn(|program| {
        let mut command = Command::new(program);
        command.args(options).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    })?;
    let fail = |source| NftError::Io { what, source };
    if let Some(mut input) = child.stdin.take() {
        // nft that refuses early closes its end; what it says is better than "broken pipe".
        let _ = input.write_all(script.as_bytes());
    }
    let output = child.wait_with_output().map_err(fail)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(refusal(what, &String::from_utf8_lossy(&output.stderr)))
}

/// A running `nft -i` that owns tables.
#[derive(Debug)]
pub(super) struct Live {
    child: Child,
    input: Option<ChildStdin>,
    /// What it is to read, and where it complains: in memory, since a disk may be full or read-only when a script must be loaded.
    script: File,
    errors: File,
}

impl Live {
    /// Starts nft; it owns nothing yet.
    pub(super) fn start() -> Result<Self, NftError> {
        let fail = |source| NftError::Io { what: "start nft", source };
        let script = in_memory("portreeve script").map_err(fail)?;
        let errors = in_memory("portreeve complaints").map_err(fail)?;
        let complaints = OpenOptions::new().append(true).open(path_of(&errors)).map_err(fail)?;
        let mut child = spawn(|program| {
            let mut command = Command::new(program);
            // In a process group of its own, so that Ctrl-C in a terminal does not end it before us.
            // Without a home it writes no ~/.nft.history.
            command.arg("-i").stdout(Stdio::null()).env("HOME", "/dev/null").process_group(0);
            if let Ok(complaints) = complaints.try_clone() {
                command.stderr(complaints);
            }
            command
        })?;
        let input = child.stdin.take();
        Ok(Self { child, input, script, errors })
    }

    /// Loads `script` and waits until the question `proof` has an answer.
    pub(super) fn load(&mut self, what: &'static str, script: &str, proof: &str) -> Result<(), NftError> {
        let fail = |source| NftError::Io { what, source };
        self.script.set_len(0).and_then(|()| self.script.write_all_at(script.as_bytes(), 0)).map_err(fail)?;
        let input = self.input.as_mut().ok_or(NftError::Silent { what })?;
        // The interactive nft takes one line a command; an included file is one transaction.
        writeln!(input, "include \"{}\"", path_of(&self.script).display()).and_then(|()| input.flush()).map_err(fail)?;
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if run("look for what was loaded", &format!("{proof}\n")).is_ok() {
                return Ok(());
            }
            let said = self.complaint().map_err(fail)?;
            if !said.is_empty() {
                return Err(refusal(what, &said));
            }
            if self.child.try_wait().map_err(fail)?.is_some() {
                break;
            }
            std::thread::sleep(PAUSE);
        }
        Err(NftError::Silent { what })
    }

    /// Whether nft runs, and with it what it owns.
    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What nft wrote since the last look, once it ends with a whole line.
    fn complaint(&mut self) -> io::Result<String> {
        let mut said = String::new();
        self.errors.seek(io::SeekFrom::Start(0))?;
        (&self.errors).take(COMPLAINT_LIMIT).read_to_string(&mut said)?;
        if !said.ends_with('\n') {
            return Ok(String::new());
        }
        self.errors.set_len(0)?;
        Ok(said)
    }

    /// Ends nft and waits until its tables are gone with it.
    pub(super) fn end(&mut self) {
        drop(self.input.take());
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(PAUSE);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.end();
    }
}

fn in_memory(name: &str) -> io::Result<File> {
    Ok(rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)?.into())
}

/// Where a child of ours finds it, with an offset of its own.
fn path_of(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()))
}

/// Waits until no live table is left, after their owner was killed.
pub(super) fn live_is_gone() -> Result<(), NftError> {
    let what = "wait for the killed router's tables to go";
    let until = Instant::now() + PATIENCE;
    while run("list tables", "list tables\n")?.lines().any(|line| line.ends_with(" portreeve_live")) {
        if Instant::now() > until {
            return Err(NftError::Silent { what });
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

fn spawn(command: impl Fn(&str) -> Command) -> Result<Child, NftError> {
    // /usr/sbin is not on every PATH, and the sentence about a missing package must be true.
    for program in ["nft", "/usr/sbin/nft", "/sbin/nft"] {
        match command(program).env("LC_ALL", "C").stdin(Stdio::piped()).spawn() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(NftError::Io { what: "start nft", source }),
            Ok(child) => return Ok(child),
        }
    }
    Err(NftError::Missing)
}

fn refusal(what: &'static str, said: &str) -> NftError {
    if said.contains("Operation not permitted") && !rustix::process::geteuid().is_root() {
        return NftError::Privilege { what };
    }
    let first: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).take(3).collect();
    let said = first.join(" | ");
    // A missing expression or hook is ENOENT or EOPNOTSUPP; our scripts name nothing else that could be missing.
    let missing = ["No such file or directory", "Operation not supported", "Protocol not supported"];
    if missing.iter().any(|errno| said.contains(errno)) {
        NftError::Kernel { what, said }
    } else {
        NftError::Refused { what, said }
    }
}

impl NftError {
    /// Whether another may have come between: what is refused now may be done in a moment.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Refused { .. } | Self::Kernel { .. } => true,
            Self::Missing | Self::Privilege { .. } | Self::Silent { .. } | Self::Io { .. } => false,
        }
    }

    /// Whether more privilege would help.
    #[must_use]
    pub fn is_privilege(&self) -> bool {
        match self {
            Self::Privilege { .. } => true,
            Self::Io { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
            Self::Missing | Self::Refused { .. } | Self::Kernel { .. } | Self::Silent { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_the_kernel_lacks_is_told_apart_from_a_mistake() {
        let lacking =
            refusal("load the guard", "/dev/stdin:3:1-9: Error: Could not process rule: No such file or directory\nchain\n");
        assert!(lacking.to_string().contains("it takes Linux 5.16"), "{lacking}");
        let mistake = refusal("load the guard", "Error: syntax error, unexpected newline\n");
        assert!(matches!(mistake, NftError::Refused { .. }), "{mistake}");
    }

    #[test]
    fn a_complaint_is_kept_to_its_first_lines() {
        let said = refusal("load the guard", "one\n\ntwo\nthree\nfour\n").to_string();
        assert_eq!(said, "load the guard: nft says: one | two | three");
    }

    #[test]
    fn only_a_missing_privilege_is_one() {
        assert!(NftError::Privilege { what: "x" }.is_privilege());
        assert!(!NftError::Missing.is_privilege());
    }
}
