//! The thorough search for a socket's holders, and what is read of a holder.
//!
//! Keeps one rule: the lock is never held while /proc is read. Does not ask the socket tables; `netlink` does.

use std::cell::OnceCell;
use std::collections::HashSet;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};

use super::cgroups::Cgroups;
use super::descriptors::{self, SocketLink, Walk};
use super::hints::{Hints, Holder};
use super::identity::{self, Snapshot, Surroundings};
use super::mounts::Mounts;
use super::process::{Process, all};
use super::users::Users;
use super::{sockets, tags};
use crate::packet::FiveTuple;
use crate::process::{Confidence, Identity, Socket};

/// Links that the thorough search may read over all processes.
pub(super) const THOROUGH_LINKS: usize = 1_000_000;
/// An identity is read anew after this time even if nothing seems changed: sessions, groups, cgroups.
pub(super) const IDENTITY_AGE: Duration = Duration::from_secs(5);
/// After a walk over all processes in vain, the next one for the same user waits this long.
const WALK_PAUSE: Duration = Duration::from_millis(250);
/// Links that are read in one process that may be a server.
const SERVER_LINKS: usize = 4096;
/// Times that a program is read which executes another meanwhile.
const READS: usize = 3;
/// Children of the first holder that are searched.
const CHILDREN: usize = 32;

/// Whether the process with this PID has surely been the same program since a time; `None`: that is not known.
pub type IsSame<'a> = &'a dyn Fn(u32, Instant) -> Option<bool>;

/// What may be done for an identity.
#[derive(Clone, Copy)]
pub enum Effort<'a> {
    /// What was read before is looked up: a packet loop waits for nobody.
    Known(IsSame<'a>),
    /// It is read. That may last: the executable may lie on a file system that does not answer.
    Read,
}

/// Where to look. The default is this machine, all of it.
#[derive(Clone, Debug)]
pub struct Options {
    /// A mounted proc filesystem.
    pub proc_root: PathBuf,
    /// The folder of `passwd` and `group`.
    pub etc_dir: PathBuf,
    /// The folder of logind's state and of utmp.
    pub run_dir: PathBuf,
    /// The first process of an enclosure, by its PID out here: then only processes in its network namespace, or below it in the
    /// process tree, are ever found, and its mount namespace is trusted like ours.
    pub enclosure: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self { proc_root: "/proc".into(), etc_dir: "/etc".into(), run_dir: "/run".into(), enclosure: None }
    }
}

/// The processes of the machine, or of an enclosure. Shared by all threads.
#[derive(Debug)]
pub struct Processes {
    options: Options,
    /// `None` in `Some`: an enclosure that cannot be seen, in which nobody is found.
    enclosure: Option<Option<Process>>,
    mounts: Mounts,
    users: Users,
    cgroups: Cgroups,
    hints: Mutex<Hints>,
}

impl Processes {
    #[must_use]
    pub fn new(options: Options) -> Self {
        let enclosure = options.enclosure.map(|pid| Process::open(&options.proc_root, pid));
        let theirs = enclosure.iter().flatten().map(|init| init.pid.to_string());
        let mounts = Mounts::of(&options.proc_root, std::iter::once("self".to_owned()).chain(theirs));
        let mountinfo = std::fs::read_to_string(options.proc_root.join("self/mountinfo")).unwrap_or_default();
        Self {
            enclosure,
            mounts,
            users: Users::new(&options.etc_dir, &options.run_dir),
            cgroups: Cgroups::new(&mountinfo),
            options,
            hints: Mutex::default(),
        }
    }

