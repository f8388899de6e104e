//! What this process may have of files and memory, and what it is for.
//!
//! Keeps one rule: names, control and upkeep have their part before the first flow has its own, so that a crowd of flows cannot take it
//! from them. Where there is not enough for a handful of flows, nothing is started at all.

mod cgroup;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::control::Way;

/// What a router with one queue has open while nothing happens, its standard descriptors included (41 were counted).
const OWN: u64 = 42;
/// What each further queue adds: the TUN's, an epoll and the way to wake it, a directory of /proc.
const A_QUEUE: u64 = 5;
/// What `up` has besides: raw sockets of both families, and two netlink sockets for each of four queues at most.
const OF_UP: u64 = 10;
/// The standard descriptors.
const STANDARD: u64 = 3;
/// The least that is of use beside them: for upkeep and control, a few questions, a few flows.
const LEAST: u64 = 30;
/// For upkeep (nft has six pipes while it runs), control and /proc: a part of what there is, within these bounds.
const ASIDE: std::ops::RangeInclusive<u64> = 10..=128;
/// A question may have two sockets.
const A_QUESTION: u64 = 2;
/// Questions that are asked at a time at most.
const QUESTIONS: u64 = 512;
/// With fewer files than these, flows are too few to be shared out among threads.
const SEVERAL: u64 = 256;
/// What `exec` needs until it lets go of what its caller left open.
const BEFORE: u64 = 24;
/// More files than a router can use.
const PLENTY: u64 = 1 << 20;
/// So few flows are worth a word: a laptop's programs have some hundred open.
const FEW: usize = 512;
/// A number of files to recommend: the one that most systems start with.
const USUAL: u64 = 1024;

const MIB: u64 = 1 << 20;
/// The least memory for a router with a handful of flows. Address space: the allocator reserves 64 MiB for each thread, of which it uses
/// little. Data: stacks of 2 MiB, and what is written (19 MiB were counted where nothing happens). A cgroup: what is resident (32 MiB were).
const SPACE: u64 = 1024 * MIB;
const DATA: u64 = 128 * MIB;
const RESIDENT: u64 = 64 * MIB;
/// Flows that these allow, and what each further one takes: its two rings, and as much again of address space for whatever else grows.
const HANDFUL: u64 = 32;
const A_FLOWS_SPACE: u64 = 2 * MIB;
const A_FLOWS_DATA: u64 = MIB + MIB / 4;

/// A limit leaves no room for a router.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoRoom {
    #[error(
        "this process may have {allowed} files open, and the router needs {needed} for a handful of flows, those that its caller left \
         open included; allow it {usual}: `ulimit -n {usual}` before it, LimitNOFILE={usual} in a systemd unit, or nofile in \
         /etc/security/limits.conf",
        usual = USUAL.max(*needed)
    )]
    Files { allowed: u64, needed: u64 },
    #[error("this process may have {} MiB of {of}, and the router needs {} MiB; {remedy}", allowed / MIB, needed / MIB)]
    Memory { of: &'static str, allowed: u64, needed: u64, remedy: &'static str },
}

/// What this process may have of memory; None: as much as there is. In bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Memory {
    space: Option<u64>,
    data: Option<u64>,
    resident: Option<u64>,
}

impl Memory {
    fn of_this_process() -> Self {
        let [space, data] = [Resource::As, Resource::Data].map(|resource| getrlimit(resource).current);
        Self { space, data, resident: cgroup::memory_limit() }
    }

    /// The flows that have room in it.
    fn flows(self) -> Result<u64, NoRoom> {
        let Self { space, data, resident } = self;
        let part = |of, allowed: Option<u64>, needed, a_flow: u64, remedy| {
            let Some(allowed) = allowed else { return Ok(u64::MAX) };
            let free = allowed.checked_sub(needed).ok_or(NoRoom::Memory { of, allowed, needed, remedy })?;
            Ok(HANDFUL + free / a_flow)
        };
        let by_space = part("address space", space, SPACE, A_FLOWS_SPACE, "`ulimit -v unlimited` before it lifts that")?;
        let by_data = part("data", data, DATA, A_FLOWS_DATA, "`ulimit -d unlimited` before it lifts that")?;
        // What a cgroup's flows take is theirs only while they carry something, and the kernel frees caches for it.
        part("memory in its cgroup", resident, RESIDENT, 1, "raise the cgroup's memory.max (MemoryMax= in a systemd unit)")?;
        Ok(by_space.min(by_data))
    }
}

/// What there is room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// One flow is one descriptor.
    pub(super) flows: usize,
    /// Questions asked at a time.
    pub(super) questions: usize,
    /// Control connections at a time.
    pub(super) visitors: usize,
    pub(super) queues: usize,
}

