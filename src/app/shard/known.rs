//! Who holds a socket: what a loop is told at once, and what the attribution thread searches for.
//!
//! Keeps one rule: a loop waits for nobody. An executable may lie on a file system that does not answer, and a program may have its arguments
//! in memory that has to come from there. So a loop looks up what was read before, of a process that has executed nothing since.

use std::sync::Arc;
use std::time::Instant;

use super::identify::{Attributor, unattributed};
use crate::bpf::{Sender, since_boot};
use crate::process::{Identity, Socket};
use crate::procfs::{Effort, Processes};

impl Attributor {
    /// Who holds a socket, if that can be said in microseconds, and whatever file systems do.
    pub(super) fn quick(&self, socket: &Socket, sent: Instant) -> Option<Arc<Identity>> {
        self.quick_with(socket, sent, Effort::Known(&|pid, since| self.is_same(pid, since)))
    }

    fn quick_with(&self, socket: &Socket, sent: Instant, effort: Effort<'_>) -> Option<Arc<Identity>> {
        let Some(notes) = &self.closed else { return self.processes.find_quick(socket, None, sent, effort) };
        // Whoever else holds it was given it, and the maker may have it still: then all of them are searched for.
        let Some(maker) = self.maker_of_new(socket) else {
            let found = self.processes.find_quick(socket, None, sent, effort)?;
            return self.processes.is_vouched(socket.cookie, &found).then_some(found);
        };
        let found = self.processes.find_quick(socket, Some(maker.pid), sent, effort)?;
        notes.is_same_program(&maker).then_some(found)
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
        // After the look: nobody has inherited it before, and it is no other program that has what this one sent.
        let notes = self.closed.as_ref()?;
        (notes.has_begun_none(maker.pid, maker.made) && notes.is_same_program(&maker)).then_some(identity)
    }

    fn maker_of_new(&self, socket: &Socket) -> Option<Sender> {
        self.closed.as_ref()?.maker_of_new(socket.cookie)
    }

    /// Who holds a socket. May take milliseconds.
    pub(in crate::app) fn holders(&self, socket: &Socket) -> Vec<Arc<Identity>> {
        let short = self.quick_with(socket, Instant::now(), Effort::Read).or_else(|| self.holder_of_new(socket));
        short.map_or_else(|| self.all_holders(socket), |identity| vec![identity])
    }

    /// Who holds a socket that may have been passed on. Who made it counts as well, while it is the same program: it may have kept it where
    /// no descriptor shows it.
    fn all_holders(&self, socket: &Socket) -> Vec<Arc<Identity>> {
        let Some(notes) = &self.closed else { return self.processes.find(socket) };
        let mut found = self.processes.find_everywhere(socket);
        if found.iter().all(|identity| identity.pid.is_none()) {
            return found;
        }
        if let Some(maker) = notes.maker_of(socket.cookie) {
            let live = self.processes.find_live_maker(maker.pid, maker.made, socket);
            let is_passed = |holder: &Arc<Identity>| holder.pid.is_some_and(|pid| !notes.has_executed_none(pid, maker.made));
            // After the look.
            if let Some(live) = live.filter(|_| notes.is_same_program(&maker)) {
                found.push(live);
            } else if found.iter().any(is_passed) {
                // It is from a program that is no more, and whoever that was may have sent this, or have passed it to others as well.
                found.push(unattributed(Some(socket.uid)));
            }
            found = Processes::one_of(found);
        }
        if let [only] = &*found {
            self.processes.vouch(socket.cookie, only);
        }
        found
    }
}
