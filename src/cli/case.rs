//! A case in words → a decision, without a daemon: what `explain` is asked and what `[[expect]]` expects.
//!
//! Keeps one rule: nothing is resolved and no program is looked up; what is not said is unknown.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Deserializer};

use crate::flow::Direction;
use crate::names::{Name, NameError, Sighting};
use crate::packet::Protocol;
use crate::process::{Confidence, Exe, Identity, Tag, UID_MIN, tidy};
use crate::profile::{Level, Policy, Scope, Subject, Transport, TransportError};
use crate::verdict::{Case, Decision, HOST_LOOPBACK_NAME, Step, Target, decide, explain};

/// A case as a person puts it; also one line of `--batch -`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    pub exe: Option<PathBuf>,
    pub uid: Option<u32>,
    pub cmdline: Option<String>,
    #[serde(default, deserialize_with = "one_or_many")]
    pub tag: Vec<String>,
    pub to: String,
    pub proto: Option<String>,
    pub name: Option<String>,
    #[serde(default)]
    pub inbound: bool,
    #[serde(default)]
    pub question: bool,
    #[serde(default)]
    pub level: Level,
}

/// Why a case makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaseError {
    #[error("no program is named; write --exe PATH or --tag KIND:VALUE")]
    NoProgram,
    #[error("`{0}` is no full path; write it from the root, such as /usr/bin/curl")]
    RelativePath(String),
    #[error("`{0}` is no tag; write KIND:VALUE, such as unit:ssh.service")]
    Tag(String),
    #[error("`{0}` is no destination; write HOST, an address, HOST:PORT, or [IPV6]:PORT")]
    To(String),
    #[error("`{text}` is no name: {error}; write a domain such as example.com")]
    Name { text: String, error: NameError },
    #[error(transparent)]
    Protocol(#[from] TransportError),
    #[error("`{0}` holds a port; write the protocol in --proto and the port in --to")]
    ProtocolWithPort(String),
    #[error("a question needs a name; write --to HOST or --name NAME")]
    QuestionWithoutName,
}

fn one_or_many<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Either::deserialize(from)? {
        Either::One(one) => vec![one],
        Either::Many(many) => many,
    })
}

/// What stands for the address of a bare name: in scope Internet, and given to nobody (RFC 7526 retired its block).
const SOME_INTERNET_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 88, 99, 17));
/// Subjects remembered in one run; a batch may name more programs than that, but rarely does.
const MAX_SUBJECTS: usize = 4096;

type SubjectKey = (Option<PathBuf>, Option<u32>, Option<String>, Vec<String>);

/// Answers cases under one policy.
#[derive(Debug)]
pub struct Judge<'p> {
    policy: &'p Policy,
    users: Users,
    subjects: BTreeMap<SubjectKey, Subject>,
    /// A moment after every case, since sightings of a case never expire while it is judged.
    until: Instant,
}

impl<'p> Judge<'p> {
    #[must_use]
    pub fn new(policy: &'p Policy) -> Self {
        let until = Instant::now() + Duration::from_secs(86_400);
        Self { policy, users: Users::read(), subjects: BTreeMap::new(), until }
    }

    /// Decides.
    ///
    /// # Errors
    ///
    /// Why the case makes no sense.
    pub fn decide(&mut self, asked: &Asked) -> Result<Decision, CaseError> {
        self.with_case(asked, decide)
    }

    /// Decides and tells every step.
    ///
    /// # Errors
    ///
    /// Why the case makes no sense.
    pub fn explain(&mut self, asked: &Asked) -> Result<(Decision, Vec<Step>), CaseError> {
        self.with_case(asked, explain)
    }

