//! A profile set from texts, and cases put to it.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portreeve::flow::Direction;
use portreeve::names::{Name, Sighting};
use portreeve::packet::Protocol;
use portreeve::process::{Confidence, Exe, Identity, Tag};
use portreeve::profile::{Fault, File, Kind, Layer, Level, Policy, Setup, Subject};
use portreeve::verdict::{Answer, Case, Decision, Target, decide, explain};

/// Files by their path inside the set.
pub(crate) fn files(files: &[(&str, &str)]) -> Vec<File> {
    let file = |(path, text): &(&str, &str)| {
        let kind = match path.split('/').next() {
            Some("user") => Kind::Profile(Layer::User),
            Some("global.toml") => Kind::Profile(Layer::Global),
            Some("stamp") => Kind::Profile(Layer::Stamp),
            Some("fallback.toml") => Kind::Profile(Layer::Fallback),
            _ => Kind::Labels,
        };
        File { kind, path: path.into(), text: (*text).to_owned() }
    };
    files.iter().map(file).collect()
}

pub(crate) fn set(list: &[(&str, &str)]) -> Policy {
    Policy::compile(&files(list), Setup::default()).unwrap_or_else(|faults| panic!("{faults:#?}"))
}

pub(crate) fn faults(list: &[(&str, &str)]) -> Vec<String> {
    let told = |faults: Vec<Fault>| faults.iter().map(ToString::to_string).collect();
    Policy::compile(&files(list), Setup::default()).err().map(told).unwrap_or_default()
}

/// A User profile for [`PROGRAM`] with these settings.
pub(crate) fn user(settings: &str) -> String {
    let (top, tables) = settings.split_once("\n[").map_or((settings, String::new()), |(top, rest)| (top, format!("[{rest}")));
    format!("name = \"tool\"\n{top}\n[match]\npath = [\"{PROGRAM}\"]\n{tables}\n")
}

pub(crate) const PROGRAM: &str = "/usr/bin/tool";
/// Lets everything through but what another layer refuses.
pub(crate) const OPEN: &str = "mode = \"blacklist\"\n[scope]\ninternet = true\nlan = true\nlocalhost = true\n\
    [flags]\npeer_to_peer = true\nservice = true\n";

/// A case in the making.
#[derive(Clone, Debug)]
pub(crate) struct Put {
    pub(crate) identity: Identity,
    pub(crate) level: Level,
    remote: IpAddr,
    port: Option<u16>,
    protocol: Protocol,
    direction: Direction,
    names: Vec<Sighting>,
    question: Option<Name>,
    answer: Option<Answer>,
    this_host: bool,
}

pub(crate) fn identity(path: &str) -> Identity {
    Identity {
        exe: Some(Exe { path: path.into(), device: 1, inode: 1, path_is_ours: true }),
        pid: Some(100),
        start_ticks: 1,
        uid: Some(1000),
        is_admin: false,
        has_session: true,
        cmdline: vec![path.to_owned()],
        cwd: None,
        home: Some("/home/ann".into()),
        cgroup: String::new(),
        tags: Vec::new(),
        ancestors: Vec::new(),
        confidence: Confidence::Exact,
    }
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().expect("a name in a test")
}

/// An outbound TCP flow of [`PROGRAM`] to `ADDRESS:PORT`.
pub(crate) fn to(remote: &str) -> Put {
    let socket: SocketAddr = remote.parse().expect("an address and a port");
    Put {
        identity: identity(PROGRAM),
        level: Level::Dynamic,
        remote: socket.ip(),
        port: Some(socket.port()),
        protocol: Protocol::TCP,
        direction: Direction::Outbound,
        names: Vec::new(),
        question: None,
        answer: None,
        this_host: false,
    }
}

/// A question of [`PROGRAM`].
pub(crate) fn question(text: &str) -> Put {
    Put { question: Some(name(text)), ..to("192.0.2.1:53") }
}

impl Put {
    pub(crate) fn named(self, text: &str) -> Self {
        self.chained(text, &[])
    }

    /// Known by `text`, whose answer led through the CNAMEs of `chain`.
    pub(crate) fn chained(mut self, text: &str, chain: &[&str]) -> Self {
        let chain: Arc<[Name]> = chain.iter().map(|text| name(text)).collect();
        self.names.push(Sighting::new(name(text), chain, Instant::now() + Duration::from_secs(600)));
        self
    }

    pub(crate) fn proto(self, number: u8) -> Self {
        let protocol = Protocol(number);
        Self { protocol, port: self.port.filter(|_| protocol.has_ports()), ..self }
    }

    pub(crate) fn at(self, level: Level) -> Self {
        Self { level, ..self }
    }

    pub(crate) fn inbound(self) -> Self {
        Self { direction: Direction::Inbound, ..self }
    }

    pub(crate) fn by(mut self, path: &str) -> Self {
        self.identity = Identity { tags: self.identity.tags.clone(), uid: self.identity.uid, ..identity(path) };
        self
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Identity)) -> Self {
        change(&mut self.identity);
        self
    }

    pub(crate) fn uid(self, uid: Option<u32>) -> Self {
        self.with(|identity| identity.uid = uid)
    }

    pub(crate) fn tag(self, tag: &str) -> Self {
        self.with(|identity| identity.tags.push(Tag(tag.to_owned())))
    }

    pub(crate) fn cmdline(self, words: &[&str]) -> Self {
        self.with(|identity| identity.cmdline = words.iter().map(|word| (*word).to_owned()).collect())
    }

    pub(crate) fn answered(self, answer: Answer) -> Self {
        Self { answer: Some(answer), ..self }
    }

    pub(crate) fn on_this_host(self) -> Self {
        Self { this_host: true, ..self }
    }

    pub(crate) fn subject(&self, policy: &Policy) -> Subject {
        policy.subject(Arc::new(self.identity.clone()), &|_: &Path| true)
    }

    pub(crate) fn judge(&self, policy: &Policy) -> Decision {
        let subject = self.subject(policy);
        let case = self.case(&subject);
        let decision = decide(policy, &case);
        let (explained, steps) = explain(policy, &case);
        assert_eq!(decision, explained, "explain and decide disagree on {self:?}");
        assert!(!steps.is_empty());
        decision
    }

    pub(crate) fn case<'a>(&'a self, subject: &'a Subject) -> Case<'a> {
        let target = match &self.question {
            Some(name) => Target::Question { name, qtype: 1 },
            None => Target::Flow {
                direction: self.direction,
                protocol: self.protocol,
                remote: self.remote,
                port: self.port,
                names: &self.names,
                peer_is_this_host: self.this_host,
            },
        };
        Case { subject, level: self.level, target, answer: self.answer }
    }

    /// `VERDICT CHECK`.
    pub(crate) fn short(&self, policy: &Policy) -> String {
        let decision = self.judge(policy);
        format!("{} {}", decision.verdict, decision.reason.check)
    }
}

/// Asserts `VERDICT CHECK` for each case.
pub(crate) fn expect(policy: &Policy, table: &[(Put, &str)]) {
    for (put, wanted) in table {
        assert_eq!(put.short(policy), *wanted, "{put:#?} {:?}", put.judge(policy));
    }
}
