//! Flows that are older than the router: judged like new ones, then led beside the TUN or ended.
//!
//! # Theory of operation
//!
//! [`Older`] takes the inventory before the rules go live and once more behind them. What a profile accepts goes on by its own
//! socket, its exact tuple in a set of the guard, until that socket is gone. What is refused is ended by the kernel: the program
//! sees ECONNABORTED, the peer a reset. What others opened to a local server goes on unjudged, as new inbound flows do.
//!
//! Afterwards a thread keeps the list: it looks after the sockets while any is left, judges anew when the rules change, and takes
//! in what the packet loop hands over: segments that came into the TUN and of which nobody knows a first one. Their connections
//! were being opened at `up`, or the conntrack entries of a local server were flushed.
//!
//! One rule: nothing goes beside the TUN without an accepting decision under the rules in force, but for what others opened.
//! By which name a program found an older address nobody knows, so a profile that needs a name refuses.

mod desk;
mod flow;

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::RecvTimeoutError::{Disconnected, Timeout};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub(super) use desk::Handle;
use desk::{Board, Job};
use flow::OlderFlow;

use super::core::unix_ms;
use super::shared::{Shared, locked};
use super::threads::Vital;
use crate::flow::Record;
use crate::netlink::{Conversation, Host, Installed, Plan, SocketTable, older};
use crate::packet::FiveTuple;
use crate::process::{Identity, Tag};
use crate::procfs::Processes;
use crate::router::Rules;

/// Older flows that are taken in; a laptop has some hundred. The rest is reset at its next segment.
const MAX_FLOWS: usize = 4096;
/// Between two looks whether the sockets are still there.
const PAUSE: Duration = Duration::from_secs(2);
/// A wait that only a job ends.
const QUIET: Duration = Duration::from_secs(3600);
/// Jobs that are done with one change of the guard.
const BATCH: usize = 64;

/// The older flows of this machine.
pub(super) struct Older {
    table: SocketTable,
    processes: Arc<Processes>,
    plan: Plan,
    rules: Arc<Rules>,
    flows: BTreeMap<FiveTuple, OlderFlow>,
    /// What was ended before anybody could be told.
    ended: Vec<Record>,
    board: Arc<Mutex<Board>>,
    serial: u64,
}

impl Older {
    /// Nothing is known yet.
    pub(super) fn new(table: SocketTable, processes: Arc<Processes>, plan: &Plan, rules: Rules) -> Self {
        Self {
            table,
            processes,
            plan: plan.clone(),
            rules: Arc::new(rules),
            flows: BTreeMap::new(),
            ended: Vec::new(),
            board: Arc::default(),
            // Apart from the numbers of flows, which begin at 1, and of questions.
            serial: 1 << 47,
        }
    }

    /// What finds the holders of sockets.
    pub(super) fn processes(&self) -> Arc<Processes> {
        self.processes.clone()
    }

    /// Takes in the flows that are open now and judges them. All that are known go on for the time being, the refused ones until
    /// [`Self::settle`].
    pub(super) fn look(&mut self, host: &Host) -> Vec<FiveTuple> {
        match self.table.conversations() {
            Ok(all) => {
                let found = older(&self.plan, host, all);
                let over = (self.flows.len() + found.len()).saturating_sub(MAX_FLOWS);
                found.into_iter().for_each(|conversation| self.take_in(conversation));
                if over > 0 {
                    self.note(format!(
                        "more than {MAX_FLOWS} flows are older than Portreeve; the rest is reset at its next segment"
                    ));
                }
            }
            Err(error) => self.note(format!("older flows are not known and are reset at their next segment: {error}")),
        }
        self.flows.keys().copied().collect()
    }

    /// Ends what is refused, so that only the accepted flows go on.
    pub(super) fn settle(&mut self, installed: &mut Installed) {
        let ended = self.end_refused();
        self.ended.extend(ended);
        self.lead(installed);
    }

