//! Pins against reclaim: what a reader has pinned is not written over.

use std::sync::Arc;

use larder_protocol::index::{Entry, Found, Table};
use larder_protocol::layout::BlockId;
use larder_protocol::slot::{self, Pinned};
use loom::sync::Mutex;
use loom::thread;

use crate::world::{A, B, LoomWords, Memory, check, entry, evict, hash, join_all, pinned, table};

/// A tenant's region with one table, and the slot pages of its readers.
struct Region {
    table: Table<LoomWords>,
    control: LoomWords,
    stripes: [LoomWords; 2],
    memory: Memory,
}

impl Region {
    /// Two blocks that hold 10 and 20, and `entries` in a table of which the first `places` are used.
    fn new(places: usize, slots: usize, entries: &[Entry]) -> Arc<Region> {
        let region = Region {
            table: table(1, places),
            control: LoomWords::still_control(),
            stripes: [LoomWords::stripe(slots), LoomWords::stripe(slots)],
            memory: Memory::new(10, 20),
        };
        entries.iter().for_each(|entry| region.table.insert(entry).expect("there is room"));
        Arc::new(region)
    }

    fn pin(&self, stripe: usize, slot: usize, key: u64) -> Pinned {
        slot::pin(&self.table, &self.control, 0, &self.stripes[stripe], slot, hash(key))
    }

    /// A look-up as a task makes it: pins, reads in place, lets go. What it pinned must be one whole publication of
    /// `published`, in which each stands with what its block holds.
    fn get(&self, stripe: usize, slot: usize, key: u64, published: &[(Entry, u64)]) {
        match self.pin(stripe, slot, key) {
            Pinned::Yes(entry) => {
                let expected = published.iter().find(|(published, _)| *published == entry);
                let (_, held) = expected.unwrap_or_else(|| panic!("{entry:?} was never published"));
                assert_eq!(entry.hash, hash(key));
                assert_eq!(self.memory.read(entry.block), *held);
                slot::unpin(&self.stripes[stripe], slot);
            }
            Pinned::Absent | Pinned::Raced => {}
            Pinned::Stale => panic!("the epoch never moves here"),
        }
    }

    fn evict(&self, victims: &[Entry]) -> Vec<BlockId> {
        evict(&self.table, victims, &[&self.stripes[0], &self.stripes[1]])
    }
}

/// The agent evicts a block and writes another key's bytes into it while a task reads it.
#[test]
fn a_pinned_block_is_not_written_over() {
    check(|| {
        let [old, new] = [entry(1, 1, A), entry(2, 2, A)];
        let region = Region::new(1, 1, &[old]);
        let reader = thread::spawn({
            let region = Arc::clone(&region);
            move || region.get(0, 0, 1, &[(old, 10)])
        });
        if region.evict(&[old]) == [A] {
            region.memory.write(A, 11);
            region.table.insert(&new).expect("the place is free again");
        }
        reader.join().unwrap();
    });
}

/// Of two readers one wants what goes and the other what comes, in the same place and the same memory.
#[test]
fn two_readers_and_a_reclaimer() {
    check(|| {
        let [old, new] = [entry(1, 1, A), entry(2, 2, A)];
        let region = Region::new(1, 1, &[old]);
        let readers: Vec<_> = [(0, 1), (1, 2)]
            .map(|(stripe, key)| {
                let region = Arc::clone(&region);
                thread::spawn(move || region.get(stripe, 0, key, &[(old, 10), (new, 11)]))
            })
            .into();
        if region.evict(&[old]) == [A] {
            region.memory.write(A, 11);
            region.table.insert(&new).expect("the place is free again");
        }
        join_all(readers);
    });
}

/// A slot is let go and at once names another block: a scan that sees the second claim must not overtake the reads
/// under the first.
#[test]
fn a_slot_pinned_again_still_ends_the_pin_before() {
    check(|| {
        let [first, second] = [entry(1, 1, A), entry(2, 2, B)];
        let region = Region::new(2, 1, &[first, second]);
        let reader = thread::spawn({
            let region = Arc::clone(&region);
            move || {
                region.get(0, 0, 1, &[(first, 10)]);
                slot::claim(&region.stripes[0], 0, B);
            }
        });
        if region.evict(&[first]) == [A] {
            region.memory.write(A, 11);
        }
        reader.join().unwrap();
    });
}

