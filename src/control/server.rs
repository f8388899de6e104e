//! The daemon's end: connections in, answers out.
//!
//! Theory of operation. Each connection is a task that reads a line, asks [`Access`] once who is there and the [`Engine`] what it
//! knows, and writes lines back. Connections, their silence and the length of a line are bounded ([`LIMITS`],
//! [`MAX_REQUEST_BYTES`]). A monitor that is slower than events come loses the oldest and is told how many.
//!
//! Keeps one rule: no request reaches the engine before its right was checked.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::visitor::{Heard, Visitor, push_line};
use super::{Access, Engine, Fault, Listener, MAX_REQUEST_BYTES, Request, Response, Right};
use crate::verdict::Answer;

/// Records of `flows` are written in pieces of about this size.
const PIECE_BYTES: usize = 64 * 1024;

/// What no peer can exceed.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Open connections in all.
    connections: usize,
    /// Open connections of peers that may not change anything: they cannot lock root out.
    readers: usize,
    /// A client asks at once; whoever holds a connection for so long without a word is cut.
    idle: Duration,
    /// A reader that takes nothing for so long is cut.
    stalled: Duration,
}

const LIMITS: Limits = Limits { connections: 64, readers: 48, idle: Duration::from_secs(30), stalled: Duration::from_secs(10) };

/// Serves until every `down` was answered, so many `connections` at a time, 64 at most. Dropping the future ends every connection at once.
///
/// # Errors
///
/// The socket cannot be watched.
pub async fn serve(listener: Listener, engine: Arc<dyn Engine>, connections: usize) -> io::Result<()> {
    let connections = connections.clamp(2, LIMITS.connections);
    let readers = (connections * LIMITS.readers / LIMITS.connections).max(1);
    serve_within(Limits { connections, readers, ..LIMITS }, listener, engine).await
}

async fn serve_within(limits: Limits, listener: Listener, engine: Arc<dyn Engine>) -> io::Result<()> {
    let accepting = UnixListener::from_std(listener.socket.try_clone()?)?;
    let (down_answered, mut answered) = mpsc::channel(1);
    let mut is_down = false;
    let room = Arc::new(Room {
        engine,
        access: listener.access,
        limits,
        connections: Semaphore::new(limits.connections),
        readers: Semaphore::new(limits.readers),
        leaving: AtomicUsize::new(0),
        down_answered,
    });
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            Some(succeeded) = answered.recv() => {
                is_down |= succeeded;
                // Whoever asked for the same hears the same.
                if is_down && room.leaving.load(Ordering::Relaxed) == 0 {
                    return Ok(());
                }
            }
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
    limits: Limits,
    connections: Semaphore,
    readers: Semaphore,
    /// Those who have asked for the end and have not heard of it.
    leaving: AtomicUsize,
    /// Whether it came.
    down_answered: mpsc::Sender<bool>,
}

impl Room {
    async fn connection(self: Arc<Self>, stream: UnixStream) {
        let Some(mut visitor) = Visitor::new(stream, self.limits.stalled) else { return };
        let busy = || Response::Busy("too many control connections are open; try again when some have ended".to_owned());
        let Ok(_connection) = self.connections.try_acquire() else {
            let _ = visitor.send(&busy()).await;
            return;
        };
        let right = self.access.right(visitor.peer);
        let reader = (right < Right::Change).then(|| self.readers.try_acquire());
        if let Some(Err(_)) = reader {
            let _ = visitor.send(&busy()).await;
            return;
        }
        if let Err(error) = self.converse(&mut visitor, right).await {
            tracing::debug!(%error, uid = visitor.peer.uid, "a control connection ended");
        }
    }

    async fn converse(&self, visitor: &mut Visitor, right: Right) -> io::Result<()> {
        loop {
            let Ok(heard) = timeout(self.limits.idle, visitor.hear()).await else { return Ok(()) };
            let request = match heard? {
                Heard::End => return Ok(()),
                Heard::TooLong => {
                    let text = format!("a request may have {MAX_REQUEST_BYTES} bytes");
                    return visitor.send(&Response::Malformed(text)).await;
                }
                Heard::Malformed(why) => {
                    visitor.send(&Response::Malformed(why)).await?;
                    continue;
                }
                Heard::Request(request) => request,
            };
            let needed = needed(&request);
            if right < needed {
                visitor.send(&Response::NotPermitted(self.refusal(needed, visitor.peer.uid))).await?;
            } else if self.handle(request, visitor).await?.is_break() {
                return Ok(());
            }
        }
    }

    fn refusal(&self, needed: Right, uid: u32) -> String {
        tracing::debug!(uid, "a control request was refused");
        match (self.access, needed) {
            (Access::Own, _) => {
                format!("uid {uid} may not speak to this enclosure's router; root and its user may, from outside the enclosure")
            }
            (Access::Machine, Right::Change) => format!("uid {uid} may not change this; root may (try sudo)"),
            (Access::Machine, Right::Nothing | Right::Read) => {
                format!("uid {uid} may not read this; root and members of the group portreeve may")
            }
        }
    }

    /// Does what was permitted; Break ends the connection.
    async fn handle(&self, request: Request, visitor: &mut Visitor) -> io::Result<ControlFlow<()>> {
        if needed(&request) == Right::Change {
            visitor.audit(&request);
        }
        let engine = &self.engine;
        let response = match request {
            Request::Monitor => return self.monitor(visitor).await.map(ControlFlow::Break),
            Request::Down => return self.down(visitor).await.map(ControlFlow::Break),
            Request::Flows => return self.flows(visitor).await.map(ControlFlow::Continue),
            Request::Status => Response::Status(Box::new(engine.status())),
            Request::Prompts => Response::Prompts(engine.prompts()),
            Request::Level { level } => done(engine.set_level(level).await),
            Request::Reload => engine.reload().await.map_or_else(Response::Faults, Response::Reloaded),
            Request::Allow { id } => done(engine.answer(id, Answer::Allow).await),
            Request::Deny { id } => done(engine.answer(id, Answer::Deny).await),
        };
        visitor.send(&response).await.map(ControlFlow::Continue)
    }

