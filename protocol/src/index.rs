//! The index table: open addressing over entries of one cache line, written by the agent alone, read by everybody.
//!
//! Each entry is a small seqlock whose sequence is its generation, a number that the agent never uses twice. A reader
//! copies an entry with [`Table::find`] and may use the copy only when the generation, which was not 0 before, is still the
//! same after: that second look is [`crate::slot::confirm`], which a pin needs in any case. A reader may miss an entry that
//! is just being written or moved; then it asks the agent. It can never take one that is not there.

use crate::layout::{BlockId, LAYOUT_MAGIC, table as layout};
use crate::sync::{Ordering, fence};
use crate::words::Words;

/// How far from its home place an entry may lie. An insertion that would need more asks for a larger table; at the load
/// at which tables grow, three quarters, none in a million does. Present keys are mostly within three places.
pub const PROBE_MAX: usize = 1024;

/// An entry, copied out of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Unique number of this publication, never 0.
    pub generation: u64,
    /// Hash of the key.
    pub hash: [u64; 2],
    /// Where the block is.
    pub block: BlockId,
    /// Payload length in bytes.
    pub len: u64,
    /// Expiry in nanoseconds of the monotonic clock, 0 for none.
    pub expiry_ns: u64,
    /// Offset of the payload from the block's start in bytes.
    pub payload_offset: u32,
    /// Length of the key in bytes.
    pub key_len: u32,
    /// Number of the namespace's incarnation.
    pub namespace: u64,
}

/// What a look-up found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// An entry with this hash, at this place. A mixture of two publications until [`Table::is_current`] says otherwise.
    Entry(usize, Entry),
    /// None; the agent knows better.
    Absent,
}

/// The table has no place within reach for an insertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// An index table over `W`.
#[derive(Debug)]
pub struct Table<W> {
    words: W,
    mask: usize,
}

impl<W: Words> Table<W> {
    /// Writes the header of an empty table of `capacity` entries (a power of two) into zeroed words.
    pub fn create(words: W, table_id: u64, capacity: usize) -> Table<W> {
        assert!(capacity.is_power_of_two() && words.len() * 8 >= layout::bytes(capacity));
        words.store(layout::TABLE_ID, table_id, Ordering::Relaxed);
        words.store(layout::CAPACITY, capacity as u64, Ordering::Relaxed);
        words.store(layout::MAGIC, LAYOUT_MAGIC, Ordering::Release);
        Table { words, mask: capacity - 1 }
    }

    /// Attaches to a table that somebody else wrote, if its header is what we expect and fits the words.
    pub fn attach(words: W) -> Option<Table<W>> {
        if words.len() < layout::ENTRIES || words.load(layout::MAGIC, Ordering::Acquire) != LAYOUT_MAGIC {
            return None;
        }
        let capacity = usize::try_from(words.load(layout::CAPACITY, Ordering::Relaxed)).ok()?;
        let fits = capacity.is_power_of_two() && capacity <= (words.len() - layout::ENTRIES) / layout::ENTRY_WORDS;
        fits.then(|| Table { words, mask: capacity - 1 })
    }

    /// Entries there is room for.
    pub fn capacity(&self) -> usize {
        self.mask + 1
    }

    /// The table's number.
    pub fn id(&self) -> u64 {
        self.words.load(layout::TABLE_ID, Ordering::Relaxed)
    }

    /// The words, for prefetching.
    pub(crate) fn words(&self) -> &W {
        &self.words
    }

