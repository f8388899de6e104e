//! `up`: everything that makes packets go through the TUN, and its owner.
//!
//! # Theory of operation
//!
//! Order: TUN, its addresses, our table, live chains, kernel settings, rules, the guard that refuses last. Flows that are older
//! are put beside the TUN before the rules and looked for once more behind them: whatever opened in between waits in the TUN,
//! which nobody reads yet, and the guard refuses no segment of it. The undo file is written before the first change. [`Installed`]
//! owns what was done and takes it back when it is removed or dropped; [`super::cleanup`] does the same after SIGKILL.
//!
//! A killed router leaves the host closed. The next `up` finds the undo file and takes over without a gap: the guard is
//! replaced in one transaction, the new rule is added before the old one is removed, and old kernel settings keep the values
//! from before the *first* `up`. Should such an `up` fail, the host stays closed as it was found.
//!
//! Keeps one rule: nothing half-done is left behind. Refuses no namespace; who calls decides where.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;

use super::bare::BareLinks;
use super::guard::{Guard, REMOVE_PLAIN};
use super::host::Host;
use super::nft::{self, Live, NftError};
use super::plan::{Failure, Plan};
use super::run_dir::RunDir;
use super::setup::{configure_tun, index_of, multicast_off, settings_of};
use super::undo::{CleanupError, Undo, remove_link};
use super::{Mark, RequestError, RouteSocket, express, foremost};
use super::{steer, stranded};
use crate::packet::{FiveTuple, LinkNumber};
use crate::tun::{OpenError, Queue};

/// The tables of the guard that refuses.
pub(super) const GUARD: [&str; 2] = ["inet portreeve", "netdev portreeve"];

/// Why `up` failed. Nothing is left changed, except that a host found closed stays closed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error("a router is active here already; `portreeve status` shows it, `portreeve down` ends it")]
    Active,
    #[error(transparent)]
    Tun(#[from] OpenError),
    #[error("make a random mark: {0}")]
    Random(io::Error),
    #[error(transparent)]
    Nft(#[from] NftError),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("{name:?} is no name that nft can take; rename the link or exclude it in the plan")]
    LinkName { name: String },
    #[error(transparent)]
    State(CleanupError),
}

impl From<CleanupError> for InstallError {
    fn from(error: CleanupError) -> Self {
        match error {
            CleanupError::Active(_) | CleanupError::ActiveElsewhere => Self::Active,
            CleanupError::Nft(error) => Self::Nft(error),
            CleanupError::Request(error) => Self::Request(error),
            other => Self::State(other),
        }
    }
}

impl InstallError {
    /// Whether more privilege would help.
    #[must_use]
    pub fn is_privilege(&self) -> bool {
        match self {
            Self::Tun(error) => matches!(error, OpenError::Privilege { .. }),
            Self::Nft(error) => error.is_privilege(),
            Self::Request(error) => matches!(error.errno(), Some(libc::EPERM | libc::EACCES)),
            Self::State(error) => error.is_privilege(),
            Self::Active | Self::Random(_) | Self::LinkName { .. } => false,
        }
    }
}

/// Makes [`Installed`].
#[derive(Debug)]
pub struct Install;

/// A namespace whose packets go through the TUN. Dropping it takes everything back.
#[derive(Debug)]
pub struct Installed {
    pub(super) plan: Plan,
    pub(super) mark: Mark,
    pub(super) mtu: u32,
    pub(super) bare: Arc<BareLinks>,
    addresses: Vec<IpAddr>,
    queues: Vec<Queue>,
    /// Of a queue: keeps the device until the routes no longer lead there, and its packets are lost, not refused.
    _device: Option<OwnedFd>,
    /// `None` once everything was taken back.
    pub(super) state: Option<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) run_dir: RunDir,
    pub(super) socket: RouteSocket,
    pub(super) undo: Undo,
    /// It is on disk.
    is_written: bool,
    /// Where the plan wants our rules; others may have come before.
    pub(super) wanted: u32,
    pub(super) live: Live,
    /// Counts the changes of what goes beside the TUN.
    pub(super) turn: u32,
    /// What goes beside the TUN.
    pub(super) beside: Vec<FiveTuple>,
    /// Where questions to the loopback stubs are redirected to.
    pub(super) stubs: Option<u16>,
    /// The guard as nft lists it.
    pub(super) listed: String,
    /// The device, whatever its name.
    pub(super) device: u32,
    /// The links whose numbers it knows.
    pub(super) numbered: [Option<u32>; LinkNumber::COUNT],
}

/// Says which flows are older than the router and go on beside the TUN, until it says otherwise.
pub type Look<'a> = dyn FnMut(&Host) -> Vec<FiveTuple> + 'a;

