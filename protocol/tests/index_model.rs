//! The index table against a plain map: whatever is inserted, removed and changed, in whatever order, each entry is
//! found, and nothing else is.
#![cfg(not(loom))]

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use larder_protocol::index::{Entry, Found, Full, PROBE_MAX, Table};
use larder_protocol::layout::{BlockId, table as layout};
use larder_protocol::words::Words;
use proptest::prelude::*;

/// Words of this process.
#[derive(Debug)]
struct PlainWords(Vec<AtomicU64>);

impl PlainWords {
    fn for_table(capacity: usize) -> PlainWords {
        PlainWords((0..layout::bytes(capacity) / 8).map(|_| AtomicU64::new(0)).collect())
    }
}

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

fn new_table(capacity: usize) -> Table<PlainWords> {
    Table::create(PlainWords::for_table(capacity), 1, capacity)
}

/// A table and what should be in it.
struct Checked {
    table: Table<PlainWords>,
    expected: HashMap<[u64; 2], Entry>,
    generation: u64,
}

impl Checked {
    fn new(capacity: usize) -> Checked {
        Checked { table: new_table(capacity), expected: HashMap::new(), generation: 0 }
    }

    fn entry(&mut self, hash: [u64; 2]) -> Entry {
        self.generation += 1;
        let n = self.generation;
        let word = |salt: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(7) ^ salt;
        Entry {
            generation: n,
            hash,
            block: BlockId(word(1)),
            len: word(2),
            expiry_ns: word(3),
            payload_offset: u32::try_from(word(4) >> 32).unwrap(),
            key_len: u32::try_from(word(5) >> 32).unwrap(),
            namespace: word(6),
        }
    }

    /// Whether a place within an insertion's reach is empty.
    fn has_room(&self, hash: [u64; 2]) -> bool {
        let capacity = self.table.capacity();
        let home = usize::try_from(hash[0] % capacity as u64).unwrap();
        (0..PROBE_MAX.min(capacity - 1)).any(|step| self.table.entry_at((home + step) % capacity).is_none())
    }

    fn insert(&mut self, hash: [u64; 2]) {
        if self.expected.contains_key(&hash) {
            return;
        }
        let entry = self.entry(hash);
        let room = self.has_room(hash);
        assert_eq!(self.table.insert(&entry), if room { Ok(()) } else { Err(Full) });
        if room {
            self.expected.insert(hash, entry);
        }
    }

    fn remove(&mut self, hash: [u64; 2]) {
        match self.expected.remove(&hash) {
            Some(entry) => {
                assert!(!self.table.remove(hash, self.generation + 1), "another publication of the key is not there");
                assert!(self.table.remove(hash, entry.generation));
                assert!(!self.table.remove(hash, entry.generation), "it is gone already");
            }
            None => assert!(!self.table.remove(hash, self.generation + 1)),
        }
    }

    fn set_expiry(&mut self, hash: [u64; 2], expiry_ns: u64) {
        match self.expected.get_mut(&hash) {
            Some(entry) => {
                assert!(self.table.set_expiry(hash, entry.generation, expiry_ns));
                entry.expiry_ns = expiry_ns;
            }
            None => assert!(!self.table.set_expiry(hash, self.generation + 1, expiry_ns)),
        }
    }

    fn check(&self, all: &[[u64; 2]]) {
        for hash in all {
            match (self.expected.get(hash), self.table.find(*hash)) {
                (Some(expected), Found::Entry(place, found)) => {
                    assert_eq!(found, *expected);
                    assert!(self.table.is_current(place, expected.generation));
                    assert!(!self.table.is_current(place, self.generation + 1));
                    assert!(self.table.contains(*hash, expected.generation));
                    assert!(!self.table.contains(*hash, self.generation + 1));
                    assert_eq!(self.table.entry_at(place), Some(found));
                }
                (None, Found::Absent) => {}
                (expected, found) => panic!("{hash:?}: expected {expected:?}, found {found:?}"),
            }
        }
        let held = (0..self.table.capacity()).filter_map(|place| self.table.entry_at(place)).count();
        assert_eq!(held, self.expected.len(), "the table holds an entry twice, or one that nobody put there");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert(usize),
    Remove(usize),
    SetExpiry(usize, u64),
}

/// Keys whose homes are a few places around the end of the table, several of them with the same low half.
fn keys(capacity: u64) -> Vec<[u64; 2]> {
    (0..capacity * 2)
        .map(|n| {
            let home = (capacity - 2 + n % 5) % capacity;
            [home + capacity * (n % 3), n]
        })
        .collect()
}

fn steps(keys: usize, at_most: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (0..keys).prop_map(Step::Insert),
        3 => (0..keys).prop_map(Step::Remove),
        1 => (0..keys, any::<u64>()).prop_map(|(key, expiry)| Step::SetExpiry(key, expiry)),
    ];
    prop::collection::vec(step, 0..at_most)
}

