//! Pins: both halves of the protocol by which a reader keeps a block and the agent takes one back.
//!
//! Reader ([`pin`]): copy the entry, write the block's id into a slot of one's own, fence, then look again: is the entry
//! still that publication, and is the tenant's epoch still the one whose table was read? If so the block is pinned.
//!
//! Agent (per batch of victims): take them out of the index, [`before_scan`], then read every slot of every page
//! ([`scan`]). A block that no slot names can be written over.
//!
//! Why it holds: of the two fences one is first in the total order of SeqCst fences. If the reader's is first, the
//! agent's scan sees the slot. If the agent's is first, the reader's second look sees the entry gone or the epoch moved.

use crate::index::{Entry, Found, Table};
use crate::layout::{BlockId, control, stripe};
use crate::sync::{AtomicU32, Ordering, fence};
use crate::words::Words;

/// How a try to pin ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pinned {
    /// The block is pinned by the slot.
    Yes(Entry),
    /// Not in the index.
    Absent,
    /// The index changed meanwhile; the slot is empty again. Worth another try.
    Raced,
    /// The epoch moved: the table is not the current one. The slot is empty again.
    Stale,
}

/// Words of a slot page as a slot protocol uses them: word `slot` of `slots`, which start at `first`.
fn slot_word(slot: usize) -> usize {
    assert!(slot < stripe::SLOTS_LEN);
    stripe::SLOTS + slot
}

/// The reader's half: finds `hash` in `table` and pins it in `slot` of the stripe.
#[inline(always)]
pub fn pin<T: Words, C: Words, S: Words>(
    table: &Table<T>,
    control_words: &C,
    epoch: u64,
    stripe_words: &S,
    slot: usize,
    hash: [u64; 2],
) -> Pinned {
    pin_with(table, control_words, epoch, stripe_words, slot, hash, |_| {})
}

/// As [`pin`], with something to do between the entry is found and the fence: starting to fetch the block, so that the
/// fence and the cache misses overlap. What `found` is given is not pinned yet.
#[inline(always)]
pub fn pin_with<T: Words, C: Words, S: Words>(
    table: &Table<T>,
    control_words: &C,
    epoch: u64,
    stripe_words: &S,
    slot: usize,
    hash: [u64; 2],
    found: impl FnOnce(&Entry),
) -> Pinned {
    let (place, entry) = match table.find(hash) {
        Found::Entry(place, entry) => (place, entry),
        Found::Absent => return Pinned::Absent,
    };
    found(&entry);
    claim(stripe_words, slot, entry.block);
    after_claims();
    confirm(table, control_words, epoch, stripe_words, slot, place, entry)
}

/// First half of a pin: writes the slot. [`after_claims`] must follow before [`confirm`], once for any number of claims.
#[inline(always)]
pub fn claim<S: Words>(stripe_words: &S, slot: usize, block: BlockId) {
    // Release, like that of `unpin`: a scan that reads this claim never reads the 0 before it, and must still come after
    // what was read under the slot's earlier pin.
    // mutate: pin-slot
    // mutate: pin-slot-release => stripe_words.store(slot_word(slot), block.0, Ordering::Relaxed);
    stripe_words.store(slot_word(slot), block.0, Ordering::Release);
}

/// Orders the claims before the second looks; pairs with the fence of [`before_scan`].
#[inline(always)]
pub fn after_claims() {
    fence(Ordering::SeqCst); // mutate!: pin-fence
}

/// Second half of a pin: looks again.
#[inline(always)]
pub fn confirm<T: Words, C: Words, S: Words>(
    table: &Table<T>,
    control_words: &C,
    epoch: u64,
    stripe_words: &S,
    slot: usize,
    place: usize,
    entry: Entry,
) -> Pinned {
    let current = table.is_current(place, entry.generation); // mutate!: pin-recheck-entry => let current = true;
    if !current {
        unpin(stripe_words, slot);
        return Pinned::Raced;
    }
    let now = control_words.load(control::EPOCH, Ordering::Acquire); // mutate!: pin-recheck-epoch => let now = epoch;
    if now != epoch {
        unpin(stripe_words, slot);
        return Pinned::Stale;
    }
    Pinned::Yes(entry)
}

/// The reader lets go. Release pairs with the Acquire of [`scan`]: its reads of the block come before the agent's
/// writes into it.
#[inline(always)]
pub fn unpin<S: Words>(stripe_words: &S, slot: usize) {
    stripe_words.store(slot_word(slot), 0, Ordering::Release); // mutate: unpin-release => stripe_words.store(slot_word(slot), 0, Ordering::Relaxed);
}

/// The agent's fence between taking victims out of the index and scanning for pins of them. The list of slot pages is
/// to be taken after it, under the lock that attaching uses.
pub fn before_scan() {
    fence(Ordering::SeqCst); // mutate!: reclaim-fence
}

/// Calls `seen` with every block id that a stripe names. What a client wrote is a claim: the id is only ever compared.
pub fn scan<S: Words>(stripe_words: &S, mut seen: impl FnMut(BlockId)) {
    for slot in 0..stripe::SLOTS_LEN {
        let id = stripe_words.load(slot_word(slot), Ordering::Acquire); // mutate: scan-acquire => let id = stripe_words.load(slot_word(slot), Ordering::Relaxed);
        if id != 0 {
            seen(BlockId(id));
        }
    }
}

