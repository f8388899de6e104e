//! The programs at their places, and the maps that they fill.
//!
//! Keeps one rule: before an answer is ever believed, a socket of our own was made and closed, and its record said so.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use super::code::Instruction;
use super::portrait::Portraits;
use super::program::{self, CHANGES, Notes, Watched};
use super::raw::{self, Note, RawNotes};
use super::record::{self, Closed, MADE_LEN, RECORD_LEN, Sender};
use super::sys::{self, Hook, Map, MapKind};
use crate::packet::{FiveTuple, Protocol};
use crate::process::Portrait;

/// UDP sockets that were closed lately, and processes that executed a program or began a process lately.
const ENTRIES: u32 = 4096;
/// Sockets that were made lately, of all kinds.
const MADE_ENTRIES: u32 = 16_384;
/// Processes that closed raw sockets since this was asked last.
const RAW_ENTRIES: u32 = 512;
/// A socket that was made longer ago may have been passed on before anything was noted of its process. Longer than a first packet waits behind
/// a flood: for each that is older, all processes are searched.
const NEW: Duration = Duration::from_secs(10);
/// Trials until one shows what we do. A thread of ours may begin a process in the midst of one, which closes the socket last.
const TRIALS: usize = 3;
/// The discard port: nothing is sent to it.
const DISCARD: u16 = 9;

/// Why nothing is known of sockets that are closed.
#[derive(Debug, thiserror::Error)]
pub enum Without {
    #[error("the rights for it are missing (root has them outside a container)")]
    Rights,
    #[error("this kernel cannot: {attempt}: {error}")]
    Kernel { attempt: &'static str, error: io::Error },
    #[error("the kernel's notes do not show what we do; we may be in a container")]
    Trial,
}

/// Who made the sockets of a network namespace just now, and who closed the UDP and the raw ones, ours excepted: what we send does not come
/// by the TUN.
#[derive(Debug)]
pub struct ClosedSockets {
    maps: Maps,
    /// None: who is gone is not known.
    portraits: Option<Portraits>,
    raw: Mutex<RawNotes>,
    /// The programs run until these are closed.
    _links: Vec<OwnedFd>,
}

/// The programs for sockets, and where they run.
type Programs = [(Hook, OwnedFd); 2];

/// Filled by the programs.
#[derive(Debug)]
struct Maps {
    made: Map,
    closed: Map,
    executed: Map,
    forked: Map,
    /// When a process executed a program or began another one last. Nothing makes it forget.
    changed: Map,
    raw: Map,
    raw_lost: Map,
}

impl Maps {
    fn make() -> Result<Self, Without> {
        let make = |kind, key, value, entries| Map::make(kind, key, value, entries).map_err(without("make a map"));
        let recent = |key, value| make(MapKind::Recent, key, value, ENTRIES);
        Ok(Self {
            made: make(MapKind::Recent, 8, MADE_LEN, MADE_ENTRIES)?,
            closed: recent(4, RECORD_LEN)?,
            executed: recent(4, 8)?,
            forked: recent(4, 8)?,
            changed: make(MapKind::Array, 4, 8, CHANGES)?,
            raw: make(MapKind::Hash, raw::KEY_LEN, raw::VALUE_LEN, RAW_ENTRIES)?,
            raw_lost: make(MapKind::Array, 4, 8, 1)?,
        })
    }

    /// What is noted of raw sockets, taken out, and when a note found no room last.
    fn take_raw(&self) -> io::Result<(Vec<Note>, u64)> {
        let notes = self.raw.take_all::<{ raw::KEY_LEN }, { raw::VALUE_LEN }>()?;
        let lost = self.raw_lost.find::<8>(&0_u32.to_ne_bytes()).map(u64::from_ne_bytes);
        let lost = lost.ok_or_else(|| io::Error::other("the kernel's note of lost notes is not there"))?;
        Ok((notes.iter().filter_map(|(key, value)| Note::read(key, value)).collect(), lost))
    }

    fn time_of(map: &Map, pid: u32) -> Option<u64> {
        map.find::<8>(&pid.to_ne_bytes()).map(u64::from_ne_bytes)
    }

    /// The socket of this port that was closed last.
    fn closed(&self, port: u16) -> Option<Closed> {
        Closed::read(&self.closed.find::<RECORD_LEN>(&u32::from(port).to_ne_bytes())?)
    }

    /// Has the kernel take the programs that note sockets.
    fn of_sockets(&self, watched: Watched, portraits: Option<&Portraits>) -> Result<Programs, Without> {
        let Self { made, closed, executed, forked, raw, raw_lost, .. } = self;
        let notes = Notes { made, closed, executed, forked, raw, raw_lost };
        Ok([
            (Hook::SocketMade, load(Hook::SocketMade, "portreeve_made", &program::of_made(watched, made, portraits))?),
            (Hook::SocketReleased, load(Hook::SocketReleased, "portreeve_close", &program::of_released(watched, notes))?),
        ])
    }

