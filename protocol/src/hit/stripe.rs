//! Stripes: the part of a slot page that one thread writes, and which thread has which.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering as Std};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::Reader;
use super::segments::{SegmentRef, Segments};
use crate::fork;
use crate::handover::Handover;
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
    pub(crate) remembered: Remembered,
    hint: usize,
}

/// Addresses of segments that a thread has met, for as long as no segment is retired.
#[derive(Debug)]
pub(crate) struct Remembered([Option<SegmentRef>; REMEMBERED]);

impl Remembered {
    #[inline(always)]
    pub(crate) fn find(&self, id: u32) -> Option<SegmentRef> {
        self.0[id as usize % REMEMBERED].filter(|segment| segment.id == id)
    }
}

impl Local {
    fn new() -> Local {
        // Epochs start at 1, so this one is never current.
        Local { epoch: 0, table: None, remembered: Remembered([None; REMEMBERED]), hint: 0 }
    }

    pub(crate) fn renew(&mut self, epoch: u64, table: Arc<Table<MappedWords>>) {
        self.epoch = epoch;
        self.table = Some(table);
        self.remembered = Remembered([None; REMEMBERED]);
    }

    #[inline(always)]
    pub(crate) fn segment(&mut self, id: u32, all: &Segments) -> Option<SegmentRef> {
        if let Some(segment) = self.remembered.find(id) {
            return Some(segment);
        }
        let found = all.find(id);
        self.remembered.0[id as usize % REMEMBERED] = found;
        found
    }
}

/// A stripe of a slot page, owned by one thread at a time; blocks pinned in it may be let go by any thread.
///
/// A stripe lives until its reader is gone *and* no block is pinned in it. No count is kept of that on the hit path: a
/// reader that goes hands its stripes to the list `LEFT`, and whoever lets a block go afterwards looks at that list.
#[derive(Debug)]
pub(crate) struct Stripe {
    words: MappedWords,
    holders: Holders,
    born: u64,
    /// A bit for this stripe's reader, see [`LEFT_MARKS`].
    pub(crate) mark: u64,
    owned: AtomicBool,
    local: UnsafeCell<Local>,
    // A stripe with pinned blocks keeps the maps that their bytes lie in.
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
    #[expect(clippy::mut_from_ref, reason = "exclusive by ownership of the stripe, which the caller promises")]
    #[inline(always)]
    pub(crate) unsafe fn local(&self) -> &mut Local {
        // SAFETY: promised by the caller.
        unsafe { &mut *self.local.get() }
    }

    pub(crate) fn share(&self, slot: usize) {
        self.holders.share(slot);
    }

    /// One holder less of the slot. The stripe may be gone when this returns, unless the caller knows better.
    #[inline(always)]
    pub(crate) fn release(&self, slot: usize) {
        self.holders.let_go(&self.words, slot, || fork::is_frozen(self.born));
    }

    fn is_idle(&self) -> bool {
        self.holders.in_use() == 0
    }
}

/// All stripes of a reader.
#[derive(Debug, Default)]
pub(crate) struct Stripes {
    all: Mutex<Vec<Arc<Stripe>>>,
}

impl Stripes {
    pub(crate) fn add(
        &self,
        mapping: &Arc<Mapping>,
        stripes: usize,
        (reader, born): (u64, u64),
        segments: &Arc<Segments>,
    ) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        for stripe in 0..stripes {
            all.push(Arc::new(Stripe {
                words: MappedWords::new(Arc::clone(mapping), stripe * layout::BYTES, layout::WORDS),
                holders: Holders::default(),
                born,
                mark: 1 << (reader % 64),
                owned: AtomicBool::new(false),
                local: UnsafeCell::new(Local::new()),
                _segments: Arc::clone(segments),
            }));
        }
    }

    pub(crate) fn in_use(&self) -> (usize, usize) {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        (all.iter().map(|stripe| stripe.holders.in_use()).sum(), all.len() * layout::SLOTS_LEN)
    }

    /// Gives the calling thread a stripe that nobody owns and that has `free` free slots.
    fn claim(&self, free: usize) -> Option<Arc<Stripe>> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter()
            .find(|stripe| {
                stripe.free_slots() >= free
                    && stripe.owned.compare_exchange(false, true, Std::Acquire, Std::Relaxed).is_ok()
            })
            .cloned()
    }
}

/// Stripes whose reader is gone while blocks are still pinned in them: a list without a lock, because a lock that another
/// thread held during a fork would stay locked in the child.
static LEFT: AtomicPtr<Left> = AtomicPtr::new(ptr::null_mut());

/// One bit for each reader on the list, or for several: so that letting go of a block of another reader costs one load,
/// however long the blocks of an old one are held.
static LEFT_MARKS: Handover = Handover::new();

struct Left {
    stripes: Vec<Arc<Stripe>>,
    next: *mut Left,
}

impl Drop for Stripes {
    fn drop(&mut self) {
        let all = std::mem::take(self.all.get_mut().unwrap_or_else(PoisonError::into_inner));
        if all.iter().any(|stripe| !stripe.is_idle()) {
            leave(all);
        }
    }
}

/// Puts stripes on the list, and looks once more whether their last block was let go meanwhile.
fn leave(stripes: Vec<Arc<Stripe>>) {
    let again = stripes.clone();
    let mark = stripes.first().map_or(0, |stripe| stripe.mark);
    let left = Box::into_raw(Box::new(Left { stripes, next: ptr::null_mut() }));
    let mut head = LEFT.load(Std::Relaxed);
    loop {
        // SAFETY: the node is ours until the exchange below succeeds.
        unsafe { (*left).next = head };
        match LEFT.compare_exchange_weak(head, left, Std::AcqRel, Std::Relaxed) {
            Ok(_) => break,
            Err(now) => head = now,
        }
    }
    // Either we see the last slot free, or who freed it sees the mark.
    if LEFT_MARKS.announce(mark) && again.iter().all(|stripe| stripe.is_idle()) {
        drop(again);
        drop_left();
    }
}

/// To be called after a block was let go, with its reader's mark: frees the stripes that this was the last block of.
#[inline(always)]
pub(crate) fn after_release(mark: u64) {
    if LEFT_MARKS.is_announced(mark) {
        drop_left();
    }
}

#[cold]
fn drop_left() {
    // The marks before the list: what is put on the list later brings its mark again.
    LEFT_MARKS.withdraw();
    let mut node = LEFT.swap(ptr::null_mut(), Std::AcqRel);
    let mut busy = Vec::new();
    while !node.is_null() {
        // SAFETY: the whole list is ours since the swap, and each node was made by `Box::into_raw` in `leave`.
        let left = unsafe { Box::from_raw(node) };
        node = left.next;
        // The stripes of a reader share a page: they go together.
        if left.stripes.iter().any(|stripe| !stripe.is_idle()) {
            busy.push(left.stripes);
        }
    }
    busy.into_iter().for_each(leave);
}

/// A thread's note of a stripe that it owns.
struct Mine {
    reader: u64,
    stripe: Weak<Stripe>,
}

impl Drop for Mine {
    fn drop(&mut self) {
        // The thread ends, or the reader is gone: another thread may take the stripe over, so this one must forget it.
        LAST.set((0, ptr::null()));
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
                    mine.push(Mine { reader: self.id, stripe: Arc::downgrade(&stripe) });
                    Some(stripe)
                })
            })
            .ok()??;
        LAST.set((self.id, Arc::as_ptr(&found)));
        self.last_stripe()
    }
}
