//! `portreeve flows`

use super::locate::Wanted;
use super::{Exit, Json, out};
use crate::control::render;

pub(super) fn run(wanted: &Wanted, Json { json }: Json) -> Exit {
    let mut client = match wanted.connect() {
        Ok(client) => client,
        Err(exit) => return exit,
    };
    match client.flows() {
        Ok(records) if json => out::print_json(&records, Exit::Done),
        Ok(records) => out::print(&render::flows_table(&records, out::colour()), Exit::Done),
        Err(error) => out::fail(&error),
    }
}
