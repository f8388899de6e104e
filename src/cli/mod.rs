//! The verbs. This file is the tree of flags; each verb's work stands in a file of its own and returns an [`Exit`].

pub mod cleanup;
mod exit;
pub mod route;

pub use exit::Exit;