    #[inline(always)]
    pub(crate) fn home(&self, hash: [u64; 2]) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "masked to the capacity, a usize")]
        let low = hash[0] as usize;
        low & self.mask
    }

    #[inline(always)]
    fn word_of(&self, place: usize, word: usize) -> usize {
        layout::ENTRIES + (place & self.mask) * layout::ENTRY_WORDS + word
    }

    #[inline(always)]
    fn load(&self, place: usize, word: usize, order: Ordering) -> u64 {
        self.words.load(self.word_of(place, word), order)
    }

    fn store(&self, place: usize, word: usize, value: u64, order: Ordering) {
        self.words.store(self.word_of(place, word), value, order);
    }

    /// The reader's look-up, to be followed by [`crate::slot::claim`], [`crate::slot::after_claims`] and
    /// [`crate::slot::confirm`]. The fence between them also orders this copy before the second look.
    #[inline(always)]
    pub fn find(&self, hash: [u64; 2]) -> Found {
        let home = self.home(hash);
        for step in 0..PROBE_MAX {
            let place = home + step;
            // Acquire pairs with the Release of the generation in `write`: what is read below was written before it.
            let generation = self.load(place, layout::GENERATION, Ordering::Acquire); // mutate: index-generation-acquire => let generation = self.load(place, layout::GENERATION, Ordering::Relaxed);
            if generation == 0 {
                return Found::Absent;
            }
            if self.load(place, layout::HASH_LOW, Ordering::Relaxed) != hash[0]
                || self.load(place, layout::HASH_HIGH, Ordering::Relaxed) != hash[1]
            {
                continue;
            }
            let entry = self.copy(place, generation, hash);
            return Found::Entry(place & self.mask, entry);
        }
        Found::Absent
    }

    #[inline(always)]
    fn copy(&self, place: usize, generation: u64, hash: [u64; 2]) -> Entry {
        let shape = self.load(place, layout::SHAPE, Ordering::Relaxed);
        Entry {
            generation,
            hash,
            block: BlockId(self.load(place, layout::BLOCK, Ordering::Relaxed)),
            len: self.load(place, layout::LEN, Ordering::Relaxed),
            expiry_ns: self.load(place, layout::EXPIRY, Ordering::Relaxed),
            payload_offset: low_half(shape),
            key_len: low_half(shape >> 32),
            namespace: self.load(place, layout::NAMESPACE, Ordering::Relaxed),
        }
    }

    /// Whether the entry at `place` is still the publication `generation`. The reader's second look, after its slot is
    /// written and fenced.
    #[inline(always)]
    pub fn is_current(&self, place: usize, generation: u64) -> bool {
        self.load(place, layout::GENERATION, Ordering::Acquire) == generation
    }

    /// Publishes `entry`. Agent only. The hash must not be in the table.
    pub fn insert(&self, entry: &Entry) -> Result<(), Full> {
        assert!(entry.generation != 0, "generation 0 marks an empty entry");
        let home = self.home(entry.hash);
        for step in 0..PROBE_MAX.min(self.capacity() - 1) {
            if self.load(home + step, layout::GENERATION, Ordering::Relaxed) == 0 {
                self.write(home + step, entry);
                return Ok(());
            }
        }
        Err(Full)
    }

    fn write(&self, place: usize, entry: &Entry) {
        self.store(place, layout::GENERATION, 0, Ordering::Relaxed); // mutate: index-write-invalidate
        // A reader that sees any word written below sees the 0 above too when it looks again: pairs with the fence of
        // `after_claims`.
        fence(Ordering::Release); // mutate: index-write-fence
        self.store(place, layout::HASH_LOW, entry.hash[0], Ordering::Relaxed);
        self.store(place, layout::HASH_HIGH, entry.hash[1], Ordering::Relaxed);
        self.store(place, layout::BLOCK, entry.block.0, Ordering::Relaxed);
        self.store(place, layout::LEN, entry.len, Ordering::Relaxed);
        self.store(place, layout::EXPIRY, entry.expiry_ns, Ordering::Relaxed);
        let shape = u64::from(entry.key_len) << 32 | u64::from(entry.payload_offset);
        self.store(place, layout::SHAPE, shape, Ordering::Relaxed);
        self.store(place, layout::NAMESPACE, entry.namespace, Ordering::Relaxed);
        // Pairs with the Acquire of the generation in `find`; the block's bytes were written before this too.
        self.store(place, layout::GENERATION, entry.generation, Ordering::Release); // mutate: index-publish-release => self.store(place, layout::GENERATION, entry.generation, Ordering::Relaxed);
    }

    /// Looks up the place of a publication. Agent only.
    fn place_of(&self, hash: [u64; 2], generation: u64) -> Option<usize> {
        let home = self.home(hash);
        for step in 0..PROBE_MAX {
            match self.load(home + step, layout::GENERATION, Ordering::Relaxed) {
                0 => return None,
                g if g == generation => return Some((home + step) & self.mask),
                _ => {}
            }
        }
        None
    }

    /// Takes a publication out of the table. Agent only; no reader may rely on this before the agent's fence and scan
    /// (see [`crate::slot`]). Returns whether it was there.
    ///
    /// Entries behind the hole move up, so that look-ups may stop at the first empty place. A moving entry is for a
    /// moment in two places under one generation, and a reader that pinned it at the old place finds that place changed
    /// and tries again.
    pub fn remove(&self, hash: [u64; 2], generation: u64) -> bool {
        let Some(mut hole) = self.place_of(hash, generation) else {
            return false;
        };
        let mut next = hole;
        loop {
            next = (next + 1) & self.mask;
            let generation = self.load(next, layout::GENERATION, Ordering::Relaxed);
            if generation == 0 || next == hole {
                break;
            }
            let hash = [
                self.load(next, layout::HASH_LOW, Ordering::Relaxed),
                self.load(next, layout::HASH_HIGH, Ordering::Relaxed),
            ];
            // May the entry lie at the hole? Only if its home is not between the hole (exclusive) and its place.
            let from_home = next.wrapping_sub(self.home(hash)) & self.mask;
            let from_hole = next.wrapping_sub(hole) & self.mask;
            if from_home >= from_hole {
                let entry = self.copy(next, generation, hash);
                self.write(hole, &entry);
                hole = next;
            }
        }
        self.store(hole, layout::GENERATION, 0, Ordering::Relaxed);
        true
    }

    /// Changes the expiry of a publication in place. Agent only. Readers may see either value.
    pub fn set_expiry(&self, hash: [u64; 2], generation: u64, expiry_ns: u64) -> bool {
        let Some(place) = self.place_of(hash, generation) else {
            return false;
        };
        self.store(place, layout::EXPIRY, expiry_ns, Ordering::Relaxed);
        true
    }

    /// The entry at a place, if there is one. Agent only, for copying a table into a larger one.
    pub fn entry_at(&self, place: usize) -> Option<Entry> {
        let generation = self.load(place, layout::GENERATION, Ordering::Relaxed);
        if generation == 0 {
            return None;
        }
        let hash = [
            self.load(place, layout::HASH_LOW, Ordering::Relaxed),
            self.load(place, layout::HASH_HIGH, Ordering::Relaxed),
        ];
        Some(self.copy(place, generation, hash))
    }

    /// Whether a publication is in the table. Agent only.
    pub fn contains(&self, hash: [u64; 2], generation: u64) -> bool {
        self.place_of(hash, generation).is_some()
    }
}

#[inline(always)]
fn low_half(word: u64) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
    let half = word as u32;
    half
}
