//! The daemon's end: connections in, answers out.
//!
//! Theory of operation. Each connection is a task that reads a line, asks [`Access`] once who is there and the [`Engine`] what it
//! knows, and writes lines back. Bounds: [`CONNECTIONS`] in all, of which those without the right to change get at most
//! [`READERS`], so that they cannot lock root out; a line has [`MAX_REQUEST_BYTES`]; who says nothing for [`IDLE`] or
//! takes nothing for [`STALLED`] is cut. A monitor that is slower than events come loses the oldest and is told how many.
//!
//! Keeps one rule: no request reaches the engine before its right was checked.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::access::Peer;
use super::{Access, Asked, Engine, Fault, Listener, MAX_REQUEST_BYTES, Request, Response, Right, VERSION};
use crate::verdict::Answer;

/// Open connections in all.
const CONNECTIONS: usize = 64;

/// Open connections of peers that may not change anything.
const READERS: usize = 48;

/// A client asks at once; whoever holds a connection without a word is cut.
const IDLE: Duration = Duration::from_secs(30);

/// A reader that takes nothing for so long is cut.
const STALLED: Duration = Duration::from_secs(10);

/// Records of `flows` are written in pieces of about this size.
const PIECE_BYTES: usize = 64 * 1024;

/// Serves until a `down` was answered. Dropping the future ends every connection at once.
///
/// # Errors
///
/// The socket cannot be watched.
pub async fn serve(listener: Listener, engine: Arc<dyn Engine>) -> io::Result<()> {
    let accepting = UnixListener::from_std(listener.socket.try_clone()?)?;
    let (down_answered, mut went_down) = mpsc::channel(1);
    let room = Arc::new(Room {
        engine,
        access: listener.access,
        connections: Arc::new(Semaphore::new(CONNECTIONS)),
        readers: Arc::new(Semaphore::new(READERS)),
        down_answered,
    });
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            _ = went_down.recv() => return Ok(()),
            Some(_) = open.join_next() => {}
            accepted = accepting.accept() => match accepted {
                Ok((stream, _)) => {
                    open.spawn(Arc::clone(&room).connection(stream));
                }
                // accept(2): out of descriptors or memory. The socket stays readable, so waiting keeps the loop from spinning.
                Err(error) => {
                    tracing::warn!(%error, "a control connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

/// What all connections share.
struct Room {
    engine: Arc<dyn Engine>,
    access: Access,
    connections: Arc<Semaphore>,
    readers: Arc<Semaphore>,
    down_answered: mpsc::Sender<()>,
}

/// One peer and the way back to it.
struct Visitor {
    peer: Peer,
    right: Right,
    write: OwnedWriteHalf,
}

impl Room {
    async fn connection(self: Arc<Self>, stream: UnixStream) {
        let busy = || Response::Busy("too many control connections are open; try again when some have ended".to_owned());
        let Ok(cred) = stream.peer_cred() else { return };
        let peer = Peer { uid: cred.uid(), gid: cred.gid(), pid: cred.pid() };
        let (read, write) = stream.into_split();
        let mut visitor = Visitor { peer, right: Right::Nothing, write };
        let Ok(_connection) = self.connections.try_acquire() else {
            let _ = visitor.send(&busy()).await;
            return;
        };
        visitor.right = self.access.right(peer);
        let reader = (visitor.right < Right::Change).then(|| self.readers.try_acquire());
        if let Some(Err(_)) = reader {
            let _ = visitor.send(&busy()).await;
            return;
        }
        if let Err(error) = self.converse(BufReader::new(read), &mut visitor).await {
            tracing::debug!(%error, uid = peer.uid, "a control connection ended");
        }
    }

    async fn converse(&self, mut read: BufReader<OwnedReadHalf>, visitor: &mut Visitor) -> io::Result<()> {
        loop {
            let Ok(line) = timeout(IDLE, next_line(&mut read)).await else { return Ok(()) };
            let request = match line? {
                Line::End => return Ok(()),
                Line::TooLong => {
                    let text = format!("a request may have {MAX_REQUEST_BYTES} bytes");
                    return visitor.send(&Response::Malformed(text)).await;
                }
                Line::Text(text) => match understand(&text) {
                    Ok(request) => request,
                    Err(why) => {
                        visitor.send(&Response::Malformed(why)).await?;
                        continue;
                    }
                },
            };
            if let Some(refusal) = self.refusal(&request, visitor) {
                visitor.send(&refusal).await?;
                continue;
            }
            match request {
                Request::Monitor => return self.monitor(read, visitor).await,
                Request::Flows => self.flows(visitor).await?,
                Request::Down => return self.down(visitor).await,
                other => {
                    let response = self.answer(other, visitor).await;
                    visitor.send(&response).await?;
                }
            }
        }
    }

    fn refusal(&self, request: &Request, visitor: &Visitor) -> Option<Response> {
        let needed = needed(request);
        if visitor.right >= needed {
            return None;
        }
        let uid = visitor.peer.uid;
        let why = match (self.access, needed) {
            (Access::Own, _) => {
                format!("uid {uid} may not speak to this enclosure's router; root and its user may, from outside the enclosure")
            }
            (Access::Machine, Right::Change) => format!("uid {uid} may not change this; root may (try sudo)"),
            (Access::Machine, Right::Nothing | Right::Read) => {
                format!("uid {uid} may not read this; root and members of the group portreeve may")
            }
        };
        tracing::debug!(uid, "a control request was refused");
        Some(Response::NotPermitted(why))
    }

    /// Answers what takes one line.
    async fn answer(&self, request: Request, visitor: &Visitor) -> Response {
        let engine = &self.engine;
        match request {
            Request::Status => Response::Status(Box::new(engine.status())),
            Request::Prompts => Response::Prompts(engine.prompts()),
            Request::Level { level } => {
                visitor.audit("level");
                done(engine.set_level(level).await)
            }
            Request::Reload => {
                visitor.audit("reload");
                engine.reload().await.map_or_else(Response::Faults, Response::Reloaded)
            }
            Request::Allow { id } => {
                visitor.audit("prompt allow");
                done(engine.answer(id, Answer::Allow).await)
            }
            Request::Deny { id } => {
                visitor.audit("prompt deny");
                done(engine.answer(id, Answer::Deny).await)
            }
            Request::Flows | Request::Monitor | Request::Down => {
                Response::Malformed("this request has more than one line".to_owned())
            }
        }
    }

    async fn down(&self, visitor: &mut Visitor) -> io::Result<()> {
        visitor.audit("down");
        let result = self.engine.down().await;
        let succeeded = result.is_ok();
        let sent = visitor.send(&done(result)).await;
        if succeeded {
            let _ = self.down_answered.send(()).await;
        }
        sent
    }

    async fn flows(&self, visitor: &mut Visitor) -> io::Result<()> {
        let mut piece = Vec::new();
        for record in self.engine.flows() {
            push_line(&mut piece, &Response::Record(Box::new(record)));
            if piece.len() >= PIECE_BYTES {
                visitor.write(&piece).await?;
                piece.clear();
            }
        }
        push_line(&mut piece, &Response::End);
        visitor.write(&piece).await
    }

    async fn monitor(&self, mut read: BufReader<OwnedReadHalf>, visitor: &mut Visitor) -> io::Result<()> {
        let mut events = self.engine.subscribe();
        visitor.send(&Response::Watching).await?;
        loop {
            let response = tokio::select! {
                // A monitor has nothing more to say: a byte or the end from it ends the connection.
                _ = read.read_u8() => return Ok(()),
                event = events.recv() => match event {
                    Ok(event) => Response::Event(Box::new(event)),
                    Err(RecvError::Lagged(missed)) => Response::Missed(missed),
                    Err(RecvError::Closed) => Response::End,
                },
            };
            visitor.send(&response).await?;
            if response == Response::End {
                return Ok(());
            }
        }
    }
}

impl Visitor {
    async fn send(&mut self, response: &Response) -> io::Result<()> {
        let mut line = Vec::new();
        push_line(&mut line, response);
        self.write(&line).await
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        timeout(STALLED, self.write.write_all(bytes)).await?
    }

    fn audit(&self, verb: &'static str) {
        tracing::info!(verb, uid = self.peer.uid, pid = self.peer.pid, "asked over the control socket");
    }
}

fn needed(request: &Request) -> Right {
    match request {
        Request::Status | Request::Flows | Request::Monitor | Request::Prompts => Right::Read,
        Request::Level { .. } | Request::Reload | Request::Allow { .. } | Request::Deny { .. } | Request::Down => Right::Change,
    }
}

fn done(result: Result<(), Fault>) -> Response {
    result.map_or_else(|fault| Response::Faults(vec![fault]), |()| Response::Done)
}

fn push_line(buffer: &mut Vec<u8>, response: &impl Serialize) {
    // Writing to memory cannot fail, and every response is made of texts, numbers and lists.
    if serde_json::to_writer(&mut *buffer, response).is_ok() {
        buffer.push(b'\n');
    }
}

enum Line {
    Text(Vec<u8>),
    TooLong,
    End,
}

async fn next_line(read: &mut BufReader<OwnedReadHalf>) -> io::Result<Line> {
    let mut line = Vec::new();
    let limit = u64::try_from(MAX_REQUEST_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    read.take(limit).read_until(b'\n', &mut line).await?;
    if line.last() == Some(&b'\n') {
        line.pop();
        return Ok(Line::Text(line));
    }
    Ok(match line.len() {
        0 => Line::End,
        length if length > MAX_REQUEST_BYTES => Line::TooLong,
        _ => Line::Text(line),
    })
}

fn understand(line: &[u8]) -> Result<Request, String> {
    // The version is looked at first: a request of another version need not have a form that we know.
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u32,
    }
    let versioned: Versioned = serde_json::from_slice(line).map_err(|error| format!("this is no request: {error}"))?;
    if versioned.version != VERSION {
        return Err(format!(
            "this is Portreeve {} with protocol {VERSION}, not {}",
            env!("CARGO_PKG_VERSION"),
            versioned.version
        ));
    }
    serde_json::from_slice::<Asked>(line).map(|asked| asked.ask).map_err(|error| format!("this is no request: {error}"))
}
