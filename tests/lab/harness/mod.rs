//! What every lab test stands on: a lab of its own, a way to send programs through it, and an eavesdropper.
//!
//! Rule: a test that shows what a router does first shows the same without one ([`Way::Direct`]), and what must not be
//! seen on the wire is looked for by a [`Capture`] that has seen something. Nothing here knows how the router works:
//! it is the binary, its verbs and its records that are tested.

mod host;
mod laboratory;
mod observer;
mod profiles;
mod programs;
#[macro_use]
mod router;

pub(crate) use host::{Finished, Host, Running, eventually};
pub(crate) use laboratory::{Lab, repository};
pub(crate) use observer::{Capture, Seen};
pub(crate) use profiles::{Profiles, executable};
pub(crate) use programs::{Connect, closing, connect, datagrams, hold, probe, probe_by, python, raw, sharing, stuck, told};
pub(crate) use router::{Router, Way, binary};
