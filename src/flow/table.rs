//! The flow table: five-tuple → flow, bounded.
//!
//! Keeps one rule: a flow changes its state, its owner and what it has parked here alone, so the books of `accounts` are right.

use std::collections::HashMap;
use std::time::Instant;

use foldhash::fast::FixedState;
use slab::Slab;

use super::accounts::{AccountId, Accounts, Amounts, Bound, NOBODY_YET, Program};
use super::numbers::Numbers;
use super::parked::Parked;
use crate::names::{Asker, Sighting};
use crate::packet::{Arrival, FiveTuple, Kept};
use crate::profile::Subject;
use crate::verdict::{Decision, Permit};

/// A flow's place in the table and its serial number, which is never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId {
    index: usize,
    serial: u64,
}

impl FlowId {
    /// The slot, reused after the flow's end: fit for tables that run beside this one.
    #[must_use]
    pub fn index(self) -> usize {
        self.index
    }

    /// The number that records show.
    #[must_use]
    pub fn serial(self) -> u64 {
        self.serial
    }

    #[cfg(test)]
    pub(crate) fn for_test(index: usize, serial: u64) -> Self {
        Self { index, serial }
    }
}

/// What carries an accepted flow on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// An upstream socket.
    Relay,
    /// The embedded DNS server: port 53, judged question by question.
    Dns,
    /// The link that its program named: packets go on as they are, and answers come past the router.
    Link,
    /// The kernel alone, once a connection is accepted: of its packets we see the first, and what falls back to us.
    Express,
}

impl Service {
    /// Whether the end of a TCP flow comes past the router.
    #[must_use]
    pub fn ends_unseen(self) -> bool {
        matches!(self, Self::Link | Self::Express)
    }
}

/// Where a flow stands.
///
/// | state | packets from the program | leaves by |
/// |---|---|---|
/// | Identifying | parked | an identity |
/// | Asking | parked | an answer, the deadline, a policy change |
/// | Opening | parked | the upstream socket's fate |
/// | Open | delivered | either end, idleness, a policy change |
/// | Refused | answered again, unparked | idleness, a policy change |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Identifying,
    Asking,
    Opening,
    Open,
    Refused,
}

impl State {
    #[must_use]
    pub fn is_pending(self) -> bool {
        matches!(self, Self::Identifying | Self::Asking | Self::Opening)
    }
}

/// One program that holds the flow's socket.
#[derive(Clone, Debug)]
pub struct Owner {
    pub subject: Subject,
    /// The key of its sightings.
    pub asker: Asker,
    /// The names by which it knows the remote address.
    pub names: Vec<Sighting>,
}

/// One conversation of any protocol.
#[derive(Debug)]
pub struct Flow {
    pub id: FlowId,
    pub tuple: FiveTuple,
    pub service: Service,
    pub(super) state: State,
    pub started: Instant,
    pub last_active: Instant,
    /// Empty until identified; several when the socket is shared, then the strictest verdict holds. The first one pays.
    pub owners: Vec<Owner>,
    account: AccountId,
    /// Which of `owners` the decision is about.
    pub decided_by: usize,
    pub decision: Option<Decision>,
    pub permit: Option<Permit>,
    pub(super) parked: Parked,
    pub bytes_up: u64,
    pub bytes_down: u64,
    pub rtt_us: Option<u32>,
    /// When the router's timer for this flow runs out.
    pub deadline: Option<Instant>,
}

impl Flow {
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// The packets that wait for a verdict.
    #[must_use]
    pub fn parked(&self) -> &Parked {
        &self.parked
    }

    /// Whether it waits for an identity, an answer or an upstream socket.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.state.is_pending()
    }

    /// The owner that the decision is about.
    #[must_use]
    pub fn owner(&self) -> Option<&Owner> {
        self.owners.get(self.decided_by)
    }
}

/// Whose room for parked packets is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crowding {
    Flow,
    Program,
    Everybody,
}

/// All flows of one shard.
#[derive(Debug)]
pub struct Table {
    flows: Slab<Flow>,
    by_tuple: HashMap<FiveTuple, FlowId, FixedState>,
    accounts: Accounts,
    numbers: Numbers,
    capacity: usize,
}

impl Table {
    /// A table of at most `limits.flows` flows, those that are only remembered as refused included. `seed` keeps programs from
    /// choosing five-tuples that collide.
    #[must_use]
    pub fn new(limits: Amounts, seed: u64) -> Self {
        let by_tuple = HashMap::with_hasher(FixedState::with_seed(seed));
        Self {
            flows: Slab::new(),
            by_tuple,
            accounts: Accounts::new(limits, seed),
            numbers: Numbers::default(),
            capacity: limits.flows,
        }
    }

    /// Gives its flows these numbers.
    #[must_use]
    pub fn numbered(self, numbers: Numbers) -> Self {
        Self { numbers, ..self }
    }