/// Publishes a new current table: readers of any older one find the epoch moved. Agent only.
///
/// The new table must hold all that the old one holds, and the old one must not change any more. No fence is needed
/// here beyond the one that every batch of victims brings before its scan.
pub fn publish_table<C: Words>(control_words: &C, table_id: u64) {
    control_words.store(control::TABLE_ID, table_id, Ordering::Relaxed);
    bump_epoch(control_words);
}

/// Moves the epoch. Agent only.
pub fn bump_epoch<C: Words>(control_words: &C) {
    let epoch = control_words.load(control::EPOCH, Ordering::Relaxed);
    // Pairs with the readers' Acquire: who sees the new epoch sees the table's number and the directory too.
    // mutate: publish-table-epoch
    // mutate: publish-epoch-release => control_words.store(control::EPOCH, epoch + 1, Ordering::Relaxed);
    control_words.store(control::EPOCH, epoch + 1, Ordering::Release);
}

/// A slot that is free to take.
const FREE: u32 = 0;
/// A slot whose handle was let go after the session was frozen by a fork. Its word may still protect a copy of that
/// handle in another process, so it is never taken again.
const RETIRED: u32 = u32::MAX;

/// The process-private side of a stripe: how many handles of this process share each slot.
#[derive(Debug)]
pub struct Holders {
    counts: Box<[AtomicU32]>,
}

impl Default for Holders {
    fn default() -> Self {
        Self::new(stripe::SLOTS_LEN)
    }
}

/// What the last handle of a slot must do with the slot's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetGo {
    /// Others still hold it.
    Shared,
    /// It was the last.
    Last,
}

impl Holders {
    /// Holders of `slots` slots, all free.
    pub fn new(slots: usize) -> Holders {
        Holders { counts: (0..slots).map(|_| AtomicU32::new(FREE)).collect() }
    }

    /// A free slot from `hint` on, taken with one holder. Only the thread that owns the stripe may call this, so taking
    /// needs no read-modify-write.
    #[inline(always)]
    pub fn take(&self, hint: usize) -> Option<usize> {
        let len = self.counts.len();
        for slot in (hint..len).chain(0..hint.min(len)) {
            // Acquire pairs with the Release in `let_go`: the word was cleared before we write it.
            let count = self.counts[slot].load(Ordering::Acquire); // mutate: take-acquire => let count = self.counts[slot].load(Ordering::Relaxed);
            if count == FREE {
                self.counts[slot].store(1, Ordering::Relaxed);
                return Some(slot);
            }
        }
        None
    }

    /// One more holder of a slot that the caller already holds.
    pub fn share(&self, slot: usize) {
        // Relaxed is enough: the caller's own hold keeps the slot, and handing the new handle to another thread brings
        // its own ordering.
        let before = self.counts[slot].fetch_add(1, Ordering::Relaxed);
        assert!(before != FREE && before < RETIRED - 1, "slot {slot} shared with {before} holders");
    }

    /// One holder less. When it was the last and the session is not `frozen`, clears the slot's word and frees the slot.
    ///
    /// A session is frozen by the fork handler *before* the child exists. A handle that the child can still reach is
    /// not being let go at that moment, so whoever lets its twin go later, in either process, finds the session frozen
    /// and leaves the word alone.
    #[inline(always)]
    pub fn let_go<S: Words>(&self, stripe_words: &S, slot: usize, frozen: impl FnOnce() -> bool) -> LetGo {
        // With one holder nobody else can be sharing at this moment, so the common case needs no read-modify-write.
        // Acquire, here and in `leave_to_others`: the last to let go comes after what the others read.
        if self.counts[slot].load(Ordering::Acquire) != 1 && self.leave_to_others(slot) {
            return LetGo::Shared;
        }
        let frozen = frozen(); // mutate!: fork-freeze-unpin => let frozen = false;
        if frozen {
            self.counts[slot].store(RETIRED, Ordering::Release); // mutate: fork-retire-slot => self.counts[slot].store(FREE, Ordering::Release);
            return LetGo::Last;
        }
        unpin(stripe_words, slot);
        // mutate: let-go-release => self.counts[slot].store(FREE, Ordering::Relaxed);
        self.counts[slot].store(FREE, Ordering::Release);
        LetGo::Last
    }

    /// One holder less if others are left; false, and nothing changed, for the last. Its count stays at 1 until the word
    /// is clear: at `FREE` the owner could already have taken the slot, and would lose the claim that it wrote.
    #[cold]
    fn leave_to_others(&self, slot: usize) -> bool {
        self.counts[slot]
            .fetch_update(Ordering::Release, Ordering::Acquire, |held| (held > 1).then(|| held - 1))
            .is_ok()
    }

    /// Slots that cannot be taken: in use, or retired by a fork.
    pub fn not_free(&self) -> usize {
        self.counts.iter().filter(|count| count.load(Ordering::Acquire) != FREE).count()
    }

    /// Slots in use by this process.
    pub fn in_use(&self) -> usize {
        self.counts.iter().filter(|count| !matches!(count.load(Ordering::Acquire), FREE | RETIRED)).count()
    }
}
