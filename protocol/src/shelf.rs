//! A value that many threads read and one now and then replaces; reading writes nothing that another thread reads.
//!
//! A reader marks itself as [`inside`](crate::inside), takes the value, and marks itself as outside again: two plain
//! stores to a line of its own. Who replaces the value swaps it and waits for every thread that was inside to come out
//! before the old value may go. The sections are the short ones of the hit path; nothing blocks inside.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use crate::fork;
use crate::inside::{Entered, Mark, after_swap};

/// One thread's place. Places are never freed, and used again by later threads.
#[repr(align(64))]
struct Place {
    mark: Mark,
    /// The process that the thread belongs to: in a forked child, marks of the parent's other threads say "inside" for
    /// ever.
    process: AtomicU64,
    taken: AtomicBool,
    next: AtomicPtr<Place>,
}

/// All places ever made, a list that only grows.
static PLACES: AtomicPtr<Place> = AtomicPtr::new(ptr::null_mut());

/// Gives a thread's place back when the thread ends.
struct Return(&'static Place);

impl Drop for Return {
    fn drop(&mut self) {
        MINE.set(None);
        self.0.taken.store(false, Ordering::Release);
    }
}

thread_local! {
    static MINE: Cell<Option<&'static Place>> = const { Cell::new(None) };
    static RETURN: Cell<Option<Return>> = const { Cell::new(None) };
}

fn places() -> impl Iterator<Item = &'static Place> {
    let mut at = PLACES.load(Ordering::Acquire);
    std::iter::from_fn(move || {
        // SAFETY: null, or a place that was leaked into the list.
        let place: &'static Place = unsafe { at.as_ref() }?;
        at = place.next.load(Ordering::Acquire);
        Some(place)
    })
}

#[inline(always)]
fn my_place() -> &'static Place {
    let place = MINE.get().unwrap_or_else(find_place);
    let process = fork::process();
    if place.process.load(Ordering::Relaxed) != process {
        // We are the one thread that a fork took along. Nobody waits for this mark yet: the process is new.
        place.process.store(process, Ordering::Relaxed);
    }
    place
}

#[cold]
fn find_place() -> &'static Place {
    let free = places().find(|place| {
        place.process.load(Ordering::Relaxed) == fork::process()
            && place.taken.compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    });
    let place = free.unwrap_or_else(|| {
        let place: &'static Place = Box::leak(Box::new(Place {
            mark: Mark::new(),
            process: AtomicU64::new(fork::process()),
            taken: AtomicBool::new(true),
            next: AtomicPtr::new(PLACES.load(Ordering::Relaxed)),
        }));
        let new: *const Place = place;
        while let Err(now) = PLACES.compare_exchange_weak(
            place.next.load(Ordering::Relaxed),
            new.cast_mut(),
            Ordering::AcqRel,
            Ordering::Relaxed,
        ) {
            place.next.store(now, Ordering::Relaxed);
        }
        place
    });
    MINE.set(Some(place));
    // A thread that is ending already keeps its place: one line lost.
    let _ = RETURN.try_with(|slot| slot.set(Some(Return(place))));
    place
}

/// Marks the thread as outside again.
#[derive(Debug)]
struct Inside {
    mark: &'static Mark,
    entered: Entered,
}

impl Drop for Inside {
    #[inline(always)]
    fn drop(&mut self) {
        self.mark.leave(&self.entered);
    }
}

/// What keeps a value alive while it is looked at.
#[derive(Debug)]
enum Kept<T> {
    /// This thread is inside.
    Inside { _mark: Inside },
    /// A count of its own: the thread was inside already, and may come out before this look ends.
    Held { _value: Arc<T> },
}

/// The value on a shelf while a thread looks at it.
#[derive(Debug)]
pub struct Present<'a, T> {
    value: &'a T,
    _kept: Kept<T>,
    // A mark is its own thread's.
    _not_send: PhantomData<*const ()>,
}

impl<T> Present<'_, T> {
    /// The value, held beyond the look.
    pub fn hold(&self) -> Arc<T> {
        // SAFETY: `Shelf::enter`, which alone makes these, has the value from `Arc::into_raw` and keeps it alive.
        unsafe { hold(self.value) }
    }
}

/// # Safety
/// The value must come from `Arc::into_raw` and be alive.
unsafe fn hold<T>(value: *const T) -> Arc<T> {
    // SAFETY: promised by the caller.
    unsafe { Arc::increment_strong_count(value) };
    // SAFETY: the count just taken belongs to the value returned.
    unsafe { Arc::from_raw(value) }
}

impl<T> Deref for Present<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        self.value
    }
}

/// A shared value that can be replaced.
pub struct Shelf<T> {
    current: AtomicPtr<T>,
    // Owns an Arc<T>, as far as Send and Sync are concerned.
    _owns: PhantomData<Arc<T>>,
}

impl<T: Send + Sync> Shelf<T> {
    /// A shelf with a value on it.
    pub fn new(value: Arc<T>) -> Shelf<T> {
        // Places are told apart by process from now on. Where forks cannot be watched no session begins either.
        let _ = fork::watch();
        Shelf { current: AtomicPtr::new(Arc::into_raw(value).cast_mut()), _owns: PhantomData }
    }

