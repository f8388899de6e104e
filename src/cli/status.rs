//! `portreeve status`

use std::path::Path;

use super::locate::Wanted;
use super::{Exit, Json, out};
use crate::config::paths;
use crate::control::{Client, ClientError, render};
use crate::netlink::{LeftBehind, left_behind};

pub(super) fn run(wanted: &Wanted, Json { json }: Json) -> Exit {
    let path = match wanted.path() {
        Ok(path) => path,
        Err(several) => return several.complain(),
    };
    match Client::connect(&path).and_then(|mut client| client.status()) {
        Ok(status) if json => out::print_json(&[status], Exit::Done),
        Ok(status) => out::print(&render::status_screen(&status, out::now_ms(), out::colour()), Exit::Done),
        Err(error @ (ClientError::NotActive { .. } | ClientError::Leftover { .. })) => inactive(&path, &error, json),
        Err(error) => out::fail(&error),
    }
}

/// Nothing runs; what was left behind decides what a person has to know.
fn inactive(path: &Path, error: &ClientError, json: bool) -> Exit {
    let left = left_behind(&paths::run_dir(Some(path)));
    if left.is_none() && matches!(error, ClientError::Leftover { .. }) {
        return out::fail(error);
    }
    let text = if json { as_json(left) } else { as_text(left, path) };
    out::print(&text, if matches!(left, Some(LeftBehind::Alive(_))) { Exit::Unreachable } else { Exit::NotActive })
}

fn as_json(left: Option<LeftBehind>) -> String {
    let closed = match left {
        Some(LeftBehind::Alive(_)) => return "{\"state\":\"unreachable\",\"left_behind\":false,\"closed\":false}\n".to_owned(),
        None | Some(LeftBehind::Open) => "false",
        Some(LeftBehind::Closed) => "true",
        Some(LeftBehind::Unread) => "null",
    };
    format!("{{\"state\":\"inactive\",\"left_behind\":{},\"closed\":{closed}}}\n", left.is_some())
}

fn as_text(left: Option<LeftBehind>, path: &Path) -> String {
    let remedy = "  `portreeve up` takes over, `portreeve cleanup` restores the network\n";
    match left {
        None => format!(
            "Portreeve is not active (no socket at {})\n  `portreeve up` protects this machine, `portreeve exec -- CMD` one command\n",
            path.display()
        ),
        Some(LeftBehind::Alive(pid)) => {
            let pid = pid.map_or_else(|| "PID".to_owned(), |pid| pid.to_string());
            let path = path.display();
            format!(
                "Portreeve is active, but somebody has removed its socket {path}: no verb reaches it\n  `kill {pid}` ends it as `down` does\n"
            )
        }
        Some(LeftBehind::Closed) => {
            format!(
                "Portreeve is not active, and this machine is closed: an `up` was killed, and its guard lets nothing out\n{remedy}"
            )
        }
        Some(LeftBehind::Open) => {
            format!("Portreeve is not active: an `up` was killed, and nothing is judged; its plan fails open\n{remedy}")
        }
        Some(LeftBehind::Unread) => {
            format!("Portreeve is not active, but an `up` was killed: this machine may be closed (root is told more)\n{remedy}")
        }
    }
}
