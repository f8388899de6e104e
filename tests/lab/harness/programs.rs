//! The one program of ours among the test programs: `tests/data/lab/probe.py`, which tells what a socket call said.

use std::path::PathBuf;

use serde::Deserialize;

use super::laboratory::repository;
use super::{Finished, Router};

/// What a connect attempt said, and after how long.
#[derive(Debug, Deserialize)]
pub(crate) struct Connect {
    /// "OK", or a name such as "ECONNREFUSED".
    pub(crate) said: String,
    pub(crate) milliseconds: f64,
}

/// The probe's command line under the Python that Debian ships.
pub(crate) fn probe(words: &[&str]) -> Vec<String> {
    probe_by("/usr/bin/python3", words)
}

/// The probe's command line under a copy of Python.
pub(crate) fn probe_by(python: &str, words: &[&str]) -> Vec<String> {
    script(python, "probe.py", words)
}

/// The command line of `tests/data/lab/datagrams.py`, which tells what datagram sockets say.
pub(crate) fn datagrams(words: &[&str]) -> Vec<String> {
    script("/usr/bin/python3", "datagrams.py", words)
}

/// The command line of `tests/data/lab/raw.py`, which sends from raw sockets.
pub(crate) fn raw(words: &[&str]) -> Vec<String> {
    script("/usr/bin/python3", "raw.py", words)
}

/// The command line of `tests/data/lab/closing.py`, which closes each socket as soon as it has sent.
pub(crate) fn closing(words: &[&str]) -> Vec<String> {
    script("/usr/bin/python3", "closing.py", words)
}

/// The command line of `tests/data/lab/stuck.py`, which runs a shell from a file system that does not answer any more.
pub(crate) fn stuck(words: &[&str]) -> Vec<String> {
    script("/usr/bin/python3", "stuck.py", words)
}

/// The command line of `tests/data/lab/sharing.py`, which sends from ports that several programs have.
pub(crate) fn sharing(words: &[&str]) -> Vec<String> {
    script("/usr/bin/python3", "sharing.py", words)
}

fn script(python: &str, name: &str, words: &[&str]) -> Vec<String> {
    let script = repository().join("tests/data/lab").join(name);
    let mut all = vec![python.to_owned(), script.to_string_lossy().into_owned()];
    all.extend(words.iter().map(|&word| word.to_owned()));
    all
}

/// Connects by TCP, with a time limit of four seconds.
pub(crate) fn connect(router: &Router<'_>, address: &str, port: u16) -> Connect {
    told(router.run(probe(&["connect", address, &port.to_string()])))
}

/// The words of a program that keeps an echo conversation going: it writes "talking" once it does, and then why it ended.
pub(crate) fn hold(address: &str) -> Vec<String> {
    probe(&["hold", address])
}

/// Parses the probe's one line.
pub(crate) fn told(finished: Finished) -> Connect {
    let text = finished.expect_success();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The file that really runs for the probe.
pub(crate) fn python() -> PathBuf {
    super::executable("/usr/bin/python3")
}
