//! A pinned block.

use std::fmt;
use std::ptr::NonNull;

use super::segments::SegmentRef;
use super::stripe::{Stripe, after_release};
use crate::checksum::{Checksums, crc64};
use crate::index::Entry;
use crate::layout::{BlockShape, block as layout, stripe as stripe_layout};
use crate::view::Bytes;

/// Where the bytes of an entry's block are. Good for as long as a slot names the block.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    payload: Bytes,
    /// The block's start lies so far in front of its payload.
    payload_offset: u32,
    key_len: u16,
}

impl Place {
    /// `None` when the entry's ranges do not lie inside its segment.
    #[inline(always)]
    pub(crate) fn of(segment: SegmentRef, entry: &Entry) -> Option<Place> {
        let head_len = layout::HEADER_BYTES as u64 + u64::from(entry.key_len);
        let at = entry.block.offset_bytes().checked_add(u64::from(entry.payload_offset))?;
        let inside = head_len <= u64::from(entry.payload_offset)
            && at.checked_add(entry.len).is_some_and(|end| end <= segment.len);
        if !inside {
            return None;
        }
        let start = segment.start.wrapping_add(usize::try_from(at).ok()?);
        // SAFETY: the range lies inside the mapped segment (checked above). The segment stays mapped and the block's bytes
        // unchanged while a slot names it, and whoever asks for a slice promises that one does.
        let payload = unsafe { Bytes::new(start, usize::try_from(entry.len).ok()?) };
        Some(Place { payload, payload_offset: entry.payload_offset, key_len: u16::try_from(entry.key_len).ok()? })
    }

    /// Header and key.
    ///
    /// # Safety
    /// A slot must name the block for the lifetime of the slice.
    #[inline(always)]
    unsafe fn head<'a>(self) -> &'a [u8] {
        let len = layout::HEADER_BYTES + usize::from(self.key_len);
        // SAFETY: `of` checked that header and key lie between the block's start and its payload.
        let head = unsafe { self.payload.before(self.payload_offset as usize, len) };
        // SAFETY: promised by the caller.
        unsafe { head.as_slice() }
    }

    /// The key.
    ///
    /// # Safety
    /// As for [`Place::head`].
    #[inline(always)]
    pub(crate) unsafe fn key<'a>(self) -> &'a [u8] {
        // SAFETY: promised by the caller.
        let head = unsafe { self.head() };
        &head[layout::HEADER_BYTES..]
    }
}

/// A block that this process has pinned: its bytes stay mapped and unchanged until the last clone is dropped.
///
/// Clones share one slot. A block outlives the session it came from, and the agent.
pub struct PinnedBlock {
    /// Alive for as long as the slot is held.
    stripe: NonNull<Stripe>,
    place: Place,
    slot: u16,
}

// SAFETY: a stripe is `Sync`, and its slots may be shared and let go by any thread.
unsafe impl Send for PinnedBlock {}
// SAFETY: as above; the bytes are only read.
unsafe impl Sync for PinnedBlock {}

impl PinnedBlock {
    #[inline(always)]
    fn stripe(&self) -> &Stripe {
        // SAFETY: this value holds a slot of the stripe, and a stripe goes only when none of its slots is held.
        unsafe { self.stripe.as_ref() }
    }

    /// Takes over a pin of the block at `place` in `slot`.
    #[inline(always)]
    pub(crate) fn new(stripe: &Stripe, slot: usize, place: Place) -> PinnedBlock {
        const { assert!(stripe_layout::SLOTS_LEN <= 1 << 16) };
        #[expect(clippy::cast_possible_truncation, reason = "a slot's number is below SLOTS_LEN")]
        let slot = slot as u16;
        PinnedBlock { stripe: NonNull::from(stripe), place, slot }
    }

    /// The payload.
    #[inline(always)]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `self` holds the pin for the lifetime of the slice.
        unsafe { self.place.payload.as_slice() }
    }

    fn head(&self) -> &[u8] {
        // SAFETY: `self` holds the pin for the lifetime of the slice.
        unsafe { self.place.head() }
    }

    fn header_word(&self, word: usize) -> u64 {
        let bytes: [u8; 8] = self.head()[word * 8..word * 8 + 8].try_into().unwrap_or_default();
        u64::from_le_bytes(bytes)
    }

    /// The key.
    #[inline(always)]
    pub fn key(&self) -> &[u8] {
        // SAFETY: `self` holds the pin for the lifetime of the slice.
        unsafe { self.place.key() }
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
        BlockShape::new(usize::from(self.place.key_len), self.as_slice().len() as u64)
    }
}

impl Clone for PinnedBlock {
    fn clone(&self) -> PinnedBlock {
        self.stripe().share(usize::from(self.slot));
        PinnedBlock { ..*self }
    }
}

impl Drop for PinnedBlock {
    #[inline(always)]
    fn drop(&mut self) {
        // The stripe may be gone once its slot is free.
        let mark = self.stripe().mark;
        self.stripe().release(usize::from(self.slot));
        after_release(mark);
    }
}

impl fmt::Debug for PinnedBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PinnedBlock({:?}, {} bytes)", String::from_utf8_lossy(self.key()), self.as_slice().len())
    }
}