    async fn down(&self, visitor: &mut Visitor) -> io::Result<()> {
        self.leaving.fetch_add(1, Ordering::Relaxed);
        let result = self.engine.down().await;
        let succeeded = result.is_ok();
        let sent = visitor.send(&done(result)).await;
        self.leaving.fetch_sub(1, Ordering::Relaxed);
        let _ = self.down_answered.send(succeeded).await;
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

    async fn monitor(&self, visitor: &mut Visitor) -> io::Result<()> {
        let mut events = self.engine.subscribe();
        visitor.send(&Response::Watching).await?;
        loop {
            let response = tokio::select! {
                () = visitor.leaves() => return Ok(()),
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

fn needed(request: &Request) -> Right {
    match request {
        Request::Status | Request::Flows | Request::Monitor | Request::Prompts => Right::Read,
        Request::Level { .. } | Request::Reload | Request::Allow { .. } | Request::Deny { .. } | Request::Down => Right::Change,
    }
}

fn done(result: Result<(), Fault>) -> Response {
    result.map_or_else(|fault| Response::Faults(vec![fault]), |()| Response::Done)
}

#[cfg(test)]
mod tests {
    use super::super::{Asked, Event, Prompt, Reloaded, Status, VERSION, render::sample};
    use super::*;
    use crate::flow::Record;
    use crate::profile::Level;
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
    use tokio::sync::broadcast;
    use tokio::time::Instant;

    /// Knows one flow, and tells as many events as it is asked to.
    struct Sample(broadcast::Sender<Event>);

    #[async_trait::async_trait]
    impl Engine for Sample {
        fn status(&self) -> Status {
            sample::status()
        }

        fn flows(&self) -> Vec<Record> {
            vec![sample::record()]
        }

        fn subscribe(&self) -> broadcast::Receiver<Event> {
            self.0.subscribe()
        }

        async fn set_level(&self, _: Level) -> Result<(), Fault> {
            Ok(())
        }

        async fn reload(&self) -> Result<Reloaded, Vec<Fault>> {
            Ok(Reloaded::default())
        }

        fn prompts(&self) -> Vec<Prompt> {
            Vec::new()
        }

        async fn answer(&self, id: u64, _: Answer) -> Result<(), Fault> {
            Err(Fault::no_such_prompt(id))
        }

        async fn down(&self) -> Result<(), Fault> {
            Ok(())
        }
    }

    /// A server with these limits, the way to it, and the way to make events.
    fn start(limits: Limits) -> (tempfile::TempDir, std::path::PathBuf, broadcast::Sender<Event>) {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let path = dir.path().join("s.sock");
        let listener = Listener::bind(&path, Access::Own).expect("the folder is ours");
        let (events, _) = broadcast::channel(16);
        tokio::spawn(serve_within(limits, listener, Arc::new(Sample(events.clone()))));
        (dir, path, events)
    }

    fn brief() -> Limits {
        Limits { connections: 2, readers: 1, idle: Duration::from_millis(100), stalled: Duration::from_millis(100) }
    }

    async fn ask(stream: &mut UnixStream, request: Request) {
        let mut line = Vec::new();
        push_line(&mut line, &Asked { version: VERSION, ask: request });
        stream.write_all(&line).await.expect("the server reads");
    }

    #[tokio::test]
    async fn who_says_nothing_is_cut() {
        let (_dir, path, _events) = start(brief());
        let mut silent = UnixStream::connect(&path).await.expect("the server listens");
        let since = Instant::now();
        let read = timeout(Duration::from_secs(5), silent.read_u8()).await.expect("the server hangs up");
        assert!(read.is_err());
        assert!(since.elapsed() >= Duration::from_millis(90), "it was given its time");
    }

    #[tokio::test]
    async fn a_monitor_that_takes_nothing_is_cut_and_its_place_is_free_again() {
        let (_dir, path, events) = start(brief());
        let mut watching = UnixStream::connect(&path).await.expect("the server listens");
        ask(&mut watching, Request::Monitor).await;
        timeout(Duration::from_secs(10), async {
            while events.receiver_count() == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            // More than any socket buffer, in portions that the channel holds.
            while events.send(Event::Notice("x".repeat(10_000))).is_ok() {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        })
        .await
        .expect("the server lets go of the stalled reader");
    }

    #[tokio::test]
    async fn more_connections_than_there_is_room_for_are_told_so() {
        let (_dir, path, _events) = start(Limits { idle: Duration::from_secs(60), ..brief() });
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut stream = UnixStream::connect(&path).await.expect("the server listens");
            ask(&mut stream, Request::Prompts).await;
            assert_eq!(first_line(&mut stream).await, Response::Prompts(Vec::new()));
            held.push(stream);
        }
        let mut third = UnixStream::connect(&path).await.expect("the server listens");
        assert!(matches!(first_line(&mut third).await, Response::Busy(_)));
        held.pop();
        timeout(Duration::from_secs(5), async {
            loop {
                let mut again = UnixStream::connect(&path).await.expect("the server listens");
                ask(&mut again, Request::Prompts).await;
                if first_line(&mut again).await == Response::Prompts(Vec::new()) {
                    return;
                }
            }
        })
        .await
        .expect("a connection that ended makes room");
    }

    async fn first_line(stream: &mut UnixStream) -> Response {
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).await.expect("the server answers");
        serde_json::from_str(&line).expect("the answer is of this protocol")
    }
}
