//! The touch ring: lossy, but what is drained was touched.

use larder_protocol::layout::{BlockId, stripe};
use larder_protocol::touch::{count, drain, touch};
use larder_protocol::words::Words;
use loom::sync::atomic::Ordering;
use loom::thread;

use crate::world::{A, B, LoomWords, check};

/// The agent drains while the owner touches. Nothing comes out that did not go in, and nothing twice.
#[test]
fn a_drain_yields_only_what_was_touched() {
    check(|| {
        let words = LoomWords::touch_ring(2);
        let owner = thread::spawn({
            let words = words.clone();
            move || {
                for block in [A, B] {
                    count(&words, stripe::HITS, 1);
                    touch(&words, block);
                }
            }
        });
        let mut drained: Vec<BlockId> = Vec::new();
        let first = drain(&words, 0, |block| drained.push(block));
        owner.join().unwrap();
        let second = drain(&words, first.head, |block| drained.push(block));
        assert!(!first.overflowed && !second.overflowed);
        assert_eq!(second.head, 2);
        drained.sort_unstable();
        assert!([vec![], vec![A], vec![B], vec![A, B]].contains(&drained), "{drained:?}");
        assert!(first.head != 0 || drained == [A, B], "a drain after the touches misses none");
        assert_eq!(words.load(stripe::HITS, Ordering::Relaxed), 2);
    });
}
