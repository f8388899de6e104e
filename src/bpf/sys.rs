//! bpf(2), by its numbers: `include/uapi/linux/bpf.h` has the structures.
//!
//! Keeps one rule: a pointer that the kernel gets is to memory that is borrowed for the call, and as large as the kernel was told.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::code::Instruction;

/// `enum bpf_cmd`.
const MAP_CREATE: libc::c_int = 0;
const MAP_LOOKUP_ELEM: libc::c_int = 1;
const PROG_LOAD: libc::c_int = 5;
const MAP_LOOKUP_AND_DELETE_BATCH: libc::c_int = 25;
const RAW_TRACEPOINT_OPEN: libc::c_int = 17;
const LINK_CREATE: libc::c_int = 28;

/// What a map does: `enum bpf_map_type`.
#[derive(Clone, Copy, Debug)]
pub(super) enum MapKind {
    /// A full one takes no more.
    Hash,
    /// By numbers, all of which stand there from the start, as zeros.
    Array,
    /// A full one forgets what was not used lately.
    Recent,
}

impl MapKind {
    fn number(self) -> u32 {
        match self {
            Self::Hash => 1,
            Self::Array => 2,
            Self::Recent => 9,
        }
    }
}

/// `include/uapi/asm-generic/socket.h`, since Linux 5.14.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// `bpf_probe_read_kernel` is for programs whose licence goes with the kernel's; that of these few instructions does.
const LICENSE: &std::ffi::CStr = c"Dual MIT/GPL";

/// Where a program runs: `enum bpf_prog_type` and `enum bpf_attach_type`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hook {
    SocketMade,
    SocketReleased,
    Tracepoint,
    /// A packet on its way to a socket or a device.
    Filter,
}

impl Hook {
    fn program_type(self) -> u32 {
        match self {
            Self::SocketMade | Self::SocketReleased => 9,
            Self::Tracepoint => 17,
            Self::Filter => 1,
        }
    }

    fn attach_type(self) -> u32 {
        match self {
            Self::SocketMade => 2,
            Self::SocketReleased => 34,
            Self::Tracepoint | Self::Filter => 0,
        }
    }
}

#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

#[repr(C)]
struct Lookup {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct Batch {
    begin: u64,
    end: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

#[repr(C)]
struct ProgLoad {
    program_type: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
struct RawTracepointOpen {
    name: u64,
    program: u32,
    padding: u32,
}

/// A map of bounded size, from bytes to bytes.
#[derive(Debug)]
pub(super) struct Map {
    fd: OwnedFd,
    key: usize,
    value: usize,
    entries: usize,
}

impl Map {
    pub(super) fn make(kind: MapKind, key: usize, value: usize, entries: u32) -> io::Result<Self> {
        Self::make_with(kind, key, value, entries, 0)
    }

    /// An array that a [`View`] shows, of so many words in each entry.
    pub(super) fn make_shown(entries: u32, words: usize) -> io::Result<Self> {
        /// `BPF_F_MMAPABLE`.
        const SHOWN: u32 = 1 << 10;
        Self::make_with(MapKind::Array, 4, words * size_of::<u64>(), entries, SHOWN)
    }

    fn make_with(kind: MapKind, key: usize, value: usize, entries: u32, flags: u32) -> io::Result<Self> {
        let size = |len: usize| u32::try_from(len).map_err(io::Error::other);
        let create =
            MapCreate { map_type: kind.number(), key_size: size(key)?, value_size: size(value)?, max_entries: entries, flags };
        Ok(Self { fd: made(MAP_CREATE, &create)?, key, value, entries: usize::try_from(entries).map_err(io::Error::other)? })
    }

