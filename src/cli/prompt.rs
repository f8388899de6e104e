//! `portreeve prompt`: flows that wait for a person.

use super::locate::Wanted;
use super::{Exit, Json, out};
use crate::control::{Client, render};
use crate::verdict::Answer;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Subcommand)]
pub enum PromptCommand {
    /// Show what is held, and how long it will be
    List(Json),
    /// Let it go on; holds for this program and name until Portreeve ends
    Allow {
        /// Its number in `prompt list`
        id: u64,
    },
    /// Refuse it; holds for this program and name until Portreeve ends
    Deny {
        /// Its number in `prompt list`
        id: u64,
    },
}

pub(super) fn run(wanted: &Wanted, command: PromptCommand) -> Exit {
    let client = match wanted.connect() {
        Ok(client) => client,
        Err(exit) => return exit,
    };
    match command {
        PromptCommand::List(json) => list(client, json),
        PromptCommand::Allow { id } => answer(client, id, Answer::Allow),
        PromptCommand::Deny { id } => answer(client, id, Answer::Deny),
    }
}

fn list(mut client: Client, Json { json }: Json) -> Exit {
    match client.prompts() {
        Ok(prompts) if json => out::print_json(&prompts, Exit::Done),
        Ok(prompts) => out::print(&render::prompts_table(&prompts, out::now_ms(), out::colour()), Exit::Done),
        Err(error) => out::fail(&error),
    }
}

fn answer(mut client: Client, id: u64, answer: Answer) -> Exit {
    let done = match answer {
        Answer::Allow => "allowed",
        Answer::Deny => "denied",
    };
    match client.answer(id, answer) {
        Ok(()) => out::print(&format!("prompt {id} {done}\n"), Exit::Done),
        Err(error) => out::fail(&error),
    }
}