    /// Opens a flow of nobody; None when the table is full.
    pub fn open(&mut self, tuple: FiveTuple, service: Service, now: Instant) -> Option<FlowId> {
        if self.is_full() {
            return None;
        }
        let entry = self.flows.vacant_entry();
        let id = FlowId { index: entry.key(), serial: self.numbers.give() };
        entry.insert(Flow {
            id,
            tuple,
            service,
            state: State::Identifying,
            started: now,
            last_active: now,
            owners: Vec::new(),
            account: NOBODY_YET,
            decided_by: 0,
            decision: None,
            permit: None,
            parked: Parked::default(),
            bytes_up: 0,
            bytes_down: 0,
            rtt_us: None,
            deadline: None,
        });
        self.by_tuple.insert(tuple, id);
        self.accounts.join(NOBODY_YET, id, State::Identifying, 0);
        Some(id)
    }

    /// The flow is these programs' from now on.
    pub fn set_owners(&mut self, id: FlowId, owners: Vec<Owner>) {
        let Some(flow) = self.flows.get_mut(id.index).filter(|flow| flow.id == id) else { return };
        let (state, parked) = (flow.state, flow.parked.bytes());
        let account = owners.first().map_or(NOBODY_YET, |owner| self.accounts.of(Program::of(owner)));
        // In this order, so that an account does not end while it is taken up.
        self.accounts.join(account, id, state, parked);
        self.accounts.leave(flow.account, id, state, parked);
        flow.account = account;
        flow.owners = owners;
    }

    pub fn set_state(&mut self, id: FlowId, state: State) {
        let Some(flow) = self.flows.get_mut(id.index).filter(|flow| flow.id == id) else { return };
        self.accounts.change(flow.account, id, (flow.state, state));
        flow.state = state;
    }

    /// Keeps a copy of a packet.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn park(&mut self, id: FlowId, packet: &[u8], arrival: Arrival) -> Result<(), Crowding> {
        let Some(flow) = self.flows.get_mut(id.index).filter(|flow| flow.id == id) else { return Err(Crowding::Flow) };
        if !self.accounts.has_room(Bound::Parked, packet.len()) {
            return Err(Crowding::Everybody);
        }
        if !self.accounts.may_take(flow.account, Bound::Parked, packet.len()) {
            return Err(Crowding::Program);
        }
        if !flow.parked.push(packet, arrival) {
            return Err(Crowding::Flow);
        }
        self.accounts.park(flow.account, packet.len());
        Ok(())
    }

    /// Gives the packets of a flow back that wait.
    pub fn unpark(&mut self, id: FlowId) -> Vec<Kept> {
        let Some(flow) = self.flows.get_mut(id.index).filter(|flow| flow.id == id) else { return Vec::new() };
        self.accounts.unpark(flow.account, flow.parked.bytes());
        flow.parked.take()
    }

    /// What is used.
    #[must_use]
    pub fn used(&self) -> Amounts {
        self.accounts.used()
    }

    /// Whether there is room for so much more, whoever it is for.
    #[must_use]
    pub fn has_room(&self, bound: Bound, more: usize) -> bool {
        self.accounts.has_room(bound, more)
    }

    /// Whether flows whose owner is not known yet may take so much more.
    #[must_use]
    pub fn nobody_may_take(&self, bound: Bound, more: usize) -> bool {
        self.accounts.may_take(NOBODY_YET, bound, more)
    }

    /// The first bound of which the flow's program holds more than its share, this flow being the last that it began.
    #[must_use]
    pub fn outgrown(&self, id: FlowId) -> Option<Bound> {
        let flow = self.flow(id)?;
        let last = Amounts { flows: 1, pending: 1, parked: flow.parked.bytes() };
        self.accounts.outgrown(flow.account, last)
    }

    /// How many flows the flow's program holds.
    #[must_use]
    pub fn flows_of_program(&self, id: FlowId) -> usize {
        self.flow(id).map_or(0, |flow| self.accounts.flows_of(flow.account))
    }

    /// The oldest flow that waits for an upstream socket, of the program that has most of them.
    #[must_use]
    pub fn oldest_half_open(&self) -> Option<FlowId> {
        self.accounts.oldest_half_open()
    }

    #[must_use]
    pub fn find(&self, tuple: &FiveTuple) -> Option<FlowId> {
        self.by_tuple.get(tuple).copied()
    }

    /// The flow, unless it has ended.
    #[must_use]
    pub fn flow(&self, id: FlowId) -> Option<&Flow> {
        self.flows.get(id.index).filter(|flow| flow.id == id)
    }

    pub fn flow_mut(&mut self, id: FlowId) -> Option<&mut Flow> {
        self.flows.get_mut(id.index).filter(|flow| flow.id == id)
    }

    pub fn close(&mut self, id: FlowId) -> Option<Flow> {
        self.flow(id)?;
        let flow = self.flows.remove(id.index);
        self.by_tuple.remove(&flow.tuple);
        self.accounts.leave(flow.account, id, flow.state, flow.parked.bytes());
        Some(flow)
    }

    /// Every flow, in the order of its slot.
    pub fn iter(&self) -> impl Iterator<Item = &Flow> {
        self.flows.iter().map(|(_, flow)| flow)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    #[must_use]
    pub fn is_full(&self) -> bool {
        self.flows.len() >= self.capacity
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }
}

#[cfg(test)]
mod tests;
