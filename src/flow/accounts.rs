//! What each program holds of what there is only so much of: places for flows, places for flows that wait, parked bytes.
//!
//! Keeps one rule: a program may hold no more than a share of what the others leave free (dynamic thresholds: Choudhury and Hahne,
//! IEEE/ACM Transactions on Networking 6(2), 1998), and a little whatever the others hold. A share that is fixed would be wasted
//! while a program is alone and used up by a handful of greedy ones; this one shrinks as places run short, and the last ones are
//! taken back from whoever has most.
//!
//! Flows whose owner is not known yet hold theirs together, as one program would.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use foldhash::fast::FixedState;
use slab::Slab;

use super::{FlowId, Owner, State};
use crate::names::Asker;

/// What a flow counts for: an executable under a user, and the script where that is an interpreter.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Program {
    pub asker: Asker,
    pub actor: Option<PathBuf>,
}

impl Program {
    #[must_use]
    pub fn of(owner: &Owner) -> Self {
        Self { asker: owner.asker.clone(), actor: owner.subject.actor_path().map(ToOwned::to_owned) }
    }
}

/// What there is only so much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bound {
    /// Places in the table.
    Flows,
    /// Places for flows that wait for an identity, an answer or an upstream socket.
    Pending,
    /// Bytes of packets that wait with them.
    Parked,
}

impl Bound {
    pub const ALL: [Self; 3] = [Self::Flows, Self::Pending, Self::Parked];

    /// How many times what is free one program may hold. Waiting flows are few unless somebody scans, so half of the places is plenty;
    /// a server's client may rightly have most of the open ones.
    fn weight(self) -> usize {
        match self {
            Self::Flows => 3,
            Self::Pending | Self::Parked => 1,
        }
    }
}

/// One part in so many is a program's whatever the others hold.
const FLOOR: usize = 64;

/// How much of each bound there is, or is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Flows that wait or are open; those that are only remembered as refused give their place up for any other.
    pub flows: usize,
    pub pending: usize,
    /// In bytes.
    pub parked: usize,
}

impl Amounts {
    fn of(state: State) -> Self {
        match state {
            State::Identifying | State::Asking | State::Opening => Self { flows: 1, pending: 1, parked: 0 },
            State::Open => Self { flows: 1, pending: 0, parked: 0 },
            State::Refused => Self::default(),
        }
    }

    #[must_use]
    pub fn amount(&self, bound: Bound) -> usize {
        match bound {
            Bound::Flows => self.flows,
            Bound::Pending => self.pending,
            Bound::Parked => self.parked,
        }
    }

    fn add(&mut self, other: Self) {
        self.flows += other.flows;
        self.pending += other.pending;
        self.parked += other.parked;
    }

    fn subtract(&mut self, other: Self) {
        self.flows -= other.flows;
        self.pending -= other.pending;
        self.parked -= other.parked;
    }
}

/// A program's place among the accounts.
pub(super) type AccountId = usize;

/// Flows whose owner is not known yet.
pub(super) const NOBODY_YET: AccountId = 0;

#[derive(Debug, Default)]
struct Account {
    program: Option<Program>,
    used: Amounts,
    /// Flows that name this account, those that are only remembered included.
    flows: usize,
    /// Flows that wait for an upstream socket, the oldest first.
    half_open: BTreeMap<u64, FlowId>,
}

/// The books. The table writes them at every change of a flow.
#[derive(Debug)]
pub(super) struct Accounts {
    limits: Amounts,
    used: Amounts,
    accounts: Slab<Account>,
    by_program: HashMap<Program, AccountId, FixedState>,
}

impl Accounts {
    pub(super) fn new(limits: Amounts, seed: u64) -> Self {
        let mut accounts = Slab::new();
        let first = accounts.insert(Account::default());
        debug_assert_eq!(first, NOBODY_YET);
        Self { limits, used: Amounts::default(), accounts, by_program: HashMap::with_hasher(FixedState::with_seed(seed)) }
    }

    pub(super) fn used(&self) -> Amounts {
        self.used
    }

    /// The account of a program; made where there is none. It lives as long as a flow names it.
    pub(super) fn of(&mut self, program: Program) -> AccountId {
        if let Some(id) = self.by_program.get(&program) {
            return *id;
        }
        let id = self.accounts.insert(Account { program: Some(program.clone()), ..Account::default() });
        self.by_program.insert(program, id);
        id
    }

    /// A flow in this state with so many parked bytes counts here from now on.
    pub(super) fn join(&mut self, id: AccountId, flow: FlowId, state: State, parked: usize) {
        let Some(account) = self.accounts.get_mut(id) else { return };
        account.flows += 1;
        self.add(id, flow, state, parked);
    }

    /// A flow counts here no longer.
    pub(super) fn leave(&mut self, id: AccountId, flow: FlowId, state: State, parked: usize) {
        self.subtract(id, flow, state, parked);
        let Some(account) = self.accounts.get_mut(id) else { return };
        account.flows -= 1;
        if account.flows == 0
            && let Some(program) = account.program.take()
        {
            self.by_program.remove(&program);
            self.accounts.remove(id);
        }
    }

    /// A flow that counts here goes over from one state to another.
    pub(super) fn change(&mut self, id: AccountId, flow: FlowId, (from, to): (State, State)) {
        self.subtract(id, flow, from, 0);
        self.add(id, flow, to, 0);
    }