    /// As programs name it while they are loaded.
    pub(super) fn number(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    /// What stands under a key; one system call. None also where the lengths are not those of this map.
    pub(super) fn find<const N: usize>(&self, key: &[u8]) -> Option<[u8; N]> {
        if key.len() != self.key || N != self.value {
            return None;
        }
        let mut value = [0; N];
        let lookup = Lookup {
            map: number(&self.fd),
            padding: 0,
            key: address(key.as_ptr()),
            value: address_of_room(value.as_mut_ptr()),
            flags: 0,
        };
        call(MAP_LOOKUP_ELEM, &lookup).ok()?;
        Some(value)
    }

    /// Takes all out of a [`MapKind::Hash`], each as it stands at that moment; one system call.
    pub(super) fn take_all<const K: usize, const V: usize>(&self) -> io::Result<Vec<([u8; K], [u8; V])>> {
        if (K, V) != (self.key, self.value) {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let (mut keys, mut values, mut end) = (vec![[0; K]; self.entries], vec![[0; V]; self.entries], 0_u32);
        let mut batch = Batch {
            begin: 0,
            end: address_of_room(&raw mut end),
            keys: address_of_room(keys.as_mut_ptr()),
            values: address_of_room(values.as_mut_ptr()),
            count: u32::try_from(self.entries).map_err(io::Error::other)?,
            map: number(&self.fd),
            element_flags: 0,
            flags: 0,
        };
        match call_mut(MAP_LOOKUP_AND_DELETE_BATCH, &mut batch) {
            // That there is nothing behind them.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            done => drop(done?),
        }
        let count = usize::try_from(batch.count).map_err(io::Error::other)?;
        Ok(keys.into_iter().zip(values).take(count).collect())
    }
}

/// The words of an array as the programs write them. Costs no system call to read.
#[derive(Debug)]
pub(super) struct View {
    words: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: it is read alone, and by atomic operations.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl View {
    /// Of a map that [`Map::make_shown`] made; it outlives that.
    pub(super) fn of(map: &Map) -> io::Result<Self> {
        if !map.value.is_multiple_of(size_of::<u64>()) {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        // SAFETY: a new place of the kernel's choice; the map has as many bytes, and it stays for as long as it is mapped.
        let at = unsafe { mmap(std::ptr::null_mut(), map.entries * map.value, ProtFlags::READ, MapFlags::SHARED, &map.fd, 0) }?;
        let words = NonNull::new(at.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { words, count: map.entries * map.value / size_of::<u64>() })
    }

    pub(super) fn at(&self, index: usize) -> Option<&AtomicU64> {
        if index >= self.count {
            return None;
        }
        // SAFETY: within what was mapped, which is as long as `count` words and begins at a page.
        let word = unsafe { self.words.add(index) };
        // SAFETY: the memory is mapped while this lives, and never written but by atomic operations.
        Some(unsafe { word.as_ref() })
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: exactly what was mapped; no reference to it outlives this value.
        let _ = unsafe { munmap(self.words.as_ptr().cast(), self.count * size_of::<u64>()) };
    }
}

/// Has the kernel check and take a program.
pub(super) fn load(hook: Hook, name: &str, code: &[Instruction]) -> io::Result<OwnedFd> {
    let mut short = [0; 16];
    short.iter_mut().zip(name.bytes().take(15)).for_each(|(to, byte)| *to = byte);
    let load = ProgLoad {
        program_type: hook.program_type(),
        instructions: u32::try_from(code.len()).map_err(io::Error::other)?,
        code: address(code.as_ptr()),
        license: address(LICENSE.as_ptr()),
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: short,
        interface: 0,
        attach_type: hook.attach_type(),
    };
    made(PROG_LOAD, &load)
}

/// Lets a program run for the sockets of a cgroup and of all below it, beside those that run there already, until the link is closed.
pub(super) fn attach(hook: Hook, program: &OwnedFd, cgroup: &OwnedFd) -> io::Result<OwnedFd> {
    let link = LinkCreate { program: number(program), target: number(cgroup), attach_type: hook.attach_type(), flags: 0 };
    made(LINK_CREATE, &link)
}

/// Lets a program run at a tracepoint of the kernel until the link is closed.
pub(super) fn trace(name: &std::ffi::CStr, program: &OwnedFd) -> io::Result<OwnedFd> {
    made(RAW_TRACEPOINT_OPEN, &RawTracepointOpen { name: address(name.as_ptr()), program: number(program), padding: 0 })
}

/// The number by which the kernel tells the network namespace of a socket from all others, those that are gone included.
pub(super) fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut len = libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
    // SAFETY: both pointers are to locals that outlive the call, and `len` is the length of `cookie`.
    let done = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, (&raw mut cookie).cast(), &raw mut len)
    };
    if done == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// Nanoseconds since boot, suspension included, as the programs and /proc/PID/stat count them.
#[must_use]
pub fn since_boot() -> u64 {
    let mut now = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the pointer is to a local that has the size of a timespec and outlives the call.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, now.as_mut_ptr()) };
    if done != 0 {
        return 0;
    }
    // SAFETY: the call has succeeded, so the kernel has written all of it.
    let now = unsafe { now.assume_init() };
    let [seconds, nanoseconds] = [now.tv_sec, now.tv_nsec].map(|part| u64::try_from(part).unwrap_or(0));
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

fn address<T>(pointer: *const T) -> u64 {
    u64::try_from(pointer.expose_provenance()).unwrap_or(0)
}

fn address_of_room<T>(pointer: *mut T) -> u64 {
    u64::try_from(pointer.expose_provenance()).unwrap_or(0)
}

/// A descriptor that is open is never negative.
fn number(fd: &OwnedFd) -> u32 {
    u32::try_from(fd.as_raw_fd()).unwrap_or(u32::MAX)
}

/// A command that makes a descriptor, which closes with exec.
fn made<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    let fd = call(command, attributes)?;
    // SAFETY: the kernel made this descriptor for this call, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn call<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads as many bytes of `attributes` as it has; each caller above points only to what it borrows meanwhile,
    // in the lengths that it says, and to room for one value of the map.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    answer(done)
}

/// For commands that write into their attributes.
fn call_mut<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads and writes as many bytes of `attributes` as it has; the caller above points only to what it borrows
    // meanwhile, and to room for as many keys and values as it says.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    answer(done)
}

fn answer(done: libc::c_long) -> io::Result<libc::c_int> {
    if done < 0 { Err(io::Error::last_os_error()) } else { libc::c_int::try_from(done).map_err(io::Error::other) }
}
