//! The index against its readers: what is pinned is one whole publication, wherever entries move meanwhile.

use std::sync::Arc;

use larder_protocol::index::{Entry, Table};
use larder_protocol::slot::{self, Pinned};
use loom::thread;

use crate::world::{A, B, LoomWords, Memory, check, entry, evict, hash, table};

/// Pins `key` and, when it got a block, checks that its entry is one of `published`. The slot stays as it is.
fn pin_whole(table: &Table<LoomWords>, stripe: &LoomWords, key: u64, published: &[Entry]) -> Option<Entry> {
    match slot::pin(table, &LoomWords::still_control(), 0, stripe, 0, hash(key)) {
        Pinned::Yes(entry) => {
            assert!(published.contains(&entry), "{entry:?} was never published");
            assert_eq!(entry.hash, hash(key));
            Some(entry)
        }
        Pinned::Absent | Pinned::Raced => None,
        Pinned::Stale => panic!("the epoch never moves here"),
    }
}

/// The place of an entry is given to another key while a reader looks for the one or the other.
#[test]
fn a_rewritten_place_gives_no_torn_entry() {
    for key in [1, 2] {
        check(move || {
            let [old, new] = [entry(1, 1, A), entry(2, 2, B)];
            let table = Arc::new(table(1, 1));
            table.insert(&old).expect("there is room");
            let reader = thread::spawn({
                let table = Arc::clone(&table);
                move || pin_whole(&table, &LoomWords::stripe(1), key, &[old, new])
            });
            assert!(table.remove(old.hash, old.generation));
            table.insert(&new).expect("the place is free again");
            reader.join().unwrap();
        });
    }
}

/// A key is put again with other bytes: the generation that a reader sees and the words beside it belong together.
#[test]
fn a_replaced_key_gives_no_torn_entry() {
    check(|| {
        let [old, new] = [entry(1, 1, A), entry(2, 1, B)];
        let table = Arc::new(table(1, 1));
        table.insert(&old).expect("there is room");
        let reader = thread::spawn({
            let table = Arc::clone(&table);
            move || pin_whole(&table, &LoomWords::stripe(1), 1, &[old, new])
        });
        assert!(table.remove(old.hash, old.generation));
        table.insert(&new).expect("the place is free again");
        reader.join().unwrap();
    });
}

/// A removal moves the entry behind it into the hole while a reader looks for the one or the other.
#[test]
fn an_entry_that_moves_up_is_never_torn() {
    for key in [1, 2] {
        check(move || {
            let [goes, moves] = [entry(1, 1, A), entry(2, 2, B)];
            let table = Arc::new(table(1, 2));
            table.insert(&goes).expect("there is room");
            table.insert(&moves).expect("there is room");
            let reader = thread::spawn({
                let table = Arc::clone(&table);
                move || pin_whole(&table, &LoomWords::stripe(1), key, &[goes, moves])
            });
            assert!(table.remove(goes.hash, goes.generation));
            reader.join().unwrap();
        });
    }
}

/// An entry moves up and is then evicted from its new place: a reader that found it at the old one is seen by the scan
/// or finds it gone.
#[test]
fn a_block_whose_entry_moved_is_not_written_over_while_pinned() {
    check(|| {
        let [goes, moves] = [entry(1, 1, A), entry(2, 2, B)];
        let table = Arc::new(table(1, 2));
        let memory = Arc::new(Memory::new(10, 20));
        let stripe = LoomWords::stripe(1);
        table.insert(&goes).expect("there is room");
        table.insert(&moves).expect("there is room");
        let reader = thread::spawn({
            let (table, memory, stripe) = (Arc::clone(&table), Arc::clone(&memory), stripe.clone());
            move || {
                if let Some(entry) = pin_whole(&table, &stripe, 2, &[goes, moves]) {
                    assert_eq!(memory.read(entry.block), 20);
                    slot::unpin(&stripe, 0);
                }
            }
        });
        assert!(table.remove(goes.hash, goes.generation));
        if evict(&table, &[moves], &[&stripe]) == [B] {
            memory.write(B, 21);
        }
        reader.join().unwrap();
    });
}

/// Who pins a publication sees the bytes that were written before it.
#[test]
fn a_publication_carries_the_bytes_of_its_block() {
    check(|| {
        let new = entry(1, 1, A);
        let table = Arc::new(table(1, 1));
        let memory = Arc::new(Memory::new(0, 0));
        let reader = thread::spawn({
            let (table, memory) = (Arc::clone(&table), Arc::clone(&memory));
            move || {
                if let Some(entry) = pin_whole(&table, &LoomWords::stripe(1), 1, &[new]) {
                    assert_eq!(memory.read(entry.block), 10);
                }
            }
        });
        memory.write(A, 10);
        table.insert(&new).expect("there is room");
        reader.join().unwrap();
    });
}
