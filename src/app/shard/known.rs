//! Who holds a socket: what a loop is told at once, and what the attribution thread searches for.
//!
//! Keeps one rule: a loop waits for nobody. An executable may lie on a file system that does not answer, and a program may have its arguments
//! in memory that has to come from there. So a loop looks up what was read before, of a process that has executed nothing since.

use std::sync::Arc;
use std::time::Instant;

use super::identify::Attributor;
use crate::bpf::{Sender, since_boot};
use crate::process::{Identity, Socket};
use crate::procfs::Effort;

impl Attributor {
    /// Who holds a socket, if that can be said in microseconds, and whatever file systems do.
    pub(super) fn quick(&self, socket: &Socket, sent: Instant) -> Option<Arc<Identity>> {
        self.quick_with(socket, sent, Effort::Known(&|pid, since| self.is_same(pid, since)))
    }

    fn quick_with(&self, socket: &Socket, sent: Instant, effort: Effort<'_>) -> Option<Arc<Identity>> {
        // Whoever else holds it was given it, and the maker may hold it still: then all of them are searched for.
        let maker = self.closed.as_ref().and_then(|notes| notes.maker_of(socket.cookie));
        self.processes.find_quick(socket, maker, sent, effort)
    }

    /// Whether a process has executed no program since a time; None: nobody notes that.
    pub(super) fn is_same(&self, pid: u32, since: Instant) -> Option<bool> {
        let ago = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let since = since_boot().saturating_sub(ago);
        Some(self.closed.as_ref()?.has_executed_none(pid, since))
    }

    /// Who holds a socket where that is the process alone that made it just now, as most new programs do: the short search.
    fn holder_of_new(&self, socket: &Socket) -> Option<Arc<Identity>> {
        let maker = self.maker_of_new(socket)?;
        let identity = self.processes.find_at_maker(maker.pid, maker.made, socket, Instant::now())?;
        // After the look: nobody has inherited it before.
        self.closed.as_ref()?.has_begun_none(maker.pid, maker.made).then_some(identity)
    }

    fn maker_of_new(&self, socket: &Socket) -> Option<Sender> {
        self.closed.as_ref()?.maker_of_new(socket.cookie)
    }

    /// Who holds a socket. May take milliseconds.
    pub(in crate::app) fn holders(&self, socket: &Socket) -> Vec<Arc<Identity>> {
        let short = self.quick_with(socket, Instant::now(), Effort::Read).or_else(|| self.holder_of_new(socket));
        short.map_or_else(|| self.processes.find(socket), |identity| vec![identity])
    }
}
