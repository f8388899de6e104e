//! `portreeve cleanup`: restores the network after a router that was killed.
//!
//! Keeps one rule: needs no daemon and may be run any number of times.

use std::path::{Path, PathBuf};

use clap::Args;

use super::Exit;
use crate::config::paths;
use crate::netlink::{Cleaned, CleanupError, NftError, cleanup};

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
    match cleanup(&run_dir) {
        Ok(Cleaned::Restored) => {
            eprintln!("portreeve: the network is restored");
            Exit::Done
        }
        Ok(Cleaned::Nothing) => {
            eprintln!("portreeve: nothing to restore");
            Exit::Done
        }
        Err(error) => {
            eprintln!("portreeve: {error}");
            exit_of(&error)
        }
    }
}

fn exit_of(error: &CleanupError) -> Exit {
    let refused = match error {
        CleanupError::File { source, .. } => source.kind() == std::io::ErrorKind::PermissionDenied,
        CleanupError::Request(error) => matches!(error.errno(), Some(libc::EPERM | libc::EACCES)),
        CleanupError::Nft(error) => matches!(error, NftError::Privilege { .. }),
        CleanupError::Active(_) | CleanupError::Elsewhere(_) | CleanupError::Unreadable { .. } | CleanupError::Netlink(_) => {
            false
        }
    };
    if refused { Exit::NotPermitted } else { Exit::Failed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_privilege_has_an_exit_code_of_its_own() {
        let source = std::io::Error::from_raw_os_error(libc::EACCES);
        assert_eq!(exit_of(&CleanupError::File { path: "/run/portreeve".into(), source }), Exit::NotPermitted);
        assert_eq!(exit_of(&CleanupError::Nft(NftError::Privilege { what: "x" })), Exit::NotPermitted);
    }

    #[test]
    fn a_router_that_is_alive_is_no_matter_of_privilege() {
        assert_eq!(exit_of(&CleanupError::Active("/run/portreeve".into())), Exit::Failed);
        assert_eq!(exit_of(&CleanupError::Nft(NftError::Missing)), Exit::Failed);
    }
}
