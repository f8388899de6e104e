//! The verbs.
mod args;
mod exit;

pub use args::{ExecArgs, UpArgs};
pub use exit::Exit;
