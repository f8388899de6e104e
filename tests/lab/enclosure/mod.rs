//! `exec`'s enclosure with real programs, as root and as an ordinary user. Nothing here sends a packet to the host's network.

mod command;
mod ends;
mod handle;
mod left;
mod names;
mod network;
mod refusals;
mod terminal;

use std::ffi::OsStr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long what must happen may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Who calls `portreeve exec`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    Root,
    /// uid and gid 65534, no capabilities.
    Nobody,
}

pub(crate) const CALLERS: [Caller; 2] = [Caller::Root, Caller::Nobody];

impl Caller {
    pub(crate) fn id(self) -> u32 {
        match self {
            Self::Root => 0,
            Self::Nobody => 65534,
        }
    }

    /// `portreeve exec -- CMD…` as this caller. Ends after 60 s by force.
    pub(crate) fn exec<S: AsRef<OsStr>>(self, command: impl IntoIterator<Item = S>) -> Command {
        let mut exec = self.command();
        exec.arg(binary()).args(["exec", "--"]).args(command);
        exec
    }

    /// A program that runs as this caller.
    pub(crate) fn command(self) -> Command {
        let mut command = Command::new("timeout");
        command.args(["-s", "KILL", "60"]).current_dir("/tmp");
        if self == Self::Nobody {
            command.args(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
        }
        command
    }

    /// What a shell script prints in an enclosure.
    pub(crate) fn shell(self, script: &str) -> Output {
        self.exec(["sh", "-c", script]).output().expect("sh runs")
    }
}

/// The binary, or a copy of it where the build's directory is closed to ordinary users. Each build is copied once.
pub(crate) fn binary() -> &'static PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let built = PathBuf::from(env!("CARGO_BIN_EXE_portreeve"));
        let mut try_it = Caller::Nobody.command();
        if try_it.args(["test", "-x"]).arg(&built).status().expect("test runs").success() {
            return built;
        }
        let stamp = std::fs::metadata(&built).expect("the binary").mtime();
        let copy = std::env::temp_dir().join(format!("portreeve-lab-binary-{stamp}"));
        if !copy.exists() {
            // Other tests may do the same at the same time; the rename lets all of them see a whole file.
            let part = copy.with_extension(std::process::id().to_string());
            std::fs::copy(&built, &part).expect("a copy");
            std::fs::set_permissions(&part, PermissionsExt::from_mode(0o755)).expect("the mode");
            std::fs::rename(&part, &copy).expect("renamed");
        }
        copy
    })
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The end of a program and how long it took: the first of three that was quicker than the limit, since others may keep the machine
/// busy meanwhile; else the last.
pub(crate) fn quickest<T>(limit: Duration, mut run: impl FnMut() -> T) -> (T, Duration) {
    for _ in 0..2 {
        let (result, took) = timed(&mut run);
        if took < limit {
            return (result, took);
        }
    }
    timed(run)
}

fn timed<T>(run: impl FnOnce() -> T) -> (T, Duration) {
    let begin = Instant::now();
    let result = run();
    (result, begin.elapsed())
}

/// Asks again every 20 ms until it is so or the limit is over.
pub(crate) fn until(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    while Instant::now() < end {
        if holds() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    holds()
}

/// The processes whose command line holds `mark`, by number.
pub(crate) fn processes_with(mark: &str) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| {
            std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains(mark))
        })
        .collect()
}
