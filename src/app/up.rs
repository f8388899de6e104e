//! `portreeve up`: the whole machine, or the network namespace that it is run in, behind the router.
//!
//! Start order: configuration, plan and profiles are read before anything is changed; then signals are listened to, so that one that comes
//! from here on finds the way back; then the control socket, routes and guard, the packet loop. End: the packet loop first, so that programs see their flows reset, then everything that was installed is taken back.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::signal::unix::SignalKind;

use super::core::{self, Core, Ending, boot_ms};
use super::daemon;
use super::dns::follow_resolvers;
use super::engine::Facts;
use super::network;
use super::older::Older;
use super::policies::{Loaded, Loader};
use super::room::{NoRoom, Room};
use super::shared::locked;
use super::signals::Signals;
use super::threads;
use super::upkeep::Upkeep;
use crate::cli::{Exit, UpArgs, complain, report_faults};
use crate::config::paths::{self, Places};
use crate::config::{Config, ConfigError};
use crate::control::{Access, BindError, Listener, Way};
use crate::netlink::{CleanupError, Install, InstallError, Installed, Plan, RouteSocket, SocketTable, setup};
use crate::procfs::{Options, Processes};
use crate::resolver::{Near, Upstreams};
use crate::router::Rules;
use crate::tun::queues;
use crate::verdict::Epoch;

/// What ends a process that does not hear it, and would leave the machine closed.
const MEANINGLESS: [SignalKind; 3] = [SignalKind::user_defined1(), SignalKind::user_defined2(), SignalKind::alarm()];

