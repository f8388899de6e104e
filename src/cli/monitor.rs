//! `portreeve monitor`: events as they come, until the router ends or the reader goes.

use std::io::{self, IsTerminal};

use serde::Serialize;

use super::locate::Wanted;
use super::{Exit, Json, out};
use crate::control::render::event_line;
use crate::control::{Event, Seen};
use crate::flow::Record;

/// One line of `monitor --json`: a record, and which of its moments it tells.
#[derive(Serialize)]
struct Moment<'a> {
    event: &'static str,
    #[serde(flatten)]
    record: &'a Record,
}

pub(super) fn run(wanted: &Wanted, Json { json }: Json) -> Exit {
    let client = match wanted.connect() {
        Ok(client) => client,
        Err(exit) => return exit,
    };
    let watch = match client.monitor() {
        Ok(watch) => watch,
        Err(error) => return out::fail(&error),
    };
    let colour = out::colour();
    if !json && io::stdout().is_terminal() {
        out::remark("watching flows; Ctrl-C ends");
    }
    for seen in watch {
        let line = match seen {
            Ok(Seen::Event(event)) if json => json_line(&event),
            Ok(Seen::Event(event)) => event_line(&event, colour),
            Ok(Seen::Missed(events)) => {
                out::remark(&missed(events));
                None
            }
            Err(error) => return out::fail(&error),
        };
        if let Some(Err(error)) = line.map(|line| out::print_line(&line)) {
            return out::ended(Err(error), Exit::Done);
        }
    }
    out::remark("Portreeve has ended");
    Exit::Done
}

fn missed(events: u64) -> String {
    format!("{events} events came faster than they could be shown and are missing here")
}

/// Records only: each line of the JSON output has the same keys.
fn json_line(event: &Event) -> Option<String> {
    let (event, record) = match event {
        Event::Opened(record) => ("opened", record),
        Event::Decided(record) => ("decided", record),
        Event::Ended(record) => ("ended", record),
        Event::Question(record) => ("question", record),
        Event::Prompt(_) | Event::PromptClosed { .. } | Event::Level(_) | Event::Reloaded(_) | Event::Notice(_) => return None,
    };
    serde_json::to_string(&Moment { event, record }).ok()
}
