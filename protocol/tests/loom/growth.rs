//! Growth: readers of an old table, which changes no more, against evictions that only the new table sees.

use std::sync::Arc;

use larder_protocol::index::Table;
use larder_protocol::layout::control;
use larder_protocol::slot::{self, Pinned};
use larder_protocol::words::Words;
use loom::sync::atomic::Ordering;
use loom::thread;

use crate::world::{A, LoomWords, Memory, check, entry, evict, hash, table};

const OLD_TABLE: u64 = 1;
const NEW_TABLE: u64 = 2;

struct Region {
    tables: [Table<LoomWords>; 2],
    control: LoomWords,
    stripe: LoomWords,
    memory: Memory,
}

impl Region {
    /// A region that is about to grow: both tables hold the same entry.
    fn new() -> Arc<Region> {
        let control = LoomWords::control();
        slot::publish_table(&control, OLD_TABLE);
        let tables = [table(OLD_TABLE, 1), table(NEW_TABLE, 1)];
        tables.iter().for_each(|table| table.insert(&entry(1, 1, A)).expect("there is room"));
        Arc::new(Region { tables, control, stripe: LoomWords::stripe(1), memory: Memory::new(10, 20) })
    }

    /// A look-up in the table that the control area names as current, as a reader makes it that meets a new epoch.
    fn get(&self) -> bool {
        let epoch = self.control.load(control::EPOCH, Ordering::Acquire);
        let current = self.control.load(control::TABLE_ID, Ordering::Relaxed);
        let table = self.tables.iter().find(|table| table.id() == current).expect("both tables are mapped");
        match slot::pin(table, &self.control, epoch, &self.stripe, 0, hash(1)) {
            Pinned::Yes(entry) => {
                assert_eq!(self.memory.read(entry.block), 10);
                slot::unpin(&self.stripe, 0);
                true
            }
            Pinned::Absent | Pinned::Raced | Pinned::Stale => false,
        }
    }
}

/// The new table is published, then an entry is taken out of the new table alone and its block written over.
#[test]
fn a_reader_of_the_old_table_is_scanned_or_sees_the_new_epoch() {
    check(|| {
        let region = Region::new();
        let reader = thread::spawn({
            let region = Arc::clone(&region);
            move || {
                region.get();
            }
        });
        slot::publish_table(&region.control, NEW_TABLE);
        if evict(&region.tables[1], &[entry(1, 1, A)], &[&region.stripe]) == [A] {
            region.memory.write(A, 11);
        }
        reader.join().unwrap();
    });
}

/// Growth alone takes nothing away: who sees the new epoch finds the entry in the new table.
#[test]
fn a_reader_that_sees_the_new_epoch_reads_the_new_table() {
    check(|| {
        let region = Region::new();
        let reader = thread::spawn({
            let region = Arc::clone(&region);
            move || {
                let before = region.control.load(control::EPOCH, Ordering::Acquire);
                let found = region.get();
                let after = region.control.load(control::EPOCH, Ordering::Acquire);
                assert!(found || before != after, "the entry was missed although nothing moved");
            }
        });
        slot::publish_table(&region.control, NEW_TABLE);
        reader.join().unwrap();
    });
}
