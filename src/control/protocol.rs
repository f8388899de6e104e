//! What goes over the socket: one JSON object a line, requests one way, responses the other.
//!
//! Keeps one rule: every line is bounded and carries nothing that the other side must guess; a request of another
//! [`VERSION`] is refused as such. Texts here are raw; whoever prints them to a terminal escapes them (`render`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::flow::{Direction, Record};
use crate::profile::Level;

/// Counts incompatible changes of this protocol.
pub const VERSION: u32 = 1;

/// A longer request line ends the connection.
pub const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// A longer response line is not believed. The longest is `Status`, whose notes and counters are few.
pub const MAX_RESPONSE_BYTES: usize = 1024 * 1024;

/// One request with the version that it is written in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    pub version: u32,
    pub ask: Request,
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    Status,
    /// Open flows and the latest that ended.
    Flows,
    /// Every event from now on, until the connection ends.
    Monitor,
    Level {
        level: Level,
    },
    /// Reads the profiles again, all or nothing.
    Reload,
    Prompts,
    Allow {
        id: u64,
    },
    Deny {
        id: u64,
    },
    Down,
}

/// What is answered. `Flows` gets one `Record` a line and then `End`, `Monitor` gets `Watching` and then `Event` and `Missed`
/// lines; every other request gets exactly one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", content = "value", rename_all = "snake_case")]
pub enum Response {
    Status(Box<Status>),
    Record(Box<Record>),
    Prompts(Vec<Prompt>),
    Reloaded(Reloaded),
    Watching,
    Event(Box<Event>),
    /// The reader was too slow for this many events, which are lost to it.
    Missed(u64),
    Done,
    End,
    /// What was asked was understood and permitted, and failed.
    Faults(Vec<Fault>),
    /// The reader of this line may not ask that.
    NotPermitted(String),
    /// The request was not understood.
    Malformed(String),
    /// Too many connections; later it may work.
    Busy(String),
}

/// Whether traffic is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Active,
    Inactive,
}

/// How Portreeve was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// For the whole machine.
    Up,
    /// Around one command.
    Exec,
}

/// Where profiles come from: a folder, or "shipped".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileSource {
    pub from: String,
    pub profiles: usize,
}

/// The state of a running Portreeve. The firewall mark is left out: who knows it can pass for the router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub state: State,
    pub way: Way,
    pub version: String,
    pub pid: u32,
    /// Milliseconds since the Unix epoch.
    pub since: u64,
    pub level: Level,
    /// Weakest source first.
    pub profiles: Vec<ProfileSource>,
    /// Counts policy changes.
    pub epoch: u64,
    pub device: String,
    /// `address/prefix length` of the TUN device.
    pub addresses: Vec<String>,
    pub mtu: u32,
    /// The route plan in force, by its file; None under `exec`.
    pub plan: Option<String>,
    pub socket: PathBuf,
    /// Who is asked now; nobody where each question goes to the address that the program asks.
    pub dns_upstreams: Vec<String>,
    pub flows_open: u64,
    pub flows_pending: u64,
    pub prompts: u64,
    /// False as long as new inbound flows are delivered without a verdict.
    pub inbound_judged: bool,
    /// Flows that are older than this Portreeve: those that go on beside it, and those that it ended last.
    #[serde(default)]
    pub older: Vec<OlderFlow>,
    /// What a user must know, one sentence each.
    pub notes: Vec<String>,
    pub counters: BTreeMap<String, u64>,
}

/// A flow that is older than the router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OlderFlow {
    pub exe: Option<String>,
    pub pid: Option<u32>,
    pub direction: Direction,
    pub proto: String,
    /// `address:port` of whoever opened it.
    pub src: String,
    pub dst: String,
    /// accept: it goes on beside the router, by its own socket. block: it was ended.
    pub verdict: String,
    pub open: bool,
}

/// A flow that is held until somebody answers. Times are milliseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    pub id: u64,
    /// The program's short name.
    pub program: String,
    pub exe: Option<String>,
    pub pid: Option<u32>,
    pub uid: Option<u32>,
    pub name: Option<String>,
    /// `address:port`.
    pub dst: String,
    pub proto: String,
    pub since_ms: u64,
    /// No answer until then means Block.
    pub deadline_ms: u64,
}

/// How a prompt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Closed {
    Allowed,
    Denied,
    /// Nobody answered: blocked.
    Expired,
    /// The program gave up, or a policy change decided.
    Gone,
}

/// What a reload brought.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    pub profiles: usize,
    pub epoch: u64,
    /// Open flows that the new policy refuses.
    pub cut: u64,
}

