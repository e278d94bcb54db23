//! The node-wide account of shared memory.

/// Most that is kept free of segments.
const SESSION_RESERVE_BYTES: u64 = 64 << 20;

/// How much shared memory there may be and how much there is: segments in use, populated spares, retired segments that
/// somebody still has mapped, index tables old and new, slot pages, staging, writers' memory.
#[derive(Debug)]
pub(crate) struct Budget {
    capacity_bytes: u64,
    used_bytes: u64,
}

impl Budget {
    pub(crate) fn new(capacity_bytes: u64) -> Budget {
        Budget { capacity_bytes, used_bytes: 0 }
    }

    pub(crate) fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// What may still be made. 0 after the capacity was lowered below what is in use.
    pub(crate) fn free_bytes(&self) -> u64 {
        self.capacity_bytes.saturating_sub(self.used_bytes)
    }

    /// What must still go after the capacity was lowered.
    pub(crate) fn excess_bytes(&self) -> u64 {
        self.used_bytes.saturating_sub(self.capacity_bytes)
    }

    /// What may still be made into segments. A little is kept for what sessions need, so that a node full of blocks still
    /// takes new clients.
    pub(crate) fn free_for_segments(&self) -> u64 {
        self.most_for_segments().saturating_sub(self.used_bytes)
    }

    /// What segments may take together when there is nothing else.
    pub(crate) fn most_for_segments(&self) -> u64 {
        self.capacity_bytes - (self.capacity_bytes / 16).min(SESSION_RESERVE_BYTES)
    }

    /// Charges a segment of `bytes` if it fits.
    #[must_use]
    pub(crate) fn charge_segment(&mut self, bytes: u64) -> bool {
        bytes <= self.free_for_segments() && self.charge(bytes)
    }

    pub(crate) fn set_capacity(&mut self, bytes: u64) {
        self.capacity_bytes = bytes;
    }

    /// Charges `bytes` if they fit.
    #[must_use]
    pub(crate) fn charge(&mut self, bytes: u64) -> bool {
        let fits = bytes <= self.free_bytes();
        if fits {
            self.used_bytes += bytes;
        }
        fits
    }

    /// Charges `bytes` to a node that is over a capacity that was lowered: until readers let go, whoever comes to look who
    /// holds what, or to raise the capacity again, is let in. Elsewhere what does not fit is refused.
    #[must_use]
    pub(crate) fn charge_over(&mut self, bytes: u64) -> bool {
        let is_over = self.excess_bytes() > 0;
        if is_over {
            self.used_bytes += bytes;
        }
        is_over
    }

    pub(crate) fn refund(&mut self, bytes: u64) {
        assert!(bytes <= self.used_bytes, "refund of {bytes} bytes with {} in use", self.used_bytes);
        self.used_bytes -= bytes;
    }
}
