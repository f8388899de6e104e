//! Identities, answers and rules: everything that leads to a decision.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::prompts::{MAX_ANSWERS, MAX_OPEN, MAX_OPEN_EACH, MAX_WAITING, Open, Target as PromptTarget};
use super::{Counter, Output, PromptEnd, PromptKey, Question, Router, Rules};
use crate::flow::{Direction, Flow, FlowId, Owner, Service, State};
use crate::names::Sighting;
use crate::packet::{Checksums, IpPacket, Protocol};
use crate::process::Identity;
use crate::profile::Subject;
use crate::verdict::{Answer, Case, Check, Decision, Lane, Permit, Reason, Target, Verdict, decide};

impl Router {
    pub(super) fn on_identified(&mut self, id: FlowId, owners: Vec<Owner>, now: Instant) {
        let Some(flow) = self.table.flow_mut(id) else { return };
        if flow.state() != State::Identifying {
            return;
        }
        let dns = flow.service == Service::Dns;
        self.table.set_owners(id, owners);
        self.disarm(id);
        // What is refused by policy takes no place, so only what is not may be one too many.
        let crowding = self.table.outgrown(id);
        if dns {
            return match crowding {
                Some(bound) => self.refuse_crowded(id, bound, now),
                None => self.open_dns(id),
            };
        }
        let (decision, owner) = self.judge(id);
        match (decision.verdict, crowding) {
            (Verdict::Accept | Verdict::Ask, Some(bound)) => self.refuse_crowded(id, bound, now),
            (_, _) => self.enact(id, decision, owner, now),
        }
    }

    fn open_dns(&mut self, id: FlowId) {
        self.table.set_state(id, State::Opening);
        self.say(Output::OpenDns(id));
    }

    /// The strictest decision among the owners, and whose it is.
    fn judge(&self, id: FlowId) -> (Decision, usize) {
        let nobody = (Decision::refused(Reason::of(Check::Identity)), 0);
        let Some(flow) = self.table.flow(id) else { return nobody };
        let decisions = flow.owners.iter().map(|owner| self.judge_owner(flow, owner));
        let strictest = decisions.enumerate().max_by_key(|(index, d)| (d.verdict, std::cmp::Reverse(*index)));
        strictest.map_or(nobody, |(index, decision)| (decision, index))
    }

    /// The permit under which a datagram from `stranger` reaches the program of this flow: all who may have asked for it might write to
    /// the stranger, unasked and under no name.
    #[must_use]
    pub fn admits(&self, id: FlowId, stranger: SocketAddr) -> Option<Permit> {
        let flow = self.table.flow(id).filter(|flow| flow.state() == State::Open)?;
        let decide = |owner| self.judge_to(flow, owner, stranger, &[], None).permit(self.rules.epoch);
        let mut permits = flow.owners.iter().map(decide);
        let first = permits.next()??;
        let direct = |permit: &Permit| permit.lane() == Lane::Direct;
        (direct(&first) && permits.all(|permit| permit.as_ref().is_some_and(direct))).then_some(first)
    }

    fn judge_owner(&self, flow: &Flow, owner: &Owner) -> Decision {
        let answer = if self.answers.is_empty() { None } else { self.answers.get(&key_of(flow, owner)).copied() };
        self.judge_to(flow, owner, flow.tuple.remote, &owner.names, answer)
    }

    fn judge_to(&self, flow: &Flow, owner: &Owner, to: SocketAddr, names: &[Sighting], answer: Option<Answer>) -> Decision {
        let remote = self.translated(to);
        let protocol = flow.tuple.protocol;
        let target = Target::Flow {
            direction: Direction::Outbound,
            protocol,
            remote: remote.ip(),
            port: protocol.has_ports().then_some(remote.port()),
            names,
            peer_is_this_host: remote.ip().is_loopback() || self.own.contains(&remote.ip()),
        };
        decide(&self.rules.policy, &Case { subject: &owner.subject, level: self.rules.level, target, answer })
    }

    pub(super) fn enact(&mut self, id: FlowId, decision: Decision, owner: usize, now: Instant) {
        let epoch = self.rules.epoch;
        let Some(flow) = self.table.flow_mut(id) else { return };
        flow.permit = decision.permit(epoch);
        flow.decided_by = owner;
        let verdict = decision.verdict;
        flow.decision = Some(decision);
        match (verdict, flow.permit) {
            (Verdict::Accept, Some(permit)) => {
                let to = flow.tuple.remote;
                self.table.set_state(id, State::Opening);
                self.count(Counter::Accepted);
                let to = self.translated(to);
                self.say(Output::Open { flow: id, permit, to });
            }
            (Verdict::Ask, _) => self.ask(id, now),
            (Verdict::Accept | Verdict::Block, _) => {
                self.count(Counter::Blocked);
                self.refuse(id, true, "refused by policy", now);
            }
            (Verdict::Drop, _) => {
                self.count(Counter::Dropped);
                self.refuse(id, false, "refused by policy", now);
            }
        }
    }

