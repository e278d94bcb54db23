//! Free space of one segment: best fit over extents.
//!
//! Nothing of the allocator lives in the segment itself. Clients map segments, so free lists kept
//! there would tell every reader what the neighbours hold, and a stray write of the agent could
//! turn them into a wrong allocation. All metadata is private to the agent, and an extent is two
//! plain numbers.
//!
//! Best fit keeps the large holes large, which is what lets a cache under churn still place its
//! largest blocks. Lengths are rounded to size classes so that a freed block leaves a hole that the
//! next block of about that size fills exactly.

use std::collections::{BTreeMap, BTreeSet};

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

/// Every offset and every length is a multiple of this: one cache line, so that two blocks never
/// share one.
pub(crate) const GRANULE_BYTES: u64 = 64;

/// The alignment of large blocks: one page, so that a large payload can be handed to direct I/O and
/// to page-wise copies.
pub(crate) const PAGE_BYTES: u64 = 4096;

/// From this length up, lengths are rounded to whole pages instead of size classes.
const LARGE_BYTES: u64 = 64 * 1024;

/// Size classes per doubling of the length, so that rounding adds at most an eighth.
const CLASSES_PER_DOUBLING: u64 = 8;

/// A stretch of one segment, as it was allocated: the length is the rounded one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Where the stretch begins, from the start of the segment.
    pub(crate) offset_bytes: u64,
    /// How long it is, rounding included.
    pub(crate) len_bytes: u64,
}

/// The length that `Extents::allocate` sets aside for a request of `len_bytes`.
///
/// Below 64 KiB it is a size class: the next multiple of an eighth of the power of two below the
/// length, or of one granule where that is more. From 64 KiB up it is the next multiple of a page.
/// An empty request takes one granule, because an extent without bytes could not be told from its
/// neighbour. A length that cannot be rounded within `u64` gives the last multiple of a page, which
/// no segment can hold.
pub(crate) fn rounded_len_bytes(len_bytes: u64) -> u64 {
    let step_bytes = if len_bytes >= LARGE_BYTES {
        PAGE_BYTES
    } else {
        let doubling_bytes = 1u64 << len_bytes.max(1).ilog2();
        (doubling_bytes / CLASSES_PER_DOUBLING).max(GRANULE_BYTES)
    };
    len_bytes.max(1).checked_next_multiple_of(step_bytes).unwrap_or(u64::MAX - (PAGE_BYTES - 1))
}

/// The free space of one segment.
///
/// The same holes are kept in three orders. By offset they find the neighbours of what is freed; by
/// length they answer a best fit at granule alignment; by the length that is left from their first
/// page boundary they answer a best fit at page alignment. The third order is why no request has to
/// walk over holes that are long enough but badly placed, and why none is refused while a hole for
/// it exists.
#[derive(Debug)]
pub(crate) struct Extents {
    total_bytes: u64,
    free_bytes: u64,
    /// Length of each hole by its offset. No two holes touch: they would have been merged.
    by_offset: BTreeMap<u64, u64>,
    /// (length, offset) of each hole. Among equals the lowest offset wins, which keeps the far end
    /// of a segment empty.
    by_len: BTreeSet<(u64, u64)>,
    /// (length from the first page boundary, offset) of each hole in which that length is not zero.
    by_page_len: BTreeSet<(u64, u64)>,
}

impl Extents {
    /// A segment of `total_bytes`, all of it free.
    pub(crate) fn new(total_bytes: u64) -> Self {
        assert!(
            total_bytes.is_multiple_of(GRANULE_BYTES),
            "segment of {total_bytes} bytes is no multiple of {GRANULE_BYTES}"
        );
        let mut extents = Self {
            total_bytes,
            free_bytes: total_bytes,
            by_offset: BTreeMap::new(),
            by_len: BTreeSet::new(),
            by_page_len: BTreeSet::new(),
        };
        if total_bytes > 0 {
            extents.add_hole(0, total_bytes);
        }
        extents
    }

    /// Takes `rounded_len_bytes(len_bytes)` from the hole that fits it best, starting at a multiple
    /// of `align_bytes`, which is `GRANULE_BYTES` or `PAGE_BYTES`. What the alignment skips stays
    /// free. `None` means that no hole fits.
    pub(crate) fn allocate(&mut self, len_bytes: u64, align_bytes: u64) -> Option<Extent> {
        assert!(
            align_bytes == GRANULE_BYTES || align_bytes == PAGE_BYTES,
            "alignment of {align_bytes} bytes is neither {GRANULE_BYTES} nor {PAGE_BYTES}"
        );
        // The length comes from a client. This keeps absurd ones away from the rounding.
        if len_bytes > self.free_bytes {
            return None;
        }
        let len_bytes = rounded_len_bytes(len_bytes);
        let holes = if align_bytes == PAGE_BYTES { &self.by_page_len } else { &self.by_len };
        let &(_, hole_offset) = holes.range((len_bytes, 0)..).next()?;
        let hole_end = hole_offset + self.remove_hole(hole_offset);
        let offset_bytes = hole_offset.next_multiple_of(align_bytes);
        let end_bytes = offset_bytes + len_bytes;
        if hole_offset < offset_bytes {
            self.add_hole(hole_offset, offset_bytes - hole_offset);
        }
        if end_bytes < hole_end {
            self.add_hole(end_bytes, hole_end - end_bytes);
        }
        self.free_bytes -= len_bytes;
        Some(Extent { offset_bytes, len_bytes })
    }

