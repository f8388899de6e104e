//! What `up` and `exec` have in common: the packet loop, the resolver, the control socket, and their threads.
//!
//! Start order: rules are loaded by the caller, then the threads start, then traffic may flow. End: the packet loop first, so that
//! every flow writes its record, then the rest.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

use super::dns::{self, PolicyJudge};
use super::engine::{Facts, Running};
use super::older::Older;
use super::policies::{Loaded, Loader};
use super::room::Room;
use super::searchers::{self, Searching};
use super::shard::{self, Attributor, Handles, Parts, Senders, Shard};
use super::shared::Shared;
use super::threads::{Part, Vital, spawn};
use super::watchdog::Watchdog;
use crate::cli::remark;
use crate::config::Config;
use crate::control::{Event, Listener, render};
use crate::egress::Dialer;
use crate::flow::Record;
use crate::names::Name;
use crate::netlink::{BareLinks, Installed, SocketTable};
use crate::procfs::Processes;
use crate::profile::Level;
use crate::resolver::{Near, Resolver, Upstreams};
use crate::router;
use crate::tun::Queue;
use crate::verdict::HOST_LOOPBACK_NAME;

/// Where the host's own loopback is reached with `--host-loopback`.
pub(super) const HOST_LOOPBACK: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(169, 254, 17, 1), Ipv6Addr::new(0xfd17, 0, 0, 0, 0, 0, 0, 1));
/// Questions and streams on their way to the resolver.
const QUESTIONS: usize = 1024;
/// Sockets on their way to the attribution thread. A search takes milliseconds: what waits behind more than these is past its deadline.
const JOBS: usize = 1024;
/// Records on their way to the record file.
const RECORDS: usize = 16_384;
/// How long the threads may take to end beyond their grace.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a router is made from.
pub(super) struct Plan {
    pub(super) runtime: Runtime,
    pub(super) room: Room,
    /// The TUN's queues; each gets a packet loop of its own.
    pub(super) tun: Vec<Queue>,
    pub(super) sockets: SocketTable,
    /// The TUN's index, so that sockets bound to it are found.
    pub(super) device_index: u32,
    pub(super) processes: Arc<Processes>,
    pub(super) netns_of: Option<u32>,
    pub(super) mark: Option<u32>,
    /// The kernel alone carries accepted connections on.
    pub(super) express: bool,
    pub(super) host_loopback: bool,
    pub(super) own_addresses: Vec<IpAddr>,
    pub(super) loader: Loader,
    pub(super) loaded: Loaded,
    pub(super) level: Level,
    pub(super) upstreams: Upstreams,
    pub(super) facts: Facts,
    pub(super) record: Option<std::fs::File>,
    /// Loopback sockets that answer questions, and the addresses that programs believe to ask there; none: the sockets' own.
    pub(super) loopback_dns: (Vec<UdpSocket>, Vec<TcpListener>),
    pub(super) stubs: Vec<SocketAddr>,
    /// The links without headers that programs may name.
    pub(super) bare_links: Arc<BareLinks>,
    /// Flows that are older than the router; None for an enclosure, which is as old as its router.
    pub(super) older: Option<(Older, Arc<Mutex<Option<Installed>>>)>,
}

/// A router that runs.
pub(super) struct Core {
    pub(super) runtime: Runtime,
    pub(super) running: Arc<Running>,
    pub(super) undone: watch::Sender<Option<Result<(), String>>>,
    pub(super) ending: watch::Receiver<bool>,
    /// Packet loops.
    threads: Vec<JoinHandle<()>>,
    recorder: Option<JoinHandle<()>>,
    /// Disconnected when all of `threads` have ended.
    alive: Receiver<()>,
    pub(super) vital: Vital,
    room: Room,
}

/// How a router's parts ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Because they should.
    Well,
    /// A vital one by itself.
    Failed,
    /// A packet loop has not ended: it stands still.
    Stuck,
}

