//! `portreeve exec`: one command and its children behind the router; nothing of the host changes.

mod hints;
mod socket;
mod ways;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv6Net;
use rustix::event::{PollFd, PollFlags, poll};
use tokio::signal::unix::SignalKind;
use tokio::sync::oneshot;

use super::core::{Core, Ending, HOST_LOOPBACK, Plan, boot_ms, open_record};
use super::dns::follow_resolvers;
use super::engine::Facts;
use super::policies::{Loaded, Loader};
use super::room::{NoRoom, Room};
use super::signals::Signals;
use super::threads::{runtime, spawn};
use super::upkeep::Upkeep;
use crate::cli::{ExecArgs, Exit, complain, remark, report_faults};
use crate::config::{Config, paths::Places};
use crate::control::{Listener, Way};
use crate::enclosure::{CommandStatus, Enclosed, Request, die_of, enclose, let_go};
use crate::netlink::{EVERYWHERE, Host, RouteSocket, SocketTable, setup};
use crate::procfs::{Options, Processes};
use crate::resolver::{Near, Upstreams};
use crate::tun::{DEVICE_NAME, Queue, queues};
use ways::Ways;

/// What `exec` itself could not do, as env(1) has it.
const FAILED: u8 = 125;
/// The enclosure's addresses where the host has none: those of `up`.
const FALLBACK_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const FALLBACK_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 1);

/// How long a command's last bytes may take to be accepted upstream after its end.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// How long a command may take to end when the router ends.
const PATIENCE: Duration = Duration::from_secs(2);
/// Where the uplinks cannot be read.
const USUAL_MTU: u32 = 1500;

