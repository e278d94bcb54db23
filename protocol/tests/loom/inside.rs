//! A value that one thread replaces while others read it: it goes only when nobody inside can have it.

use std::sync::Arc;

use larder_protocol::inside::{Mark, after_swap};
use larder_protocol::layout::BlockId;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

use crate::world::{A, B, Memory, check, join_all};

/// A shelf on which the value [`A`] lies, and will be replaced by [`B`]. Letting a value go is writing over it.
struct Shelf {
    current: AtomicU64,
    values: Memory,
    marks: [Mark; 2],
}

impl Shelf {
    fn new() -> Arc<Shelf> {
        let marks = [Mark::new(), Mark::new()];
        Arc::new(Shelf { current: AtomicU64::new(A.0), values: Memory::new(10, 20), marks })
    }

    fn look(&self, mark: usize) {
        let entered = self.marks[mark].enter().expect("it was outside");
        let value = BlockId(self.current.load(Ordering::Acquire));
        assert_eq!(self.values.read(value), value.0 * 10);
        self.marks[mark].leave(&entered);
    }

    fn replace(&self, readers: usize) {
        assert_eq!(self.current.swap(B.0, Ordering::AcqRel), A.0);
        assert!(after_swap());
        self.marks[..readers].iter().for_each(Mark::wait_outside);
        self.values.write(A, 0);
    }
}

#[test]
fn a_value_goes_only_when_nobody_inside_has_it() {
    check(|| {
        let shelf = Shelf::new();
        let readers: Vec<_> = [0, 1]
            .map(|mark| {
                let shelf = Arc::clone(&shelf);
                thread::spawn(move || shelf.look(mark))
            })
            .into();
        shelf.replace(2);
        join_all(readers);
    });
}

/// A reader that comes out and at once goes in again: who sees only the second visit comes after the first all the same.
#[test]
fn a_second_visit_does_not_hide_the_end_of_the_first() {
    check(|| {
        let shelf = Shelf::new();
        let reader = thread::spawn({
            let shelf = Arc::clone(&shelf);
            move || {
                shelf.look(0);
                shelf.look(0);
            }
        });
        shelf.replace(1);
        reader.join().unwrap();
    });
}

#[test]
fn a_visit_inside_a_visit_is_one() {
    check(|| {
        let mark = Mark::new();
        let entered = mark.enter().expect("it was outside");
        assert!(mark.enter().is_none());
        mark.leave(&entered);
        mark.wait_outside();
        assert!(mark.enter().is_some());
    });
}