    /// All holders that can be seen with reasonable work: never empty, at least the unattributed identity with the user's number.
    ///
    /// Searches until the first holder, then looks in the rest of the same candidates only at the descriptor number of that one,
    /// where a forked or exec'd child has it, and searches that one's parents and children. Holders that run the same program are one
    /// identity; different ones are all returned, each `Ambiguous`, and the strictest verdict holds.
    #[must_use]
    pub fn find(&self, socket: &Socket) -> Vec<Arc<Identity>> {
        let now = Instant::now();
        let hopeless = socket.inode == 0 || self.hints().was_missed(socket.inode, now);
        let first = if hopeless { None } else { self.quick_holder(socket, None, now) };
        let hopeless = hopeless || first.as_ref().is_some_and(|(process, _)| self.hints().is_ending(process, now));
        let mut holders = if hopeless { Vec::new() } else { self.holders(socket, first, now) };
        let mut found: Vec<Arc<Identity>> = Vec::new();
        for holder in &holders {
            let Some(identity) = self.identify_holder(holder, socket, now, Effort::Read) else { continue };
            let (process, fd) = holder;
            self.remember(process, socket, *fd);
            if !found.iter().any(|other| is_same_program(other, &identity)) {
                found.push(identity);
            }
        }
        if found.is_empty() {
            if !hopeless {
                // Who became another program meanwhile is not ending.
                holders.retain(|(process, _)| process.file("exe").is_err());
                self.hints().note_missed(socket.inode, &holders, now);
            }
            return vec![self.nobody(socket.uid)];
        }
        if found.len() > 1 {
            self.hints().ambiguous.insert(socket.inode, ());
        }
        ambiguous(found)
    }

    /// The ping socket behind an ICMP echo flow, which sock_diag does not list.
    ///
    /// `netns_of` is a process in the network namespace of the flow; `None` is the calling thread's own.
    #[must_use]
    pub fn ping_owner(&self, tuple: &FiveTuple, netns_of: Option<u32>) -> Option<Socket> {
        sockets::owner(tuple, &self.net_dir(netns_of))
    }

    pub(super) fn users(&self) -> &Users {
        &self.users
    }

