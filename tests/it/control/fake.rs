//! A router that knows one flow and one prompt, and remembers what it was asked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use portreeve::control::{Access, Engine, Event, Fault, Listener, ProfileSource, Prompt, Reloaded, State, Status, Way, serve};
use portreeve::flow::{Direction, Record};
use portreeve::process::Confidence;
use portreeve::profile::Level;
use portreeve::verdict::Answer;
use tokio::runtime::Runtime;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

/// Fewer events than a socket holds, so that a reader that stops soon lags.
const CHANNEL: usize = 8;

pub(super) struct Fake {
    pub(super) asked: Mutex<Vec<String>>,
    pub(super) faults: Mutex<Vec<Fault>>,
    pub(super) events: broadcast::Sender<Event>,
    pub(super) flows: usize,
}

impl Fake {
    fn note(&self, text: impl Into<String>) {
        self.asked.lock().expect("no test panics while it holds this").push(text.into());
    }

    /// The changes that were asked for.
    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no test panics while it holds this").clone()
    }

    pub(super) fn set_faults(&self, faults: &[Fault]) {
        *self.faults.lock().expect("no test panics while it holds this") = faults.to_vec();
    }
}

#[async_trait::async_trait]
impl Engine for Fake {
    fn status(&self) -> Status {
        status()
    }

    fn flows(&self) -> Vec<Record> {
        (0..u64::try_from(self.flows).expect("few flows")).map(record).collect()
    }

    fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    async fn set_level(&self, level: Level) -> Result<(), Fault> {
        self.note(format!("level {level}"));
        Ok(())
    }

    async fn reload(&self) -> Result<Reloaded, Vec<Fault>> {
        self.note("reload");
        let faults = self.faults.lock().expect("no test panics while it holds this").clone();
        if faults.is_empty() { Ok(Reloaded { profiles: 3, epoch: 2, cut: 1 }) } else { Err(faults) }
    }

    fn prompts(&self) -> Vec<Prompt> {
        vec![prompt()]
    }

    async fn answer(&self, id: u64, answer: Answer) -> Result<(), Fault> {
        self.note(format!("answer {id} {answer:?}"));
        if id == prompt().id { Ok(()) } else { Err(Fault::no_such_prompt(id)) }
    }

    async fn down(&self) -> Result<(), Fault> {
        self.note("down");
        Ok(())
    }
}

/// A server with a [`Fake`] behind it, on threads and in a folder of its own.
pub(super) struct Running {
    pub(super) fake: Arc<Fake>,
    pub(super) path: PathBuf,
    pub(super) dir: tempfile::TempDir,
    runtime: Runtime,
    server: JoinHandle<std::io::Result<()>>,
}

impl Running {
    pub(super) fn start(access: Access, flows: usize) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let path = dir.path().join("s.sock");
        let listener = Listener::bind(&path, access).expect("the folder is ours");
        let (events, _) = broadcast::channel(CHANNEL);
        let fake = Arc::new(Fake { asked: Mutex::default(), faults: Mutex::default(), events, flows });
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads can be made");
        let engine: Arc<dyn Engine> = fake.clone();
        let server = runtime.spawn(serve(listener, engine, 64));
        Self { fake, path, dir, runtime, server }
    }

    pub(super) fn socket(&self) -> &Path {
        &self.path
    }

    /// Waits until somebody monitors.
    pub(super) fn wait_for_monitor(&self) {
        wait_until("a monitor subscribes", || self.fake.events.receiver_count() > 0);
    }

    /// Waits until the server has ended by itself.
    pub(super) fn wait_for_end(self) -> std::io::Result<()> {
        let Self { runtime, server, dir, .. } = self;
        let ended = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), server).await });
        drop(dir);
        ended.expect("the server ends in time").expect("the server does not panic")
    }
}

pub(super) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "in time: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(super) fn record(id: u64) -> Record {
    Record {
        id,
        start: 1_700_000_000_000,
        end: None,
        direction: Direction::Outbound,
        proto: "tcp".to_owned(),
        src: "198.18.0.1:40000".to_owned(),
        dst: "[2001:db8::10]:443".to_owned(),
        name: Some("example.com".to_owned()),
        exe: Some("/usr/bin/curl".to_owned()),
        pid: Some(4711),
        uid: Some(1000),
        profile: Some("curl".to_owned()),
        confidence: Confidence::Exact,
        verdict: "accept".to_owned(),
        check: "mode".to_owned(),
        rule: None,
        lane: Some("direct".to_owned()),
        bytes_up: 1,
        bytes_down: 2,
        rtt_us: None,
        outcome: None,
    }
}

pub(super) fn prompt() -> Prompt {
    Prompt {
        id: 5,
        program: "curl".to_owned(),
        exe: Some("/usr/bin/curl".to_owned()),
        pid: Some(4711),
        uid: Some(1000),
        name: Some("example.com".to_owned()),
        dst: "203.0.113.10:443".to_owned(),
        proto: "tcp".to_owned(),
        since_ms: 1_700_000_000_000,
        deadline_ms: 1_700_000_060_000,
    }
}

pub(super) fn status() -> Status {
    Status {
        state: State::Active,
        way: Way::Exec,
        version: "0.1.0".to_owned(),
        pid: 321,
        since: 1_700_000_000_000,
        level: Level::Secure,
        profiles: vec![ProfileSource { from: "shipped".to_owned(), profiles: 14 }],
        epoch: 1,
        device: "portreeve0".to_owned(),
        addresses: vec!["192.0.2.2/24".to_owned(), "2001:db8::2/64".to_owned()],
        mtu: 1500,
        plan: None,
        socket: "/run/user/1000/portreeve/exec-321.sock".into(),
        dns_upstreams: vec!["192.0.2.53".to_owned()],
        flows_open: 1,
        flows_pending: 0,
        prompts: 1,
        inbound_judged: false,
        older: Vec::new(),
        notes: Vec::new(),
        counters: BTreeMap::from([("packets".to_owned(), 9)]),
    }
}