fn run(capacity: usize, steps: &[Step]) {
    let keys = keys(capacity as u64);
    let mut checked = Checked::new(capacity);
    for step in steps {
        match *step {
            Step::Insert(key) => checked.insert(keys[key]),
            Step::Remove(key) => checked.remove(keys[key]),
            Step::SetExpiry(key, expiry) => checked.set_expiry(keys[key], expiry),
        }
        checked.check(&keys);
    }
}

proptest! {
    #[test]
    fn a_small_table_holds_what_a_map_holds(steps in steps(16, 120)) {
        run(8, &steps);
    }

    #[test]
    fn a_larger_table_holds_what_a_map_holds(steps in steps(128, 300)) {
        run(64, &steps);
    }

    #[test]
    fn a_table_of_two_places_holds_what_a_map_holds(steps in steps(4, 40)) {
        run(2, &steps);
    }
}

#[test]
fn an_insertion_beyond_reach_is_refused_and_changes_nothing() {
    let capacity = PROBE_MAX * 2;
    let mut checked = Checked::new(capacity);
    let keys: Vec<[u64; 2]> = (0..=PROBE_MAX as u64).map(|n| [capacity as u64 - 3, n]).collect();
    keys[..PROBE_MAX].iter().for_each(|key| checked.insert(*key));
    assert_eq!(checked.expected.len(), PROBE_MAX);
    let last = keys[PROBE_MAX];
    let entry = checked.entry(last);
    assert_eq!(checked.table.insert(&entry), Err(Full));
    checked.check(&keys);
    // Any removal from the run makes room, and what is farthest is still found.
    checked.remove(keys[PROBE_MAX / 2]);
    checked.insert(last);
    assert!(checked.expected.contains_key(&last));
    checked.check(&keys);
}

#[test]
fn a_table_without_an_empty_place_still_answers() {
    let mut checked = Checked::new(4);
    let keys: Vec<[u64; 2]> = (0..4).map(|home| [home, 7]).collect();
    keys.iter().for_each(|key| checked.insert(*key));
    assert_eq!(checked.expected.len(), 4);
    let absent = [1, 8];
    checked.check(&[keys.as_slice(), &[absent]].concat());
    checked.remove(absent);
    checked.remove(keys[1]);
    checked.check(&keys);
}

#[test]
fn a_larger_table_takes_over_all_entries() {
    let keys = keys(64);
    let mut checked = Checked::new(64);
    keys.iter().for_each(|key| checked.insert(*key));
    let larger = new_table(128);
    (0..64).filter_map(|place| checked.table.entry_at(place)).for_each(|entry| larger.insert(&entry).unwrap());
    checked.table = larger;
    checked.check(&keys);
}

#[test]
fn only_a_table_of_this_layout_that_fits_is_attached() {
    let with = |magic: u64, capacity: u64, len: usize| {
        let words = PlainWords((0..len).map(|_| AtomicU64::new(0)).collect());
        if len > layout::CAPACITY {
            words.store(layout::MAGIC, magic, Ordering::Relaxed);
            words.store(layout::CAPACITY, capacity, Ordering::Relaxed);
        }
        Table::attach(words).map(|table| table.capacity())
    };
    let magic = larder_protocol::layout::LAYOUT_MAGIC;
    let len = layout::bytes(4) / 8;
    assert_eq!(with(magic, 4, len), Some(4));
    assert_eq!(with(magic, 2, len), Some(2));
    for (magic, capacity, len) in
        [(magic, 8, len), (magic, 0, len), (magic, 3, len), (magic, u64::MAX, len), (magic + 1, 4, len), (magic, 4, 0)]
    {
        assert_eq!(with(magic, capacity, len), None, "magic {magic:#x}, capacity {capacity}, {len} words");
    }
    assert_eq!(with(magic, 1 << 63, len), None);
}