impl Core {
    /// Starts the threads; packets are read from now on.
    pub(super) fn start(plan: Plan) -> io::Result<Self> {
        let (ending_sender, ending) = watch::channel(false);
        let (vital, room) = (Vital::new(ending_sender.clone()), plan.room);
        let (recorder, records) = match plan.record {
            Some(file) => {
                let (sender, receiver) = sync_channel(RECORDS);
                (Some(spawn("records", BEHIND, move || write_records(file, &receiver))?), Some(sender))
            }
            None => (None, None),
        };
        let shared = Arc::new(Shared::new(plan.loaded.policy, plan.level, plan.processes.clone(), records));
        let older = plan.older.map(|(older, installed)| older.keep(&vital, shared.clone(), installed)).transpose()?;
        let runtime = plan.runtime;
        let mut sockets = plan.sockets;
        sockets.set_interface(plan.device_index);
        let dialer = Dialer::new(plan.mark);
        let express = plan.express.then(|| shard::tolerated(dialer.express()).map(Arc::new)).flatten();
        let ours = express.as_ref().map(|express| express.inodes()).unwrap_or_default();
        let senders = Senders::watch(plan.tun.first().map(AsFd::as_fd), plan.mark, plan.loopback_dns.0.len());
        let attributor = Arc::new(Attributor::new(sockets, plan.processes, plan.netns_of, ours, senders));
        let mut facts = plan.facts;
        facts.notes.extend(attributor.note());
        let (jobs, job_queue) = shard::job_queue(JOBS);
        let (dns_sender, datagrams) = mpsc::channel(QUESTIONS);
        let (stream_sender, streams) = mpsc::channel(QUESTIONS);
        let on_device = facts.addresses.iter().map(|(address, _)| *address);
        let device_addresses = if plan.mark.is_some() { on_device.collect() } else { Arc::default() };
        let near = if plan.mark.is_some() { Near::this_host(&plan.own_addresses) } else { Near::nothing() };
        let parts = Parts {
            takes_over: plan.mark.is_some(),
            config: config_of(plan.host_loopback, room),
            dialer,
            express,
            attributor: attributor.clone(),
            jobs,
            dns: dns_sender,
            streams: stream_sender,
            own_addresses: plan.own_addresses,
            device_addresses,
            bare_links: plan.bare_links,
            older: older.clone(),
        };
        let (shards, handles) = Shard::several(plan.tun, &parts, &shared)?;
        let judge = PolicyJudge::new(shared.clone(), attributor.clone());
        let resolver = make_resolver(&runtime, plan.upstreams, plan.mark, plan.host_loopback, judge)?;
        resolver.set_near(near);
        resolver.set_room(room.questions);
        let places = room.questions.min(dns::STREAMS);
        vital.task(&runtime, "questions", dns::serve_datagrams(datagrams, resolver.clone(), handles.clone()));
        vital.task(&runtime, "question streams", dns::serve_streams(streams, resolver.clone(), places));
        let stubs: Arc<[SocketAddr]> = plan.stubs.into();
        for socket in plan.loopback_dns.0 {
            let askers = dns::Askers { attributor: attributor.clone(), stubs: stubs.clone(), places };
            vital.task(&runtime, "loopback questions", dns::serve_loopback_udp(socket, resolver.clone(), askers));
        }
        for listener in plan.loopback_dns.1 {
            let askers = dns::Askers { attributor: attributor.clone(), stubs: stubs.clone(), places };
            vital.task(&runtime, "loopback question streams", dns::serve_loopback_tcp(listener, resolver.clone(), askers));
        }
        let (undone, ended) = watch::channel(None);
        let (living, alive) = sync_channel(0);
        let (shards_too, vital_too) = (handles.clone(), vital.clone());
        let searching = Searching { attributor, jobs: job_queue, shards: shards_too, vital: vital_too, done: Arc::default() };
        searching.start()?;
        let mut threads = Vec::new();
        for (index, shard) in shards.into_iter().enumerate() {
            let (vital, living) = (vital.clone(), living.clone());
            threads.push(spawn("packets", PACKETS, move || {
                run_shard(shard, vital.part(format!("packet loop {}", index + 1)));
                drop(living);
            })?);
        }
        let stalls = Arc::default();
        let watchdog = Watchdog::new(handles.clone(), &runtime, &shared, Arc::clone(&stalls));
        let look = searchers::watched(searching);
        vital.spawn("watchdog", 0, move || watchdog.watch(look))?;
        let running = Arc::new(Running {
            facts,
            shared,
            shards: handles,
            stalls,
            resolver,
            loader: plan.loader,
            sources: Mutex::new(plan.loaded.sources),
            ending: ending_sender,
            ended,
            older,
        });
        running.tune_resolver(plan.level);
        Ok(Self { runtime, running, undone, ending, threads, recorder, alive, vital, room })
    }

    /// Serves the control socket until the end.
    pub(super) fn serve_control(&self, listener: Listener) {
        let (engine, visitors) = (self.running.clone(), self.room.visitors);
        self.vital.task(&self.runtime, "control", async move {
            if let Err(error) = crate::control::serve(listener, engine, visitors).await {
                tracing::error!(%error, "the control socket failed");
            }
        });
    }

    /// Prints each verdict to stderr.
    pub(super) fn print_verdicts(&self) {
        let mut events = self.running.shared.events.subscribe();
        let colour = render::Colour::of(&io::stderr());
        self.runtime.spawn(async move {
            loop {
                match events.recv().await {
                    Ok(event) => {
                        if let Some(line) = told(&event).then(|| render::event_line(&event, colour)).flatten() {
                            remark(&line);
                        }
                    }
                    Err(tokio::sync::broadcast::error::RecvError::Lagged(missed)) => remark(&format!("… {missed} events missed")),
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
                }
            }
        });
    }

