//! The tables that go with us: loaded by an nft that stays, and made anew should that be killed.
//!
//! Keeps one rule: what was put into them is known here, so that it can be put there again.

use super::guard::{self, Guard};
use super::install::{InstallError, State};
use super::nft::{Live, NftError};
use super::{Installed, Mark, Plan};
use super::{beside, datagrams};
use crate::packet::FiveTuple;

impl Installed {
    /// Whether the process that owns the live tables has ended and they with it, of which the kernel tells nobody.
    pub fn has_lost_its_tables(&mut self) -> bool {
        self.state.as_mut().is_some_and(|state| !state.live.is_alive())
    }
}

impl State {
    pub(super) fn load_live(&mut self, guard: &Guard<'_>) -> Result<(), NftError> {
        self.load("load the live chains", &guard.live(true), "list chain inet portreeve_live output")
    }

    /// Makes the live tables anew when the process that owned them was killed.
    pub(super) fn repair_live(&mut self, guard: &Guard<'_>) -> Result<(), InstallError> {
        if self.live.is_alive() {
            return Ok(());
        }
        self.live = Live::start()?;
        // In the failure mode "open" they have gone as well.
        self.listed.clear();
        self.load_live(guard)?;
        if let Some(port) = self.stubs {
            self.redirect_stubs(guard.plan, guard.mark, port)?;
        }
        let beside = std::mem::take(&mut self.beside);
        self.lead_beside(&beside, guard.mark)?;
        tracing::warn!("nft, which holds the tables that go with us, had ended; they are there again");
        Ok(())
    }

    pub(super) fn redirect_stubs(&mut self, plan: &Plan, mark: Mark, port: u16) -> Result<(), NftError> {
        self.stubs = Some(port);
        self.load("redirect the loopback stubs", &guard::stubs(plan, mark, port, true), "list chain inet portreeve_live stubs")
    }

    /// Loads what dies with us, and waits until `proof` has an answer.
    pub(super) fn load(&mut self, what: &'static str, script: &str, proof: &str) -> Result<(), NftError> {
        self.live.load(what, script, proof)
    }

    /// Before the way back: what strangers send goes to the programs' own sockets, and what the guard still keeps from leaving is lost as
    /// on a wire. Its program says it again a moment later, when all is over.
    pub(super) fn fall_silent(&mut self) -> Result<(), NftError> {
        self.turn = self.turn.wrapping_add(1);
        let script = [datagrams::HEAR_NO_MORE, guard::REFUSE_SILENTLY, &beside::turn(self.turn)].concat();
        self.load("fall silent", &script, &beside::proof(self.turn))
    }

    pub(super) fn lead_beside(&mut self, tuples: &[FiveTuple], mark: Mark) -> Result<(), NftError> {
        tuples.clone_into(&mut self.beside);
        if tuples.is_empty() && self.turn == 0 {
            return Ok(());
        }
        self.turn = self.turn.wrapping_add(1);
        let script = beside::script(tuples, mark, self.turn, true);
        self.load("lead older flows beside the TUN", &script, &beside::proof(self.turn))
    }
}
