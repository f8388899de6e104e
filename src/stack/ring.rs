//! Ring memory straight from the kernel.
//!
//! The allocator would keep large buffers resident and clear them; a mapping costs nothing until its pages are touched, and an idle
//! flow touches few.

use std::ffi::c_void;
use std::io;
use std::ptr::NonNull;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// Rings kept for the next flows.
const MAX_FREE: usize = 128;
/// A ring that carried no more than this gives few pages back; it is reused as it is.
const SMALL: u64 = 32 * 1024;

/// One mapped ring.
pub(super) struct Ring {
    at: NonNull<c_void>,
    len: usize,
}

// SAFETY: a ring is plain memory that one owner holds; nothing in it belongs to a thread.
unsafe impl Send for Ring {}

impl Ring {
    fn map(len: usize) -> io::Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice overlaps nothing.
        let at = unsafe { mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags) }?;
        let at = NonNull::new(at).ok_or_else(|| io::Error::other("the kernel mapped a ring at address 0"))?;
        Ok(Self { at, len })
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Where in the ring a slice of it begins.
    pub(super) fn place_of(&self, slice: &[u8]) -> usize {
        slice.as_ptr().addr().saturating_sub(self.at.as_ptr().addr())
    }

    /// The ring's memory.
    ///
    /// # Safety
    ///
    /// The slice must be gone before the ring is dropped or given back, and there must be no other slice of it.
    pub(super) unsafe fn bytes(&mut self) -> &'static mut [u8] {
        // SAFETY: the mapping is `len` bytes, readable, writable and zeroed; the caller keeps it alive and unshared.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr().cast(), self.len) }
    }

    /// Gives the pages back to the kernel; they read as zeroes afterwards, so nothing in them may be needed.
    pub(super) fn empty(&mut self) -> io::Result<()> {
        // SAFETY: the mapping is ours; the caller does not need its content any more.
        Ok(unsafe { madvise(self.at.as_ptr(), self.len, Advice::LinuxDontNeed) }?)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and, by the contract of `bytes`, no slice of it is left.
        let _ = unsafe { munmap(self.at.as_ptr(), self.len) };
    }
}

/// Rings between flows.
pub(super) struct RingPool {
    free: Vec<Ring>,
    len: usize,
    least: usize,
}

impl RingPool {
    /// Of rings of `len` bytes, or of `least` where the kernel counts every byte that may be touched and has no more to give
    /// (vm.overcommit_memory=2).
    pub(super) fn new(len: usize, least: usize) -> Self {
        Self { free: Vec::with_capacity(MAX_FREE), len, least }
    }

    pub(super) fn take(&mut self) -> io::Result<Ring> {
        self.free.pop().map_or_else(|| Ring::map(self.len).or_else(|_| Ring::map(self.least)), Ok)
    }

    /// Rings that wait for the next flows.
    #[cfg(test)]
    pub(super) fn free_len(&self) -> usize {
        self.free.len()
    }

    /// Takes a ring back whose flow carried `carried` bytes; no slice of it may be left.
    pub(super) fn give_back(&mut self, mut ring: Ring, carried: u64) {
        if self.free.len() >= MAX_FREE || ring.len != self.len {
            return;
        }
        if carried > SMALL && ring.empty().is_err() {
            return;
        }
        self.free.push(ring);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_flow_leaves_nothing_of_its_bytes_to_the_next() {
        let mut pool = RingPool::new(64 * 1024, 64 * 1024);
        let mut ring = pool.take().expect("memory");
        // SAFETY: the only slice, gone before the ring is given back.
        unsafe { ring.bytes() }.fill(7);
        pool.give_back(ring, 64 * 1024);
        let mut again = pool.take().expect("memory");
        // SAFETY: the only slice, gone before the ring is dropped.
        assert!(unsafe { again.bytes() }.iter().all(|b| *b == 0));
    }

    #[test]
    fn where_memory_is_scarce_a_ring_is_as_small_as_may_be_and_none_of_the_pool() {
        let mut pool = RingPool::new(usize::MAX / 2, 8192);
        let ring = pool.take().expect("the least");
        assert_eq!(ring.len(), 8192);
        pool.give_back(ring, 0);
        assert_eq!(pool.free_len(), 0, "a later one may be whole");
        assert!(RingPool::new(usize::MAX / 2, usize::MAX / 2).take().is_err());
    }

    #[test]
    fn the_pool_keeps_no_more_than_its_share() {
        let mut pool = RingPool::new(4096, 4096);
        let rings: Vec<Ring> = (0..MAX_FREE + 5).map(|_| pool.take().expect("memory")).collect();
        rings.into_iter().for_each(|ring| pool.give_back(ring, 0));
        assert_eq!(pool.free.len(), MAX_FREE);
    }
}