    /// Starts the thread that keeps the list from now on, until nobody has the handle any more.
    pub(super) fn keep(
        mut self,
        vital: &Vital,
        shared: Arc<Shared>,
        installed: Arc<Mutex<Option<Installed>>>,
    ) -> io::Result<Handle> {
        let device = self.plan.addresses.iter().map(ipnet::IpNet::addr).collect();
        let (handle, jobs) = Handle::new(self.board.clone(), device);
        std::mem::take(&mut self.ended).into_iter().for_each(|record| shared.tell_end(record));
        vital.spawn("older", 0, move || self.run(&jobs, &shared, &installed))?;
        Ok(handle)
    }

    fn run(mut self, jobs: &Receiver<Job>, shared: &Shared, installed: &Mutex<Option<Installed>>) {
        let mut looked = Instant::now();
        loop {
            // Without such flows nothing has to be looked after.
            let pause = if self.flows.is_empty() { QUIET } else { PAUSE.saturating_sub(looked.elapsed()) };
            let first = match jobs.recv_timeout(pause) {
                Ok(job) => Some(job),
                Err(Timeout) => None,
                Err(Disconnected) => return,
            };
            let before: Vec<FiveTuple> = self.flows.keys().copied().collect();
            let mut ended = Vec::new();
            if looked.elapsed() >= PAUSE {
                ended = self.forget_gone();
                looked = Instant::now();
            }
            let mut waiting = Vec::new();
            for job in first.into_iter().chain(std::iter::from_fn(|| jobs.try_recv().ok())).take(BATCH) {
                match job {
                    Job::Stray(tuple) => self.adopt(tuple),
                    Job::Rules(answer) => waiting.push(answer),
                }
            }
            // Not only when told so: a word of it may have found the channel full.
            if shared.rules_changed(self.rules.epoch) {
                self.judge_again(shared.rules());
            }
            let cut = self.end_refused();
            let number = u64::try_from(cut.len()).unwrap_or(u64::MAX);
            ended.extend(cut);
            if !self.flows.keys().eq(before.iter())
                && let Some(installed) = locked(installed).as_mut()
            {
                self.lead(installed);
            }
            self.publish();
            ended.into_iter().for_each(|record| shared.tell_end(record));
            // Whoever asked may have given up.
            waiting.into_iter().flatten().for_each(|answer| answer.try_send(number).unwrap_or_default());
        }
    }

    fn take_in(&mut self, conversation: Conversation) {
        let tuple = conversation.tuple;
        let known = self.flows.get(&tuple).is_some_and(|flow| flow.is(&conversation.socket));
        if known || self.flows.len() >= MAX_FLOWS {
            return;
        }
        self.serial += 1;
        let mut holders = self.processes.find(&conversation.socket);
        if holders.iter().all(|holder| holder.pid.is_none()) && self.processes.is_kernels(&conversation.socket) {
            holders = vec![Arc::new(Identity::tagged(Tag::KERNEL, Some(conversation.socket.uid)))];
        }
        let mut flow = OlderFlow::new(self.serial, unix_ms(), conversation, holders);
        flow.judge(&self.rules, &self.processes);
        self.flows.insert(tuple, flow);
    }

    /// A segment without a first one came into the TUN: whose is it?
    fn adopt(&mut self, tuple: FiveTuple) {
        // A table that does not answer is as good as nobody: the segment is lost, and another will come.
        let Ok(Some(socket)) = self.table.owner(&tuple) else { return };
        let Ok(direction) = self.table.direction(&tuple) else { return };
        self.take_in(Conversation { tuple, socket, direction });
    }

    fn judge_again(&mut self, rules: Arc<Rules>) {
        self.rules = rules;
        for flow in self.flows.values_mut() {
            flow.judge(&self.rules, &self.processes);
        }
    }

    /// Lets go of flows whose socket is gone, and gives their records.
    fn forget_gone(&mut self) -> Vec<Record> {
        let table = &mut self.table;
        let mut gone = Vec::new();
        self.flows.retain(|tuple, flow| {
            let alive = table.owner(tuple).is_ok_and(|socket| socket.is_some_and(|socket| flow.is(&socket)));
            if !alive {
                gone.push(flow.record(Some("closed")));
            }
            alive
        });
        gone
    }

