//! What is told of a flow: one line of `flows --json` and of `monitor --json`.

use serde::{Deserialize, Serialize};

use crate::packet::Direction;
use crate::process::Confidence;

/// One flow or one DNS question, judged. Times are milliseconds since the Unix epoch; `src` and `dst` are `address:port`
/// (a bare address for protocols without ports); a question has `proto` "dns", no bytes, and the asked address as `dst`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub id: u64,
    pub start: u64,
    /// None while the flow is open.
    pub end: Option<u64>,
    pub direction: Direction,
    pub proto: String,
    pub src: String,
    pub dst: String,
    /// The name that this program learned the address by, or that it asked for.
    pub name: Option<String>,
    pub exe: Option<String>,
    pub pid: Option<u32>,
    pub uid: Option<u32>,
    pub profile: Option<String>,
    pub confidence: Confidence,
    /// accept, block, drop or ask (ask: still waiting for an answer).
    pub verdict: String,
    /// The check that concluded.
    pub check: String,
    /// The rule or setting that decided, with its file and line, in one text.
    pub rule: Option<String>,
    /// direct or gate.
    pub lane: Option<String>,
    pub bytes_up: u64,
    pub bytes_down: u64,
    /// Smoothed round-trip time to the remote in microseconds, where the kernel knows it.
    pub rtt_us: Option<u32>,
    /// How the flow ended: "closed", "reset", "refused", "unreachable", "timed out", "idle", "policy", "prompt expired", …
    pub outcome: Option<String>,
}