    /// Ends a pending flow as refused. Datagram flows stay for a while, so that one record stands for all that a program
    /// goes on sending.
    pub(super) fn refuse(&mut self, id: FlowId, tell: bool, outcome: &'static str, now: Instant) {
        let packets = self.table.unpark(id);
        if tell
            && let Some(first) = packets.first()
            && let Ok(packet) = IpPacket::parse(first, Checksums::Unfinished)
        {
            self.reject_first(id, &packet);
        }
        let Some(flow) = self.table.flow(id) else { return };
        let record = self.record_of(flow, Some(outcome), now);
        self.say(Output::Ended(Box::new(record)));
        self.stop_waiting(id);
        self.linger(id, now);
    }

    fn ask(&mut self, id: FlowId, now: Instant) {
        let Some(flow) = self.table.flow(id) else { return };
        let Some(key) = flow.owner().map(|owner| key_of(flow, owner)) else { return };
        let of_program = self.prompts.values().filter(|open| open.key.asker == key.asker).count();
        let too_many = self.prompts.len() >= MAX_OPEN || of_program >= MAX_OPEN_EACH;
        match self.prompts.values_mut().find(|open| open.key == key) {
            Some(open) if open.flows.len() >= MAX_WAITING => return self.refuse_for(id, Check::Limit, now),
            Some(open) => open.flows.push(id),
            None if too_many => return self.refuse_for(id, Check::Limit, now),
            None => {
                let (prompt, deadline) = (self.prompt_numbers.give(), now + self.config.prompt_deadline);
                self.prompts.insert(prompt, Open { key, flows: vec![id], deadline });
                self.say(Output::Ask(Question { id: prompt, flow: id, deadline }));
            }
        }
        let deadline = self.prompts.values().find(|open| open.flows.contains(&id)).map(|open| open.deadline);
        self.table.set_state(id, State::Asking);
        if let Some(at) = deadline {
            self.arm(id, at);
        }
        self.count(Counter::Asked);
        self.say(Output::Told(id));
    }

    fn refuse_for(&mut self, id: FlowId, check: Check, now: Instant) {
        if let Some(flow) = self.table.flow_mut(id) {
            flow.decision = Some(Decision::refused(Reason::of(check)));
        }
        self.count(Counter::Blocked);
        self.refuse(id, true, "refused by policy", now);
    }

    pub(super) fn on_answer(&mut self, prompt: u64, answer: Answer, now: Instant) {
        let Some(open) = self.prompts.remove(&prompt) else { return };
        self.say(Output::Learned { key: open.key.clone(), answer });
        self.settle(prompt, open, answer, now);
    }

    /// The same program may wait here for what was answered elsewhere.
    pub(super) fn on_learned(&mut self, key: PromptKey, answer: Answer, now: Instant) {
        let waiting = self.prompts.iter().find(|(_, open)| open.key == key).map(|(prompt, _)| *prompt);
        match waiting.and_then(|prompt| Some((prompt, self.prompts.remove(&prompt)?))) {
            Some((prompt, open)) => self.settle(prompt, open, answer, now),
            None => self.remember(key, answer),
        }
    }

    fn remember(&mut self, key: PromptKey, answer: Answer) {
        if self.answers.len() >= MAX_ANSWERS {
            self.answers.pop_first();
        }
        self.forget_refused(&key);
        self.answers.insert(key, answer);
    }

    fn settle(&mut self, prompt: u64, open: Open, answer: Answer, now: Instant) {
        self.remember(open.key, answer);
        self.say(Output::Asked { prompt, how: PromptEnd::Answered(answer) });
        for id in open.flows {
            if self.table.flow(id).is_some_and(|flow| flow.state() == State::Asking) {
                self.disarm(id);
                let (decision, owner) = self.judge(id);
                self.enact(id, decision, owner, now);
            }
        }
    }

    /// What was refused for want of this answer is judged again at its next packet.
    fn forget_refused(&mut self, key: &PromptKey) {
        let waits =
            |flow: &&Flow| flow.state() == State::Refused && flow.owner().is_some_and(|owner| key_of(flow, owner) == *key);
        let ids: Vec<FlowId> = self.table.iter().filter(waits).map(|flow| flow.id).collect();
        ids.into_iter().for_each(|id| self.forget(id));
    }