    /// The same with portraits, where the kernel takes these.
    fn of_sockets_portrayed(&self, watched: Watched) -> Result<(Programs, Option<Portraits>), Without> {
        let portrayed =
            Portraits::make().and_then(|portraits| Some((self.of_sockets(watched, Some(&portraits)).ok()?, portraits)));
        match portrayed {
            Some((programs, portraits)) => Ok((programs, Some(portraits))),
            None => Ok((self.of_sockets(watched, None)?, None)),
        }
    }

    /// Has the kernel take those that note who executes a program, after it and before, and who begins a process.
    fn of_programs(&self) -> Result<[OwnedFd; 3], Without> {
        let of = |name, code: Vec<Instruction>| load(Hook::Tracepoint, name, &code);
        Ok([
            of("portreeve_execd", program::of_executed(&self.executed, &self.changed, true))?,
            of("portreeve_exec", program::of_executed(&self.executed, &self.changed, false))?,
            of("portreeve_fork", program::of_forked(&self.forked, &self.changed))?,
        ])
    }

    /// The trial: nothing is sent. Gives the cookie of the socket, too.
    fn see_ours(&self, loopback: IpAddr) -> io::Result<(u64, bool)> {
        let before = sys::since_boot();
        let socket = UdpSocket::bind((loopback, 0))?;
        let remote = SocketAddr::new(loopback, DISCARD);
        socket.connect(remote)?;
        let tuple = FiveTuple { protocol: Protocol::UDP, local: socket.local_addr()?, remote };
        let cookie = rustix::net::sockopt::socket_cookie(&socket)?;
        drop(socket);
        let after = sys::since_boot();
        let sender = self.closed(tuple.local.port()).and_then(|closed| closed.sender_of(&tuple, after));
        let is_seen = sender.is_some_and(|sender| {
            (sender.pid, sender.uid, sender.cookie) == (std::process::id(), rustix::process::getuid().as_raw(), cookie)
                && (before..=after).contains(&sender.made)
        });
        Ok((cookie, is_seen))
    }
}

fn load(hook: Hook, name: &str, code: &[Instruction]) -> Result<OwnedFd, Without> {
    sys::load(hook, name, code).map_err(without("load a program"))
}

impl ClosedSockets {
    /// Lets the programs run for the network namespace that `socket` was made in, until this is dropped.
    ///
    /// # Errors
    ///
    /// The rights are missing, the kernel cannot, or a trial shows that its notes are not to be believed here.
    pub fn watch(socket: BorrowedFd<'_>) -> Result<Self, Without> {
        let netns = netns_of(socket)?;
        let maps = Maps::make()?;
        // Who executes comes first: a socket whose maker is known is never of a program that nobody noted.
        let [after, before, forked] = maps.of_programs()?;
        let mut links = vec![
            sys::trace(c"sched_process_exec", &after).map_err(without("trace sched_process_exec"))?,
            sys::trace(c"sched_process_fork", &forked).map_err(without("trace sched_process_fork"))?,
        ];
        // Since Linux 6.10: before it, a process that is about to be another program is seen a few microseconds late.
        links.extend(sys::trace(c"sched_prepare_exec", &before));
        let root = root_cgroup().map_err(|error| without("open the cgroups' root")(error.into()))?;
        let (programs, mut portraits) = maps.of_sockets_portrayed(Watched { netns: netns_here()?, but_of: 0 })?;
        let trial = attach(&root, &programs)?;
        let [v4, v6]: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        // Without IPv6 there are no packets of it either.
        let v6_is_off = UdpSocket::bind((v6, 0)).is_err();
        let sees = |loopback| {
            let mut tries = (0..TRIALS).filter_map(|_| maps.see_ours(loopback).ok());
            tries.find_map(|(cookie, is_seen)| is_seen.then_some(cookie))
        };
        let seen = sees(v4).filter(|_| v6_is_off || sees(v6).is_some()).ok_or(Without::Trial)?;
        drop(trial);
        portraits = portraits.and_then(|mut portraits| portraits.know_us(seen).then_some(portraits));
        if portraits.is_none() {
            tracing::info!(
                "UDP datagrams of programs that end at once are nobody's: the kernel does not show what made a socket"
            );
        }
        links.extend(attach(&root, &maps.of_sockets(Watched { netns, but_of: std::process::id() }, portraits.as_ref())?)?);
        Ok(Self { maps, portraits, raw: Mutex::default(), _links: links })
    }

    /// Whether the kernel would take the programs, and with them those that portray. Lets none of them run.
    ///
    /// # Errors
    ///
    /// As [`Self::watch`].
    pub fn probe() -> Result<bool, Without> {
        let maps = Maps::make()?;
        maps.of_programs()?;
        let (_, portraits) = maps.of_sockets_portrayed(Watched { netns: netns_here()?, but_of: 0 })?;
        Ok(portraits.is_some())
    }

    /// Who sent a UDP packet of this flow that no socket is found for, if a socket that was closed just now tells.
    #[must_use]
    pub fn sender(&self, tuple: &FiveTuple) -> Option<Sender> {
        if tuple.protocol != Protocol::UDP {
            return None;
        }
        self.maps.closed(tuple.local.port())?.sender_of(tuple, sys::since_boot())
    }