    /// Ends the flows that are refused, and gives their records. Where the kernel cannot, they go into the TUN, which resets them.
    fn end_refused(&mut self) -> Vec<Record> {
        let refused: Vec<FiveTuple> = self.flows.iter().filter(|(_, flow)| flow.is_refused()).map(|(tuple, _)| *tuple).collect();
        let mut records = Vec::new();
        for tuple in refused {
            let Some(flow) = self.flows.remove(&tuple) else { continue };
            if let Err(error) = self.table.destroy(&tuple) {
                self.note(format!(
                    "this kernel does not end connections: refused older flows are reset at their next segment ({error})"
                ));
                locked(&self.board).resets = true;
            }
            let record = flow.record(Some("refused by policy"));
            locked(&self.board).refused(flow.line(false));
            records.push(record);
        }
        records
    }

    fn lead(&mut self, installed: &mut Installed) {
        let tuples: Vec<FiveTuple> = self.flows.keys().copied().collect();
        if let Err(error) = installed.lead_beside(&tuples) {
            self.note(format!("older flows are reset at their next segment: {error}"));
        }
        self.publish();
    }

    fn publish(&self) {
        let mut board = locked(&self.board);
        board.records = self.flows.values().map(|flow| flow.record(None)).collect();
        board.open = self.flows.values().map(|flow| flow.line(true)).collect();
    }

    fn note(&self, note: String) {
        let mut board = locked(&self.board);
        if !board.notes.contains(&note) {
            tracing::warn!("{note}");
            board.notes.push(note);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Conversation;
    use crate::packet::{Direction, Protocol};
    use crate::process::{Confidence, Exe, Identity, Socket};
    use crate::procfs::Options;
    use crate::profile::{File, Kind, Layer, Level, Policy, Setup};
    use crate::verdict::Epoch;

    fn policy(mode: &str) -> Arc<Policy> {
        let text = format!("name = \"fallback\"\nmode = \"{mode}\"\n[scope]\ninternet = true\n[flags]\npeer_to_peer = true\n");
        let file = File { kind: Kind::Profile(Layer::Fallback), path: "fallback.toml".into(), text };
        Arc::new(Policy::compile(&[file], Setup::default()).expect("a valid profile"))
    }

    fn tuple(port: u16) -> FiveTuple {
        FiveTuple::new(Protocol::TCP, ([10, 9, 0, 2].into(), port), ([203, 0, 113, 10].into(), 443))
    }

    /// With one flow, of a socket that is not there.
    fn accepted(processes: &Arc<Processes>) -> Older {
        let rules = Rules { policy: policy("blacklist"), level: Level::Dynamic, epoch: Epoch(0) };
        let mut older = Older::new(SocketTable::open().expect("a socket"), processes.clone(), &Plan::default(), rules);
        let exe = Exe { path: "/usr/bin/curl".into(), device: 1, inode: 7, path_is_ours: true };
        let curl = Identity { exe: Some(exe), tags: Vec::new(), ..Identity::tagged("", Some(1000)) };
        let socket = Socket { inode: 1, uid: 1000, cookie: 1, cgroup_id: None, mark: 0, link: 0, confidence: Confidence::Exact };
        let conversation = Conversation { tuple: tuple(1), socket, direction: Direction::Outbound };
        let mut flow = OlderFlow::new(1, 0, conversation, vec![Arc::new(curl)]);
        flow.judge(&older.rules, processes);
        assert!(!flow.is_refused());
        older.flows.insert(tuple(1), flow);
        older
    }

    #[test]
    fn other_rules_hold_for_older_flows_also_where_segments_leave_no_room_to_say_so() {
        let processes = Arc::new(Processes::new(Options::default()));
        let older = accepted(&processes);
        let (handle, jobs) = Handle::new(older.board.clone(), Arc::from([]));
        while handle.take(tuple(2)) {}
        let shared = Shared::new(policy("blacklist"), Level::Dynamic, processes, None);
        shared.change_rules(|rules| (policy("whitelist"), rules.level));
        handle.judge_again();
        drop(handle);
        older.run(&jobs, &shared, &Mutex::new(None));
        let outcomes: Vec<Option<String>> = shared.ended().into_iter().map(|record| record.outcome).collect();
        assert_eq!(outcomes, [Some("refused by policy".to_owned())]);
    }
}
