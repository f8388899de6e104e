//! What a verb prints.
//!
//! Keeps one rule: a closed stdout or stderr never panics. The macros `println!` and `eprintln!` do, so no verb uses them.

use std::fmt::Display;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::Exit;
use crate::control::render::Colour;
use crate::control::{ClientError, FaultKind};

/// The colours of stdout.
pub(super) fn colour() -> Colour {
    Colour::of(&io::stdout())
}

/// Milliseconds since the Unix epoch.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Prints `text` as it is and ends the verb with `exit`.
pub(super) fn print(text: &str, exit: Exit) -> Exit {
    ended(print_all(text), exit)
}

/// Prints each value as one line of JSON and ends the verb with `exit`.
pub(super) fn print_json<T: Serialize>(values: &[T], exit: Exit) -> Exit {
    ended(print_lines(values), exit)
}

/// Prints one line at once, for verbs that go on.
pub(super) fn print_line(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(line.as_bytes())?;
    stdout.write_all(b"\n")?;
    stdout.flush()
}

/// How a verb ends after its output met `result`: nobody reading any more is no failure.
pub(super) fn ended(result: io::Result<()>, exit: Exit) -> Exit {
    match result {
        Ok(()) => exit,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => exit,
        Err(error) => complain(&format!("write to stdout: {error}"), Exit::Failed),
    }
}

/// Says on stderr why the verb failed, and ends it with `exit`.
pub fn complain(why: &str, exit: Exit) -> Exit {
    let _ = writeln!(io::stderr(), "portreeve: {why}");
    exit
}

/// Says on stderr what is wrong with a file of the user, a line each as `FILE:LINE:COL: …`, so that editors and scripts can read it.
pub fn report_faults<T: Display>(faults: impl IntoIterator<Item = T>) -> Exit {
    faults.into_iter().for_each(|fault| remark(&fault.to_string()));
    Exit::Configuration
}

/// Says something beside the output.
pub fn remark(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Says why there is no answer and ends the verb accordingly.
pub(super) fn fail(error: &ClientError) -> Exit {
    let exit = exit_of(error);
    if let ClientError::Refused(faults) = error {
        report_faults(faults);
        return exit;
    }
    complain(&error.to_string(), exit)
}

pub(super) fn exit_of(error: &ClientError) -> Exit {
    match error {
        ClientError::NotActive { .. } => Exit::NotActive,
        ClientError::Leftover { .. } | ClientError::Unreachable { .. } | ClientError::Busy(_) => Exit::Unreachable,
        ClientError::NotPermitted(_) => Exit::NotPermitted,
        ClientError::Refused(faults) if faults.iter().any(|fault| fault.kind == FaultKind::Configuration) => Exit::Configuration,
        ClientError::Refused(_) | ClientError::Protocol { .. } => Exit::Failed,
    }
}

fn print_all(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

fn print_lines<T: Serialize>(values: &[T]) -> io::Result<()> {
    let mut stdout = BufWriter::new(io::stdout().lock());
    for value in values {
        serde_json::to_writer(&mut stdout, value)?;
        stdout.write_all(b"\n")?;
    }
    stdout.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Fault;

    #[test]
    fn each_cause_has_its_exit_code() {
        let path = std::path::PathBuf::from("/s");
        for (error, exit) in [
            (ClientError::NotActive { path: path.clone() }, Exit::NotActive),
            (ClientError::Leftover { path: path.clone() }, Exit::Unreachable),
            (ClientError::Unreachable { path: path.clone(), why: String::new() }, Exit::Unreachable),
            (ClientError::Busy(String::new()), Exit::Unreachable),
            (ClientError::NotPermitted(String::new()), Exit::NotPermitted),
            (ClientError::Refused(vec![Fault::failed("x"), Fault::configuration("f:1:1: x; y")]), Exit::Configuration),
            (ClientError::Refused(vec![Fault::no_such_prompt(1)]), Exit::Failed),
            (ClientError::Protocol { path, why: String::new() }, Exit::Failed),
        ] {
            assert_eq!(exit_of(&error), exit, "{error:?}");
        }
    }

    #[test]
    fn a_reader_that_hung_up_is_no_failure() {
        assert_eq!(ended(Err(ErrorKind::BrokenPipe.into()), Exit::Done), Exit::Done);
        assert_eq!(ended(Err(ErrorKind::StorageFull.into()), Exit::Done), Exit::Failed);
    }
}
