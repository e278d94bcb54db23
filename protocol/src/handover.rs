//! Who clears up: a side that leaves things behind which are still in use, and the side that stops using the last one.
//!
//! The leaver first [`announces`](Handover::announce), then looks whether anything is still in use. The user first stops
//! using, then looks [whether something was announced](Handover::is_announced). One of them at least sees the other, so
//! what was left is never forgotten, and the user pays one load for it.

use crate::asymmetric::{heavy, light};
use crate::sync::{AtomicU64, Ordering};

/// A bit for each of up to 64 kinds of things left behind.
#[derive(Debug)]
pub struct Handover {
    announced: AtomicU64,
}

impl Handover {
    /// Nothing is left behind.
    #[cfg(not(loom))]
    pub const fn new() -> Handover {
        Handover { announced: AtomicU64::new(0) }
    }

    /// Nothing is left behind.
    #[cfg(loom)]
    pub fn new() -> Handover {
        Handover { announced: AtomicU64::new(0) }
    }

    /// The leaver says that things of kind `bit` are left; it looks afterwards whether they are in use. False when the
    /// kernel failed to order the two: then the look proves nothing.
    pub fn announce(&self, bit: u64) -> bool {
        self.announced.fetch_or(bit, Ordering::AcqRel); // mutate!: handover-announce
        heavy()
    }

    /// The user, who has just stopped using something of kind `bit`, asks whether anybody waits for that.
    #[inline(always)]
    pub fn is_announced(&self, bit: u64) -> bool {
        light();
        self.announced.load(Ordering::Relaxed) & bit != 0
    }

    /// Takes all announcements back, before what was left is looked through.
    pub fn withdraw(&self) {
        self.announced.swap(0, Ordering::AcqRel);
    }
}

impl Default for Handover {
    fn default() -> Self {
        Self::new()
    }
}
