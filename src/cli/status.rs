//! `portreeve status`

use super::locate::Wanted;
use super::{Exit, Json, out};
use crate::config::paths;
use crate::control::{Client, ClientError, render};
use crate::netlink::is_left_behind;

pub(super) fn run(wanted: &Wanted, Json { json }: Json) -> Exit {
    let path = match wanted.path() {
        Ok(path) => path,
        Err(several) => return several.complain(),
    };
    match Client::connect(&path).and_then(|mut client| client.status()) {
        Ok(status) if json => out::print_json(&[status], Exit::Done),
        Ok(status) => out::print(&render::status_screen(&status, out::now_ms(), out::colour()), Exit::Done),
        Err(ClientError::NotActive { path }) if json => {
            let closed = is_left_behind(&paths::run_dir(Some(&path)));
            out::print(&format!("{{\"state\":\"inactive\",\"left_behind\":{closed}}}\n"), Exit::NotActive)
        }
        Err(ClientError::NotActive { path }) if is_left_behind(&paths::run_dir(Some(&path))) => {
            let text = "Portreeve is not active, but an `up` was killed and left its guard: this machine may be closed\n  \
                        `portreeve up` takes over, `portreeve cleanup` restores the network\n";
            out::print(text, Exit::NotActive)
        }
        Err(ClientError::NotActive { path }) => {
            let text = format!(
                "Portreeve is not active (no socket at {})\n  `portreeve up` protects this machine, `portreeve exec -- CMD` one command\n",
                path.display()
            );
            out::print(&text, Exit::NotActive)
        }
        Err(error) => out::fail(&error),
    }
}