    /// Gives back what `allocate` handed out, and merges it with the free space on either side.
    ///
    /// Freeing what is free already, in whole or in part, would hand the same bytes to two blocks
    /// later. It is a mistake of the caller and stops the agent before it can serve wrong bytes.
    pub(crate) fn free(&mut self, extent: Extent) {
        let Extent { offset_bytes, len_bytes } = extent;
        assert!(
            len_bytes > 0 && offset_bytes.is_multiple_of(GRANULE_BYTES) && len_bytes.is_multiple_of(GRANULE_BYTES),
            "freed extent of {len_bytes} bytes at {offset_bytes} is not made of whole \
             granules of {GRANULE_BYTES} bytes"
        );
        let end_bytes = offset_bytes.checked_add(len_bytes).filter(|&end_bytes| end_bytes <= self.total_bytes);
        let Some(end_bytes) = end_bytes else {
            panic!(
                "freed extent of {len_bytes} bytes at {offset_bytes} ends beyond the segment \
                 of {} bytes",
                self.total_bytes
            );
        };

        // One walk down from the end of the extent meets the hole right after it, if any, and then
        // the one before it. A hole that starts inside the extent is met in place of the one
        // before, and ends too late just like it.
        let mut holes_downwards = self.by_offset.range(..=end_bytes).rev();
        let mut before = holes_downwards.next().map(|(&offset, &len)| (offset, len));
        let after = before.filter(|&(hole_offset, _)| hole_offset == end_bytes);
        if after.is_some() {
            before = holes_downwards.next().map(|(&offset, &len)| (offset, len));
        }
        if let Some((hole_offset, hole_len)) = before {
            assert!(
                hole_offset + hole_len <= offset_bytes,
                "freed extent of {len_bytes} bytes at {offset_bytes} overlaps the free {hole_len} \
                 bytes at {hole_offset}"
            );
        }

        let mut merged_offset = offset_bytes;
        let mut merged_end = end_bytes;
        if let Some((hole_offset, hole_len)) = before
            && hole_offset + hole_len == offset_bytes
        {
            self.remove_hole(hole_offset);
            merged_offset = hole_offset;
        }
        if let Some((hole_offset, hole_len)) = after {
            self.remove_hole(hole_offset);
            merged_end = hole_offset + hole_len;
        }
        self.add_hole(merged_offset, merged_end - merged_offset);
        self.free_bytes += len_bytes;
    }

    /// Bytes in no extent, fragmented or not.
    #[cfg(test)]
    pub(crate) fn free_bytes(&self) -> u64 {
        self.free_bytes
    }

    /// Bytes in extents, rounding included.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.total_bytes - self.free_bytes
    }

    /// The longest hole: an upper bound for what can be allocated, exact at granule alignment.
    pub(crate) fn largest_free_bytes(&self) -> u64 {
        self.by_len.last().map_or(0, |&(len_bytes, _)| len_bytes)
    }

    /// Whether nothing is allocated, so that the segment may be retired.
    pub(crate) fn is_unused(&self) -> bool {
        self.free_bytes == self.total_bytes
    }

    /// Checks what must hold between any two calls, and panics with the numbers where it does not.
    #[cfg(test)]
    pub(crate) fn validate(&self) {
        let mut free_bytes = 0;
        let mut last_end = None;
        let mut pages = 0;
        for (&offset, &len) in &self.by_offset {
            assert!(len > 0, "empty hole at {offset}");
            assert!(offset % GRANULE_BYTES == 0 && len % GRANULE_BYTES == 0, "ragged hole of {len} at {offset}");
            assert!(last_end.is_none_or(|end| end < offset), "hole at {offset} touches one that ends at {last_end:?}");
            assert!(self.by_len.contains(&(len, offset)), "hole of {len} at {offset} is not found by length");
            let page_len = page_len_bytes(offset, len);
            if page_len > 0 {
                pages += 1;
                assert!(
                    self.by_page_len.contains(&(page_len, offset)),
                    "hole of {len} at {offset} is not found by page"
                );
            }
            free_bytes += len;
            last_end = Some(offset + len);
        }
        assert!(last_end.unwrap_or(0) <= self.total_bytes, "hole ends at {last_end:?} of {}", self.total_bytes);
        assert_eq!(self.by_len.len(), self.by_offset.len(), "holes by length and by offset");
        assert_eq!(self.by_page_len.len(), pages, "holes by page and by offset");
        assert_eq!(self.free_bytes, free_bytes, "free bytes as counted and as summed");
    }

    /// Records a hole in every order that it belongs to.
    fn add_hole(&mut self, offset_bytes: u64, len_bytes: u64) {
        self.by_offset.insert(offset_bytes, len_bytes);
        self.by_len.insert((len_bytes, offset_bytes));
        let page_len_bytes = page_len_bytes(offset_bytes, len_bytes);
        if page_len_bytes > 0 {
            self.by_page_len.insert((page_len_bytes, offset_bytes));
        }
    }

    /// Forgets the hole at `offset_bytes` and returns its length.
    fn remove_hole(&mut self, offset_bytes: u64) -> u64 {
        let Some(len_bytes) = self.by_offset.remove(&offset_bytes) else {
            panic!("no hole at {offset_bytes}, which another order of the same holes named");
        };
        self.by_len.remove(&(len_bytes, offset_bytes));
        let page_len_bytes = page_len_bytes(offset_bytes, len_bytes);
        if page_len_bytes > 0 {
            self.by_page_len.remove(&(page_len_bytes, offset_bytes));
        }
        len_bytes
    }
}

/// How much of a hole is left from its first page boundary on.
fn page_len_bytes(offset_bytes: u64, len_bytes: u64) -> u64 {
    let skipped_bytes = offset_bytes.next_multiple_of(PAGE_BYTES) - offset_bytes;
    len_bytes.saturating_sub(skipped_bytes)
}
