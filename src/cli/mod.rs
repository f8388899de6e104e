//! The verbs. This file is the tree of flags; each verb's work stands in a file of its own and returns an [`Exit`].

mod exit;

pub use exit::Exit;
