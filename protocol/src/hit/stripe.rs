//! Stripes: the part of a slot page that one thread writes, and which thread has which.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering as Std};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::Reader;
use super::segments::{SegmentRef, Segments};
use crate::fork;
use crate::index::Table;
use crate::layout::stripe as layout;
use crate::memory::Mapping;
use crate::slot::Holders;
use crate::words::MappedWords;

/// Segments that a thread remembers the address of.
const REMEMBERED: usize = 64;

/// What the owning thread of a stripe keeps between calls, so that a hit touches nothing that another thread writes.
#[derive(Debug)]
pub(crate) struct Local {
    pub(crate) epoch: u64,
    pub(crate) table: Option<Arc<Table<MappedWords>>>,
    segments: [Option<SegmentRef>; REMEMBERED],
    hint: usize,
}

impl Local {
    fn new() -> Local {
        // Epochs start at 1, so this one is never current.
        Local {
            epoch: 0,
            table: None,
            segments: [None; REMEMBERED],
            hint: 0,
        }
    }

    pub(crate) fn renew(&mut self, epoch: u64, table: Arc<Table<MappedWords>>) {
        self.epoch = epoch;
        self.table = Some(table);
        self.segments = [None; REMEMBERED];
    }

    #[inline(always)]
    pub(crate) fn segment(&mut self, id: u32, all: &Segments) -> Option<SegmentRef> {
        let place = id as usize % REMEMBERED;
        match self.segments[place] {
            Some(segment) if segment.id == id => Some(segment),
            _ => {
                self.segments[place] = all.find(id);
                self.segments[place]
            }
        }
    }
}

/// A stripe of a slot page, owned by one thread at a time; blocks pinned in it may be let go by any thread.
#[derive(Debug)]
pub(crate) struct Stripe {
    words: MappedWords,
    holders: Holders,
    born: u64,
    owned: AtomicBool,
    local: UnsafeCell<Local>,
    // Blocks hold their stripe, and through it the maps that their bytes lie in.
    _segments: Arc<Segments>,
}

// SAFETY: everything but `local` is `Sync` by itself. `local` is only reached by the thread that owns the stripe, by the
// contract of `Stripe::local`; ownership passes through the mutex of `Stripes` or the Release and Acquire of `owned`.
unsafe impl Sync for Stripe {}
// SAFETY: as above; the addresses in `local` name maps that `_segments` keeps.
unsafe impl Send for Stripe {}

impl Stripe {
    #[inline(always)]
    pub(crate) fn words(&self) -> &MappedWords {
        &self.words
    }

    /// Takes a free slot, the one used last if it is free again: a get and its drop stay on one line. Owner only.
    #[inline(always)]
    pub(crate) fn take_slot(&self, local: &mut Local) -> Option<usize> {
        let slot = self.holders.take(local.hint)?;
        local.hint = slot;
        Some(slot)
    }

    pub(crate) fn free_slots(&self) -> usize {
        layout::SLOTS_LEN - self.holders.not_free()
    }

    /// What the owner keeps with the stripe.
    ///
    /// # Safety
    /// The calling thread must own the stripe and hold no other reference from this function.
    #[expect(
        clippy::mut_from_ref,
        reason = "exclusive by ownership of the stripe, which the caller promises"
    )]
    #[inline(always)]
    pub(crate) unsafe fn local(&self) -> &mut Local {
        // SAFETY: promised by the caller.
        unsafe { &mut *self.local.get() }
    }

    /// Another reference to this stripe, for a block.
    #[inline(always)]
    pub(crate) fn to_arc(&self) -> Arc<Stripe> {
        // SAFETY: every stripe is made inside an `Arc` by `Stripes::add`, the only constructor, and is alive here.
        unsafe { Arc::increment_strong_count(self) };
        // SAFETY: the count just taken belongs to this value.
        unsafe { Arc::from_raw(self) }
    }

    pub(crate) fn share(&self, slot: usize) {
        self.holders.share(slot);
    }

    /// One holder less of the slot.
    #[inline(always)]
    pub(crate) fn release(&self, slot: usize) {
        self.holders.let_go(&self.words, slot, || fork::is_frozen(self.born));
    }
}

/// All stripes of a reader.
#[derive(Debug, Default)]
pub(crate) struct Stripes {
    all: Mutex<Vec<Arc<Stripe>>>,
}

impl Stripes {
    pub(crate) fn add(&self, mapping: &Arc<Mapping>, stripes: usize, born: u64, segments: &Arc<Segments>) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        for stripe in 0..stripes {
            all.push(Arc::new(Stripe {
                words: MappedWords::new(Arc::clone(mapping), stripe * layout::BYTES, layout::WORDS),
                holders: Holders::default(),
                born,
                owned: AtomicBool::new(false),
                local: UnsafeCell::new(Local::new()),
                _segments: Arc::clone(segments),
            }));
        }
    }

    pub(crate) fn in_use(&self) -> (usize, usize) {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        (
            all.iter().map(|stripe| stripe.holders.in_use()).sum(),
            all.len() * layout::SLOTS_LEN,
        )
    }

    /// Gives the calling thread a stripe that nobody owns and that has `free` free slots.
    fn claim(&self, free: usize) -> Option<Arc<Stripe>> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter()
            .find(|stripe| {
                stripe.free_slots() >= free
                    && stripe
                        .owned
                        .compare_exchange(false, true, Std::Acquire, Std::Relaxed)
                        .is_ok()
            })
            .cloned()
    }
}

/// A thread's note of a stripe that it owns.
struct Mine {
    reader: u64,
    stripe: Weak<Stripe>,
}

impl Drop for Mine {
    fn drop(&mut self) {
        // The thread ends, or the reader is gone: another thread may take the stripe over.
        if let Some(stripe) = self.stripe.upgrade() {
            stripe.owned.store(false, Std::Release);
        }
    }
}

thread_local! {
    /// The stripe used last: (reader, its stripe). The pointer is only followed while that very reader is borrowed,
    /// and a reader keeps all its stripes for as long as it lives.
    static LAST: Cell<(u64, *const Stripe)> = const { Cell::new((0, ptr::null())) };
    /// Every stripe that this thread owns.
    static MINE: RefCell<Vec<Mine>> = const { RefCell::new(Vec::new()) };
}

impl Reader {
    /// The stripe that this thread used last, if it has one here. It may be full.
    #[inline(always)]
    pub(super) fn last_stripe(&self) -> Option<&Stripe> {
        let (reader, stripe) = LAST.get();
        if reader != self.id {
            return None;
        }
        // SAFETY: the note was written by `find_stripe` of the reader with this id, which no other reader ever has. That
        // reader is borrowed here, and it owns the stripe for as long as it lives.
        unsafe { stripe.as_ref() }
    }

    /// A stripe of this thread with at least `free` free slots, claimed if need be.
    #[cold]
    pub(super) fn find_stripe(&self, free: usize) -> Option<&Stripe> {
        let found = MINE
            .try_with(|mine| {
                let mut mine = mine.borrow_mut();
                mine.retain(|note| note.stripe.strong_count() > 0);
                let owned = mine
                    .iter()
                    .filter(|note| note.reader == self.id)
                    .filter_map(|note| note.stripe.upgrade())
                    .find(|stripe| stripe.free_slots() >= free);
                owned.or_else(|| {
                    let stripe = self.stripes.claim(free)?;
                    mine.push(Mine {
                        reader: self.id,
                        stripe: Arc::downgrade(&stripe),
                    });
                    Some(stripe)
                })
            })
            .ok()??;
        LAST.set((self.id, Arc::as_ptr(&found)));
        self.last_stripe()
    }
}