impl Install {
    /// Installs `plan` in the calling thread's network namespace, where every flow is new. `run_dir` holds the lock and the undo
    /// file. Blocks for some tens of milliseconds.
    ///
    /// # Errors
    ///
    /// A router is active already, something is missing, or the kernel or nft refuses a step.
    pub fn up(plan: &Plan, run_dir: &Path) -> Result<Installed, InstallError> {
        Self::up_beside(plan, run_dir, 1, &mut |_| Vec::new())
    }

    /// The same, with older flows that go on beside the TUN. `look` is called before the rules are live and again afterwards.
    ///
    /// # Errors
    ///
    /// As [`Self::up`].
    pub fn up_beside(plan: &Plan, run_dir: &Path, queues: usize, look: &mut Look<'_>) -> Result<Installed, InstallError> {
        let run_dir = RunDir::lock(run_dir)?;
        // The live tables belong to a process that ends with its router: if they stay, one is alive with another run directory.
        nft::live_is_gone()
            .map_err(|error| if let NftError::Silent { .. } = error { InstallError::Active } else { error.into() })?;
        let mut socket = RouteSocket::open().map_err(CleanupError::Netlink)?;
        let mark = plan.mark.map_or_else(Mark::random, Ok).map_err(InstallError::Random)?;
        let host = Host::read(&mut socket)?;
        let wanted = plan.priority;
        let plan = &Plan { priority: foremost::place(&mut socket, wanted)?, ..plan.clone() };
        let bare = Arc::new(BareLinks::default());
        let guard = Guard { plan, host: &host, mark, bare: &bare };
        check_names(&guard)?;
        bare.follow(guard.guarded_links());
        let found = run_dir.read()?;
        let live = Live::start()?;
        // Vanishes by itself, so it needs no undo; whoever has the device has the namespace.
        let queues = Queue::open_several(&plan.device, queues)?;
        let device = index_of(&mut socket, &plan.device)?;
        let undo = Undo::of(plan, mark, &host, found.as_ref())?;
        run_dir.write(&undo)?;
        let mut state = State {
            run_dir,
            socket,
            undo,
            is_written: true,
            wanted,
            live,
            turn: 0,
            beside: Vec::new(),
            stubs: None,
            listed: String::new(),
            device,
            numbered: bare.all(),
        };
        match state.install(&guard, found.as_ref(), look) {
            Ok(()) => Ok(Installed::new(&guard, bare.clone(), queues, state)),
            // The host was found closed: it stays so, and the undo file keeps what both attempts need.
            Err(error) if found.is_some() => Err(error),
            Err(error) => {
                // The first failure is the one to tell; leftovers stay in the undo file for `cleanup`.
                let _ = state.remove();
                Err(error)
            }
        }
    }
}

impl State {
    fn install(&mut self, guard: &Guard<'_>, found: Option<&Undo>, look: &mut Look<'_>) -> Result<(), InstallError> {
        let Guard { plan, host, mark, bare: _ } = *guard;
        if let Some(found) = found {
            stranded::end_taken_over(&mut self.socket, plan, &found.addresses);
        }
        let addresses: Vec<(IpAddr, u8)> =
            host.fitting(&plan.addresses, &plan.device).iter().map(|net| (net.addr(), net.prefix_len())).collect();
        for (path, value) in settings_of(&plan.device, host.ipv6) {
            // A kernel without one works as far as it goes.
            let _ = std::fs::write(format!("/proc/sys/net/{path}"), value);
        }
        multicast_off(&mut self.socket, &plan.device)?;
        let index = configure_tun(&mut self.socket, &plan.device, &addresses, host.uplink_mtu(&plan.device))?;
        steer::fill_table(&mut self.socket, plan, host, index)?;
        express::forget_old(mark);
        self.load_live(guard)?;
        self.lead_beside(&look(host), mark)?;
        for setting in &self.undo.settings {
            setting.apply()?;
        }
        steer::add_rules(&mut self.socket, &steer::rules(plan, host, mark))?;
        self.lead_beside(&look(host), mark)?;
        self.load_guard(guard)?;
        found.map_or(Ok(()), |found| self.take_over(plan, host, mark, found))
    }

    pub(super) fn load_guard(&mut self, guard: &Guard<'_>) -> Result<(), InstallError> {
        let plain = guard.plain();
        // Ours already, in the failure mode "open": such a table may not be named without its flag.
        let owned = !self.listed.is_empty();
        match guard.plan.failure {
            Failure::Closed => nft::run("load the guard", &format!("{REMOVE_PLAIN}{plain}")).map(|_| ())?,
            Failure::Open if owned => {
                let again = format!("delete table inet portreeve\ndelete table netdev portreeve\n{plain}");
                self.load("load the guard", &again, "list chain inet portreeve output")?;
            }
            Failure::Open => {
                // A plain table of a killed, closed router is in the way of one with an owner.
                nft::run("remove the old guard", REMOVE_PLAIN)?;
                self.load("load the guard", &plain, "list chain inet portreeve output")?;
            }
        }
        self.listed = nft::list(&GUARD)?;
        self.numbered = guard.bare.all();
        Ok(())
    }

