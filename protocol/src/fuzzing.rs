//! Entry for the fuzz targets under `fuzz/`: everything that the agent reads from memory that a client writes, over
//! arbitrary bytes. Not part of the interface.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::layout::stripe;
use crate::slot;
use crate::touch;
use crate::words::Words;

struct PlainWords(Vec<AtomicU64>);

impl Words for PlainWords {
    fn load(&self, index: usize, order: Ordering) -> u64 {
        self.0[index].load(order)
    }
    fn store(&self, index: usize, value: u64, order: Ordering) {
        self.0[index].store(value, order);
    }
    fn len(&self) -> usize {
        self.0.len()
    }
}

/// Reads `bytes` as a stripe that a client wrote: scans its slots, drains its touch ring from any head. Panics when more
/// comes out than a stripe can hold.
pub fn client_memory(bytes: &[u8]) {
    let mut words: Vec<AtomicU64> = bytes
        .chunks(8)
        .map(|chunk| AtomicU64::new(chunk.iter().fold(0, |word, byte| word << 8 | u64::from(*byte))))
        .collect();
    words.resize_with(stripe::WORDS, || AtomicU64::new(0));
    words.truncate(stripe::WORDS);
    let last_head = words[stripe::WORDS - 1].load(Ordering::Relaxed);
    let words = PlainWords(words);
    let mut slots = 0;
    slot::scan(&words, |id| {
        assert!(id.0 != 0, "an empty slot was reported");
        slots += 1;
    });
    assert!(slots <= stripe::SLOTS_LEN);
    for head in [last_head, 0, u64::MAX] {
        let mut touched = 0;
        let drained = touch::drain(&words, head, |id| {
            assert!(id.0 != 0, "an empty touch was reported");
            touched += 1;
        });
        assert!(touched <= stripe::TOUCH_LEN);
        assert_eq!(drained.head, words.load(stripe::TOUCH_HEAD, Ordering::Relaxed));
    }
}