    /// The present value, for a short look: whoever replaces it waits for the end of the look. To replace a value of any
    /// shelf during a look of one's own is to lose the old value, whose memory is never freed then.
    #[inline(always)]
    pub fn enter(&self) -> Present<'_, T> {
        let mark = &my_place().mark;
        let entered = mark.enter();
        let value = self.current.load(Ordering::Acquire);
        let kept = match entered {
            Some(entered) => Kept::Inside { _mark: Inside { mark, entered } },
            // SAFETY: as below, by the look that this one began in.
            None => Kept::Held { _value: unsafe { hold(value) } },
        };
        // SAFETY: the pointer came from an `Arc` that is on the shelf or was replaced while this thread was inside;
        // `release` lets no value go before every thread that was inside has come out.
        Present { value: unsafe { &*value }, _kept: kept, _not_send: PhantomData }
    }

    /// The present value, held.
    pub fn load(&self) -> Arc<T> {
        self.enter().hold()
    }

    /// Replaces the value. Returns when no reader has the old one any more.
    pub fn store(&self, value: Arc<T>) {
        let old = self.current.swap(Arc::into_raw(value).cast_mut(), Ordering::AcqRel);
        release(old);
    }

    /// Replaces the value if it is `expected`. Returns whether it was.
    pub fn replace_if(&self, expected: &Arc<T>, value: Arc<T>) -> bool {
        let (from, to) = (Arc::as_ptr(expected).cast_mut(), Arc::into_raw(value).cast_mut());
        // `expected` is held by the caller, so its address cannot have become another value's.
        let swapped = self.current.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if swapped {
            release(from);
        } else {
            // SAFETY: the value was not put on the shelf, so its count is still ours.
            drop(unsafe { Arc::from_raw(to) });
        }
        swapped
    }
}

/// Lets a value go that is on no shelf any more, once nobody inside can have it.
fn release<T>(old: *const T) {
    let own = MINE.get();
    if own.is_some_and(|place| place.mark.is_inside()) || !after_swap() {
        // This thread itself may look at it, or without the fence nobody can tell who does: it is lost rather than freed
        // too early.
        return;
    }
    let own = own.map_or(ptr::null(), ptr::from_ref);
    let process = fork::process();
    let others = places().filter(|place| place.process.load(Ordering::Relaxed) == process && !ptr::eq(*place, own));
    others.for_each(|place| place.mark.wait_outside());
    // SAFETY: the count of the shelf, which nobody else gives up; no reader has the value any more.
    drop(unsafe { Arc::from_raw(old) });
}

impl<T> Drop for Shelf<T> {
    fn drop(&mut self) {
        // SAFETY: the shelf is exclusively borrowed, so no reader is inside with its value; the count is the shelf's.
        drop(unsafe { Arc::from_raw(*self.current.get_mut()) });
    }
}

impl<T> fmt::Debug for Shelf<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shelf")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    struct Counted(u64, Arc<AtomicUsize>);

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0 = u64::MAX;
            self.1.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn readers_never_see_a_value_that_went() {
        fork::watch().unwrap();
        let alive = Arc::new(AtomicUsize::new(1));
        let shelf = Arc::new(Shelf::new(Arc::new(Counted(0, Arc::clone(&alive)))));
        let stop = Arc::new(AtomicBool::new(false));
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let (shelf, stop) = (Arc::clone(&shelf), Arc::clone(&stop));
                thread::spawn(move || {
                    let mut last = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let value = shelf.enter().0;
                        assert!(value != u64::MAX && value >= last, "{value} after {last}");
                        last = value;
                        assert!(shelf.load().0 >= last);
                    }
                })
            })
            .collect();
        for value in 1..2_000 {
            alive.fetch_add(1, Ordering::SeqCst);
            shelf.store(Arc::new(Counted(value, Arc::clone(&alive))));
        }
        stop.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        assert_eq!(alive.load(Ordering::SeqCst), 1, "only the last value is left");
        drop(shelf);
        assert_eq!(alive.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn replaces_only_what_is_expected() {
        let first = Arc::new(1);
        let shelf = Shelf::new(Arc::clone(&first));
        assert!(!shelf.replace_if(&Arc::new(1), Arc::new(2)));
        assert!(shelf.replace_if(&first, Arc::new(3)));
        assert_eq!((*shelf.enter(), Arc::strong_count(&first)), (3, 1));
    }

    #[test]
    fn looks_within_looks_may_end_in_any_order() {
        let alive = Arc::new(AtomicUsize::new(1));
        let shelf = Arc::new(Shelf::new(Arc::new(Counted(1, Arc::clone(&alive)))));
        let outer = shelf.enter();
        let inner = shelf.enter();
        drop(outer);
        let other = Arc::clone(&shelf);
        let next = Counted(2, Arc::clone(&alive));
        thread::spawn(move || other.store(Arc::new(next))).join().unwrap();
        assert_eq!((inner.0, shelf.enter().0), (1, 2));
        drop(inner);
        assert_eq!(alive.load(Ordering::SeqCst), 0, "the old value is gone, the new one was never counted");
    }

    #[test]
    fn what_is_looked_at_is_not_freed_by_the_one_who_looks() {
        let alive = Arc::new(AtomicUsize::new(1));
        let shelf = Shelf::new(Arc::new(Counted(1, Arc::clone(&alive))));
        let look = shelf.enter();
        shelf.store(Arc::new(Counted(2, Arc::default())));
        assert_eq!((look.0, alive.load(Ordering::SeqCst)), (1, 1));
    }
}
