//! What this room asks of whoever holds the policy and the sightings.
//!
//! Keeps one rule: the asker is opaque here; only the judge knows which program stands behind it.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::names::Name;
use crate::verdict::{Decision, Reason};

/// Judges questions and answers, and remembers what a program was told. Calls that are synchronous must not block.
pub trait Judge: Send + Sync + 'static {
    /// The program and the five-tuple behind a question.
    type Asker: Clone + Send + Sync + 'static;

    /// Decides the question itself; called once for each question, cached or not, before anything is asked upstream. Anything
    /// but Accept and Drop is a refusal that the program is told.
    fn question(&self, asker: &Self::Asker, name: &Name, qtype: u16) -> Decision;

    /// The reason of a deny that matches a name behind `name`: a CNAME target, or the target of an SVCB or HTTPS record.
    fn chain(&self, asker: &Self::Asker, name: &Name, chain: &[Name]) -> Option<Reason>;

    /// Whether an answer may hold `address`; asked for each A and AAAA record and each address hint of SVCB and HTTPS.
    ///
    /// # Errors
    ///
    /// The reason why the program must not be told this address.
    fn address(&self, asker: &Self::Asker, name: &Name, address: IpAddr) -> Result<(), Reason>;

    /// The program is about to be told `address` as `name`, the name that it asked for.
    fn learned(&self, asker: &Self::Asker, name: &Name, chain: &Arc<[Name]>, address: IpAddr, ttl: Duration);

    /// The question was accepted, but for this reason the program is told nothing of its answer.
    fn withheld(&self, asker: &Self::Asker, name: &Name, reason: &Reason);

    /// A key that all questions of one program share, for the bound on its questions in flight. None: each source socket is
    /// counted by itself.
    fn account(&self, asker: &Self::Asker) -> Option<u64> {
        let _ = asker;
        None
    }

    /// Whether the asker is itself the server at `server`, an upstream on this host: it would be asked its own question.
    fn is_server(&self, asker: &Self::Asker, server: SocketAddr) -> impl Future<Output = bool> + Send {
        let _ = (asker, server);
        std::future::ready(false)
    }
}
