//! What other threads say to the packet loop, and what it tells them.
//!
//! Keeps one rule: nobody waits for the loop without a bound, but to end it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use mio::Waker;

use crate::flow::{FlowId, Record};
use crate::process::Identity;
use crate::verdict::Answer;

/// What other threads send to the loop; wake it afterwards.
pub(in crate::app) enum Message {
    Identified {
        flow: FlowId,
        identities: Vec<Arc<Identity>>,
    },
    /// The answer to a DNS datagram of this flow.
    Answered {
        flow: FlowId,
        payload: Vec<u8>,
    },
    Prompt {
        id: u64,
        answer: Answer,
    },
    Snapshot(SyncSender<Snapshot>),
    Addresses(Vec<IpAddr>),
    /// The rules changed.
    Rules,
    /// End; what programs have said before is carried on for so long.
    Stop(Duration),
}

/// The loop's state, for `status` and `flows`.
#[derive(Clone, Debug, Default)]
pub(in crate::app) struct Snapshot {
    pub(in crate::app) records: Vec<Record>,
    pub(in crate::app) open: usize,
    pub(in crate::app) pending: usize,
    pub(in crate::app) counters: std::collections::BTreeMap<String, u64>,
}

/// How others reach the loop.
#[derive(Clone)]
pub(in crate::app) struct Handle {
    pub(super) inbox: SyncSender<Message>,
    pub(super) waker: Arc<Waker>,
}

impl Handle {
    /// False when the loop is gone or cannot keep up; what was sent is then lost.
    pub(in crate::app) fn send(&self, message: Message) -> bool {
        let sent = self.inbox.try_send(message).is_ok();
        sent && self.waker.wake().is_ok()
    }

    /// Ends the loop; waits for a place in the inbox, as this message must not be lost.
    pub(in crate::app) fn stop(&self, grace: Duration) {
        if self.inbox.send(Message::Stop(grace)).is_ok() {
            // A loop that cannot be woken has ended.
            let _ = self.waker.wake();
        }
    }

    /// The loop's state, unless it is stuck.
    pub(in crate::app) fn snapshot(&self) -> Option<Snapshot> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        self.send(Message::Snapshot(sender)).then(|| receiver.recv_timeout(Duration::from_secs(2)).ok()).flatten()
    }
}
