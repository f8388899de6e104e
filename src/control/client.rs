//! The asking end. Blocking: a verb asks once and ends.
//!
//! Keeps one rule: every failure says whether nothing runs, nobody answers, it is not permitted, or it was refused, because the exit
//! code follows from it. No answer is waited for without a deadline, except by [`Watch`].

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Asked, Event, Fault, MAX_RESPONSE_BYTES, Prompt, Reloaded, Request, Response, Status, VERSION};
use crate::flow::Record;
use crate::profile::Level;
use crate::verdict::Answer;

/// Answers come from memory.
const QUICK: Duration = Duration::from_secs(5);

/// A reload reads and compiles files, `down` undoes routes and rules.
const LONG: Duration = Duration::from_secs(60);

/// A connection to a running Portreeve.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    path: PathBuf,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("not active: there is no socket at {}", path.display())]
    NotActive { path: PathBuf },
    /// Whoever listened was killed.
    #[error("nobody answers at {}: the socket is a leftover; `portreeve cleanup` removes what a killed router left", path.display())]
    Leftover { path: PathBuf },
    #[error("nobody answers at {}: {why}", path.display())]
    Unreachable { path: PathBuf, why: String },
    #[error("{0}")]
    NotPermitted(String),
    #[error("{}", .0.iter().map(|fault| fault.message.as_str()).collect::<Vec<_>>().join("\n"))]
    Refused(Vec<Fault>),
    #[error("{0}")]
    Busy(String),
    /// The other end speaks, but not this protocol.
    #[error("the answer from {} is not understood: {why}", path.display())]
    Protocol { path: PathBuf, why: String },
}

type Result<T> = std::result::Result<T, ClientError>;

impl Client {
    /// # Errors
    ///
    /// There is no socket, nobody listens there, or its mode keeps us out.
    pub fn connect(path: &Path) -> Result<Self> {
        let owned = path.to_path_buf();
        match UnixStream::connect(path) {
            Ok(stream) => Ok(Self { stream: BufReader::new(stream), path: owned }),
            Err(error) => Err(match error.kind() {
                io::ErrorKind::NotFound => ClientError::NotActive { path: owned },
                io::ErrorKind::PermissionDenied => ClientError::NotPermitted(format!(
                    "{} is not open to you; root may, and members of the group portreeve may read (try sudo)",
                    path.display()
                )),
                io::ErrorKind::ConnectionRefused => ClientError::Leftover { path: owned },
                _ => ClientError::Unreachable { path: owned, why: error.to_string() },
            }),
        }
    }

    /// # Errors
    ///
    /// As every request here: no answer in time, not permitted, refused, or not understood.
    pub fn status(&mut self) -> Result<Status> {
        match self.ask(&Request::Status, QUICK)? {
            Response::Status(status) => Ok(*status),
            other => Err(self.unexpected(&other)),
        }
    }

