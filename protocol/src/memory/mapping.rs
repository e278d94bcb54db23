//! The one mapping type.
//!
//! It never hands out a reference to memory that somebody else may write: bytes are copied out and then looked at, or
//! read as atomic words. The one place that yields a slice is [`crate::view`], over blocks that nobody writes any more.
//!
//! Copies out of memory that another process may be writing are plain `memcpy` through raw pointers. Such a copy can
//! yield any mixture of old and new bytes, and is treated so: every copy is checked after it was taken, never before.

use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::atomic::AtomicU64;

use memmap2::{Advice, MmapOptions, MmapRaw};

/// A shared map of the whole of one descriptor.
#[derive(Debug)]
pub struct Mapping {
    map: MmapRaw,
    writable: bool,
}

impl Mapping {
    /// Maps `len` bytes for reading and writing. Left out of core dumps.
    pub fn read_write(fd: impl AsFd, len: usize) -> io::Result<Mapping> {
        let map = MmapOptions::new().len(len).map_raw(fd.as_fd().as_raw_fd())?;
        Self::finish(map, true)
    }

    /// Maps `len` bytes for reading only. Left out of core dumps.
    pub fn read_only(fd: impl AsFd, len: usize) -> io::Result<Mapping> {
        let map = MmapOptions::new().len(len).map_raw_read_only(fd.as_fd().as_raw_fd())?;
        Self::finish(map, false)
    }

    fn finish(map: MmapRaw, writable: bool) -> io::Result<Mapping> {
        // Every process that maps the region would otherwise write all of it into its core file.
        map.advise(Advice::DontDump)?;
        Ok(Mapping { map, writable })
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether the map has no bytes. Never true: the kernel refuses empty maps.
    pub fn is_empty(&self) -> bool {
        self.map.len() == 0
    }

    /// Asks the kernel for 2 MiB pages where the map allows it; a refusal is not an error.
    pub fn prefer_huge_pages(&self) -> bool {
        self.map.advise(Advice::HugePage).is_ok()
    }

    /// Makes every page of the range resident now, with `MADV_POPULATE_WRITE` (`MADV_POPULATE_READ` on a read-only map).
    pub fn populate(&self, offset: usize, len: usize) -> io::Result<()> {
        let advice = if self.writable { Advice::PopulateWrite } else { Advice::PopulateRead };
        self.map.advise_range(advice, offset, len)
    }

    /// Makes every page of the range resident by touching it, for kernels without `MADV_POPULATE_WRITE`.
    ///
    /// Nobody else may be writing the range: the bytes are read and written back.
    pub fn populate_by_touch(&self, offset: usize, len: usize) {
        assert!(self.writable, "only a writable map can be populated by touch");
        let end = offset.checked_add(len).filter(|end| *end <= self.len()).expect("range inside the map");
        for at in (offset..end).step_by(4096) {
            let byte = self.map.as_mut_ptr().wrapping_add(at);
            // SAFETY: `at < end <= len`, so the byte is inside this live map.
            let value = unsafe { ptr::read_volatile(byte) };
            // SAFETY: as above, and the map is writable (asserted).
            unsafe { ptr::write_volatile(byte, value) };
        }
    }

    /// Places the pages on NUMA nodes: `interleave` over the nodes of `mask`, or on them only.
    ///
    /// To be called before the pages exist.
    pub fn place(&self, mask: u64, interleave: bool) -> io::Result<()> {
        const MPOL_BIND: libc::c_long = 2;
        const MPOL_INTERLEAVE: libc::c_long = 3;
        let mode = if interleave { MPOL_INTERLEAVE } else { MPOL_BIND };
        // SAFETY: the range is this live map; `mask` is read for 64 bits and outlives the call.
        let result = unsafe {
            libc::syscall(libc::SYS_mbind, self.map.as_mut_ptr(), self.len(), mode, &raw const mask, 65_u64, 0_u64)
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// The address of `len` words at `offset`, checked to lie inside and to be aligned.
    pub(crate) fn words_at(&self, offset: usize, len: usize) -> *const AtomicU64 {
        let bytes = len.checked_mul(8).expect("length fits");
        self.check(offset, bytes);
        assert!(offset.is_multiple_of(8), "offset {offset} is not aligned to words");
        self.map.as_ptr().wrapping_add(offset).cast()
    }

    /// The address of `len` bytes at `offset`, if they lie inside.
    #[inline]
    pub(crate) fn bytes_at(&self, offset: u64, len: u64) -> Option<*const u8> {
        let end = offset.checked_add(len)?;
        if end > self.map.len() as u64 {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "offset <= the map's length, which is a usize")]
        let offset = offset as usize;
        Some(self.map.as_ptr().wrapping_add(offset))
    }

    /// The address of a writable range, for the owner of [`crate::view::WritableView`].
    pub(crate) fn writable_bytes_at(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(self.writable, "the map is read-only");
        self.check(offset, len);
        self.map.as_mut_ptr().wrapping_add(offset)
    }

    fn check(&self, offset: usize, len: usize) {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len());
        assert!(inside, "range {offset}+{len} is outside a map of {} bytes", self.len());
    }

    /// Copies bytes out of the map. They may be changing meanwhile: check the copy, not the original.
    pub fn copy_out(&self, offset: usize, to: &mut [u8]) {
        self.check(offset, to.len());
        let from = self.map.as_ptr().wrapping_add(offset);
        // SAFETY: the source range lies inside this live map (checked) and the target is a slice of the same length that
        // cannot overlap it, being private memory. A racing writer can only make the copied bytes arbitrary.
        unsafe { ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len()) };
    }

    /// Copies bytes into the map. Panics when the map is read-only.
    pub fn copy_in(&self, offset: usize, from: &[u8]) {
        let to = self.writable_bytes_at(offset, from.len());
        // SAFETY: the target range lies inside this live, writable map (checked above) and cannot overlap the source, a
        // slice of private memory or of another map.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
    }

    /// Starts bringing a range into the cache.
    pub fn prefetch(&self, offset: usize, len: usize) {
        let Some(start) = self.bytes_at(offset as u64, len as u64) else { return };
        for line in (0..len).step_by(64) {
            crate::prefetch::prefetch(start.wrapping_add(line));
        }
    }

    /// As [`Mapping::copy_in`], past the cache where the processor can: for parts of a block that is too large for it.
    pub fn copy_in_streaming(&self, offset: usize, from: &[u8]) {
        let to = self.writable_bytes_at(offset, from.len());
        // SAFETY: the target range lies inside this live, writable map (checked above) and cannot overlap the source, a
        // slice of private memory.
        unsafe { super::streaming::copy(from, to) };
    }

    /// Writes one word. Panics when the map is read-only.
    pub fn write_word(&self, offset: usize, value: u64) {
        self.copy_in(offset, &value.to_le_bytes());
    }

    /// Reads one word.
    pub fn read_word(&self, offset: usize) -> u64 {
        let mut bytes = [0; 8];
        self.copy_out(offset, &mut bytes);
        u64::from_le_bytes(bytes)
    }
}