/// Many claims share one fence, and the agent evicts a batch under one fence.
#[test]
fn a_vectored_pin_shares_one_fence() {
    check(|| {
        let both = [entry(1, 1, A), entry(2, 2, B)];
        let region = Region::new(2, 2, &both);
        let reader = thread::spawn({
            let region = Arc::clone(&region);
            move || {
                let claims = [1, 2].map(|key| match region.table.find(hash(key)) {
                    Found::Entry(place, entry) => Some((place, entry)),
                    Found::Absent => None,
                });
                for (slot, claim) in claims.iter().enumerate() {
                    if let Some((_, entry)) = claim {
                        slot::claim(&region.stripes[0], slot, entry.block);
                    }
                }
                slot::after_claims();
                for (slot, claim) in claims.iter().enumerate() {
                    let Some((place, entry)) = *claim else { continue };
                    let stripe = &region.stripes[0];
                    let confirmed = slot::confirm(&region.table, &region.control, 0, stripe, slot, place, entry);
                    if let Pinned::Yes(entry) = confirmed {
                        assert!(both.contains(&entry));
                        assert_eq!(region.memory.read(entry.block), entry.block.0 * 10);
                        slot::unpin(stripe, slot);
                    }
                }
            }
        });
        for block in region.evict(&both) {
            region.memory.write(block, 99);
        }
        reader.join().unwrap();
    });
}

/// A block in limbo is published again under a new generation and evicted again: neither the pin from before nor one
/// from after may lose it.
#[test]
fn a_block_out_of_limbo_keeps_its_pins() {
    check(|| {
        let [old, again] = [entry(1, 1, A), entry(2, 1, A)];
        let region = Region::new(1, 1, &[old]);
        let readers: Vec<_> = [0, 1]
            .map(|stripe| {
                let region = Arc::clone(&region);
                thread::spawn(move || region.get(stripe, 0, 1, &[(old, 10), (again, 10)]))
            })
            .into();
        if region.evict(&[old]) == [A] {
            region.memory.write(A, 11);
        } else {
            region.table.insert(&again).expect("the place is free again");
            if region.evict(&[again]) == [A] {
                region.memory.write(A, 11);
            }
        }
        join_all(readers);
    });
}

/// A block stays in limbo until a later scan finds no slot that names it; that scan needs no fence of its own.
#[test]
fn a_later_scan_frees_what_was_in_limbo() {
    check(|| {
        let old = entry(1, 1, A);
        let region = Region::new(1, 1, &[old]);
        let reader = thread::spawn({
            let region = Arc::clone(&region);
            move || region.get(0, 0, 1, &[(old, 10)])
        });
        if region.evict(&[old]).is_empty() && pinned(&[&region.stripes[0]]).is_empty() {
            region.memory.write(A, 11);
        }
        reader.join().unwrap();
    });
}

/// A session that attaches while the agent reclaims: its page is on the list before it can pin, and the agent takes the
/// list after its fence.
#[test]
fn a_session_that_attaches_meanwhile_is_scanned_or_sees_the_eviction() {
    check(|| {
        let old = entry(1, 1, A);
        let region = Region::new(1, 1, &[old]);
        let attached = Arc::new(Mutex::new(Vec::new()));
        let reader = thread::spawn({
            let (region, attached) = (Arc::clone(&region), Arc::clone(&attached));
            move || {
                attached.lock().unwrap().push(region.stripes[0].clone());
                region.get(0, 0, 1, &[(old, 10)]);
            }
        });
        assert!(region.table.remove(old.hash, old.generation));
        slot::before_scan();
        let list: Vec<LoomWords> = attached.lock().unwrap().clone();
        if pinned(&list.iter().collect::<Vec<_>>()).is_empty() {
            region.memory.write(A, 11);
        }
        reader.join().unwrap();
    });
}
