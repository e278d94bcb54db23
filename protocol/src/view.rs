//! Slices over shared memory: the one place that makes them, and why that is sound.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::memory::Mapping;

/// Memory that this process alone writes until it gives it up: what a writer fills before its commit.
///
/// It owns its map, so no second slice over it can exist in this process; the agent, which maps it too, only reads.
pub struct WritableView {
    mapping: Mapping,
    offset: usize,
    len: usize,
}

impl WritableView {
    /// Takes over a writable map, of which `len` bytes from `offset` are to be filled.
    pub fn new(mapping: Mapping, offset: usize, len: usize) -> WritableView {
        let _ = mapping.writable_bytes_at(offset, len);
        WritableView { mapping, offset, len }
    }

    /// The bytes.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        let start = self.mapping.writable_bytes_at(self.offset, self.len);
        // SAFETY: the range lies inside a live writable map that this value owns, so nothing else in this process refers
        // to it; the agent only reads it, by copying.
        unsafe { std::slice::from_raw_parts_mut(start, self.len) }
    }
}

impl fmt::Debug for WritableView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WritableView({} bytes)", self.len)
    }
}

/// A session's staging memory as its client sees it: what is to be put is written here first.
#[derive(Debug)]
pub struct Staging {
    mapping: Mapping,
    /// Free ranges as (offset, length), sorted by offset, never adjacent.
    free: Mutex<Vec<(usize, usize)>>,
}

impl Staging {
    /// Takes over the map of a session's staging memory.
    pub fn new(mapping: Mapping) -> Arc<Staging> {
        let len = mapping.len();
        Arc::new(Staging { mapping, free: Mutex::new(vec![(0, len)]) })
    }

    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.mapping.len()
    }

    /// Whether it has no bytes. Never true.
    pub fn is_empty(&self) -> bool {
        self.mapping.is_empty()
    }

    /// Takes `len` bytes, aligned to a cache line, if they are free.
    pub fn take(self: &Arc<Staging>, len: usize) -> Option<StagingRange> {
        let taken = len.max(1).next_multiple_of(64);
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let at = free.iter().position(|(_, room)| *room >= taken)?;
        let (offset, room) = free[at];
        if room == taken {
            free.remove(at);
        } else {
            free[at] = (offset + taken, room - taken);
        }
        Some(StagingRange { staging: Arc::clone(self), offset, len, taken })
    }

    fn give_back(&self, offset: usize, taken: usize) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let at = free.partition_point(|(start, _)| *start < offset);
        free.insert(at, (offset, taken));
        if at + 1 < free.len() && free[at].0 + free[at].1 == free[at + 1].0 {
            free[at].1 += free[at + 1].1;
            free.remove(at + 1);
        }
        if at > 0 && free[at - 1].0 + free[at - 1].1 == free[at].0 {
            free[at - 1].1 += free[at].1;
            free.remove(at);
        }
    }
}

/// A range of staging that its holder alone writes. Given back when dropped.
pub struct StagingRange {
    staging: Arc<Staging>,
    offset: usize,
    len: usize,
    taken: usize,
}

impl StagingRange {
    /// The bytes.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        let start = self.staging.mapping.writable_bytes_at(self.offset, self.len);
        // SAFETY: the range lies inside a live writable map, and ranges that `Staging::take` hands out are disjoint, so
        // this is the only slice over it in this process; the agent only reads it, by copying.
        unsafe { std::slice::from_raw_parts_mut(start, self.len) }
    }

    /// Where the range starts in the session's staging memory: what the agent is told.
    pub fn offset(&self) -> u64 {
        self.offset as u64
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for StagingRange {
    fn drop(&mut self) {
        self.staging.give_back(self.offset, self.taken);
    }
}

impl fmt::Debug for StagingRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StagingRange({}+{})", self.offset, self.len)
    }
}

/// A run of bytes that nobody writes while the value that holds it lives.
#[derive(Clone, Copy)]
pub(crate) struct Bytes {
    start: *const u8,
    len: usize,
}

// SAFETY: the bytes are only read, and by the contract of `Bytes::new` nobody writes them.
unsafe impl Send for Bytes {}
// SAFETY: as above.
unsafe impl Sync for Bytes {}

impl Bytes {
    /// # Safety
    /// `len` bytes from `start` must stay mapped, and nobody may write them, for as long as a slice from
    /// [`Bytes::as_slice`] is used. A pinned block of an honest agent is so.
    #[inline(always)]
    pub(crate) unsafe fn new(start: *const u8, len: usize) -> Bytes {
        Bytes { start, len }
    }

    /// `len` bytes that start `back` bytes before these.
    ///
    /// # Safety
    /// As for [`Bytes::new`].
    #[inline(always)]
    pub(crate) unsafe fn before(self, back: usize, len: usize) -> Bytes {
        Bytes { start: self.start.wrapping_sub(back), len }
    }

    /// # Safety
    /// The promise of [`Bytes::new`] must still hold for the lifetime `'a`.
    #[inline(always)]
    pub(crate) unsafe fn as_slice<'a>(self) -> &'a [u8] {
        // SAFETY: promised by the caller of `new` and of this function.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{HugePages, Memfd, Platform};

    #[test]
    fn ranges_are_disjoint_and_come_back() {
        let platform = Platform::detect(&[]).unwrap();
        let memfd = Memfd::create(c"staging", 4096, HugePages::Off, &platform).unwrap();
        let staging = Staging::new(Mapping::read_write(&memfd, 4096).unwrap());
        let mut a = staging.take(100).unwrap();
        let mut b = staging.take(1).unwrap();
        a.as_mut_slice().fill(1);
        b.as_mut_slice().fill(2);
        assert_eq!((a.offset(), b.offset()), (0, 128));
        assert!(staging.take(4096).is_none());
        assert!(a.as_mut_slice().iter().all(|byte| *byte == 1));
        drop(a);
        drop(b);
        assert_eq!(staging.take(4096).unwrap().len(), 4096, "both ranges came back and joined");
    }
}
