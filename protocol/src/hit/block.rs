//! A pinned block.

use std::fmt;

use super::segments::SegmentRef;
use super::stripe::{Stripe, after_release};
use crate::checksum::{Checksums, crc64};
use crate::index::Entry;
use crate::layout::{BlockShape, block as layout};
use crate::view::Bytes;

/// A block that this process has pinned: its bytes stay mapped and unchanged until the last clone is dropped.
///
/// Clones share one slot. A block outlives the session it came from, and the agent.
pub struct PinnedBlock {
    /// Alive for as long as the slot is held.
    stripe: *const Stripe,
    slot: u32,
    key_len: u32,
    header: Bytes,
    payload: Bytes,
}

// SAFETY: a stripe is `Sync`, and its slots may be shared and let go by any thread.
unsafe impl Send for PinnedBlock {}
// SAFETY: as above; the bytes are only read.
unsafe impl Sync for PinnedBlock {}

impl PinnedBlock {
    #[inline(always)]
    fn stripe(&self) -> &Stripe {
        // SAFETY: this value holds a slot of the stripe, and a stripe goes only when none of its slots is held.
        unsafe { &*self.stripe }
    }

    /// Takes over a pin of `entry` in `slot`. `None`, with the pin still the caller's, when the entry's ranges do not lie
    /// inside its segment.
    #[inline(always)]
    pub(crate) fn new(stripe: &Stripe, slot: usize, segment: SegmentRef, entry: &Entry) -> Option<PinnedBlock> {
        let offset = entry.block.offset_bytes();
        let head_len = layout::HEADER_BYTES as u64 + u64::from(entry.key_len);
        let payload_offset = u64::from(entry.payload_offset);
        let inside = head_len <= payload_offset
            && offset
                .checked_add(payload_offset)
                .and_then(|at| at.checked_add(entry.len))
                .is_some_and(|end| end <= segment.len);
        if !inside {
            return None;
        }
        let at = |offset: u64| segment.start.wrapping_add(usize::try_from(offset).unwrap_or(usize::MAX));
        let head_len = usize::try_from(head_len).ok()?;
        let len = usize::try_from(entry.len).ok()?;
        // SAFETY: the range lies inside the mapped segment (checked above). The segment stays mapped and the block's bytes
        // unchanged while the slot names it, which is until this value's last clone is dropped.
        let header = unsafe { Bytes::new(at(offset), head_len) };
        // SAFETY: as above.
        let payload = unsafe { Bytes::new(at(offset + payload_offset), len) };
        Some(PinnedBlock { stripe, slot: u32::try_from(slot).ok()?, key_len: entry.key_len, header, payload })
    }

    /// The payload.
    #[inline(always)]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `self` holds the pin for the lifetime of the slice.
        unsafe { self.payload.as_slice() }
    }

    fn head(&self) -> &[u8] {
        // SAFETY: `self` holds the pin for the lifetime of the slice.
        unsafe { self.header.as_slice() }
    }

    fn header_word(&self, word: usize) -> u64 {
        let bytes: [u8; 8] = self.head()[word * 8..word * 8 + 8].try_into().unwrap_or_default();
        u64::from_le_bytes(bytes)
    }

    /// The key.
    #[inline(always)]
    pub fn key(&self) -> &[u8] {
        &self.head()[layout::HEADER_BYTES..layout::HEADER_BYTES + self.key_len as usize]
    }

    /// When the block was put, in milliseconds since 1970.
    pub fn created_ms(&self) -> u64 {
        self.header_word(layout::CREATED_MS)
    }

    /// Whether payload, key and header are what the agent's checksums say.
    pub fn verify(&self) -> bool {
        let head = self.head();
        let mut covered = head[..layout::HEADER_CHECKSUM * 8].to_vec();
        covered.extend_from_slice(self.key());
        let checksums = Checksums::of(self.as_slice());
        self.header_word(layout::MAGIC) == layout::MAGIC_VALUE
            && self.header_word(layout::LEN) == self.as_slice().len() as u64
            && self.header_word(layout::HEADER_CHECKSUM) == crc64(&covered)
            && self.header_word(layout::CHECKSUM) == checksums.summary()
    }

    /// How the block lies in memory.
    pub fn shape(&self) -> BlockShape {
        BlockShape::new(self.key_len as usize, self.as_slice().len() as u64)
    }
}

impl Clone for PinnedBlock {
    fn clone(&self) -> PinnedBlock {
        self.stripe().share(self.slot as usize);
        PinnedBlock { ..*self }
    }
}

impl Drop for PinnedBlock {
    #[inline(always)]
    fn drop(&mut self) {
        // The stripe may be gone once its slot is free.
        let mark = self.stripe().mark;
        self.stripe().release(self.slot as usize);
        after_release(mark);
    }
}

impl fmt::Debug for PinnedBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PinnedBlock({:?}, {} bytes)", String::from_utf8_lossy(self.key()), self.as_slice().len())
    }
}
