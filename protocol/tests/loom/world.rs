//! What the models are built of: words and blocks that loom watches, and the agent's way to take blocks back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64 as PlainU64;

use larder_protocol::index::{Entry, Table};
use larder_protocol::layout::{BlockId, control, stripe, table};
use larder_protocol::ring;
use larder_protocol::slot;
use larder_protocol::words::Words;
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread::JoinHandle;

/// Runs a model with at most three preemptions an execution, or as many as `LOOM_MAX_PREEMPTIONS` says.
pub(crate) fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(3));
    builder.check(model);
}

/// Waits for the threads, and fails with them.
pub(crate) fn join_all<T>(threads: Vec<JoinHandle<T>>) {
    threads.into_iter().for_each(|thread| {
        thread.join().unwrap();
    });
}

/// A watched word.
#[derive(Debug, Default)]
struct Watched {
    value: AtomicU64,
    /// Stored before every access and never loaded, which orders nothing in the memory model. To find the executions worth
    /// trying loom remembers one access of a word, the last; a load by one thread so makes it forget a load by another,
    /// and it never tries a later store before that one. Of stores to `turn` it forgets none.
    turn: AtomicU64,
}

impl Watched {
    fn load(&self, order: Ordering) -> u64 {
        self.turn.store(0, Ordering::Relaxed);
        self.value.load(order)
    }

    fn store(&self, value: u64, order: Ordering) {
        self.turn.store(0, Ordering::Relaxed);
        self.value.store(value, order);
    }
}

/// A word that two threads never touch at the same time, or the model fails.
#[derive(Debug)]
struct Exclusive(UnsafeCell<u64>);

// SAFETY: loom stops every execution in which two threads reach the cell in an unordered way and one writes.
unsafe impl Send for Exclusive {}
// SAFETY: as above.
unsafe impl Sync for Exclusive {}

impl Exclusive {
    fn load(&self) -> u64 {
        // SAFETY: loom lets nobody write at the same time.
        self.0.with(|at| unsafe { *at })
    }

    fn store(&self, value: u64) {
        // SAFETY: loom lets nobody else read or write at the same time.
        self.0.with_mut(|at| unsafe { *at = value });
    }
}

/// Words of which a model watches only those it names: every watched access multiplies the executions.
///
/// All others are 0 and stay 0, except the words of a header, which are written before anybody else looks.
#[derive(Clone, Debug)]
pub(crate) struct LoomWords {
    len: usize,
    watched: Arc<BTreeMap<usize, Watched>>,
    header: Arc<BTreeMap<usize, PlainU64>>,
    exclusive: Arc<BTreeMap<usize, Exclusive>>,
}

impl LoomWords {
    fn new(len: usize, watched: impl IntoIterator<Item = usize>, header: &[usize]) -> LoomWords {
        LoomWords {
            len,
            watched: Arc::new(watched.into_iter().map(|index| (index, Watched::default())).collect()),
            header: Arc::new(header.iter().map(|index| (*index, PlainU64::new(0))).collect()),
            exclusive: Arc::default(),
        }
    }

    /// A control area.
    pub(crate) fn control() -> LoomWords {
        LoomWords::new(control::BYTES / 8, [control::EPOCH, control::TABLE_ID], &[])
    }

    /// A control area in which nothing will change.
    pub(crate) fn still_control() -> LoomWords {
        LoomWords::new(control::BYTES / 8, [], &[])
    }

    /// A stripe of which the first `slots` slots are used.
    pub(crate) fn stripe(slots: usize) -> LoomWords {
        LoomWords::new(stripe::WORDS, (0..slots).map(|slot| stripe::SLOTS + slot), &[])
    }

    /// A stripe of which the touch ring's head and its first `touches` places are used.
    pub(crate) fn touch_ring(touches: usize) -> LoomWords {
        let places = (0..touches).map(|place| stripe::TOUCH + place);
        LoomWords::new(stripe::WORDS, places.chain([stripe::TOUCH_HEAD, stripe::HITS]), &[])
    }

