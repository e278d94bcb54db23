//! Being inside: how a thread that reads a shared value says so with two plain stores, and how a thread that has taken
//! the value away waits until nobody is inside any more who could have it.
//!
//! Reader: [`Mark::enter`], take the value, use it, [`Mark::leave`]. Replacer: swap the value, [`after_swap`], then
//! [`Mark::wait_outside`] for every reader. The light fence of the reader and the heavy one of the replacer order the
//! reader's mark and look against the replacer's swap and look: either the replacer sees the reader inside, or the reader
//! sees the new value.

use crate::asymmetric::{heavy, light};
use crate::sync::{AtomicU64, Ordering, yield_now};

/// One thread's mark. Odd while the thread is inside.
#[derive(Debug)]
pub struct Mark {
    state: AtomicU64,
}

/// Proof that a thread went inside: to be given back to [`Mark::leave`].
#[derive(Debug)]
pub struct Entered {
    outside: u64,
}

impl Default for Mark {
    fn default() -> Self {
        Self::new()
    }
}

impl Mark {
    /// The mark of a thread that is outside.
    pub fn new() -> Mark {
        Mark { state: AtomicU64::new(0) }
    }

    /// The thread goes inside; `None` when it is inside already. Its own thread only.
    #[inline(always)]
    pub fn enter(&self) -> Option<Entered> {
        let state = self.state.load(Ordering::Relaxed);
        if state & 1 == 1 {
            return None;
        }
        // Release, like that of `leave`: a replacer that sees this visit and not the end of the one before must still come
        // after what was read in that one.
        // mutate!: inside-enter
        // mutate: inside-enter-release => self.state.store(state + 1, Ordering::Relaxed);
        self.state.store(state + 1, Ordering::Release);
        // Orders the mark before the look at the value; pairs with `after_swap`.
        light();
        Some(Entered { outside: state + 2 })
    }

    /// The thread comes out. Release: what it read inside comes before whatever the replacer does after waiting.
    #[inline(always)]
    pub fn leave(&self, entered: &Entered) {
        self.state.store(entered.outside, Ordering::Release); // mutate: inside-leave-release => self.state.store(entered.outside, Ordering::Relaxed);
    }

    /// Whether the thread is inside. Its own thread only.
    pub fn is_inside(&self) -> bool {
        self.state.load(Ordering::Relaxed) & 1 == 1
    }

    /// Waits until the thread is outside, or has been since. Whoever goes in after the swap finds the new value.
    pub fn wait_outside(&self) {
        let seen = self.state.load(Ordering::Acquire); // mutate: inside-wait => let seen = 0;
        while seen & 1 == 1 && self.state.load(Ordering::Acquire) == seen {
            yield_now();
        }
    }
}

/// Orders a swap before the looks at the marks. False when the kernel failed to: then nobody may be taken for outside.
pub fn after_swap() -> bool {
    heavy()
}