impl Room {
    /// Takes all files that this process may have, and shares them out. `queues` at most.
    ///
    /// # Errors
    ///
    /// They are too few, or there is too little memory.
    pub(super) fn take(way: Way, queues: usize) -> Result<Self, NoRoom> {
        let limit = getrlimit(Resource::Nofile);
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        let allowed = match setrlimit(Resource::Nofile, raised) {
            Ok(()) => limit.maximum.unwrap_or(u64::MAX),
            Err(_) => limit.current.unwrap_or(u64::MAX),
        };
        // The look has one open itself. Where there is none to be had, there is none for a router.
        let open = std::fs::read_dir("/proc/self/fd").map_or(allowed, |entries| u64::try_from(entries.count()).unwrap_or(0));
        let inherited = open.saturating_sub(STANDARD + 1);
        let held = match way {
            Way::Up => inherited + OF_UP,
            Way::Exec => inherited.saturating_sub(BEFORE),
        };
        Self::share_out(allowed, held, Memory::of_this_process(), queues)
    }

    fn share_out(allowed: u64, held: u64, memory: Memory, queues: usize) -> Result<Self, NoRoom> {
        let needed = OWN + LEAST + held;
        if allowed < needed {
            return Err(NoRoom::Files { allowed, needed });
        }
        let fit = memory.flows()?;
        let queues = if allowed < SEVERAL || fit < SEVERAL { 1 } else { queues.max(1) };
        let further = A_QUEUE * u64::try_from(queues - 1).unwrap_or(0);
        let free = allowed.min(PLENTY).saturating_sub(OWN + held + further);
        let aside = (free / 4).clamp(*ASIDE.start(), *ASIDE.end());
        let rest = free.saturating_sub(aside);
        let flows = (rest * 3 / 5).max(rest.saturating_sub(A_QUESTION * QUESTIONS)).min(fit);
        let questions = ((rest - flows) / A_QUESTION).clamp(1, QUESTIONS);
        let number = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        Ok(Self { flows: number(flows), questions: number(questions), visitors: number(aside / 2), queues })
    }

    /// What a person must know where flows are few.
    pub(super) fn note(&self) -> Option<String> {
        let Self { flows, questions: _, visitors: _, queues: _ } = self;
        (*flows < FEW).then(|| {
            format!("files or memory are limited here (ulimit -n, -v, -d): {flows} flows at a time have room, more are refused")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(allowed: u64) -> Room {
        Room::share_out(allowed, 0, Memory::default(), 2).expect("there is room")
    }

    #[test]
    fn too_few_files_are_refused_with_what_would_be_right() {
        for allowed in [0, 3, 8, 20, 30, OWN + LEAST - 1] {
            let told = Room::share_out(allowed, 0, Memory::default(), 2).expect_err("no room").to_string();
            assert!(told.contains(&format!("may have {allowed} files")) && told.contains("ulimit -n 1024"), "{told}");
        }
        assert!(Room::share_out(OWN + LEAST, 0, Memory::default(), 2).is_ok());
        let told = Room::share_out(1100, 1090, Memory::default(), 2).expect_err("its caller holds them").to_string();
        assert!(told.contains("LimitNOFILE=1162"), "{told}");
    }

    #[test]
    fn whatever_the_limit_all_parts_together_stay_within_it() {
        for allowed in (OWN + LEAST..5000).chain([20_000, 1 << 19, u64::MAX]) {
            let Room { flows, questions, visitors, queues } = room(allowed);
            let parts = flows + questions * 2 + visitors * 2 + (queues - 1) * 5;
            assert!(OWN + u64::try_from(parts).expect("small") <= allowed, "{allowed}");
            assert!(flows >= 12 && questions >= 4 && visitors >= 4, "{allowed}: {flows} {questions} {visitors}");
        }
    }

    #[test]
    fn many_files_go_to_flows_and_few_are_not_split_among_threads() {
        assert!(room(20_000).flows > 18_000 && room(20_000).questions == 512);
        assert_eq!((room(255).queues, room(256).queues), (1, 2));
        assert!(room(1024).flows > 500 && room(1024).questions > 100);
    }

    #[test]
    fn too_little_memory_is_refused_by_name_and_little_allows_few_flows() {
        let share_out = |memory| Room::share_out(1 << 19, 0, memory, 2);
        let memories = |bytes: [u64; 3]| {
            let none = Memory::default();
            let [space, data, resident] = bytes.map(Some);
            [
                (Memory { space, ..none }, "ulimit -v"),
                (Memory { data, ..none }, "ulimit -d"),
                (Memory { resident, ..none }, "memory.max"),
            ]
        };
        for (memory, remedy) in memories([SPACE - 1, DATA - 1, RESIDENT - 1]) {
            let told = share_out(memory).expect_err("too little").to_string();
            assert!(told.contains(remedy), "{told}");
        }
        for (memory, remedy) in memories([SPACE, DATA, RESIDENT]) {
            let room = share_out(memory).expect("a handful");
            assert_eq!(room.flows == 32 && room.queues == 1, remedy != "memory.max", "{room:?}");
        }
        assert!(share_out(Memory { data: Some(1 << 30), ..Memory::default() }).is_ok_and(|room| room.flows > 700));
    }

    #[test]
    fn few_flows_are_told() {
        assert!(room(100).note().is_some_and(|note| note.contains("26 flows")));
        assert_eq!(room(20_000).note(), None);
    }
}