    pub(super) fn park(&mut self, id: AccountId, bytes: usize) {
        self.used.parked += bytes;
        if let Some(account) = self.accounts.get_mut(id) {
            account.used.parked += bytes;
        }
    }

    pub(super) fn unpark(&mut self, id: AccountId, bytes: usize) {
        self.used.parked -= bytes;
        if let Some(account) = self.accounts.get_mut(id) {
            account.used.parked -= bytes;
        }
    }

    /// Whether there is room for so much more, whoever it is for.
    pub(super) fn has_room(&self, bound: Bound, more: usize) -> bool {
        self.used.amount(bound) + more <= self.limits.amount(bound)
    }

    /// Whether this program may have so much more.
    pub(super) fn may_take(&self, id: AccountId, bound: Bound, more: usize) -> bool {
        let own = self.accounts.get(id).map_or(0, |account| account.used.amount(bound));
        own + more <= self.share(bound, 0)
    }

    /// The first bound of which this program holds more than its share, `last` being what it took last.
    pub(super) fn outgrown(&self, id: AccountId, last: Amounts) -> Option<Bound> {
        let own = self.accounts.get(id)?.used;
        Bound::ALL.into_iter().find(|bound| own.amount(*bound) > self.share(*bound, last.amount(*bound)))
    }

    /// What one program may hold, were `apart` not taken.
    fn share(&self, bound: Bound, apart: usize) -> usize {
        let taken = self.used.amount(bound).saturating_sub(apart);
        let limit = self.limits.amount(bound);
        limit.saturating_sub(taken).saturating_mul(bound.weight()).max(limit / FLOOR)
    }

    /// How many flows this program holds.
    pub(super) fn flows_of(&self, id: AccountId) -> usize {
        self.accounts.get(id).map_or(0, |account| account.used.flows)
    }

    /// The oldest flow that waits for an upstream socket, of the program that has most of them.
    pub(super) fn oldest_half_open(&self) -> Option<FlowId> {
        let (_, account) = self.accounts.iter().max_by_key(|(id, account)| (account.half_open.len(), std::cmp::Reverse(*id)))?;
        account.half_open.first_key_value().map(|(_, flow)| *flow)
    }

    fn add(&mut self, id: AccountId, flow: FlowId, state: State, parked: usize) {
        let amounts = Amounts { parked, ..Amounts::of(state) };
        self.used.add(amounts);
        if let Some(account) = self.accounts.get_mut(id) {
            account.used.add(amounts);
            if state == State::Opening {
                account.half_open.insert(flow.serial(), flow);
            }
        }
    }

    fn subtract(&mut self, id: AccountId, flow: FlowId, state: State, parked: usize) {
        let amounts = Amounts { parked, ..Amounts::of(state) };
        self.used.subtract(amounts);
        if let Some(account) = self.accounts.get_mut(id) {
            account.used.subtract(amounts);
            account.half_open.remove(&flow.serial());
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.accounts.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(inode: u64) -> Program {
        Program { asker: Asker::Program { device: 1, inode, uid: 1000 }, actor: None }
    }

    #[test]
    fn an_account_lives_as_long_as_a_flow_names_it() {
        let mut accounts = Accounts::new(Amounts { flows: 8, pending: 8, parked: 8 }, 1);
        let flows = [FlowId::for_test(0, 1), FlowId::for_test(1, 2)];
        let id = accounts.of(program(1));
        flows.iter().for_each(|flow| accounts.join(id, *flow, State::Opening, 2));
        assert_eq!((accounts.of(program(1)), accounts.len()), (id, 2));
        assert_eq!((accounts.flows_of(id), accounts.used()), (2, Amounts { flows: 2, pending: 2, parked: 4 }));
        assert_eq!(accounts.oldest_half_open(), Some(flows[0]));
        accounts.change(id, flows[0], (State::Opening, State::Refused));
        assert_eq!(accounts.oldest_half_open(), Some(flows[1]));
        accounts.leave(id, flows[0], State::Refused, 2);
        accounts.leave(id, flows[1], State::Opening, 2);
        assert_eq!((accounts.used(), accounts.len(), accounts.by_program.len()), (Amounts::default(), 1, 0));
    }

    #[test]
    fn a_share_is_what_is_left_free_times_the_weight() {
        let mut accounts = Accounts::new(Amounts { flows: 100, pending: 100, parked: 0 }, 1);
        let (first, second) = (accounts.of(program(1)), accounts.of(program(2)));
        let mut serials = 1..;
        let mut take = |accounts: &mut Accounts, id, state| {
            let serial = serials.next().expect("no end of numbers");
            accounts.join(id, FlowId::for_test(0, serial), state, 0);
        };
        (0..50).for_each(|_| take(&mut accounts, first, State::Asking));
        assert!(!accounts.may_take(first, Bound::Pending, 1) && accounts.may_take(first, Bound::Flows, 1));
        assert!(accounts.may_take(second, Bound::Pending, 50) && !accounts.may_take(second, Bound::Pending, 51));
        let last = Amounts { flows: 1, pending: 1, parked: 0 };
        assert_eq!(accounts.outgrown(first, last), None);
        take(&mut accounts, first, State::Asking);
        assert_eq!(accounts.outgrown(first, last), Some(Bound::Pending));
        (0..25).for_each(|_| take(&mut accounts, first, State::Open));
        assert_eq!(accounts.outgrown(first, last), Some(Bound::Flows));
        assert!(!accounts.has_room(Bound::Flows, 25) && accounts.has_room(Bound::Flows, 24));
    }
}
