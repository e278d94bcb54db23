//! Clearing up: of those who leave and those who let go last, one and only one frees what was left.

use std::sync::Arc;

use larder_protocol::handover::Handover;
use larder_protocol::slot::Holders;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

use crate::world::{A, LoomWords, Memory, check, join_all};

const KIND: u64 = 1;

/// What is left behind with slots still in use, as a reader leaves its stripes.
struct Left {
    handover: Handover,
    holders: Holders,
    words: LoomWords,
    /// 1 while it is on the list of things left.
    list: AtomicU64,
    memory: Memory,
    freed: AtomicU64,
}

impl Left {
    fn with_slots(slots: usize) -> Arc<Left> {
        let holders = Holders::new(slots);
        (0..slots).for_each(|slot| assert_eq!(holders.take(0), Some(slot)));
        Arc::new(Left {
            handover: Handover::new(),
            holders,
            words: LoomWords::stripe(slots),
            list: AtomicU64::new(0),
            memory: Memory::new(10, 20),
            freed: AtomicU64::new(0),
        })
    }

    fn leave(&self) {
        assert_eq!(self.list.swap(1, Ordering::AcqRel), 0);
        if self.handover.announce(KIND) && self.holders.in_use() == 0 {
            self.clear_up();
        }
    }

    fn clear_up(&self) {
        self.handover.withdraw();
        if self.list.swap(0, Ordering::AcqRel) == 0 {
            return;
        }
        if self.holders.in_use() == 0 {
            self.memory.write(A, 0);
            self.freed.fetch_add(1, Ordering::Relaxed);
        } else {
            self.leave();
        }
    }

    fn let_go(&self, slot: usize) {
        assert_eq!(self.memory.read(A), 10);
        self.holders.let_go(&self.words, slot, || false);
        if self.handover.is_announced(KIND) {
            self.clear_up();
        }
    }
}

#[test]
fn one_of_the_two_sides_sees_the_other() {
    check(|| {
        let left = Left::with_slots(1);
        let user = thread::spawn({
            let left = Arc::clone(&left);
            move || {
                left.holders.let_go(&left.words, 0, || false);
                left.handover.is_announced(KIND)
            }
        });
        let ordered = left.handover.announce(KIND);
        let idle = left.holders.in_use() == 0;
        let announced = user.join().unwrap();
        assert!(ordered && (idle || announced), "what was left is forgotten");
    });
}

#[test]
fn what_is_left_in_use_is_freed_once_and_not_before_the_last_use() {
    check(|| {
        let left = Left::with_slots(2);
        let users: Vec<_> = [0, 1]
            .map(|slot| {
                let left = Arc::clone(&left);
                thread::spawn(move || left.let_go(slot))
            })
            .into();
        left.leave();
        join_all(users);
        assert_eq!(left.freed.load(Ordering::Relaxed), 1);
    });
}
