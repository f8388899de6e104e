//! What happens when there is no room: who gives way, who is refused, and who is told.
//!
//! Keeps one rule: nobody is refused for what another program does. A program that holds more than its share (`flow::accounts`) is
//! refused itself, with its policy's verdict left as it is; only where all places are taken together does somebody give way: first
//! what is only remembered, then an idle datagram flow of the program with most flows, then the oldest half-open flow of the program
//! with most of those, which is told.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use super::{Counter, Failure, Output, Router};
use crate::flow::{Bound, Crowding, Flow, FlowId, Program, Service, State};
use crate::packet::{Checksums, IpPacket};
use crate::verdict::{Check, Decision, Reason};

/// A datagram flow that has been idle for so long gives its place up where there is none left.
const EVICTABLE: Duration = Duration::from_secs(5);
/// Timers looked through for such a flow. Those of refused flows are short, so they come first.
const MAX_SEARCH: usize = 64;
/// The same program is not named again for the same reason within this time.
const QUIET: Duration = Duration::from_secs(600);
/// Programs and reasons remembered as told; beyond that nobody is named until one of them is forgotten.
const MAX_TOLD: usize = 256;

/// A bound that was reached, and by whom, as a sentence for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crowded {
    /// The program's path; None: all together.
    pub program: Option<String>,
    pub bound: Bound,
}

impl fmt::Display for Crowded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.bound {
            Bound::Flows => "open flows",
            Bound::Pending => "flows that wait for an answer",
            Bound::Parked => "packets that wait for a verdict",
        };
        match &self.program {
            Some(program) => write!(f, "{program} has as many {what} as one program may have; more are refused"),
            None => write!(f, "there are as many {what} as may be; more are refused"),
        }
    }
}

/// Who has been named for what, and when.
#[derive(Debug, Default)]
pub(super) struct Told(BTreeMap<(Option<Program>, Bound), Instant>);

impl Told {
    /// True when it is worth saying now.
    fn is_news(&mut self, program: Option<Program>, bound: Bound, now: Instant) -> bool {
        let key = (program, bound);
        if self.0.get(&key).is_some_and(|at| now < *at + QUIET) {
            return false;
        }
        if self.0.len() >= MAX_TOLD {
            self.0.retain(|_, at| now < *at + QUIET);
        }
        if self.0.len() >= MAX_TOLD {
            return false;
        }
        self.0.insert(key, now);
        true
    }
}

impl Router {
    /// Makes room for one more flow of somebody; false when there is none to be had.
    pub(super) fn make_room(&mut self, now: Instant) -> bool {
        if !self.table.has_room(Bound::Pending, 1) {
            self.evict_half_open(now);
        }
        if self.table.is_full() && !self.evict_idle(now) {
            self.evict_half_open(now);
        }
        let lacking = if !self.table.nobody_may_take(Bound::Pending, 1) {
            Some(Bound::Pending)
        } else if self.table.is_full() {
            Some(Bound::Flows)
        } else {
            None
        };
        if let Some(bound) = lacking {
            self.crowded(bound, now);
        }
        lacking.is_none()
    }

    /// A refused flow goes first, then a datagram flow that has been idle.
    fn evict_idle(&mut self, now: Instant) -> bool {
        let candidates = || self.timers.iter().take(MAX_SEARCH).filter_map(|(_, id)| self.table.flow(*id));
        let refused = candidates().find(|flow| flow.state() == State::Refused).map(|flow| flow.id);
        if let Some(id) = refused {
            self.count(Counter::EvictedRefused);
            self.forget(id);
            return true;
        }
        // Open flows with a timer are those of datagrams, and those by a named link, which are judged anew at their next packet. Of those
        // that the kernel carries on nobody knows whether they rest.
        let is_idle =
            |flow: &&Flow| flow.state() == State::Open && flow.service != Service::Express && flow.last_active + EVICTABLE <= now;
        let of_most = candidates().filter(is_idle).max_by_key(|flow| {
            let holds = self.table.flows_of_program(flow.id);
            (holds, std::cmp::Reverse((flow.last_active, flow.id.serial())))
        });
        let Some(id) = of_most.map(|flow| flow.id) else { return false };
        self.count(Counter::EvictedIdle);
        self.say(Output::Cut(id));
        self.finish(id, "evicted", now);
        true
    }

    /// Its program is told that the host cannot be reached from here, as where ports run out.
    fn evict_half_open(&mut self, now: Instant) {
        let Some(id) = self.table.oldest_half_open() else { return };
        self.count(Counter::EvictedHalfOpen);
        self.say(Output::Cut(id));
        self.answer_first(id, Failure::Exhausted);
        self.finish(id, "evicted", now);
    }

    /// Refuses a flow whose program holds more than its share.
    pub(super) fn refuse_crowded(&mut self, id: FlowId, bound: Bound, now: Instant) {
        let (counter, outcome) = match bound {
            Bound::Flows => (Counter::ProgramFlowsOut, "too many flows of this program"),
            Bound::Pending => (Counter::ProgramPendingOut, "too many waiting flows of this program"),
            Bound::Parked => (Counter::ProgramParkedOut, "too many waiting packets of this program"),
        };
        self.count(counter);
        self.name(id, bound, now);
        if let Some(flow) = self.table.flow_mut(id) {
            flow.permit = None;
            flow.decision = Some(Decision::refused(Reason::because(Check::Limit, outcome)));
        }
        self.refuse(id, true, outcome, now);
    }

    /// A packet has to wait and cannot.
    pub(super) fn parked_out(&mut self, id: FlowId, whose: Crowding, now: Instant) {
        match whose {
            Crowding::Flow => self.count(Counter::ParkedOut),
            Crowding::Program => {
                self.count(Counter::ProgramParkedOut);
                self.name(id, Bound::Parked, now);
            }
            Crowding::Everybody => self.crowded(Bound::Parked, now),
        }
    }

    /// Names the program of a flow to a person.
    fn name(&mut self, id: FlowId, bound: Bound, now: Instant) {
        let Some(owner) = self.table.flow(id).and_then(|flow| flow.owners.first()) else { return };
        let path = |path: &std::path::Path| path.display().to_string();
        let program = owner.subject.actor_path().map_or_else(|| "an unknown program".to_owned(), path);
        let key = Program::of(owner);
        if self.told.is_news(Some(key), bound, now) {
            self.say(Output::Crowded(Crowded { program: Some(program), bound }));
        }
    }

    /// A bound for all together was reached.
    pub(super) fn crowded(&mut self, bound: Bound, now: Instant) {
        self.count(match bound {
            Bound::Flows => Counter::FlowsOut,
            Bound::Pending => Counter::PendingOut,
            Bound::Parked => Counter::ParkedOut,
        });
        if self.told.is_news(None, bound, now) {
            self.say(Output::Crowded(Crowded { program: None, bound }));
        }
    }

    /// Answers the packet that opened a flow, which waits.
    pub(super) fn answer_first(&mut self, id: FlowId, failure: Failure) {
        if let Some(first) = self.table.flow(id).and_then(|flow| flow.parked().first())
            && let Ok(packet) = IpPacket::parse(first, Checksums::Unfinished)
        {
            let reply = super::upstream::answer_to(&packet, failure);
            self.outputs.extend(reply.map(|reply| Output::ReplyTo { flow: id, reply }));
        }
    }
}
