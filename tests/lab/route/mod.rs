//! Routes, rules and the guard, in namespaces of their own. Nothing here touches the first network namespace.

mod namespace;
mod setup;
