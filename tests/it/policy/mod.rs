//! The policy, seen from outside: files in, decisions out.

mod allocation;
mod answers;
mod files;
mod framework;
mod merging;
mod properties;
mod questions;
mod shipped;
mod walk;
mod world;