    fn with_case<T>(&mut self, asked: &Asked, answer: impl FnOnce(&Policy, &Case<'_>) -> T) -> Result<T, CaseError> {
        let (host, port) = read_to(&asked.to)?;
        let protocol = read_protocol(asked.proto.as_deref())?;
        let given = asked.name.as_deref().map(read_name).transpose()?;
        let (address, own_name) = match host {
            Host::Address(address) => (address, None),
            Host::Name(name) => (address_of(&name), Some(name)),
        };
        let name = given.or(own_name);
        let until = self.until;
        let policy = self.policy;
        let subject = self.subject(asked)?;
        if asked.question {
            let name = name.ok_or(CaseError::QuestionWithoutName)?;
            let target = Target::Question { name: &name, qtype: 1 };
            return Ok(answer(policy, &Case { subject, level: asked.level, target, answer: None }));
        }
        let names: Vec<Sighting> = name.into_iter().map(|name| Sighting::new(name, Arc::from([]), until)).collect();
        let target = Target::Flow {
            direction: if asked.inbound { Direction::Inbound } else { Direction::Outbound },
            protocol,
            remote: address,
            port: port.filter(|_| protocol.has_ports()),
            names: &names,
            peer_is_this_host: Scope::of(address) == Some(Scope::Localhost),
        };
        Ok(answer(policy, &Case { subject, level: asked.level, target, answer: None }))
    }

    fn subject(&mut self, asked: &Asked) -> Result<&Subject, CaseError> {
        let key = (asked.exe.clone(), asked.uid, asked.cmdline.clone(), asked.tag.clone());
        if self.subjects.len() >= MAX_SUBJECTS && !self.subjects.contains_key(&key) {
            self.subjects.clear();
        }
        if !self.subjects.contains_key(&key) {
            let identity = self.identity(asked)?;
            let subject = self.policy.subject(Arc::new(identity), &|path| path.exists());
            self.subjects.insert(key.clone(), subject);
        }
        self.subjects.get(&key).ok_or(CaseError::NoProgram)
    }

    fn identity(&self, asked: &Asked) -> Result<Identity, CaseError> {
        let mut tags = Vec::with_capacity(asked.tag.len());
        for tag in &asked.tag {
            match tag.split_once(':') {
                Some((kind, value)) if !kind.is_empty() && !value.is_empty() => tags.push(Tag(tag.clone())),
                Some(_) | None => return Err(CaseError::Tag(tag.clone())),
            }
        }
        let exe = match &asked.exe {
            None if tags.is_empty() => return Err(CaseError::NoProgram),
            None => None,
            Some(path) if !path.is_absolute() => return Err(CaseError::RelativePath(path.display().to_string())),
            Some(path) => Some(tidy(path)),
        };
        let cmdline = asked.cmdline.clone().or_else(|| exe.as_ref().map(|path| path.display().to_string()));
        let user = asked.uid.map(|uid| self.users.of(uid)).unwrap_or_default();
        Ok(Identity {
            exe: exe.map(|path| Exe { path, device: 0, inode: 0, path_is_ours: true }),
            pid: None,
            start_ticks: 0,
            uid: asked.uid,
            is_admin: user.is_admin,
            // Whoever asks what a person's program may do means a person who is there.
            has_session: asked.uid.is_some_and(|uid| uid >= UID_MIN),
            cmdline: cmdline.into_iter().collect(),
            cwd: None,
            home: user.home,
            cgroup: String::new(),
            tags,
            ancestors: Vec::new(),
            confidence: Confidence::Exact,
        })
    }
}

enum Host {
    Address(IpAddr),
    Name(Name),
}

fn read_to(text: &str) -> Result<(Host, Option<u16>), CaseError> {
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return if socket.port() == 0 {
            Err(CaseError::To(text.to_owned()))
        } else {
            Ok((Host::Address(socket.ip()), Some(socket.port())))
        };
    }
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok((Host::Address(address), None));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => {
            let number = port.parse::<u16>().ok().filter(|&number| number != 0 && port.bytes().all(|b| b.is_ascii_digit()));
            (host, Some(number.ok_or_else(|| CaseError::To(text.to_owned()))?))
        }
        None => (text, None),
    };
    let looks_numeric = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let name = host.parse().ok().filter(|_| !looks_numeric).ok_or_else(|| CaseError::To(text.to_owned()))?;
    Ok((Host::Name(name), port))
}

fn read_protocol(text: Option<&str>) -> Result<Protocol, CaseError> {
    let Some(text) = text else { return Ok(Protocol::TCP) };
    match text.parse::<Transport>()? {
        Transport { protocol: Some(protocol), ports: None } => Ok(protocol),
        Transport { .. } => Err(CaseError::ProtocolWithPort(text.to_owned())),
    }
}

fn read_name(text: &str) -> Result<Name, CaseError> {
    text.parse().map_err(|error| CaseError::Name { text: text.to_owned(), error })
}

