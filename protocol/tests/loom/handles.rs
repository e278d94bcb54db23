//! The process-private side: handles that share a slot, threads that let go at once, and forks.

use std::sync::Arc;

use larder_protocol::layout::{BlockId, stripe};
use larder_protocol::slot::{self, Holders};
use larder_protocol::words::Words;
use loom::sync::Mutex;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use crate::world::{A, B, LoomWords, Memory, check, join_all, pinned};

fn word(words: &LoomWords) -> BlockId {
    BlockId(words.load(stripe::SLOTS, Ordering::Relaxed))
}

/// A stripe with one slot, in which the owner has pinned [`A`].
struct Session {
    holders: Holders,
    words: LoomWords,
    memory: Memory,
    frozen: AtomicBool,
}

impl Session {
    fn new() -> Arc<Session> {
        let session = Session {
            holders: Holders::new(1),
            words: LoomWords::stripe(1),
            memory: Memory::new(10, 20),
            frozen: AtomicBool::new(false),
        };
        assert_eq!(session.holders.take(0), Some(0));
        slot::claim(&session.words, 0, A);
        Arc::new(session)
    }

    fn let_go(&self) {
        self.holders.let_go(&self.words, 0, || self.frozen.load(Ordering::Acquire));
    }
}

/// Two threads drop the two handles of a slot while its owner wants a free one: the owner gets it only when its word has
/// been cleared, and its own claim stays.
#[test]
fn a_slot_is_taken_again_only_when_it_is_clear() {
    check(|| {
        let session = Session::new();
        session.holders.share(0);
        let others: Vec<_> = [0, 1]
            .map(|_| {
                let session = Arc::clone(&session);
                thread::spawn(move || session.let_go())
            })
            .into();
        // The owner is the last thread for the sake of loom, which begins with the first and remembers only one load.
        let owner = thread::spawn({
            let session = Arc::clone(&session);
            move || {
                let taken = session.holders.take(0).is_some();
                if taken {
                    slot::claim(&session.words, 0, B);
                }
                taken
            }
        });
        join_all(others);
        let taken = owner.join().unwrap();
        assert_eq!(word(&session.words), if taken { B } else { BlockId(0) });
        assert_eq!(session.holders.take(0).is_some(), !taken);
    });
}

/// Whichever handle is let go last, the scan that finds the slot empty comes after the reads through both.
#[test]
fn the_last_of_two_handles_ends_the_pin() {
    check(|| {
        let session = Session::new();
        session.holders.share(0);
        let others: Vec<_> = [0, 1]
            .map(|_| {
                let session = Arc::clone(&session);
                thread::spawn(move || {
                    assert_eq!(session.memory.read(A), 10);
                    session.let_go();
                })
            })
            .into();
        if pinned(&[&session.words]).is_empty() {
            session.memory.write(A, 11);
        }
        join_all(others);
    });
}

/// A handle that another thread lets go, and the slot at once pinned again by its owner: a scan that sees the second
/// claim comes after the reads under the first.
#[test]
fn a_slot_let_go_elsewhere_and_pinned_again_ends_the_pin_before() {
    check(|| {
        let session = Session::new();
        let other = thread::spawn({
            let session = Arc::clone(&session);
            move || {
                assert_eq!(session.memory.read(A), 10);
                session.let_go();
            }
        });
        let owner = thread::spawn({
            let session = Arc::clone(&session);
            move || {
                if session.holders.take(0).is_some() {
                    slot::claim(&session.words, 0, B);
                }
            }
        });
        if !pinned(&[&session.words]).contains(&A) {
            session.memory.write(A, 11);
        }
        other.join().unwrap();
        owner.join().unwrap();
    });
}

/// A fork takes a copy of the process in which some handles still exist. The copy of such a handle has no other
/// protection than the slot's word, which therefore stays, and is never used for another block.
#[test]
fn a_handle_that_a_child_inherits_stays_pinned() {
    check(|| {
        let session = Session::new();
        // Where the process keeps its handle; the mutex stands for the one moment at which the kernel copies memory.
        let kept = Arc::new(Mutex::new(Some(())));
        let dropper = thread::spawn({
            let (session, kept) = (Arc::clone(&session), Arc::clone(&kept));
            move || {
                let handle = kept.lock().unwrap().take();
                assert!(handle.is_some());
                session.let_go();
                // The owner may be in the middle of a look-up that began before the fork.
                if session.holders.take(0).is_some() {
                    slot::claim(&session.words, 0, B);
                }
            }
        });
        session.frozen.store(true, Ordering::Release);
        let inherited = kept.lock().unwrap().is_some();
        dropper.join().unwrap();
        if inherited {
            assert_eq!(word(&session.words), A);
            assert_eq!(session.holders.in_use(), 0);
            assert_eq!(session.holders.not_free(), 1);
        }
    });
}

/// The same with two handles of one slot: the child inherits one or both.
#[test]
fn one_of_two_handles_that_a_child_inherits_stays_pinned() {
    check(|| {
        let session = Session::new();
        session.holders.share(0);
        let kept = Arc::new(Mutex::new(2));
        let droppers: Vec<_> = [0, 1]
            .map(|_| {
                let (session, kept) = (Arc::clone(&session), Arc::clone(&kept));
                thread::spawn(move || {
                    *kept.lock().unwrap() -= 1;
                    session.let_go();
                })
            })
            .into();
        session.frozen.store(true, Ordering::Release);
        let inherited = *kept.lock().unwrap();
        join_all(droppers);
        assert!(inherited == 0 || word(&session.words) == A, "{inherited} handles are inherited and not protected");
    });
}
