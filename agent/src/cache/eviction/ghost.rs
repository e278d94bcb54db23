//! What the small queue evicted lately, by fingerprint.

use std::collections::{HashMap, VecDeque};

/// So many fingerprints are remembered however few blocks there are, so that a cache that just
/// started, with nothing in its main queue yet, can learn what comes back.
const LEN_MIN: usize = 64;

/// No more are remembered however many blocks there are: some 25 MB at the most.
const LEN_MAX: usize = 1 << 20;

/// Halves a fingerprint. Two keys that share 32 bits only cost one of them its probation, at odds
/// of one in four thousand even with the ghost queue at its longest, and the ghost queue takes half
/// the memory.
pub(super) fn fold(fingerprint: u64) -> u32 {
    ((fingerprint ^ (fingerprint >> 32)) & 0xffff_ffff) as u32
}

/// The fingerprints of the last so many evictions, each remembered until it is taken or as many
/// more evictions have followed.
///
/// A fingerprint taken leaves its place in the order behind. The sequence number tells that place
/// from a later one of the same fingerprint, and wraps: there are never enough places to go around
/// once.
#[derive(Debug)]
pub(super) struct Ghost {
    order: VecDeque<u32>,
    /// Sequence number of the front of `order`; every place behind it has the next one.
    front_seq: u32,
    /// The place of each fingerprint that is remembered.
    seq_by_fingerprint: HashMap<u32, u32>,
}

impl Ghost {
    pub(super) fn new() -> Self {
        Self { order: VecDeque::new(), front_seq: 0, seq_by_fingerprint: HashMap::new() }
    }

    /// Appends a fingerprint, and forgets the oldest beyond `len_limit`.
    pub(super) fn remember(&mut self, fingerprint: u32, len_limit: usize) {
        while self.order.len() >= len_limit.clamp(LEN_MIN, LEN_MAX) {
            self.forget_front();
        }
        let len = u32::try_from(self.order.len()).expect("the ghost queue is shorter than LEN_MAX");
        let seq = self.front_seq.wrapping_add(len);
        self.order.push_back(fingerprint);
        self.seq_by_fingerprint.insert(fingerprint, seq);
    }

    /// Whether the fingerprint was remembered; it no longer is.
    pub(super) fn take(&mut self, fingerprint: u32) -> bool {
        self.seq_by_fingerprint.remove(&fingerprint).is_some()
    }

    fn forget_front(&mut self) {
        if let Some(fingerprint) = self.order.pop_front() {
            if self.seq_by_fingerprint.get(&fingerprint) == Some(&self.front_seq) {
                self.seq_by_fingerprint.remove(&fingerprint);
            }
            self.front_seq = self.front_seq.wrapping_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_first() {
        let mut ghost = Ghost::new();
        for fingerprint in 0..70 {
            ghost.remember(fingerprint, 0);
        }
        assert!(!ghost.take(5));
        assert!(ghost.take(6));
        assert!(!ghost.take(6));
        assert!(ghost.take(69));
    }

    #[test]
    fn a_limit_that_fell_is_kept_to() {
        let mut ghost = Ghost::new();
        for fingerprint in 0..1000 {
            ghost.remember(fingerprint, 1000);
        }
        ghost.remember(1000, 100);
        assert_eq!(ghost.seq_by_fingerprint.len(), 100);
        assert!(ghost.take(901) && !ghost.take(900));
    }

    #[test]
    fn an_old_place_does_not_forget_a_new_one() {
        let mut ghost = Ghost::new();
        ghost.remember(7, 0);
        assert!(ghost.take(7));
        ghost.remember(7, 0);
        for fingerprint in 100..163 {
            ghost.remember(fingerprint, 0);
        }
        assert!(ghost.take(7));
    }

    #[test]
    fn the_sequence_wraps() {
        let mut ghost = Ghost::new();
        ghost.front_seq = u32::MAX - 10;
        for fingerprint in 0..200 {
            ghost.remember(fingerprint, 0);
        }
        assert_eq!(ghost.seq_by_fingerprint.len(), 64);
        assert!(ghost.take(136) && !ghost.take(135));
    }
}
