//! `portreeve level`: shows the level, sets it, or prints what each level switches.

use super::locate::Wanted;
use super::{Exit, Json, out};
use crate::profile::Level;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Args)]
pub struct LevelArgs {
    /// Set this level; without it the level in force is shown
    #[arg(conflicts_with = "features")]
    pub level: Option<Level>,

    /// Show what each level switches; needs no running Portreeve
    #[arg(long)]
    pub features: bool,

    #[command(flatten)]
    pub json: Json,
}

pub(super) fn run(wanted: &Wanted, args: LevelArgs, features_table: fn(Json) -> String) -> Exit {
    let LevelArgs { level, features, json } = args;
    if features {
        return out::print(&features_table(json), Exit::Done);
    }
    let mut client = match wanted.connect() {
        Ok(client) => client,
        Err(exit) => return exit,
    };
    let in_force = match level {
        Some(level) => client.set_level(level).map(|()| level),
        None => client.status().map(|status| status.level),
    };
    match in_force {
        Ok(level) if json.json => out::print(&format!("{{\"level\":\"{level}\"}}\n"), Exit::Done),
        Ok(level) => out::print(&format!("{level}\n"), Exit::Done),
        Err(error) => out::fail(&error),
    }
}
