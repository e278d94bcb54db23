//! A tenant's segments and the directory that tells clients which of them live.

use std::collections::BTreeMap;
use std::sync::Arc;

use larder_protocol::layout::{BlockId, BlockShape, control};
use larder_protocol::memory::{Mapping, Memfd};
use larder_protocol::words::{MappedWords, Words};

use super::extents::{Extent, Extents};
use super::memory::HUGE_PAGE_BYTES;

use std::sync::atomic::Ordering;

/// One segment.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) memfd: Memfd,
    /// Writable, but for a segment that a writer filled, which nobody can write any more.
    pub(crate) mapping: Arc<Mapping>,
    pub(crate) extents: Extents,
    /// Made for one large block.
    pub(crate) dedicated: bool,
    /// Filled by a writer and sealed for ever: its memory cannot be used again.
    pub(crate) immutable: bool,
    /// No new blocks: being emptied to be retired.
    pub(crate) closing: bool,
    /// Since when it has been seen without blocks.
    pub(crate) unused_since_ns: Option<u64>,
    place: usize,
}

impl Segment {
    pub(crate) fn len(&self) -> u64 {
        self.memfd.len() as u64
    }

    /// Whether it is of the right size for a large block, once it is empty.
    fn takes_large(&self, shape: &BlockShape) -> bool {
        // Not far too large, where the smallest there can be is never too large.
        let most_bytes = shape.total_len.saturating_mul(2).max(HUGE_PAGE_BYTES);
        let fits = (shape.total_len..=most_bytes).contains(&self.len());
        self.dedicated && !self.immutable && !self.closing && fits
    }
}

/// A tenant's segments.
#[derive(Debug)]
pub(crate) struct Segments {
    live: BTreeMap<u32, Segment>,
    control: MappedWords,
    free_places: Vec<usize>,
    used_places: usize,
    bytes: u64,
    /// The segment that the last block went to: tried first.
    hint: u32,
}

impl Segments {
    pub(crate) fn new(control: MappedWords) -> Segments {
        Segments { live: BTreeMap::new(), control, free_places: Vec::new(), used_places: 0, bytes: 0, hint: 0 }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.live.len()
    }

    /// Whether the directory has a place for another segment.
    pub(crate) fn has_place(&self) -> bool {
        !self.free_places.is_empty() || self.used_places < control::DIRECTORY_LEN
    }

    /// Adds a segment. Clients learn of it when they meet its number in the index.
    pub(crate) fn add(&mut self, id: u32, memfd: Memfd, mapping: Arc<Mapping>, dedicated: bool) {
        let place = self.free_places.pop().unwrap_or_else(|| {
            self.used_places += 1;
            self.control.store(control::DIRECTORY_USED, self.used_places as u64, Ordering::Relaxed);
            self.used_places - 1
        });
        self.control.store(control::DIRECTORY + place, u64::from(id), Ordering::Release);
        let len = memfd.len() as u64;
        self.bytes += len;
        let segment = Segment {
            memfd,
            mapping,
            extents: Extents::new(len),
            dedicated,
            immutable: false,
            closing: false,
            unused_since_ns: None,
            place,
        };
        self.live.insert(id, segment);
    }

    /// Takes a segment out of the directory. It must be unused. The caller moves the epoch and keeps the memory on the
    /// account until nobody has it mapped.
    pub(crate) fn retire(&mut self, id: u32) -> Option<Memfd> {
        let segment = self.live.remove(&id)?;
        assert!(segment.extents.is_unused(), "segment {id} retired with {} bytes in use", segment.extents.used_bytes());
        self.control.store(control::DIRECTORY + segment.place, 0, Ordering::Release);
        self.free_places.push(segment.place);
        self.bytes -= segment.len();
        Some(segment.memfd)
    }

    pub(crate) fn get(&self, id: u32) -> Option<&Segment> {
        self.live.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: u32) -> Option<&mut Segment> {
        self.live.get_mut(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Segment)> {
        self.live.iter().map(|(id, segment)| (*id, segment))
    }

    /// Finds room for a block, in the segment used last if it fits there.
    pub(crate) fn allocate(&mut self, shape: &BlockShape, dedicated: bool) -> Option<(u32, Extent)> {
        if dedicated {
            // An empty segment of a former large block, unless it is far too large.
            let fits = |segment: &Segment| segment.takes_large(shape) && segment.extents.is_unused();
            let id = *self.live.iter().find(|(_, segment)| fits(segment))?.0;
            return self.allocate_in(id, shape);
        }
        let hint = self.hint;
        if let Some(found) = self.allocate_in(hint, shape) {
            return Some(found);
        }
        let fitting = |segment: &Segment| {
            !segment.dedicated && !segment.closing && segment.extents.largest_free_bytes() >= shape.total_len
        };
        let candidates: Vec<u32> =
            self.live.iter().filter(|(_, segment)| fitting(segment)).map(|(id, _)| *id).collect();
        candidates.into_iter().find_map(|id| self.allocate_in(id, shape))
    }

    /// Segments of large blocks that would do for this one if they were empty, the oldest first.
    pub(crate) fn dedicated_for(&self, shape: &BlockShape) -> Vec<u32> {
        let would_do = |segment: &Segment| segment.takes_large(shape);
        self.live.iter().filter(|(_, segment)| would_do(segment)).map(|(id, _)| *id).collect()
    }

    fn allocate_in(&mut self, id: u32, shape: &BlockShape) -> Option<(u32, Extent)> {
        let segment = self.live.get_mut(&id).filter(|segment| !segment.closing && !segment.immutable)?;
        let extent = segment.extents.allocate(shape.total_len, shape.align)?;
        if !segment.dedicated {
            self.hint = id;
        }
        Some((id, extent))
    }

    /// Gives the extent of a block back.
    pub(crate) fn free(&mut self, id: BlockId, extent_len: u64) {
        let segment = self.live.get_mut(&id.segment()).unwrap_or_else(|| unreachable!("{id:?} outside every segment"));
        segment.extents.free(Extent { offset_bytes: id.offset_bytes(), len_bytes: extent_len });
    }

    /// Segments without blocks.
    pub(crate) fn unused(&self) -> Vec<u32> {
        self.live.iter().filter(|(_, segment)| segment.extents.is_unused()).map(|(id, _)| *id).collect()
    }
}
