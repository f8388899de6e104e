//! The verbs. This file is the tree of flags; each verb's work stands in a file of its own and returns an [`Exit`].

pub mod case;
pub mod check;
mod exit;
pub mod explain;

pub use exit::Exit;