    /// Ends the packet loop, lets `undo` take back what was installed, and waits until every record is written. Programs that have
    /// ended leave bytes behind, which the kernel would send without us; `grace` is for these. A thread that stands still is left to the end
    /// of this process. `undo` is told how the packet loops ended; who asked for the end hears
    /// what it says.
    pub(super) fn stop(self, grace: Duration, undo: impl FnOnce(Ending) -> Result<(), String>) {
        let Self { runtime, running, undone, ending: _, threads, recorder, alive, vital, room: _ } = self;
        let until = Instant::now() + grace + PATIENCE;
        running.shards.stop(grace, until);
        // Nobody sends; the channel closes with the last thread.
        let left = until.saturating_duration_since(Instant::now());
        let is_stuck = matches!(alive.recv_timeout(left), Err(RecvTimeoutError::Timeout));
        let wait = |thread: JoinHandle<()>| {
            if thread.join().is_err() {
                tracing::error!("a thread of the router panicked");
            }
        };
        if !is_stuck {
            threads.into_iter().for_each(wait);
        }
        let result = undo(match (vital.has_failed(), is_stuck) {
            (true, _) => Ending::Failed,
            (false, true) => Ending::Stuck,
            (false, false) => Ending::Well,
        });
        undone.send_replace(Some(result));
        // Whoever asked for the end reads the answer before the socket goes.
        runtime.block_on(async { tokio::time::sleep(Duration::from_millis(20)).await });
        runtime.shutdown_timeout(Duration::from_millis(500));
        drop(running);
        // Who stands still may hold the way to it.
        recorder.into_iter().filter(|_| !is_stuck).for_each(wait);
    }

    /// The way to the packet loops.
    pub(super) fn handles(&self) -> Handles {
        self.running.shards.clone()
    }
}

/// Runs one packet loop. `part` goes with it, also after a panic: nobody would wait for packets that nobody carries.
fn run_shard(shard: Shard, part: Part) {
    match shard.run() {
        Ok(()) => part.end_well(),
        Err(error) => tracing::error!(%error, "a packet loop ended; traffic is refused"),
    }
}

/// Verdicts are printed, ends are told by records.
fn told(event: &Event) -> bool {
    match event {
        Event::Opened(_) | Event::Ended(_) => false,
        Event::Decided(_)
        | Event::Question(_)
        | Event::Prompt(_)
        | Event::PromptClosed { .. }
        | Event::Level(_)
        | Event::Reloaded(_)
        | Event::Notice(_) => true,
    }
}

fn make_resolver(
    runtime: &Runtime,
    upstreams: Upstreams,
    mark: Option<u32>,
    host_loopback: bool,
    judge: PolicyJudge,
) -> io::Result<Arc<Resolver<PolicyJudge>>> {
    let mut fixed = BTreeMap::new();
    if host_loopback && let Ok(name) = HOST_LOOPBACK_NAME.parse::<Name>() {
        fixed.insert(name, vec![HOST_LOOPBACK.0.into(), HOST_LOOPBACK.1.into()]);
    }
    let _inside = runtime.enter();
    let dialer = crate::resolver::Dialer { mark };
    let resolver = Resolver::new(upstreams, dialer, fixed, Arc::new(judge)).map_err(io::Error::other)?;
    Ok(Arc::new(resolver))
}

fn config_of(host_loopback: bool, room: Room) -> router::Config {
    let mut seed = [0; 8];
    // The kernel's generator is always ready by the time that programs run; a zero seed is weaker, not wrong.
    let _ = rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty());
    let mut config = router::Config::new((Instant::now(), unix_ms()), u64::from_ne_bytes(seed));
    config.host_loopback = host_loopback.then_some(HOST_LOOPBACK);
    config.max_flows = config.max_flows.min(room.flows);
    config
}

/// The configured upstreams, else the system's, of which those that are near would be a loop.
pub(super) fn upstreams_of(config: &Config, near: &Near) -> Result<Upstreams, String> {
    if config.dns.upstream.is_empty() {
        return Ok(Upstreams::system(near));
    }
    Upstreams::parse(&config.dns.upstream).map_err(|error| format!("[dns] upstream: {error}"))
}

/// Milliseconds since the Unix epoch.
pub(super) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds since this machine was started, sleep included: nobody sets them.
pub(super) fn boot_ms() -> u64 {
    crate::bpf::since_boot() / 1_000_000
}

/// The packet loops come before programs, as the kernel's own network code does: a program that floods them would else take the core
/// that they need to turn it down. By no more than this: a loop that looks for more packets would keep a core from those who send them
/// (measured at -10: a third of the super-packets).
const PACKETS: i32 = -3;
/// The writing of records comes behind them.
const BEHIND: i32 = 5;

/// Writes records as JSON lines until no sender is left.
fn write_records(file: std::fs::File, records: &Receiver<Record>) {
    use std::io::Write;
    let mut file = io::BufWriter::new(file);
    while let Ok(record) = records.recv() {
        let written = serde_json::to_writer(&mut file, &record).map_err(io::Error::from).and_then(|()| writeln!(file));
        // Whoever follows the file sees a record as soon as there is no other right behind it.
        if let Err(error) = written.and_then(|()| file.flush()) {
            tracing::error!(%error, "the record file cannot be written; records are lost from here on");
            return;
        }
    }
}

/// Opens the record file for appending.
pub(super) fn open_record(path: Option<&Path>) -> Result<Option<std::fs::File>, String> {
    let Some(path) = path else { return Ok(None) };
    let opened = std::fs::OpenOptions::new().create(true).append(true).open(path);
    opened.map(Some).map_err(|error| format!("open the record file {}: {error}", path.display()))
}
