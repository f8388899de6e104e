//! What people are told.

use std::time::Instant;

use super::Shard;
use crate::app::shared::locked;
use crate::control::{Closed, Event, Prompt};
use crate::flow::FlowId;
use crate::packet::FiveTuple;
use crate::router::{Crowded, PromptEnd, Question};
use crate::verdict::Answer;

/// What has been told, and is not told again: a flood would say it a thousand times a second.
#[derive(Debug, Default)]
pub(super) struct Told {
    older: bool,
    hand_over: bool,
    exhausted: bool,
}

impl Shard {
    pub(super) fn tell_flow(&self, id: FlowId, now: Instant) {
        self.shared.tell(|| {
            // A flow to the resolver has no decision; its questions are told one by one.
            self.router.flow(id)?.decision.as_ref()?;
            let record = self.router.record(id, now)?;
            Some(if record.verdict == "ask" { Event::Opened(record) } else { Event::Decided(record) })
        });
    }

    pub(super) fn tell_prompt(&self, question: &Question, now: Instant) {
        let Some(record) = self.router.record(question.flow, now) else { return };
        // Behind an interpreter the script is asked about, as the answer holds for it alone.
        let actor = self.router.flow(question.flow).and_then(|flow| flow.owner()?.subject.actor_path()?.file_name());
        let program = actor.map_or_else(|| "?".to_owned(), |name| name.to_string_lossy().into_owned());
        let prompt = Prompt {
            id: question.id,
            program,
            exe: record.exe,
            pid: record.pid,
            uid: record.uid,
            name: record.name,
            dst: record.dst,
            proto: record.proto,
            since_ms: self.router.wall(now),
            deadline_ms: self.router.wall(question.deadline),
        };
        if !locked(&self.shared.prompts).add(prompt.clone()) {
            return;
        }
        self.shared.tell(|| Some(Event::Prompt(prompt)));
    }

    pub(super) fn tell_prompt_end(&self, id: u64, how: PromptEnd) {
        let (was_put, heir) = locked(&self.shared.prompts).end(id, how == PromptEnd::Gone);
        if !was_put {
            return;
        }
        let how = match how {
            PromptEnd::Answered(Answer::Allow) => Closed::Allowed,
            PromptEnd::Answered(Answer::Deny) => Closed::Denied,
            PromptEnd::Expired => Closed::Expired,
            PromptEnd::Gone => Closed::Gone,
        };
        self.shared.tell(|| Some(Event::PromptClosed { id, how }));
        self.shared.tell(|| heir.map(Event::Prompt));
    }

    /// A segment without a first one: an older flow goes on without us, anything else is reset.
    pub(super) fn on_older(&mut self, tuple: FiveTuple, answer: &[u8], now: Instant) {
        if self.is_own(tuple.local.ip()) && self.older.as_ref().is_some_and(|older| older.take(tuple)) {
            return;
        }
        if !answer.is_empty() {
            self.reply(answer);
        }
        self.tell_older(now);
    }

    /// Segments that nobody knows come later, too, as stragglers of flows that have ended: only those right after `up` are older.
    fn tell_older(&mut self, now: Instant) {
        if now < self.older_until && !std::mem::replace(&mut self.told.older, true) {
            let notice = "TCP flows that are older than Portreeve are reset; programs connect again by themselves";
            tracing::info!("{notice}");
            self.shared.tell(|| Some(Event::Notice(notice.to_owned())));
        }
    }

    pub(super) fn tell_hand_over(&mut self) {
        if !std::mem::replace(&mut self.told.hand_over, true) {
            let notice =
                "more flows wait for their programs to be found than may; some are put off until their programs ask again";
            tracing::warn!("{notice}");
            self.shared.tell(|| Some(Event::Notice(notice.to_owned())));
        }
    }

    pub(super) fn tell_exhausted(&mut self) {
        if !std::mem::replace(&mut self.told.exhausted, true) {
            let notice = "this machine has run out of ports, descriptors or memory for flows; those that find none are refused";
            tracing::warn!("{notice}");
            self.shared.tell(|| Some(Event::Notice(notice.to_owned())));
        }
    }

    pub(super) fn tell_crowded(&self, crowded: &Crowded) {
        tracing::warn!("{crowded}");
        self.shared.tell(|| Some(Event::Notice(crowded.to_string())));
    }
}
