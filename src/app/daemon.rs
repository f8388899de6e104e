//! `up` without `--foreground`: a copy of this process goes on in the background, and the first one returns when traffic flows.
//!
//! Keeps one rule: the caller learns why it failed, in the same words and with the same exit code.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::cli::{Exit, complain};

/// Tells the copy that it is one; its standard output leads to the first process until it is ready.
const COPY: &str = "PORTREEVE_COPY";
/// A log longer than this starts anew with the next `up`.
const MAX_LOG: u64 = 1 << 20;
/// What it writes.
const READY: &[u8] = b"ready";

/// True in the copy.
pub(super) fn is_copy() -> bool {
    std::env::var_os(COPY).is_some()
}

/// Starts the copy; its log is appended to `log_path`. Returns when it is ready or has failed.
pub(super) fn start(log_path: &Path) -> Exit {
    match launch(log_path) {
        Ok((mut child, mut pipe, begin)) => {
            let mut said = Vec::new();
            // A copy that ends without a word leaves the pipe empty.
            let _ = pipe.read_to_end(&mut said);
            if said == READY { Exit::Done } else { report(&mut child, &said, log_path, begin) }
        }
        Err(error) => complain(&format!("start in the background, with the log {}: {error}", log_path.display()), Exit::Failed),
    }
}

fn launch(log_path: &Path) -> io::Result<(Child, io::PipeReader, usize)> {
    if let Some(dir) = log_path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    // Appended to: another router may be active and writing to it, which this copy is about to find out.
    let log = OpenOptions::new().create(true).append(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(log_path)?;
    if log.metadata()?.len() > MAX_LOG {
        log.set_len(0)?;
    }
    let begin = usize::try_from(log.metadata()?.len()).map_err(io::Error::other)?;
    let (reader, writer) = io::pipe()?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("portreeve").args(std::env::args_os().skip(1)).env(COPY, "1");
    let child = command.stdin(Stdio::null()).stdout(writer).stderr(log).spawn()?;
    Ok((child, reader, begin))
}

/// Hands on what a failed copy said; of one that ended without a word, what it wrote to the log.
fn report(child: &mut Child, said: &[u8], log_path: &Path, begin: usize) -> Exit {
    if said.is_empty() {
        let log = std::fs::read(log_path).unwrap_or_default();
        // Nobody can be told that nobody can be told.
        let _ = io::stderr().write_all(log.get(begin..).unwrap_or(&[]));
    } else {
        complain(&String::from_utf8_lossy(said), Exit::Failed);
    }
    match child.wait().ok().and_then(|status| status.code()) {
        Some(5) => Exit::NotPermitted,
        Some(6) => Exit::Configuration,
        Some(2) => Exit::Usage,
        _ => Exit::Failed,
    }
}

/// Leaves the session of the first process, so that a signal to it, or the end of its terminal, is none to the copy. Nothing happens in
/// a process that is no copy.
pub(super) fn leave_session() {
    if is_copy() {
        // It fails in the leader of a session, which has left already.
        let _ = rustix::process::setsid();
    }
}

/// Says why traffic does not flow, also where the log cannot be written; nothing happens in a process that is no copy.
pub(super) fn failed(why: &str) {
    if is_copy() {
        // A parent that is gone needs no word.
        let _ = io::stdout().write_all(why.as_bytes()).and_then(|()| io::stdout().flush());
    }
}

/// Says that traffic flows; nothing happens in a process that is no copy.
///
/// # Errors
///
/// The standard output cannot be let go: the first process would wait for more.
pub(super) fn ready() -> io::Result<()> {
    if !is_copy() {
        return Ok(());
    }
    // A parent that is gone needs no word.
    let _ = io::stdout().write_all(READY).and_then(|()| io::stdout().flush());
    Ok(rustix::stdio::dup2_stdout(File::options().write(true).open("/dev/null")?)?)
}
