//! Routes, rules and the guard, in namespaces of their own. Nothing here touches the first network namespace.

mod echo;
mod groups;
mod guard;
mod inbound;
mod install;
mod kill;
mod laptop;
mod namespace;
mod repair;
mod setup;
mod show;
mod stubs;
mod ways;
