//! Records: every flow's end is told once.

use std::time::Instant;

use super::{Output, Router};
use crate::flow::{Direction, Flow, FlowId, Record, State};
use crate::packet::FiveTuple;
use crate::process::Confidence;

impl Router {
    /// The record of a flow as it stands now.
    #[must_use]
    pub fn record(&self, id: FlowId, now: Instant) -> Option<Record> {
        self.table.flow(id).map(|flow| self.record_of(flow, None, now))
    }

    /// The records of all flows that are open or wait for a verdict.
    #[must_use]
    pub fn records(&self, now: Instant) -> Vec<Record> {
        let alive = self.table.iter().filter(|flow| flow.state() != State::Refused && flow.decision.is_some());
        alive.map(|flow| self.record_of(flow, None, now)).collect()
    }

    /// Ends a flow and writes its record, unless that is done.
    pub(super) fn finish(&mut self, id: FlowId, outcome: &'static str, now: Instant) {
        let Some(flow) = self.table.flow(id) else { return };
        let pending = flow.is_pending();
        let told = flow.state() == State::Refused || flow.decision.is_none();
        if !told {
            let record = self.record_of(flow, Some(outcome), now);
            self.say(Output::Ended(Box::new(record)));
        }
        if pending {
            self.stop_waiting(id);
        } else {
            self.disarm(id);
        }
        self.table.close(id);
    }

    /// A flow to the resolver has no decision of its own: its questions are told one by one.
    pub(super) fn record_of(&self, flow: &Flow, outcome: Option<&str>, now: Instant) -> Record {
        let identity = flow.owner().map(|owner| &owner.subject.identity);
        let decision = flow.decision.as_ref();
        Record {
            id: flow.id.serial(),
            start: self.wall(flow.started),
            end: outcome.map(|_| self.wall(now)),
            direction: Direction::Outbound,
            proto: flow.tuple.protocol.to_string().to_lowercase(),
            src: end_text(&flow.tuple, flow.tuple.local),
            dst: end_text(&flow.tuple, flow.tuple.remote),
            name: flow.owner().and_then(|owner| owner.names.last()).map(|sighting| sighting.name.to_string()),
            exe: identity.and_then(|i| i.exe.as_ref()).map(|exe| exe.path.display().to_string()),
            pid: identity.and_then(|i| i.pid),
            uid: identity.and_then(|i| i.uid),
            profile: flow.owner().and_then(|owner| owner.subject.profile_name()).map(str::to_owned),
            confidence: identity.map_or(Confidence::None, |i| i.confidence),
            verdict: decision.map_or("block".to_owned(), |d| d.verdict.to_string()),
            check: decision.map_or("identity".to_owned(), |d| d.reason.check.to_string()),
            rule: decision.and_then(|d| d.reason.rule_text()),
            lane: flow.permit.map(|permit| permit.lane().to_string()),
            bytes_up: flow.bytes_up,
            bytes_down: flow.bytes_down,
            rtt_us: flow.rtt_us,
            outcome: outcome.map(str::to_owned),
        }
    }

    /// Milliseconds since the Unix epoch, by the last [`super::Input::Clock`].
    #[must_use]
    pub fn wall(&self, at: Instant) -> u64 {
        let (seen, unix_ms) = self.config.epoch_of_clock;
        let millis = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let (since, before) = (at.saturating_duration_since(seen), seen.saturating_duration_since(at));
        unix_ms.saturating_add(millis(since)).saturating_sub(millis(before))
    }
}

fn end_text(tuple: &FiveTuple, end: std::net::SocketAddr) -> String {
    if tuple.protocol.has_ports() { end.to_string() } else { end.ip().to_string() }
}
