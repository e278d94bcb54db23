//! Hit feedback: a small lossy ring of touched block ids in each stripe, and plain counters beside it.
//!
//! Readers cannot write the index, so they note here what they read; the agent drains it before it chooses victims. All
//! of it is a client's claim: ids are only looked up, never followed, and a drain takes at most one ring's worth.

use crate::layout::{BlockId, stripe};
use crate::sync::Ordering;
use crate::words::Words;

/// What an agent found in a stripe's touch ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Touches ever written, to be passed to the next drain.
    pub head: u64,
    /// Whether touches were lost since the last drain.
    pub overflowed: bool,
}

/// The reader notes a touch. Owner thread of the stripe only; the agent may see the head before the id, which is why ids
/// are claims.
#[inline(always)]
pub fn touch<W: Words>(words: &W, block: BlockId) {
    let head = words.load(stripe::TOUCH_HEAD, Ordering::Relaxed);
    #[expect(clippy::cast_possible_truncation, reason = "taken modulo the ring's length")]
    let place = head as usize % stripe::TOUCH_LEN;
    words.store(stripe::TOUCH + place, block.0, Ordering::Relaxed);
    words.store(stripe::TOUCH_HEAD, head.wrapping_add(1), Ordering::Relaxed);
}

/// Adds to a counter of the stripe. Owner thread only.
#[inline(always)]
pub fn count<W: Words>(words: &W, counter: usize, by: u64) {
    let value = words.load(counter, Ordering::Relaxed);
    words.store(counter, value.wrapping_add(by), Ordering::Relaxed);
}

/// The agent takes what was touched since `last_head`, at most one ring's worth.
pub fn drain<W: Words>(words: &W, last_head: u64, mut touched: impl FnMut(BlockId)) -> Drained {
    let head = words.load(stripe::TOUCH_HEAD, Ordering::Relaxed);
    let new = head.wrapping_sub(last_head);
    let len = stripe::TOUCH_LEN as u64;
    for back in 1..=new.min(len) {
        #[expect(clippy::cast_possible_truncation, reason = "taken modulo the ring's length")]
        let place = (head.wrapping_sub(back) % len) as usize;
        let id = words.load(stripe::TOUCH + place, Ordering::Relaxed);
        if id != 0 {
            touched(BlockId(id));
        }
    }
    Drained { head, overflowed: new > len }
}
