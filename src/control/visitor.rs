//! One connection as the server sees it: bounded lines in, lines out.
//!
//! Keeps one rule: nothing a peer sends or fails to take holds more memory than one line, or more time than it was given.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use super::access::Peer;
use super::{Asked, MAX_REQUEST_BYTES, Request, Response, VERSION};

/// A peer and the way to and from it.
pub(super) struct Visitor {
    pub(super) peer: Peer,
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
    stalled: Duration,
}

/// What came in.
pub(super) enum Heard {
    Request(Request),
    /// The line is no request, and why; the next one may be.
    Malformed(String),
    TooLong,
    End,
}

impl Visitor {
    /// A peer that takes nothing for `stalled` is given up. None when the kernel does not name the peer.
    pub(super) fn new(stream: UnixStream, stalled: Duration) -> Option<Self> {
        let cred = stream.peer_cred().ok()?;
        let peer = Peer { uid: cred.uid(), gid: cred.gid(), pid: cred.pid() };
        let (read, write) = stream.into_split();
        Some(Self { peer, read: BufReader::new(read), write, stalled })
    }

    pub(super) async fn hear(&mut self) -> io::Result<Heard> {
        let mut line = Vec::new();
        let limit = u64::try_from(MAX_REQUEST_BYTES).unwrap_or(u64::MAX).saturating_add(1);
        (&mut self.read).take(limit).read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            return Ok(Heard::End);
        }
        let is_whole = line.last() == Some(&b'\n');
        if !is_whole && line.len() > MAX_REQUEST_BYTES {
            return Ok(Heard::TooLong);
        }
        Ok(understand(&line).map_or_else(Heard::Malformed, Heard::Request))
    }

    /// Returns when the peer hung up, or said anything although it has nothing more to say.
    pub(super) async fn leaves(&mut self) {
        let _ = self.read.read_u8().await;
    }

    pub(super) async fn send(&mut self, response: &Response) -> io::Result<()> {
        let mut line = Vec::new();
        push_line(&mut line, response);
        self.write(&line).await
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        timeout(self.stalled, self.write.write_all(bytes)).await?
    }

    /// Changes leave a trace of who made them.
    pub(super) fn audit(&self, request: &Request) {
        tracing::info!(?request, uid = self.peer.uid, pid = self.peer.pid, "asked over the control socket");
    }
}

pub(super) fn push_line(buffer: &mut Vec<u8>, message: &impl Serialize) {
    let start = buffer.len();
    // Writing to memory cannot fail, and every message is made of texts, numbers and lists.
    match serde_json::to_writer(&mut *buffer, message) {
        Ok(()) => buffer.push(b'\n'),
        Err(_) => buffer.truncate(start),
    }
}

/// The version is looked at first: a request of another version need not have a form that we know.
fn understand(line: &[u8]) -> Result<Request, String> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let no_request = |error| format!("this is no request: {error}");
    let Versioned { version } = serde_json::from_slice(line).map_err(no_request)?;
    if version != VERSION {
        return Err(format!("this is Portreeve {} with protocol {VERSION}, not {version}", env!("CARGO_PKG_VERSION")));
    }
    serde_json::from_slice::<Asked>(line).map(|asked| asked.ask).map_err(no_request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_is_named_even_if_its_form_is_strange() {
        let why = understand(br#"{"version":2,"please":["status"]}"#).expect_err("version 2 is not ours");
        assert!(why.contains("protocol 1, not 2"), "{why}");
    }

    #[test]
    fn what_is_no_request_is_said_to_be_none() {
        for line in [&b""[..], b"\n", b"status", b"{}", b"{\"version\":\"1\"}", b"\xff\xfe\x00", b"[1]", b"{\"version\":1}"] {
            let why = understand(line).expect_err("this is no request");
            assert!(why.starts_with("this is no request: "), "{why}");
        }
    }
}