/// Why the command was not run.
#[derive(Debug, thiserror::Error)]
enum ExecError {
    #[error("{0}")]
    Configuration(String),
    #[error("{0}")]
    Enclosure(#[from] crate::enclosure::EncloseError),
    #[error("{0}")]
    Control(#[from] crate::control::BindError),
    #[error("{0}")]
    Record(String),
    #[error(transparent)]
    Room(#[from] NoRoom),
    #[error("start the router: {0}")]
    Start(#[from] io::Error),
    #[error("the router failed, and the command was ended with it")]
    Fault,
}

/// Runs the command; its status is ours.
#[must_use]
pub fn exec(args: ExecArgs) -> Exit {
    match run(args) {
        Ok(status) => {
            if matches!(status, CommandStatus::NotFound { .. } | CommandStatus::NotExecutable { .. }) {
                return complain(&status.to_string(), Exit::Command(status.code()));
            }
            if let CommandStatus::Killed(signal) = status {
                die_of(signal);
            }
            Exit::Command(status.code())
        }
        Err(ExecError::Configuration(faults)) => report_faults(faults.lines()),
        Err(error) => complain(&error.to_string(), Exit::Command(FAILED)),
    }
}

fn run(args: ExecArgs) -> Result<CommandStatus, ExecError> {
    // Before all that opens a file.
    Room::take(Way::Exec, 1)?;
    let places = Places::of_this_process();
    let config = Config::load(&places).map_err(|error| ExecError::Configuration(error.to_string()))?;
    let faults = |faults: Vec<String>| ExecError::Configuration(faults.join("\n"));
    let upstreams = upstreams_of(&config)?;
    let system = config.dns.upstream.is_empty().then(|| upstreams.clone());
    let loader = Loader::new(args.profiles.clone(), places.uid != 0, &config, upstreams.search()).map_err(faults)?;
    let loaded = loader.load().map_err(faults)?;
    hints::give(&args.command, args.host_loopback);
    let record = open_record(args.record.as_deref()).map_err(ExecError::Record)?;
    let host = RouteSocket::open().ok().and_then(|mut socket| Host::read(&mut socket).ok());
    let mtu = host.as_ref().map_or(USUAL_MTU, |host| host.uplink_mtu(DEVICE_NAME));
    let mut reach = host.map_or_else(|| vec![EVERYWHERE], |host| host.reach(DEVICE_NAME));
    let addresses = own_addresses(&reach);
    let room = Room::take(Way::Exec, config.queues.unwrap_or_else(queues))?;
    let always: Option<Ipv6Net> = args.host_loopback.then(|| HOST_LOOPBACK.1.into());
    reach.extend(always);
    let request = Request {
        command: args.command.clone(),
        addresses: addresses.clone(),
        reach: reach.clone(),
        mtu,
        device: DEVICE_NAME.to_owned(),
        queues: room.queues,
        record_env: Vec::new(),
    };
    let enclosed = enclose(request)?;
    // What we have to say goes to stderr.
    let_go(false);
    let listener = socket::bind(args.socket.as_deref(), &places)?;
    let socket = listener.as_ref().map(|listener| listener.path().to_owned()).unwrap_or_default();
    let facts = Facts {
        way: Way::Exec,
        since: boot_ms(),
        device: DEVICE_NAME.to_owned(),
        addresses,
        upkeep: Arc::new(Upkeep::new(mtu)),
        plan: None,
        express: false,
        socket,
        notes: std::iter::once("inbound connections cannot reach the command; loopback inside is its own".to_owned())
            .chain(room.note())
            .collect(),
    };
    let level = args.level.unwrap_or(config.level);
    run_enclosed(
        enclosed,
        &args,
        Start { room, listener, facts, loader, loaded, level, upstreams, system, record, reach, always },
    )
}

struct Start {
    room: Room,
    listener: Option<Listener>,
    facts: Facts,
    loader: Loader,
    loaded: Loaded,
    level: crate::profile::Level,
    upstreams: Upstreams,
    /// What was read of the system, where its resolvers are asked.
    system: Option<Upstreams>,
    record: Option<std::fs::File>,
    /// Where IPv6 leads, and where it always does.
    reach: Vec<Ipv6Net>,
    always: Option<Ipv6Net>,
}

fn run_enclosed(mut enclosed: Enclosed, args: &ExecArgs, start: Start) -> Result<CommandStatus, ExecError> {
    let Start { room, listener, facts, loader, loaded, level, upstreams, system, record, reach, always } = start;
    let mut route = RouteSocket::adopt(enclosed.route.as_fd().try_clone_to_owned()?)?;
    let device_index = setup::index_of(&mut route, DEVICE_NAME).map_err(io::Error::other)?;
    let core = Core::start(Plan {
        runtime: runtime()?,
        room,
        device_index,
        tun: std::mem::take(&mut enclosed.tun).into_iter().map(Queue::adopt).collect::<io::Result<_>>()?,
        sockets: SocketTable::adopt(enclosed.sock_diag.as_fd().try_clone_to_owned()?)?,
        processes: Arc::new(Processes::new(Options { enclosure: Some(enclosed.init_pid), ..Options::default() })),
        netns_of: Some(enclosed.init_pid),
        mark: None,
        express: false,
        host_loopback: args.host_loopback,
        own_addresses: facts.addresses.iter().map(|(address, _)| *address).collect(),
        loader,
        loaded,
        level,
        upstreams,
        facts,
        record,
        loopback_dns: (std::mem::take(&mut enclosed.dns_udp), std::mem::take(&mut enclosed.dns_tcp)),
        stubs: Vec::new(),
        bare_links: Arc::default(),
        older: None,
    })?;
    if let Some(listener) = listener {
        core.serve_control(listener);
    }
    let upkeep = core.running.facts.upkeep.clone();
    let mut resolvers = follow_resolvers(&core.running, system);
    let ways = Ways { inside: route, index: device_index, led: reach, always, upkeep };
    if let Err(error) = ways.follow(&core.vital, move || resolvers(Near::nothing())) {
        tracing::warn!(%error, "where IPv6 leads inside, the MTU and the name servers stay as they were at the start");
    }
    if args.verbose > 0 {
        core.print_verdicts();
    }
    let status = core.runtime.block_on(watch(&core, &mut enclosed));
    let mut ended = Ending::Well;
    core.stop(LAST_WORDS, |how| {
        ended = how;
        Ok(())
    });
    if ended == Ending::Failed { Err(ExecError::Fault) } else { Ok(status?) }
}

/// Lets the command go, passes signals on, and waits for its end.
async fn watch(core: &Core, enclosed: &mut Enclosed) -> io::Result<CommandStatus> {
    let kinds = [
        SignalKind::hangup(),
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::quit(),
        SignalKind::user_defined1(),
        SignalKind::user_defined2(),
        SignalKind::window_change(),
    ];
    let mut signals = Signals::of(&kinds)?;
    let mut ending = core.ending.clone();
    let status = enclosed.status_fd().try_clone_to_owned()?;
    let (tell, mut ended) = oneshot::channel();
    // Before the command starts, which nobody could wait for without it.
    spawn("command", 0, move || {
        wait_readable(&status);
        // Who does not wait has ended.
        let _ = tell.send(());
    })?;
    enclosed.start()?;
    loop {
        tokio::select! {
            _ = &mut ended => break,
            number = signals.next() => {
                // An enclosure that has just ended takes none, and says so at the next turn.
                let _ = if number == SignalKind::hangup().as_raw_value() {
                    reload(core);
                    enclosed.signal_of_group(number)
                } else {
                    enclosed.signal(number)
                };
            }
            // `down`, or the packet loop has ended: the command ends, too.
            _ = ending.wait_for(|ending| *ending) => {
                enclosed.signal(SignalKind::terminate().as_raw_value())?;
                if tokio::time::timeout(PATIENCE, &mut ended).await.is_err() {
                    enclosed.signal(rustix::process::Signal::KILL.as_raw())?;
                    let _ = ended.await;
                }
                break;
            }
        }
    }
    enclosed.wait()
}

/// Waits until the enclosure has something to say, which is the end.
fn wait_readable(status: &OwnedFd) {
    let mut fds = [PollFd::new(status, PollFlags::IN)];
    // A signal that interrupts the wait is handled elsewhere.
    while matches!(poll(&mut fds, None), Err(rustix::io::Errno::INTR)) {}
}

/// SIGHUP: what our whole group gets is a shell's that hangs up; one for us alone asks for the profiles to be read again.
fn reload(core: &Core) {
    if let Err(faults) = core.running.reload_now() {
        for fault in faults {
            remark(&format!("portreeve: {fault}"));
        }
    }
}

fn upstreams_of(config: &Config) -> Result<Upstreams, ExecError> {
    super::core::upstreams_of(config, &Near::nothing()).map_err(ExecError::Configuration)
}

/// The addresses that this host uses towards the Internet, in IPv6 else towards a network that it leads to, so that programs
/// inside see what they see outside.
fn own_addresses(reach: &[Ipv6Net]) -> Vec<(IpAddr, u8)> {
    let v4 = source_towards((Ipv4Addr::new(192, 0, 2, 1), 9).into()).unwrap_or(FALLBACK_V4.into());
    let mut towards = std::iter::once(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)).chain(reach.iter().map(Ipv6Net::broadcast));
    let v6 = towards.find_map(|to| source_towards((to, 9).into())).unwrap_or(FALLBACK_V6.into());
    vec![(v4, 32), (v6, 128)]
}

/// Connecting a UDP socket sends nothing; it only asks the routing table.
fn source_towards(to: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = if to.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(to).ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}
