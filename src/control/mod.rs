//! The unix-socket API: what a person or a program may ask of a running Portreeve, and who may ask it.
//!
//! Keeps one rule: the kernel says who is asking (`SO_PEERCRED`), never the asker; what is not permitted is refused and said.
//! One JSON object a line each way. This room knows the router only as an [`Engine`].

mod access;
mod client;
mod engine;
mod listener;
mod protocol;
pub mod render;
mod server;
mod visitor;

pub use access::{Access, Right};
pub use client::{Client, ClientError, Seen, Watch};
pub use engine::Engine;
pub use listener::{BindError, Listener, remove_stale};
pub use protocol::{
    Asked, Closed, Event, Fault, FaultKind, MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES, OlderFlow, ProfileSource, Prompt, Reloaded,
    Request, Response, State, Status, VERSION, Way,
};
pub use server::serve;
