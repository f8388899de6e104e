//! `portreeve cleanup`: restores the network after a router that was killed.
//!
//! Keeps one rule: needs no daemon and may be run any number of times.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Exit, out};
use crate::config::paths;
use crate::control::remove_stale;
use crate::netlink::{Cleaned, cleanup};

/// Restore routes, rules, nftables and kernel settings after a router that was killed.
#[derive(Args, Clone, Debug)]
pub struct CleanupArgs {
    /// Where `up` wrote its undo file. Default: the folder of its control socket
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
}

/// Runs the verb in the caller's network namespace.
#[must_use]
pub fn run(args: &CleanupArgs, socket: Option<&Path>) -> Exit {
    let run_dir = args.run_dir.clone().unwrap_or_else(|| paths::run_dir(socket));
    let cleaned = cleanup(&run_dir);
    if cleaned.is_ok() {
        // A socket that cannot be removed is told by whoever speaks to it next; the network is what matters here.
        let _ = remove_stale(&socket.map_or_else(|| run_dir.join(paths::SOCKET_NAME), Path::to_path_buf));
    }
    match cleaned {
        Ok(Cleaned::Restored) => out::complain("the network is restored", Exit::Done),
        Ok(Cleaned::Nothing) => out::complain("nothing to restore", Exit::Done),
        Err(error) => {
            let exit = if error.is_privilege() { Exit::NotPermitted } else { Exit::Failed };
            out::complain(&error.to_string(), exit)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_directory_that_cannot_be_made_is_a_failure() {
        assert_eq!(run(&CleanupArgs { run_dir: Some("/proc/no-such-folder".into()) }, None), Exit::Failed);
    }
}
