//! A host of the lab, and programs on it. Every program that is waited for has a time limit.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A program that takes longer than this is killed, and its test fails. Seconds.
const LIMIT: &str = "90";

/// One namespace of a lab.
#[derive(Clone)]
pub(crate) struct Host {
    namespace: String,
    /// The script that gives the lab's own /run to a program.
    enter: Option<PathBuf>,
}

impl Host {
    /// Its name for `ip netns`.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(crate) fn new(namespace: String, enter: Option<PathBuf>) -> Self {
        Self { namespace, enter }
    }

    /// The words that precede a program to run it here.
    fn prefix(&self) -> Vec<std::ffi::OsString> {
        let mut words = vec!["ip".into(), "netns".into(), "exec".into(), self.namespace.clone().into()];
        words.extend(self.enter.iter().map(|enter| enter.clone().into_os_string()));
        words
    }

    /// Runs a program to its end.
    pub(crate) fn run<A: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = A>) -> Finished {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=2", LIMIT]).args(self.prefix()).args(words);
        command.stdin(Stdio::null());
        let shown = format!("{command:?}");
        let start = Instant::now();
        let output = command.output().unwrap_or_else(|error| panic!("{shown}: {error}"));
        Finished {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            elapsed: start.elapsed(),
            shown,
        }
    }

    /// Starts a program that is killed with the value returned.
    pub(crate) fn spawn<A: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = A>) -> Running {
        let prefix = self.prefix();
        let (first, rest) = prefix.split_first().expect("a prefix has words");
        let mut command = Command::new(first);
        command.args(rest).args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let shown = format!("{command:?}");
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{shown}: {error}"));
        let output = BufReader::new(child.stdout.take().expect("stdout is piped"));
        Running { child, output, shown }
    }
}

/// A program that has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) elapsed: Duration,
    shown: String,
}

impl Finished {
    /// The code as a shell has it.
    pub(crate) fn code(&self) -> i32 {
        self.status.code().or(self.status.signal().map(|signal| signal + 128)).unwrap_or(-1)
    }

    /// What it wrote, where it succeeded.
    pub(crate) fn expect_success(self) -> String {
        self.expect_code(0).stdout
    }

    /// Itself, where it exited with this status.
    pub(crate) fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code(), code, "{}\nstdout: {}\nstderr: {}", self.shown, self.stdout, self.stderr);
        self
    }
}

/// A program that runs. It is killed when this value is dropped.
pub(crate) struct Running {
    child: Child,
    output: BufReader<ChildStdout>,
    shown: String,
}

impl Running {
    /// The next line that it writes; empty at the end of its output. It must write or end: the runner's time limit guards.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap_or_else(|error| panic!("{}: {error}", self.shown));
        line.trim_end().to_owned()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a child has a PID");
        kill_process(pid, signal).unwrap_or_else(|error| panic!("signal {signal:?} to {}: {error}", self.shown));
    }

    /// SIGKILL, and no goodbye.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("a child can be killed");
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_some()
    }

    /// Waits for its end; gives the rest of what it wrote.
    pub(crate) fn finish(mut self) -> (ExitStatus, String) {
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap_or_else(|error| panic!("{}: {error}", self.shown));
        (self.child.wait().expect("a child can be waited for"), rest)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How long whatever is waited for may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until the answer is there.
///
/// # Panics
/// After half a minute without one.
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(answer) = ask() {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("waited half a minute in vain: {what}");
}
