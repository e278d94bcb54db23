//! A run of 64-bit words that two parties read and write without a lock.
//!
//! Every lock-free protocol of this crate is generic over [`Words`]. Two implementations exist: [`MappedWords`], memory
//! that two processes map, and, in the models under `tests/`, loom's atomics. What the models check is therefore the
//! code that runs.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::memory::Mapping;
use crate::sync::Ordering;

/// A run of 64-bit words shared with another party.
pub trait Words {
    /// Reads the word at `index`. Panics when `index` is out of range: indices are computed here, never taken from the
    /// other side.
    fn load(&self, index: usize, order: Ordering) -> u64;
    /// Writes the word at `index`.
    fn store(&self, index: usize, value: u64, order: Ordering);
    /// How many words there are.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Words inside a shared mapping.
#[derive(Clone, Debug)]
pub struct MappedWords {
    // Held so that the words stay mapped.
    mapping: Arc<Mapping>,
    first: *const AtomicU64,
    len: usize,
}

// SAFETY: the pointer names memory that `mapping` keeps alive, and it is only used for atomic accesses.
unsafe impl Send for MappedWords {}
// SAFETY: as above; atomics may be used from several threads at once.
unsafe impl Sync for MappedWords {}

impl MappedWords {
    /// The `len` words that start `offset_bytes` into `mapping`.
    ///
    /// Panics when they do not lie inside the mapping or are not aligned.
    pub fn new(mapping: Arc<Mapping>, offset_bytes: usize, len: usize) -> MappedWords {
        let first = mapping.words_at(offset_bytes, len);
        MappedWords { mapping, first, len }
    }

    /// The mapping that the words lie in.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// The address of the first word, for prefetching only.
    pub(crate) fn address(&self) -> *const AtomicU64 {
        self.first
    }

    #[inline(always)]
    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.len, "word {index} of {}", self.len);
        // SAFETY: `index < len`, and `new` checked that `len` words from `first` lie inside the mapping.
        let word = unsafe { self.first.add(index) };
        // SAFETY: the word is mapped for as long as `self.mapping` lives, is aligned to 8 bytes, and every access to it
        // from any process is atomic.
        unsafe { &*word }
    }
}

/// The orderings of `sync` are loom's under `--cfg loom`; mapped memory is always the machine's.
#[cfg(loom)]
fn machine(order: Ordering) -> std::sync::atomic::Ordering {
    match order {
        Ordering::Relaxed => std::sync::atomic::Ordering::Relaxed,
        Ordering::Acquire => std::sync::atomic::Ordering::Acquire,
        Ordering::Release => std::sync::atomic::Ordering::Release,
        Ordering::AcqRel => std::sync::atomic::Ordering::AcqRel,
        _ => std::sync::atomic::Ordering::SeqCst,
    }
}
#[cfg(not(loom))]
#[inline(always)]
fn machine(order: Ordering) -> Ordering {
    order
}

impl Words for MappedWords {
    #[inline(always)]
    fn load(&self, index: usize, order: Ordering) -> u64 {
        self.word(index).load(machine(order))
    }
    #[inline(always)]
    fn store(&self, index: usize, value: u64, order: Ordering) {
        self.word(index).store(value, machine(order));
    }
    #[inline(always)]
    fn len(&self) -> usize {
        self.len
    }
}