    /// The deadline of a prompt has passed, or an identity never came: silence is refusal.
    pub(super) fn on_deadline(&mut self, id: FlowId, now: Instant) {
        let Some(flow) = self.table.flow(id) else { return };
        let check = if flow.state() == State::Asking { Check::Prompt } else { Check::Identity };
        let over: Vec<u64> = self.prompts.iter().filter(|(_, open)| open.deadline <= now).map(|(prompt, _)| *prompt).collect();
        for prompt in over {
            self.prompts.remove(&prompt);
            self.say(Output::Asked { prompt, how: PromptEnd::Expired });
        }
        if let Some(flow) = self.table.flow_mut(id) {
            flow.decision = Some(Decision::refused(Reason::of(check)));
        }
        self.count(Counter::Blocked);
        let outcome = if check == Check::Prompt { "prompt expired" } else { "owner not found in time" };
        self.refuse(id, true, outcome, now);
    }

    /// Judges every flow again under other rules; what they refuse is cut.
    pub(super) fn on_rules(&mut self, rules: Rules, subject: &dyn Fn(&Arc<Identity>) -> Subject, now: Instant) {
        self.rules = rules;
        let ids: Vec<FlowId> = self.table.iter().map(|flow| flow.id).collect();
        for id in ids {
            let Some(flow) = self.table.flow_mut(id) else { continue };
            for owner in &mut flow.owners {
                owner.subject = subject(&owner.subject.identity);
            }
            match (flow.state(), flow.service) {
                (State::Refused, _) => self.forget(id),
                (_, Service::Dns) | (State::Identifying, _) => {}
                (State::Asking, _) => self.judge_waiting(id, now),
                (State::Opening | State::Open, _) => self.judge_open(id, now),
            }
        }
    }

    fn judge_waiting(&mut self, id: FlowId, now: Instant) {
        let (decision, owner) = self.judge(id);
        let Some(flow) = self.table.flow_mut(id) else { return };
        if decision.verdict == Verdict::Ask && owner == flow.decided_by {
            flow.decision = Some(decision);
            return;
        }
        self.disarm(id);
        self.leave_prompts(id);
        self.enact(id, decision, owner, now);
    }

    fn judge_open(&mut self, id: FlowId, now: Instant) {
        let epoch = self.rules.epoch;
        let (decision, owner) = self.judge(id);
        let permit = decision.permit(epoch);
        if permit.is_none() {
            self.say(Output::Cut(id));
        }
        let Some(flow) = self.table.flow_mut(id) else { return };
        if permit.is_none() && flow.state() == State::Opening {
            // The program has not been told anything yet: it is told now, or a person is asked.
            return self.enact(id, decision, owner, now);
        }
        flow.permit = permit;
        flow.decided_by = owner;
        flow.decision = Some(decision);
        if permit.is_none() {
            self.abort_linked(id);
            self.finish(id, "cut by policy", now);
        }
    }

    /// Ends the program's socket of a TCP flow that goes by a link of the program's choice.
    fn abort_linked(&mut self, id: FlowId) {
        let Some(flow) = self.table.flow(id) else { return };
        if flow.service == Service::Link && flow.tuple.protocol == Protocol::TCP {
            let tuple = flow.tuple;
            self.say(Output::Abort { flow: id, tuple });
        }
    }

    fn leave_prompts(&mut self, id: FlowId) {
        let mut over = Vec::new();
        for (prompt, open) in &mut self.prompts {
            open.flows.retain(|flow| *flow != id);
            if open.flows.is_empty() {
                over.push(*prompt);
            }
        }
        for prompt in over {
            self.prompts.remove(&prompt);
            self.say(Output::Asked { prompt, how: PromptEnd::Gone });
        }
    }

    /// A flow that was pending is so no more.
    pub(super) fn stop_waiting(&mut self, id: FlowId) {
        self.disarm(id);
        self.leave_prompts(id);
    }

    pub(super) fn on_forgotten(&mut self, id: FlowId) {
        if self.table.flow(id).is_some_and(|flow| flow.state() == State::Refused) {
            self.forget(id);
        }
    }

    /// Forgets a flow that was refused; its record is written already.
    pub(super) fn forget(&mut self, id: FlowId) {
        self.disarm(id);
        self.table.close(id);
    }

    fn linger(&mut self, id: FlowId, now: Instant) {
        let Some(flow) = self.table.flow_mut(id) else { return };
        if flow.tuple.protocol == Protocol::TCP {
            self.table.close(id);
            return;
        }
        flow.last_active = now;
        self.table.set_state(id, State::Refused);
        self.arm_idle(id, now);
    }
}

fn key_of(flow: &Flow, owner: &Owner) -> PromptKey {
    let target = match owner.names.last() {
        Some(sighting) => PromptTarget::Name(sighting.name.clone()),
        None => PromptTarget::Address(flow.tuple.remote.ip()),
    };
    PromptKey { asker: owner.asker.clone(), actor: owner.subject.actor_path().map(Path::to_owned), target }
}