    /// Removes what the killed router had and the new one has not.
    fn take_over(&mut self, plan: &Plan, host: &Host, mark: Mark, found: &Undo) -> Result<(), InstallError> {
        let rules = steer::rules(plan, host, mark);
        found.forget_carried();
        found.forget_datagrams();
        for rule in found.rules.iter().filter(|rule| !rules.contains(rule)) {
            rule.remove(&mut self.socket)?;
        }
        for table in found.tables.iter().filter(|table| **table != plan.table) {
            steer::remove_table(&mut self.socket, *table, None)?;
        }
        self.undo.addresses = plan.addresses.iter().map(IpNet::addr).collect();
        self.undo.rules = rules;
        self.undo.tables = vec![plan.table];
        Ok(self.note()?)
    }

    /// Puts on disk what there is to undo.
    pub(super) fn note(&mut self) -> Result<(), CleanupError> {
        self.is_written = false;
        self.run_dir.write(&self.undo)?;
        self.is_written = true;
        Ok(())
    }

    /// The same, unless it is there.
    pub(super) fn note_again(&mut self) -> Result<(), CleanupError> {
        if self.is_written { Ok(()) } else { self.note() }
    }

    fn remove(&mut self) -> Result<(), CleanupError> {
        if self.undo.owned {
            self.live.end();
        } else if let Err(error) = self.fall_silent() {
            tracing::debug!("programs may notice the end: {error}");
        }
        let result = self.undo.restore(&mut self.socket);
        self.live.end();
        // Whoever reads the device may still hold it.
        remove_link(&mut self.socket, &self.undo.device, self.device)?;
        result?;
        self.run_dir.forget()
    }
}

impl Installed {
    fn new(guard: &Guard<'_>, bare: Arc<BareLinks>, queues: Vec<Queue>, mut state: State) -> Self {
        let Guard { plan, host, mark, bare: _ } = *guard;
        let now = Host::read(&mut state.socket).unwrap_or_else(|_| host.clone());
        Self {
            plan: plan.clone(),
            mark,
            mtu: host.uplink_mtu(&plan.device),
            bare,
            addresses: now.own_addresses(),
            _device: queues.first().and_then(|queue| queue.as_fd().try_clone_to_owned().ok()),
            queues,
            state: Some(state),
        }
    }

    /// The device's queues, once; none afterwards.
    #[must_use]
    pub fn take_queues(&mut self) -> Vec<Queue> {
        std::mem::take(&mut self.queues)
    }

    /// The mark for every upstream socket.
    #[must_use]
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// The numbers of links without headers, as they are from now on.
    #[must_use]
    pub fn bare_links(&self) -> Arc<BareLinks> {
        self.bare.clone()
    }

    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    #[must_use]
    pub fn mtu(&self) -> u32 {
        self.mtu
    }

    /// This host's addresses as they were at `up`, ours included; [`super::Watcher`] tells of later ones.
    #[must_use]
    pub fn own_addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Redirects port 53 of the plan's loopback stubs to the resolver that listens at `port` on 127.0.0.1 and ::1. Only for a
    /// resolver that answers already: until then the stubs work as without us.
    ///
    /// # Errors
    ///
    /// nft refuses it.
    pub fn redirect_stubs(&mut self, port: u16) -> Result<(), NftError> {
        let Some(state) = &mut self.state else { return Ok(()) };
        if self.plan.dns.stubs.is_empty() {
            return Ok(());
        }
        state.redirect_stubs(&self.plan, self.mark, port)
    }

    /// Puts exactly these flows beside the TUN; all others go into it.
    ///
    /// # Errors
    ///
    /// nft refuses it.
    pub fn lead_beside(&mut self, tuples: &[FiveTuple]) -> Result<(), NftError> {
        let mark = self.mark;
        self.state.as_mut().map_or(Ok(()), |state| state.lead_beside(tuples, mark))
    }

    /// Takes everything back: rules, settings, guard, routes, the device.
    ///
    /// # Errors
    ///
    /// The kernel or nft refuses a step; the undo file stays for `cleanup`.
    pub fn remove(mut self) -> Result<(), CleanupError> {
        self.take_back()
    }

    fn take_back(&mut self) -> Result<(), CleanupError> {
        let result = self.state.take().map_or(Ok(()), |mut state| state.remove());
        self.queues.clear();
        result
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        if let Err(error) = self.take_back() {
            tracing::error!(%error, "the network is not restored; run `portreeve cleanup`");
        }
    }
}

/// Link names go into nft strings; one with a quote in it would end the string.
pub(super) fn check_names(guard: &Guard<'_>) -> Result<(), InstallError> {
    let bad = guard.guarded_links().find(|link| link.name.contains(['"', '\\', '*']));
    bad.map_or(Ok(()), |link| Err(InstallError::LinkName { name: link.name.clone() }))
}
