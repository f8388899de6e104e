//! `portreeve down` and `toggle`.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::locate::Wanted;
use super::{Exit, UpArgs, out};
use crate::control::{Client, ClientError};

/// The daemon has undone everything when it answers; only its socket is left to go.
const SOCKET_GOES: Duration = Duration::from_secs(5);

pub(super) fn run(wanted: &Wanted) -> Exit {
    let path = match wanted.path() {
        Ok(path) => path,
        Err(several) => return several.complain(),
    };
    match down(&path) {
        Ok(()) => out::print("Portreeve is down; this machine's network is as it was\n", Exit::Done),
        Err(error) => out::fail(&error),
    }
}

/// Ends what runs, else starts with `up`. A leftover socket counts as not running: `up` removes it.
pub(super) fn toggle(args: UpArgs, up: impl FnOnce(UpArgs) -> Exit) -> Exit {
    let wanted = Wanted::machine(args.socket.clone());
    let path = match wanted.path() {
        Ok(path) => path,
        Err(several) => return several.complain(),
    };
    match Client::connect(&path) {
        Ok(_) => run(&wanted),
        Err(ClientError::NotActive { .. } | ClientError::Leftover { .. } | ClientError::Unreachable { .. }) => up(args),
        Err(error) => out::fail(&error),
    }
}

fn down(path: &Path) -> Result<(), ClientError> {
    Client::connect(path)?.down()?;
    let deadline = Instant::now() + SOCKET_GOES;
    while fs::symlink_metadata(path).is_ok() {
        if Instant::now() > deadline {
            let why = "it said that it is down, but its socket is still there".to_owned();
            return Err(ClientError::Unreachable { path: path.to_path_buf(), why });
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