    /// # Errors
    ///
    /// See [`Client::status`].
    pub fn flows(&mut self) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        let mut response = self.ask(&Request::Flows, QUICK)?;
        loop {
            match response {
                Response::Record(record) => records.push(*record),
                Response::End => return Ok(records),
                other => return Err(self.unexpected(&other)),
            }
            response = self.next()?;
        }
    }

    /// # Errors
    ///
    /// See [`Client::status`].
    pub fn prompts(&mut self) -> Result<Vec<Prompt>> {
        match self.ask(&Request::Prompts, QUICK)? {
            Response::Prompts(prompts) => Ok(prompts),
            other => Err(self.unexpected(&other)),
        }
    }

    /// # Errors
    ///
    /// See [`Client::status`]; there may be no such prompt any more.
    pub fn answer(&mut self, id: u64, answer: Answer) -> Result<()> {
        let request = match answer {
            Answer::Allow => Request::Allow { id },
            Answer::Deny => Request::Deny { id },
        };
        self.order(&request, QUICK)
    }

    /// # Errors
    ///
    /// See [`Client::status`].
    pub fn set_level(&mut self, level: Level) -> Result<()> {
        self.order(&Request::Level { level }, QUICK)
    }

    /// # Errors
    ///
    /// See [`Client::status`]; faults in the profiles are [`ClientError::Refused`].
    pub fn reload(&mut self) -> Result<Reloaded> {
        match self.ask(&Request::Reload, LONG)? {
            Response::Reloaded(reloaded) => Ok(reloaded),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Returns when everything is undone.
    ///
    /// # Errors
    ///
    /// See [`Client::status`].
    pub fn down(&mut self) -> Result<()> {
        self.order(&Request::Down, LONG)
    }

    /// Watches events until the router ends or the reader goes away.
    ///
    /// # Errors
    ///
    /// See [`Client::status`].
    pub fn monitor(mut self) -> Result<Watch> {
        match self.ask(&Request::Monitor, QUICK)? {
            Response::Watching => {}
            other => return Err(self.unexpected(&other)),
        }
        self.stream.get_ref().set_read_timeout(None).map_err(|error| self.lost(&error))?;
        Ok(Watch { client: self })
    }

    fn order(&mut self, request: &Request, patience: Duration) -> Result<()> {
        match self.ask(request, patience)? {
            Response::Done => Ok(()),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Writes the request and reads the first line of the answer. Refusals come back as errors.
    fn ask(&mut self, request: &Request, patience: Duration) -> Result<Response> {
        let asked = Asked { version: VERSION, ask: request.clone() };
        let mut line = serde_json::to_string(&asked).map_err(|error| self.not_understood(error.to_string()))?;
        line.push('\n');
        let stream = self.stream.get_mut();
        let ready = stream.set_read_timeout(Some(patience)).and_then(|()| stream.set_write_timeout(Some(QUICK)));
        ready.map_err(|error| self.lost(&error))?;
        // A server without room says so and hangs up before it has read: then writing fails, and reading tells why.
        let _ = self.stream.get_mut().write_all(line.as_bytes());
        self.next()
    }

    fn next(&mut self) -> Result<Response> {
        match self.next_or_end()? {
            Some(response) => Ok(response),
            None => Err(self.lost(&io::Error::from(io::ErrorKind::UnexpectedEof))),
        }
    }

    fn next_or_end(&mut self) -> Result<Option<Response>> {
        let mut line = Vec::new();
        let limit = u64::try_from(MAX_RESPONSE_BYTES).unwrap_or(u64::MAX);
        match self.stream.by_ref().take(limit).read_until(b'\n', &mut line) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(self.lost(&error)),
        }
        if line.last() != Some(&b'\n') {
            return Err(self.not_understood("the line has no end".to_owned()));
        }
        let response = serde_json::from_slice(&line).map_err(|error| self.not_understood(error.to_string()))?;
        match response {
            Response::NotPermitted(why) => Err(ClientError::NotPermitted(why)),
            Response::Faults(faults) => Err(ClientError::Refused(faults)),
            Response::Busy(why) => Err(ClientError::Busy(why)),
            Response::Malformed(why) => Err(self.not_understood(why)),
            Response::Status(_)
            | Response::Record(_)
            | Response::Prompts(_)
            | Response::Reloaded(_)
            | Response::Watching
            | Response::Event(_)
            | Response::Missed(_)
            | Response::Done
            | Response::End => Ok(Some(response)),
        }
    }

    fn lost(&self, error: &io::Error) -> ClientError {
        let why = match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "no answer in time".to_owned(),
            io::ErrorKind::UnexpectedEof => "it hung up".to_owned(),
            _ => error.to_string(),
        };
        ClientError::Unreachable { path: self.path.clone(), why }
    }

    fn not_understood(&self, why: String) -> ClientError {
        ClientError::Protocol { path: self.path.clone(), why }
    }

    fn unexpected(&self, response: &Response) -> ClientError {
        let text = serde_json::to_string(response).unwrap_or_default();
        self.not_understood(format!("unexpected {}", text.chars().take(80).collect::<String>()))
    }
}

/// What a [`Watch`] sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Event(Box<Event>),
    /// So many events were lost because we read too slowly.
    Missed(u64),
}

/// Events, one after the other, until the router ends.
#[derive(Debug)]
pub struct Watch {
    client: Client,
}

impl Iterator for Watch {
    type Item = Result<Seen>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.client.next_or_end() {
            Ok(None | Some(Response::End)) => None,
            Ok(Some(Response::Event(event))) => Some(Ok(Seen::Event(event))),
            Ok(Some(Response::Missed(events))) => Some(Ok(Seen::Missed(events))),
            Ok(Some(other)) => Some(Err(self.client.unexpected(&other))),
            Err(error) => Some(Err(error)),
        }
    }
}