    /// Who made and closed the socket of a UDP flow that was closed last, be it long ago or another's since: only for one that is known to
    /// have sent, by its cookie.
    #[must_use]
    pub fn closer(&self, tuple: &FiveTuple) -> Option<Sender> {
        if tuple.protocol != Protocol::UDP {
            return None;
        }
        self.maps.closed(tuple.local.port())?.closer_of(tuple)
    }

    /// Who made and closed the UDP socket with this cookie, whoever has had its port since.
    #[must_use]
    pub fn maker(&self, cookie: u64) -> Option<Sender> {
        record::maker(cookie, &self.maps.made.find::<MADE_LEN>(&cookie.to_ne_bytes())?)
    }

    /// Whether a UDP socket of this port was closed just now.
    #[must_use]
    pub fn was_left_just_now(&self, port: u16) -> bool {
        self.maps.closed(port).is_some_and(|closed| closed.is_recent(sys::since_boot()))
    }

    /// Whether a program made the socket with this cookie, as far as is remembered; what the kernel makes for itself is not noted.
    #[must_use]
    pub fn was_made(&self, cookie: u64) -> bool {
        self.maps.made.find::<MADE_LEN>(&cookie.to_ne_bytes()).is_some()
    }

    /// Who made the socket with this cookie, as far as is remembered.
    #[must_use]
    pub fn maker_of(&self, cookie: u64) -> Option<Sender> {
        record::made_by(cookie, &self.maps.made.find::<MADE_LEN>(&cookie.to_ne_bytes())?)
    }

    /// What the process was that made this UDP socket, when it did. For who is gone.
    #[must_use]
    pub fn portrait(&self, sender: &Sender) -> Option<Portrait> {
        self.portraits.as_ref()?.find(sender.cookie)
    }

    /// Whether a process that is gone executed no program since it made its socket, and began none that would have had that, too. A flood of
    /// others makes nobody forget it; one of them with the same lower half of its number counts as well.
    #[must_use]
    pub fn stayed_the_same(&self, sender: &Sender) -> bool {
        Maps::time_of(&self.maps.changed, sender.pid % CHANGES).is_some_and(|at| at < sender.made)
    }

    /// Who made the socket with this cookie just now, of whatever kind it is.
    #[must_use]
    pub fn maker_of_new(&self, cookie: u64) -> Option<Sender> {
        record::maker_of_new(cookie, &self.maps.made.find::<MADE_LEN>(&cookie.to_ne_bytes())?, NEW, sys::since_boot())
    }

    /// Who closed raw sockets just now. To be asked after the table of open ones was read: the kernel notes a socket before that leaves the
    /// table.
    ///
    /// # Errors
    ///
    /// The notes cannot be read.
    pub fn raw_notes(&self) -> io::Result<RawNotes> {
        let mut known = self.raw.lock().unwrap_or_else(PoisonError::into_inner);
        let (new, lost) = self.maps.take_raw()?;
        known.take(new.into_iter(), lost, sys::since_boot());
        Ok(known.clone())
    }

    /// Whether a sender's process is the program still that it was when it made its socket. To be asked after the process was looked at.
    #[must_use]
    pub fn is_same_program(&self, sender: &Sender) -> bool {
        self.has_executed_none(sender.pid, sender.made)
    }

    /// Whether a process has executed no program since a time, in nanoseconds since boot.
    #[must_use]
    pub fn has_executed_none(&self, pid: u32, since: u64) -> bool {
        Maps::time_of(&self.maps.executed, pid).is_none_or(|at| at < since)
    }

    /// Whether a process has begun no other since a time, which would have inherited its sockets. To be asked after the process was looked
    /// at.
    #[must_use]
    pub fn has_begun_none(&self, pid: u32, since: u64) -> bool {
        Maps::time_of(&self.maps.forked, pid).is_none_or(|at| at < since)
    }
}

/// Lets programs run for all sockets, until the links are closed.
fn attach(root: &OwnedFd, programs: &[(Hook, OwnedFd)]) -> Result<Vec<OwnedFd>, Without> {
    let attach = |(hook, program): &(Hook, OwnedFd)| sys::attach(*hook, program, root);
    programs.iter().map(attach).collect::<io::Result<_>>().map_err(without("attach to the cgroups' root"))
}

fn netns_of(socket: BorrowedFd<'_>) -> Result<u64, Without> {
    sys::netns_cookie(socket).map_err(without("ask for the network namespace"))
}

fn netns_here() -> Result<u64, Without> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(without("make a socket"))?;
    netns_of(socket.as_fd())
}

/// The root of the one hierarchy of all cgroups. A mount of our own that nobody sees: where others have mounted it depends on the mount
/// namespace, and it may be nowhere.
fn root_cgroup() -> rustix::io::Result<OwnedFd> {
    let context = fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    openat(&mount, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

pub(super) fn without(attempt: &'static str) -> impl Fn(io::Error) -> Without {
    move |error| match Errno::from_io_error(&error) {
        Some(Errno::PERM | Errno::ACCESS) => Without::Rights,
        _ => Without::Kernel { attempt, error },
    }
}
