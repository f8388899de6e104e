//! Text for people: a record as a line, flows as a table, the status as a screen.
//!
//! Keeps one rule: nothing that a program, a name server or a file chose reaches a terminal unescaped. Which stream the
//! text goes to is the caller's to say.

mod record;
mod screen;
mod text;

#[cfg(test)]
pub(super) mod sample;

pub use record::{event_line, flows_table, record_json, record_line};
pub use screen::{prompts_table, status_screen};
pub use text::{Colour, escape};