    /// A ring of which the first place holds packets of up to 8 bytes, and the others empty ones. Its two positions and
    /// its flag are watched; the words of a packet may not be touched by both sides at once.
    pub(crate) fn ring() -> LoomWords {
        let exclusive = [24, 25].map(|index| (index, Exclusive(UnsafeCell::new(0))));
        LoomWords { exclusive: Arc::new(exclusive.into()), ..LoomWords::new(ring::WORDS, [0, 8, 16], &[]) }
    }

    fn table(capacity: usize, places: usize) -> LoomWords {
        let used = [table::GENERATION, table::HASH_LOW, table::BLOCK];
        let watched =
            (0..places).flat_map(move |place| used.map(|word| table::ENTRIES + place * table::ENTRY_WORDS + word));
        LoomWords::new(table::bytes(capacity) / 8, watched, &[table::MAGIC, table::TABLE_ID, table::CAPACITY])
    }
}

impl Words for LoomWords {
    fn load(&self, index: usize, order: Ordering) -> u64 {
        assert!(index < self.len, "word {index} of {}", self.len);
        if let Some(word) = self.watched.get(&index) {
            word.load(order)
        } else if let Some(word) = self.exclusive.get(&index) {
            word.load()
        } else {
            self.header.get(&index).map_or(0, |word| word.load(order))
        }
    }

    fn store(&self, index: usize, value: u64, order: Ordering) {
        assert!(index < self.len, "word {index} of {}", self.len);
        if let Some(word) = self.watched.get(&index) {
            word.store(value, order);
        } else if let Some(word) = self.exclusive.get(&index) {
            word.store(value);
        } else if let Some(word) = self.header.get(&index) {
            word.store(value, order);
        } else {
            assert_eq!(value, 0, "word {index} is not part of this model");
        }
    }

    fn len(&self) -> usize {
        self.len
    }
}

/// An empty table of four entries, of which the first `places` are used.
pub(crate) fn table(table_id: u64, places: usize) -> Table<LoomWords> {
    Table::create(LoomWords::table(4, places), table_id, 4)
}

/// The key number `key`, from 1 on. All keys have the same home, the first place.
pub(crate) fn hash(key: u64) -> [u64; 2] {
    [key * 4, 0]
}

/// Publication `generation` of `key` in `block`.
pub(crate) fn entry(generation: u64, key: u64, block: BlockId) -> Entry {
    Entry { generation, hash: hash(key), block, len: 0, expiry_ns: 0, payload_offset: 0, key_len: 0, namespace: 0 }
}

/// A block of [`Memory`].
pub(crate) const A: BlockId = BlockId(1);
/// Another.
pub(crate) const B: BlockId = BlockId(2);

/// What the blocks [`A`] and [`B`] hold.
#[derive(Debug)]
pub(crate) struct Memory {
    blocks: [Exclusive; 2],
}

impl Memory {
    /// Blocks that hold `a` and `b`.
    pub(crate) fn new(a: u64, b: u64) -> Memory {
        Memory { blocks: [a, b].map(|value| Exclusive(UnsafeCell::new(value))) }
    }

    fn block(&self, block: BlockId) -> &Exclusive {
        &self.blocks[if block == A { 0 } else { 1 }]
    }

    /// Reads a block, as a task reads what it has pinned.
    pub(crate) fn read(&self, block: BlockId) -> u64 {
        self.block(block).load()
    }

    /// Writes a block, as the agent does that took it back.
    pub(crate) fn write(&self, block: BlockId, value: u64) {
        self.block(block).store(value);
    }
}

/// The blocks that the slots of `stripes` name.
pub(crate) fn pinned(stripes: &[&LoomWords]) -> Vec<BlockId> {
    let mut pinned = Vec::new();
    stripes.iter().for_each(|stripe| slot::scan(*stripe, |block| pinned.push(block)));
    pinned
}

/// The agent's half for one batch: takes `victims` out of `table` and returns those of their blocks that nobody names.
pub(crate) fn evict(table: &Table<LoomWords>, victims: &[Entry], stripes: &[&LoomWords]) -> Vec<BlockId> {
    for victim in victims {
        assert!(table.remove(victim.hash, victim.generation), "{victim:?} is not in the table");
    }
    slot::before_scan();
    let pinned = pinned(stripes);
    victims.iter().map(|victim| victim.block).filter(|block| !pinned.contains(block)).collect()
}