/// What happened, as `monitor` is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", content = "value", rename_all = "snake_case")]
pub enum Event {
    /// A flow was seen; its verdict may still be open (verdict `ask`).
    Opened(Record),
    /// A flow got its verdict.
    Decided(Record),
    /// A flow ended; the record is final.
    Ended(Record),
    /// A DNS question got its verdict.
    Question(Record),
    Prompt(Prompt),
    PromptClosed {
        id: u64,
        how: Closed,
    },
    Level(Level),
    Reloaded(Reloaded),
    /// One sentence for a person.
    Notice(String),
}

/// Why something that was asked could not be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    pub kind: FaultKind,
    /// For a faulty file `FILE:LINE:COL: what is wrong; what would be right`.
    pub message: String,
}

/// What sort of fault it is; the client's exit code follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// A profile, plan or configuration file is faulty.
    Configuration,
    /// There is no such prompt (any more).
    NoSuchPrompt,
    /// Anything else; the message says it.
    Failed,
}

impl Fault {
    /// A fault in a profile, plan or configuration file.
    #[must_use]
    pub fn configuration(message: impl Into<String>) -> Self {
        Self { kind: FaultKind::Configuration, message: message.into() }
    }

    #[must_use]
    pub fn no_such_prompt(id: u64) -> Self {
        Self {
            kind: FaultKind::NoSuchPrompt,
            message: format!("there is no prompt {id}; `portreeve prompt list` shows the open ones"),
        }
    }

    #[must_use]
    pub fn failed(message: impl Into<String>) -> Self {
        Self { kind: FaultKind::Failed, message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trips<T: Serialize + for<'a> Deserialize<'a> + PartialEq + std::fmt::Debug>(value: &T) {
        let line = serde_json::to_string(value).expect("every protocol type is plain JSON");
        assert!(!line.contains('\n'), "one object is one line: {line}");
        assert_eq!(&serde_json::from_str::<T>(&line).expect("what was written can be read"), value, "{line}");
    }

    #[test]
    fn every_request_round_trips() {
        for ask in [
            Request::Status,
            Request::Flows,
            Request::Monitor,
            Request::Level { level: Level::Fortress },
            Request::Reload,
            Request::Prompts,
            Request::Allow { id: u64::MAX },
            Request::Deny { id: 0 },
            Request::Down,
        ] {
            round_trips(&Asked { version: VERSION, ask });
        }
    }

    #[test]
    fn every_response_round_trips() {
        let record = super::super::render::sample::record();
        for event in [
            Event::Opened(record.clone()),
            Event::Decided(record.clone()),
            Event::Ended(record.clone()),
            Event::Question(record.clone()),
            Event::Prompt(super::super::render::sample::prompt()),
            Event::PromptClosed { id: 7, how: Closed::Expired },
            Event::Level(Level::Secure),
            Event::Reloaded(Reloaded { profiles: 3, epoch: 2, cut: 1 }),
            Event::Notice("two\nlines".to_owned()),
        ] {
            round_trips(&Response::Event(Box::new(event)));
        }
        for response in [
            Response::Status(Box::new(super::super::render::sample::status())),
            Response::Record(Box::new(record)),
            Response::Prompts(vec![super::super::render::sample::prompt()]),
            Response::Reloaded(Reloaded::default()),
            Response::Watching,
            Response::Missed(12),
            Response::Done,
            Response::End,
            Response::Faults(vec![Fault::no_such_prompt(3), Fault::configuration("a:1:1: b; c"), Fault::failed("no")]),
            Response::NotPermitted("x".to_owned()),
            Response::Malformed("x".to_owned()),
            Response::Busy("x".to_owned()),
        ] {
            round_trips(&response);
        }
    }

    #[test]
    fn an_unknown_verb_and_an_unknown_key_are_refused() {
        for line in [
            r#"{"version":1,"ask":{"verb":"open_sesame"}}"#,
            r#"{"version":1,"ask":{"verb":"allow","id":1,"for":"ever"}}"#,
            r#"{"version":1,"ask":{"verb":"status"},"as":"root"}"#,
            r#"{"version":1,"ask":{"verb":"allow","id":-1}}"#,
            r#"{"ask":{"verb":"status"}}"#,
        ] {
            assert!(serde_json::from_str::<Asked>(line).is_err(), "{line}");
        }
    }

    #[test]
    fn the_mark_is_not_told() {
        let line = serde_json::to_string(&super::super::render::sample::status()).expect("status is plain JSON");
        assert!(!line.contains("mark"), "{line}");
    }
}