/// Names of this host stand for loopback, every other one for some address of the Internet.
fn address_of(name: &Name) -> IpAddr {
    let text = name.as_str();
    if text == "localhost" || text.ends_with(".localhost") || text == HOST_LOOPBACK_NAME {
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    } else {
        SOME_INTERNET_ADDRESS
    }
}

#[derive(Clone, Debug, Default)]
struct User {
    home: Option<PathBuf>,
    is_admin: bool,
}

/// What passwd(5) and group(5) say of users.
#[derive(Debug, Default)]
struct Users {
    passwd: String,
    group: String,
}

impl Users {
    fn read() -> Self {
        let text = |path: &str| fs::read_to_string(Path::new(path)).unwrap_or_default();
        Self { passwd: text("/etc/passwd"), group: text("/etc/group") }
    }

    fn of(&self, uid: u32) -> User {
        let fields = |line: &'_ str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
        let entry = self.passwd.lines().map(fields).find(|entry| entry.get(2).is_some_and(|field| *field == uid.to_string()));
        let name = entry.as_ref().and_then(|entry| entry.first());
        let is_member = |line: &str| {
            let entry = fields(line);
            let is_admins = entry.first().is_some_and(|group| ["sudo", "wheel", "admin"].contains(&group.as_str()));
            is_admins
                && entry.get(3).is_some_and(|members| members.split(',').any(|member| Some(member) == name.map(String::as_str)))
        };
        let is_admin = uid == 0 || self.group.lines().any(is_member);
        User { home: entry.and_then(|entry| entry.get(5).map(PathBuf::from)), is_admin }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_read_in_all_their_forms() {
        for (text, address, name, port) in [
            ("192.0.2.1", Some("192.0.2.1"), None, None),
            ("192.0.2.1:443", Some("192.0.2.1"), None, Some(443)),
            ("2001:db8::1", Some("2001:db8::1"), None, None),
            ("[2001:db8::1]", Some("2001:db8::1"), None, None),
            ("[2001:db8::1]:443", Some("2001:db8::1"), None, Some(443)),
            ("Example.com.:80", None, Some("example.com"), Some(80)),
            ("example.com", None, Some("example.com"), None),
        ] {
            let (host, found_port) = read_to(text).expect(text);
            assert_eq!(found_port, port, "{text}");
            match host {
                Host::Address(found) => assert_eq!(Some(found.to_string().as_str()), address, "{text}"),
                Host::Name(found) => assert_eq!(Some(found.as_str()), name, "{text}"),
            }
        }
        for text in ["", ":80", "example.com:", "example.com:0", "example.com:65536", "192.0.2.1:0", "192.0.2.256", "a b", "x:+1"]
        {
            assert!(read_to(text).is_err(), "{text} should be refused");
        }
    }

    #[test]
    fn users_come_from_passwd_and_group() {
        let users = Users {
            passwd: "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\nbob:x:1001:1001::/srv/bob:/bin/sh\n"
                .to_owned(),
            group: "sudo:x:27:ann,eve\nusers:x:100:bob\n".to_owned(),
        };
        assert!(users.of(0).is_admin && users.of(1000).is_admin && !users.of(1001).is_admin && !users.of(7).is_admin);
        assert_eq!(users.of(1001).home, Some(PathBuf::from("/srv/bob")));
    }

    #[test]
    fn cases_without_a_program_or_with_nonsense_are_refused() {
        let policy = Policy::default();
        let mut judge = Judge::new(&policy);
        let exe = Some(PathBuf::from("/usr/bin/x"));
        let fine = Asked { exe, to: "192.0.2.1:80".to_owned(), ..Asked::default() };
        assert!(judge.decide(&fine).is_ok());
        for wrong in [
            Asked { exe: None, ..fine.clone() },
            Asked { exe: Some("x".into()), ..fine.clone() },
            Asked { tag: vec!["unit".to_owned()], ..fine.clone() },
            Asked { proto: Some("tcp/80".to_owned()), ..fine.clone() },
            Asked { proto: Some("x".to_owned()), ..fine.clone() },
            Asked { name: Some("a..b".to_owned()), ..fine.clone() },
            Asked { question: true, ..fine.clone() },
        ] {
            assert!(judge.decide(&wrong).is_err(), "{wrong:?} should be refused");
        }
    }
}
