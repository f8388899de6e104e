//! DNS in and out: questions of programs come in as bytes, hickory-server reads them, hickory-resolver asks upstream.
//!
//! # Theory of operation
//!
//! A question arrives as the payload of a UDP packet ([`Resolver::answer`]) or framed on a TCP stream
//! ([`Resolver::serve_stream`]); `app` captured it and says who asked. `opening` refuses what is no question; the rest becomes a
//! hickory-server `Request`, is handled by `desk`, and leaves through `outbox` as bytes no longer than the asker can take.
//! The desk lets the [`Judge`] decide before anything else happens. Names of our own are answered by `local`; all others by
//! `forward`: an answer cache, then the upstreams in their order through marked sockets (`dialer`). What comes back is sifted
//! (`sift`): the CNAME chain is judged, each address is judged, and only what is left is told to the program and learned.
//!
//! Keeps one rule: nothing is asked upstream and nothing is told before the judge accepted it, for this asker, this time. The
//! cache holds what upstreams said, never what was decided.
//!
//! An upstream on this host may ask back through our own capture (`near`). The system's configuration is read without such servers,
//! one that the user configured is never asked what it asks itself (`route`), and a loop that nobody can see ends by itself: equal
//! questions in flight are asked once and end together (`forward`).
//!
//! Does not decide (that is the judge's), does not remember sightings, reads no `/etc/hosts` (getaddrinfo of the program does),
//! does not validate DNSSEC (DO and CD pass through) and binds no listening socket.

mod counters;
mod desk;
mod dialer;
mod forward;
mod judge;
mod lan;
mod letters;
mod limits;
mod local;
mod near;
mod opening;
mod outbox;
mod reply;
mod resolv_conf;
mod route;
mod server;
mod service;
mod sift;
mod stream;
mod upstreams;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use counters::Counts;
pub use dialer::Dialer;
pub use judge::Judge;
pub use near::Near;
pub use service::{Resolver, ResolverError};
pub use upstreams::{UpstreamError, Upstreams};
