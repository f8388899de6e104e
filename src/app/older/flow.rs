//! One older flow: its socket, its holders, and the decision about it.

use std::sync::Arc;

use super::super::core::unix_ms;
use crate::control;
use crate::flow::Record;
use crate::netlink::Conversation;
use crate::packet::{Direction, Protocol};
use crate::process::{Confidence, Identity, Socket};
use crate::procfs::Processes;
use crate::profile::Subject;
use crate::router::Rules;
use crate::verdict::{Case, Check, Decision, Lane, Reason, Target, Verdict, decide};

/// The port of DNS, whose questions are judged one by one.
const DNS_PORT: u16 = 53;

pub(super) struct OlderFlow {
    serial: u64,
    /// When it was found; how old it is nobody knows.
    start: u64,
    conversation: Conversation,
    holders: Vec<Arc<Identity>>,
    /// None: not judged, since others opened it.
    judged: Option<Judged>,
}

struct Judged {
    decision: Decision,
    subject: Subject,
}

impl OlderFlow {
    pub(super) fn new(serial: u64, start: u64, conversation: Conversation, holders: Vec<Arc<Identity>>) -> Self {
        Self { serial, start, conversation, holders, judged: None }
    }

    /// Whether `socket` is the one of this flow, and no successor on the same ports.
    pub(super) fn is(&self, socket: &Socket) -> bool {
        self.conversation.socket.cookie == socket.cookie
    }

    /// Decides anew. Several holders: the strictest verdict.
    pub(super) fn judge(&mut self, rules: &Rules, processes: &Processes) {
        if self.conversation.direction == Direction::Inbound {
            return;
        }
        let judged = self.holders.iter().map(|identity| {
            let subject = rules.policy.subject(identity.clone(), &processes.exists_for(identity));
            Judged { decision: decision(&self.conversation, &subject, rules), subject }
        });
        self.judged =
            judged.reduce(|first, second| if second.decision.verdict > first.decision.verdict { second } else { first });
    }

    /// Whether it must end. A person cannot be asked about a flow that cannot be held.
    pub(super) fn is_refused(&self) -> bool {
        match (self.conversation.direction, &self.judged) {
            (Direction::Inbound, _) => false,
            (Direction::Outbound, Some(judged)) => judged.decision.verdict != Verdict::Accept,
            (Direction::Outbound, None) => true,
        }
    }

    /// Its record; `outcome` where it has ended.
    pub(super) fn record(&self, outcome: Option<&str>) -> Record {
        let Conversation { tuple, socket, direction } = self.conversation;
        let identity = self.identity();
        let decision = self.judged.as_ref().map(|judged| &judged.decision);
        let (src, dst) = self.ends();
        Record {
            id: self.serial,
            start: self.start,
            end: outcome.map(|_| unix_ms()),
            direction,
            proto: tuple.protocol.to_string().to_lowercase(),
            src,
            dst,
            name: None,
            exe: self.exe(),
            pid: identity.and_then(|identity| identity.pid),
            uid: Some(socket.uid),
            profile: self.judged.as_ref().and_then(|judged| judged.subject.profile_name()).map(str::to_owned),
            confidence: identity.map_or(Confidence::None, |identity| identity.confidence),
            verdict: self.verdict(),
            check: decision.map_or(Check::Direction, |decision| decision.reason.check).to_string(),
            rule: decision.map_or_else(
                || Some("opened by the peer before Portreeve; not judged".to_owned()),
                |decision| decision.reason.rule_text(),
            ),
            lane: (!self.is_refused()).then(|| "beside".to_owned()),
            bytes_up: 0,
            bytes_down: 0,
            rtt_us: None,
            outcome: outcome.map(str::to_owned),
        }
    }

    /// Its line in `status`.
    pub(super) fn line(&self, open: bool) -> control::OlderFlow {
        let (src, dst) = self.ends();
        control::OlderFlow {
            exe: self.exe(),
            pid: self.identity().and_then(|identity| identity.pid),
            direction: self.conversation.direction,
            proto: self.conversation.tuple.protocol.to_string().to_lowercase(),
            src,
            dst,
            verdict: self.verdict(),
            open,
        }
    }

    /// A refusal is told as one, also where a new flow would have been asked about.
    fn verdict(&self) -> String {
        if self.is_refused() { Verdict::Block } else { Verdict::Accept }.to_string()
    }

    fn identity(&self) -> Option<&Identity> {
        self.judged.as_ref().map(|judged| &*judged.subject.identity).or_else(|| self.holders.first().map(|holder| &**holder))
    }

    fn exe(&self) -> Option<String> {
        self.identity().and_then(|identity| identity.exe.as_ref()).map(|exe| exe.path.display().to_string())
    }

    /// From whom to whom.
    fn ends(&self) -> (String, String) {
        let tuple = &self.conversation.tuple;
        match self.conversation.direction {
            Direction::Outbound => (tuple.local.to_string(), tuple.remote.to_string()),
            Direction::Inbound => (tuple.remote.to_string(), tuple.local.to_string()),
        }
    }
}

fn decision(conversation: &Conversation, subject: &Subject, rules: &Rules) -> Decision {
    let tuple = &conversation.tuple;
    if tuple.protocol == Protocol::TCP && tuple.remote.port() == DNS_PORT {
        return Decision::refused(Reason::because(
            Check::Bypass,
            "questions are judged one by one, which takes a new connection",
        ));
    }
    let target = Target::Flow {
        direction: Direction::Outbound,
        protocol: tuple.protocol,
        remote: tuple.remote.ip(),
        port: Some(tuple.remote.port()),
        names: &[],
        // Such flows stay on loopback and are none of ours.
        peer_is_this_host: false,
    };
    let decision = decide(&rules.policy, &Case { subject, level: rules.level, target, answer: None });
    match (decision.verdict, decision.lane) {
        (Verdict::Accept, Lane::Gate) => Decision::refused(Reason::because(Check::Gate, "an older flow cannot change its lane")),
        (Verdict::Accept | Verdict::Ask | Verdict::Block | Verdict::Drop, _) => decision,
    }
}
