//! `portreeve reload`: all profiles again, or none of them.

use super::locate::Wanted;
use super::{Exit, Json, out};
use crate::control::ClientError;

pub(super) fn run(wanted: &Wanted, Json { json }: Json) -> Exit {
    let mut client = match wanted.connect() {
        Ok(client) => client,
        Err(exit) => return exit,
    };
    match client.reload() {
        Ok(reloaded) if json => out::print_json(&[reloaded], Exit::Done),
        Ok(reloaded) => {
            let text = format!("{} profiles are in force, {} open flows were cut\n", reloaded.profiles, reloaded.cut);
            out::print(&text, Exit::Done)
        }
        Err(error) => {
            let refused = matches!(error, ClientError::Refused(_));
            let exit = out::fail(&error);
            if refused {
                out::remark("portreeve: nothing was changed; the last good profiles stay in force");
            }
            exit
        }
    }
}
