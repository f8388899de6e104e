//! `up` without `--foreground`: a copy of this process goes on in the background, and the first one returns when traffic flows.
//!
//! Keeps one rule: the caller learns why it failed, in the same words and with the same exit code.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::cli::{Exit, complain};

/// Tells the copy which descriptor to write to when it is ready.
const READY_FD: &str = "PORTREEVE_READY_FD";
/// A log longer than this starts anew with the next `up`.
const MAX_LOG: u64 = 1 << 20;
/// What it writes.
const READY: &[u8] = b"ready";

/// True in the copy, whose own children must not hold the pipe.
pub(super) fn is_child() -> bool {
    let Some(number) = ready_fd() else { return false };
    // SAFETY: the parent opened this descriptor for us and nobody here closes it before `ready`.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC).is_ok()
}

fn ready_fd() -> Option<RawFd> {
    std::env::var(READY_FD).ok()?.parse().ok().filter(|number| *number > 2)
}

/// Starts the copy; its log is appended to `log_path`. Returns when it is ready or has failed.
pub(super) fn start(log_path: &Path) -> Exit {
    match launch(log_path) {
        Ok((mut child, mut pipe, begin)) => {
            let mut said = Vec::new();
            // A copy that ends without a word leaves the pipe empty.
            let _ = pipe.read_to_end(&mut said);
            if said == READY { Exit::Done } else { report(&mut child, log_path, begin) }
        }
        Err(error) => complain(&format!("start in the background, with the log {}: {error}", log_path.display()), Exit::Failed),
    }
}

fn launch(log_path: &Path) -> io::Result<(Child, File, usize)> {
    if let Some(dir) = log_path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    // Appended to: another router may be active and writing to it, which this copy is about to find out.
    let log = OpenOptions::new().create(true).append(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(log_path)?;
    if log.metadata()?.len() > MAX_LOG {
        log.set_len(0)?;
    }
    let begin = usize::try_from(log.metadata()?.len()).map_err(io::Error::other)?;
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let number = writer.as_raw_fd();
    let mut command = Command::new("/proc/self/exe");
    command.arg0("portreeve").args(std::env::args_os().skip(1)).env(READY_FD, number.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let detach = move || {
        rustix::process::setsid()?;
        // SAFETY: the descriptor is open in the child as in the parent, which holds it until the child has been started.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).map_err(io::Error::from)
    };
    // SAFETY: the closure makes two system calls and allocates nothing.
    unsafe { command.pre_exec(detach) };
    let child = command.spawn()?;
    Ok((child, File::from(reader), begin))
}

/// Hands on what a failed copy said.
fn report(child: &mut Child, log_path: &Path, begin: usize) -> Exit {
    let log = std::fs::read(log_path).unwrap_or_default();
    // Nobody can be told that nobody can be told.
    let _ = io::stderr().write_all(log.get(begin..).unwrap_or(&[]));
    match child.wait().ok().and_then(|status| status.code()) {
        Some(5) => Exit::NotPermitted,
        Some(6) => Exit::Configuration,
        Some(2) => Exit::Usage,
        _ => Exit::Failed,
    }
}

/// Says that traffic flows; nothing happens in a process that is no copy.
pub(super) fn ready() {
    let Some(number) = ready_fd() else { return };
    // SAFETY: the parent opened this descriptor for us and nobody else here knows its number; it is used once.
    let mut pipe = unsafe { <File as std::os::fd::FromRawFd>::from_raw_fd(number) };
    // A parent that is gone needs no word.
    let _ = pipe.write_all(READY);
}