    /// Where identities are read.
    pub(super) fn surroundings(&self) -> Surroundings<'_> {
        Surroundings { proc_root: &self.options.proc_root, users: &self.users, mounts: &self.mounts }
    }

    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    /// The folder with the tables of a network namespace.
    #[must_use]
    pub fn net_dir(&self, netns_of: Option<u32>) -> PathBuf {
        let owner = netns_of.map_or_else(|| "thread-self".to_owned(), |pid| pid.to_string());
        self.options.proc_root.join(owner).join("net")
    }

    /// Whether the process behind an identity holds this socket. False when that cannot be seen, and of a process with more
    /// descriptors than a server has.
    #[must_use]
    pub fn holds(&self, identity: &Identity, socket: &Socket) -> bool {
        let process = identity.pid.and_then(|pid| Process::open(&self.options.proc_root, pid));
        let process = process.filter(|process| process.start_ticks == identity.start_ticks && socket.inode != 0);
        process.is_some_and(|process| process.search(&SocketLink::new(socket.inode), &mut Walk::short(SERVER_LINKS)).is_some())
    }

    /// Whether a socket that is there is the kernel's own: root's, and no process at all holds it. False wherever not every descriptor of this
    /// machine can be seen.
    #[must_use]
    pub fn is_kernels(&self, socket: &Socket) -> bool {
        let first = self.options.proc_root.join("1/fd");
        if socket.inode == 0 || socket.uid != 0 || self.enclosure.is_some() || std::fs::read_dir(first).is_err() {
            return false;
        }
        let mut search = Search::new(socket);
        self.look_at(all(&self.options.proc_root).iter().map(|(pid, _)| *pid).collect(), &mut search);
        search.found.is_empty() && search.walk.budget > 0
    }

    /// Whether a path exists as a program sees it, in its own root and mounts. False when that cannot be seen.
    pub fn exists_for(&self, identity: &Identity) -> impl Fn(&Path) -> bool + use<> {
        let (pid, start_ticks) = (identity.pid, identity.start_ticks);
        let proc_root = self.options.proc_root.clone();
        let open = move || {
            let process = Process::open(&proc_root, pid?).filter(|process| process.start_ticks == start_ticks)?;
            openat(process.dir(), "root", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()
        };
        // Few profiles ask.
        let root = OnceCell::new();
        move |path| {
            let Some(root) = root.get_or_init(&open) else { return false };
            // Absolute links inside a container must not lead out to our files.
            openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT).is_ok()
        }
    }

    fn holders(&self, socket: &Socket, first: Option<Holder>, now: Instant) -> Vec<Holder> {
        let mut search = Search::new(socket);
        search.found.extend(first);
        search.seen.extend(search.found.iter().map(|(process, _)| process.pid));
        let members = socket.cgroup_id.map(|id| self.cgroups.members(id)).unwrap_or_default();
        let is_narrowed = !members.is_empty();
        self.look_at(members, &mut search);
        if is_narrowed && !search.found.is_empty() {
            return self.with_relatives(search);
        }
        let everyone = all(&self.options.proc_root);
        let mine = everyone.iter().filter(|(_, owner)| *owner == socket.uid).map(|(pid, _)| *pid);
        self.look_at(mine.collect(), &mut search);
        let walked = self.hints().walked.find(&socket.uid).is_some_and(|at| now.duration_since(*at) < WALK_PAUSE);
        if search.found.is_empty() && !walked {
            // Sockets made before a change of user, and programs that are not dumpable, whose directories are root's.
            self.look_at(everyone.iter().map(|(pid, _)| *pid).collect(), &mut search);
            if search.found.is_empty() {
                self.hints().walked.insert(socket.uid, now);
            }
        }
        self.with_relatives(search)
    }

    /// Adds the nearest relatives of the first holder that hold the socket at another number.
    fn with_relatives(&self, mut search: Search) -> Vec<Holder> {
        let Some((first, _)) = search.found.first().cloned() else { return search.found };
        let parent = first.stat().map(|stat| stat.parent);
        for pid in self.relatives(&first, parent) {
            if search.found.iter().all(|(process, _)| process.pid != pid) {
                let holder = self.search_in(pid, &mut search);
                search.found.extend(holder);
            }
        }
        search.found
    }

    /// Parent, grandparent and children, as far as they are inside.
    pub(super) fn relatives(&self, process: &Process, parent: Option<u32>) -> Vec<u32> {
        let above = parent.and_then(|pid| self.inside(pid));
        let grandparent = above.as_ref().and_then(Process::stat).and_then(|stat| self.inside(stat.parent));
        let line = [above, grandparent].into_iter().flatten().map(|process| process.pid);
        line.chain(process.children().into_iter().take(CHILDREN)).collect()
    }

    /// Searches processes one by one until the first holder; the others are only looked at where a child has its parent's socket.
    fn look_at(&self, pids: Vec<u32>, search: &mut Search) {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(root) = openat(CWD, &self.options.proc_root, flags, Mode::empty()) else { return };
        for pid in pids {
            if !search.seen.insert(pid) || search.walk.budget == 0 {
                continue;
            }
            let likely = search.found.first().map(|(_, fd)| *fd);
            let holder = match likely {
                None => self.search_in(pid, search),
                Some(fd) if descriptors::holds(root.as_fd(), pid, fd, &search.link) => {
                    self.inside(pid).and_then(Process::confirm).map(|process| (Arc::new(process), fd))
                }
                Some(_) => None,
            };
            search.found.extend(holder);
        }
    }

    /// What it passes is noted of those alone that the quick search looks at too; of others it would be the word of one holder.
    pub(super) fn search_in(&self, pid: u32, search: &mut Search) -> Option<Holder> {
        let hot = self.hints().hot.process(pid).filter(|process| process.stat().is_some());
        let known = hot.is_some();
        let process = hot.or_else(|| self.inside(pid).map(Arc::new))?;
        let now = Instant::now();
        let found = process.search(&search.link, &mut search.walk);
        let passed = search.walk.take_passed();
        let process = if known { process } else { found.and_then(|_| Arc::into_inner(process)?.confirm()).map(Arc::new)? };
        self.hints().note_passed(&process, passed, now);
        Some((process, found?))
    }

    pub(super) fn inside(&self, pid: u32) -> Option<Process> {
        Process::glance(&self.options.proc_root, pid).filter(|process| self.is_inside(process))
    }

    /// True for a process of the enclosure; for every process where there is none.
    pub(super) fn is_inside(&self, process: &Process) -> bool {
        let Some(enclosure) = &self.enclosure else { return true };
        let Some(init) = enclosure else { return false };
        let netns = |process: &Process| process.file("ns/net").ok();
        match (netns(process), netns(init)) {
            (Some(one), Some(other)) => one == other,
            _ => self.is_below(process, init),
        }
    }

    /// Orphans of a PID namespace are its first process's children, so the line of parents leads there.
    fn is_below(&self, process: &Process, init: &Process) -> bool {
        let mut pid = process.pid;
        for _ in 0..64 {
            if pid == init.pid {
                return init.stat().is_some();
            }
            let Some(stat) = Process::open(&self.options.proc_root, pid).and_then(|process| process.stat()) else { return false };
            pid = stat.parent;
        }
        false
    }

    /// The identity of a holder; read again when it becomes another program while it is read.
    pub(super) fn identify(
        &self,
        process: &Process,
        socket: &Socket,
        sent: Instant,
        effort: Effort<'_>,
    ) -> Option<Arc<Identity>> {
        let holder = (process.pid, process.start_ticks, socket.uid, socket.confidence);
        if let Some((looked, identity)) = self.hints().looked.find(&holder)
            && *looked >= sent
        {
            return Some(Arc::clone(identity));
        }
        let now = Instant::now();
        let identity = match effort {
            Effort::Read => (0..READS).find_map(|_| self.identify_once(process, socket))?,
            Effort::Known(is_same) => self.known(process, socket, is_same)?,
        };
        let mut hints = self.hints();
        hints.looked.insert(holder, (now, Arc::clone(&identity)));
        hints.seen.insert(process.pid, (now, Arc::clone(&identity)));
        Some(identity)
    }

    /// From the cache when nothing that an exec changes has changed.
    fn identify_once(&self, process: &Process, socket: &Socket) -> Option<Arc<Identity>> {
        let began = Instant::now();
        // One without arguments is a thread of the kernel, or about to become another program.
        let snapshot = Snapshot::take(process).filter(|snapshot| !snapshot.cmdline.is_empty())?;
        let key = (process.pid, process.start_ticks, snapshot.exe, socket.uid, socket.confidence);
        if let Some((known, read_at, identity)) = self.hints().identities.find(&key)
            && *known == snapshot
            && read_at.elapsed() < IDENTITY_AGE
        {
            return Some(Arc::clone(identity));
        }
        let identity = Arc::new(identity::read(process, socket, &snapshot, &self.surroundings())?);
        self.hints().identities.insert(key, (snapshot, began, Arc::clone(&identity)));
        Some(identity)
    }

    pub(super) fn nobody(&self, uid: u32) -> Arc<Identity> {
        Arc::new(identity::nobody(uid, &self.users))
    }

    pub(super) fn remember(&self, process: &Arc<Process>, socket: &Socket, fd: u32) {
        process.top.fetch_max(fd, Relaxed);
        let mut hints = self.hints();
        hints.hot.put(process, socket, fd);
        if socket.cookie != 0 && socket.inode != 0 {
            hints.cookies.insert(socket.cookie, (Arc::downgrade(process), fd));
        }
    }

    pub(super) fn hints(&self) -> MutexGuard<'_, Hints> {
        self.hints.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Search {
    pub(super) link: SocketLink,
    pub(super) walk: Walk,
    seen: HashSet<u32>,
    found: Vec<Holder>,
}

impl Search {
    pub(super) fn new(socket: &Socket) -> Self {
        Self { link: SocketLink::new(socket.inode), walk: Walk::whole(THOROUGH_LINKS), seen: HashSet::new(), found: vec![] }
    }
}

/// Several are each `Ambiguous`.
pub(super) fn ambiguous(found: Vec<Arc<Identity>>) -> Vec<Arc<Identity>> {
    if found.len() < 2 {
        return found;
    }
    let lowered = |identity: &Arc<Identity>| Identity {
        confidence: identity.confidence.min(Confidence::Ambiguous),
        ..Identity::clone(identity)
    };
    found.iter().map(|identity| Arc::new(lowered(identity))).collect()
}

/// Parent and child of one program are one identity; an interpreter with another command line is another program.
pub(super) fn is_same_program(one: &Identity, other: &Identity) -> bool {
    let file = |identity: &Identity| identity.exe.as_ref().map(identity::exe_file);
    let is_interpreter = one.exe.as_ref().is_some_and(|exe| tags::is_interpreter(&exe.path));
    file(one).is_some() && file(one) == file(other) && one.tags == other.tags && (!is_interpreter || one.cmdline == other.cmdline)
}