/// Why the machine is not behind the router. Nothing was left changed, but for the last two.
#[derive(Debug, thiserror::Error)]
enum UpError {
    #[error("{0}")]
    Configuration(String),
    #[error("`up` changes this machine's routes and needs CAP_NET_ADMIN; run as root")]
    Privilege,
    #[error(transparent)]
    Control(#[from] BindError),
    #[error(transparent)]
    Install(#[from] InstallError),
    #[error(transparent)]
    Room(#[from] NoRoom),
    #[error("start the router: {0}")]
    Start(#[from] io::Error),
    #[error("{0}; this machine's network is not restored, and may be closed; put that right and run `portreeve cleanup`")]
    NotRestored(#[from] CleanupError),
    #[error("the router failed; the machine stays closed until `portreeve up` or `portreeve cleanup`")]
    Fault,
}

impl UpError {
    fn exit(&self) -> Exit {
        match self {
            Self::Configuration(_) => Exit::Configuration,
            Self::Privilege => Exit::NotPermitted,
            Self::Install(error) if error.is_privilege() => Exit::NotPermitted,
            Self::Control(_) | Self::Install(_) | Self::Room(_) | Self::Start(_) | Self::NotRestored(_) | Self::Fault => {
                Exit::Failed
            }
        }
    }
}

/// Starts the router for the machine; returns when traffic flows, or with `--foreground` when it ends.
#[must_use]
pub fn up(args: UpArgs) -> Exit {
    let prepared = match prepare(&args) {
        Ok(prepared) => prepared,
        Err(UpError::Configuration(faults)) => return report_faults(faults.lines()),
        Err(error) => return complain(&error.to_string(), error.exit()),
    };
    if !args.foreground && !daemon::is_copy() {
        return daemon::start(&paths::run_dir(args.socket.as_deref()).join("portreeve.log"));
    }
    daemon::leave_session();
    match run(&args, prepared) {
        Ok(()) => Exit::Done,
        Err(error) => {
            daemon::failed(&error.to_string());
            complain(&error.to_string(), error.exit())
        }
    }
}

/// What is known before anything is changed.
struct Prepared {
    plan: Plan,
    plan_name: String,
    loader: Loader,
    loaded: Loaded,
    level: crate::profile::Level,
    upstreams: Upstreams,
    /// No upstream is configured: the system's resolvers are asked, and may change with the network.
    asks_system: bool,
    room: Room,
}

fn prepare(args: &UpArgs) -> Result<Prepared, UpError> {
    // Before all that opens a file.
    Room::take(Way::Up, 1)?;
    let config = Config::load(&Places::of_this_process()).map_err(|e: ConfigError| UpError::Configuration(e.to_string()))?;
    let (plan, plan_name) = match &args.plan {
        Some(path) => (Plan::load(path).map_err(|fault| UpError::Configuration(fault.to_string()))?, path.display().to_string()),
        None => (Plan::default(), "routes/default.toml (shipped)".to_owned()),
    };
    let plan = Plan { express: config.express, ..plan };
    let faults = |faults: Vec<String>| UpError::Configuration(faults.join("\n"));
    // What a server of this host asks comes back to us.
    let near = Near::this_host(&network::own_addresses().unwrap_or_default());
    let upstreams = core::upstreams_of(&config, &near).map_err(UpError::Configuration)?;
    let loader = Loader::new(args.profiles.clone(), false, &config, upstreams.search()).map_err(faults)?;
    let loaded = loader.load().map_err(faults)?;
    if !may_change_the_network() {
        return Err(UpError::Privilege);
    }
    let asks_system = config.dns.upstream.is_empty();
    Ok(Prepared {
        plan,
        plan_name,
        loader,
        loaded,
        level: args.level.unwrap_or(config.level),
        upstreams,
        asks_system,
        room: Room::take(Way::Up, config.queues.unwrap_or_else(queues))?,
    })
}

fn may_change_the_network() -> bool {
    let sets = rustix::thread::capabilities(None);
    sets.is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::NET_ADMIN))
}

fn run(args: &UpArgs, prepared: Prepared) -> Result<(), UpError> {
    let socket = args.socket.clone().unwrap_or_else(paths::up_socket);
    let run_dir = paths::run_dir(Some(&socket));
    let runtime = threads::runtime()?;
    let obeyed = [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::terminate(), SignalKind::quit()];
    let heard = [&obeyed[..], &MEANINGLESS].concat();
    let mut signals = runtime.block_on(async { Signals::of(&heard) })?;
    make_run_dir(&run_dir)?;
    let listener = Listener::bind(&socket, Access::Machine)?;
    let (installed, older) = install(&prepared, &run_dir)?;
    let system = prepared.asks_system.then(|| prepared.upstreams.clone());
    let own = installed.own_addresses().to_vec();
    let shelf = Arc::new(Mutex::new(Some(installed)));
    let served = start(runtime, &shelf, older, prepared, socket).and_then(|core| {
        core.serve_control(listener);
        if args.foreground {
            core.print_verdicts();
        }
        let upkeep = core.running.facts.upkeep.clone();
        let mut resolvers = follow_resolvers(&core.running, system);
        network::watch(&core.vital, core.handles(), (shelf.clone(), upkeep), own, move |own| resolvers(Near::this_host(own)))?;
        serve(core, &shelf, &mut signals)
    });
    // Where a step failed: other threads hold the shelf as well, and this process may end before they let go.
    drop(locked(&shelf).take());
    served
}

/// Waits for the end, and takes back what was installed.
fn serve(core: Core, shelf: &Shelf, signals: &mut Signals) -> Result<(), UpError> {
    tracing::info!("Portreeve is up");
    daemon::ready()?;
    core.runtime.block_on(watch(&core, signals));
    let mut result = Ok(());
    core.stop(Duration::ZERO, |ending| {
        result = take_back(shelf, ending);
        result.as_ref().copied().map_err(ToString::to_string)
    });
    result
}

fn take_back(shelf: &Shelf, ending: Ending) -> Result<(), UpError> {
    let Some(installed) = locked(shelf).take() else { return Ok(()) };
    match ending {
        Ending::Failed => {
            // As after SIGKILL: what was protected stays closed; the undo file stays for `cleanup`.
            std::mem::forget(installed);
            return Err(UpError::Fault);
        }
        Ending::Stuck => tracing::error!("a packet loop stands still and is left to the end of this process"),
        Ending::Well => {}
    }
    Ok(installed.remove()?)
}

/// The routes and the guard, with the older flows that the profiles accept beside them; those that they refuse have ended.
fn install(prepared: &Prepared, run_dir: &Path) -> Result<(Installed, Older), UpError> {
    let rules = Rules { policy: prepared.loaded.policy.clone(), level: prepared.level, epoch: Epoch(0) };
    let processes = Arc::new(Processes::new(Options::default()));
    let mut older = Older::new(SocketTable::open()?, processes, &prepared.plan, rules);
    let mut installed = Install::up_beside(&prepared.plan, run_dir, prepared.room.queues, &mut |host| older.look(host))?;
    older.settle(&mut installed);
    Ok((installed, older))
}

/// Group readers must be able to enter; the socket itself says who may speak.
fn make_run_dir(run_dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    match std::fs::DirBuilder::new().mode(0o755).create(run_dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => {
            other.map_err(|error| io::Error::new(error.kind(), format!("make the run directory {}: {error}", run_dir.display())))
        }
    }
}

/// The routes and the guard, until they are taken back.
pub(super) type Shelf = Arc<Mutex<Option<Installed>>>;

fn start(runtime: Runtime, shelf: &Shelf, older: Older, prepared: Prepared, socket: PathBuf) -> Result<Core, UpError> {
    let mut guard = locked(shelf);
    let installed = guard.as_mut().ok_or_else(|| io::Error::other("the routes have been taken back already"))?;
    let Prepared { plan, plan_name, loader, loaded, level, upstreams, asks_system: _, room } = prepared;
    let tun = installed.take_queues();
    let stubs: Vec<SocketAddr> = plan.dns.stubs.iter().map(|stub| SocketAddr::new(*stub, 53)).collect();
    let loopback_dns = if stubs.is_empty() { (Vec::new(), Vec::new()) } else { bind_stubs(plan.dns.port)? };
    let answers = !loopback_dns.0.is_empty();
    let device_index = setup::index_of(&mut RouteSocket::open()?, &plan.device).map_err(io::Error::other)?;
    let core = Core::start(core::Plan {
        runtime,
        room,
        device_index,
        tun,
        sockets: SocketTable::open()?,
        processes: older.processes(),
        netns_of: None,
        mark: Some(installed.mark().value()),
        express: plan.express,
        host_loopback: false,
        own_addresses: installed.own_addresses().to_vec(),
        loader,
        loaded,
        level,
        facts: Facts {
            way: Way::Up,
            since: boot_ms(),
            device: plan.device.clone(),
            addresses: plan.addresses.iter().map(|net| (net.addr(), net.prefix_len())).collect(),
            upkeep: Arc::new(Upkeep::new(installed.mtu())),
            plan: Some(plan_name),
            express: plan.express,
            socket,
            notes: notes(&plan).into_iter().chain(room.note()).collect(),
        },
        upstreams,
        record: None,
        loopback_dns,
        stubs,
        bare_links: installed.bare_links(),
        older: Some((older, shelf.clone())),
    })?;
    if answers && let Err(error) = installed.redirect_stubs(plan.dns.port) {
        tracing::warn!(%error, "loopback resolvers are not redirected; their questions are judged as the resolver's own");
    }
    Ok(core)
}

/// Without it the kernel shows us nobody's descriptors (ptrace(2), PTRACE_MODE_READ), so that no socket has an owner.
fn may_see_programs() -> bool {
    let sets = rustix::thread::capabilities(None);
    sets.is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::SYS_PTRACE))
}

fn notes(plan: &Plan) -> Vec<String> {
    let mut notes = vec![
        "new inbound flows are delivered without a verdict; the profiles' service settings are not enforced yet".to_owned(),
        "loopback does not pass the TUN and is not judged".to_owned(),
    ];
    if !may_see_programs() {
        let note =
            "CAP_SYS_PTRACE is missing: every program is nobody, and refused where no profile has the tag portreeve:unattributed";
        tracing::warn!("{note}");
        notes.push(note.to_owned());
    }
    let excluded = plan.exclude.networks.len() + plan.exclude.interfaces.len() + plan.exclude.users.len();
    if excluded > 0 {
        notes.push(format!("{excluded} exclusions of the plan pass unjudged; `portreeve route show` lists them"));
    }
    notes
}

/// The sockets that redirected questions come to. One family may be missing on this machine.
fn bind_stubs(port: u16) -> io::Result<(Vec<UdpSocket>, Vec<TcpListener>)> {
    let (mut udp, mut tcp) = (Vec::new(), Vec::new());
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
        let (socket, listener) = match (UdpSocket::bind((ip, port)), TcpListener::bind((ip, port))) {
            (Ok(socket), Ok(listener)) => (socket, listener),
            (Err(_), _) | (_, Err(_)) if ip.is_ipv6() => continue,
            (Err(error), _) | (_, Err(error)) => {
                return Err(io::Error::new(
                    error.kind(),
                    format!("bind the resolver's port {port} on {ip} ([dns] port of the plan): {error}"),
                ));
            }
        };
        socket.set_nonblocking(true)?;
        listener.set_nonblocking(true)?;
        udp.push(socket);
        tcp.push(listener);
    }
    Ok((udp, tcp))
}

/// Waits for `down`, a signal, or the end of the packet loop.
async fn watch(core: &Core, signals: &mut Signals) {
    let mut ending = core.ending.clone();
    loop {
        tokio::select! {
            number = signals.next() => {
                if MEANINGLESS.iter().any(|kind| kind.as_raw_value() == number) {
                    tracing::info!("signal {number} means nothing to Portreeve; SIGTERM ends it, SIGHUP reads the profiles again");
                    continue;
                }
                if number != SignalKind::hangup().as_raw_value() {
                    return;
                }
                if let Err(faults) = core.running.reload_now() {
                    faults.iter().for_each(|fault| tracing::error!("{fault}"));
                }
            }
            _ = ending.wait_for(|ending| *ending) => return,
        }
    }
}
