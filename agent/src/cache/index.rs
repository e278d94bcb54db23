//! The agent's side of a tenant's index: the current table, the next one while it is being filled, and old ones that
//! somebody still has mapped.

use std::sync::Arc;

use larder_protocol::index::{Entry, Full, Table};
use larder_protocol::memory::{Memfd, Others, Platform};
use larder_protocol::slot;
use larder_protocol::words::{MappedWords, Words};

use super::blocks::{Blocks, State};
use super::memory::{Prepared, table_bytes};

/// Records that are copied into the next table at each change of the index.
const STEP: u32 = 64;
/// And at each pass of upkeep: under 0.2 ms of the lock.
const STEP_OF_UPKEEP: u32 = 1024;

/// Places for each entry at the most, however unevenly the keys are spread.
const CROWDED_MOST: usize = 16;

/// One table and its memory.
#[derive(Debug)]
struct Owned {
    table: Table<MappedWords>,
    memfd: Memfd,
}

impl Owned {
    fn new(prepared: Prepared, id: u64, capacity: usize) -> Owned {
        let words = MappedWords::new(Arc::clone(&prepared.mapping), 0, prepared.mapping.len() / 8);
        Owned { table: Table::create(words, id, capacity), memfd: prepared.memfd }
    }
}

/// A tenant's index.
#[derive(Debug)]
pub(crate) struct Index {
    control: MappedWords,
    current: Owned,
    next: Option<(Owned, u32)>,
    old: Vec<Owned>,
    entries: usize,
    last_id: u64,
    /// A table of this capacity had no place within reach for what is here: the next must be larger.
    too_small: usize,
    /// Bytes of tables given up before they were ever published, to be refunded.
    discarded_bytes: u64,
}

impl Index {
    pub(crate) fn new(control: MappedWords, prepared: Prepared, capacity: usize) -> Index {
        let current = Owned::new(prepared, 1, capacity);
        slot::publish_table(&control, 1);
        Index {
            control,
            current,
            next: None,
            old: Vec::new(),
            entries: 0,
            last_id: 1,
            too_small: 0,
            discarded_bytes: 0,
        }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.current.table.capacity()
    }

    /// Memory of the current table to be sent to a client, and its length.
    pub(crate) fn memory(&self) -> (&Memfd, u64) {
        (&self.current.memfd, self.current.memfd.len() as u64)
    }

    /// Bytes of all tables.
    pub(crate) fn bytes(&self) -> u64 {
        let all = self.old.iter().chain([&self.current]).chain(self.next.iter().map(|(next, _)| next));
        all.map(|owned| owned.memfd.len() as u64).sum()
    }

    /// The capacity that the table should have by now, when it should have another: twice when it is three quarters
    /// full, half when it is less than an eighth full (but not below `smallest`).
    pub(crate) fn wanted_capacity(&self, smallest: usize) -> Option<usize> {
        let capacity = self.capacity();
        if self.next.is_some() {
            None
        } else if self.entries * 4 >= capacity * 3 {
            Some(capacity * 2)
        } else if self.entries * 8 < capacity && capacity > smallest {
            Some(capacity / 2)
        } else {
            None
        }
    }

    /// The capacity that the next table must have when an entry found no place; none when even a table of many times the
    /// entries' number would not do, because somebody has chosen keys that all want the same place.
    pub(crate) fn larger_capacity(&self) -> Option<usize> {
        let capacity = self.capacity().max(self.too_small) * 2;
        (capacity <= (self.entries + 4096) * CROWDED_MOST).then_some(capacity)
    }

    /// Whether another entry may not fit before the table has grown.
    pub(crate) fn is_pressed(&self) -> bool {
        self.entries * 20 >= self.capacity() * 17
    }

    /// Begins to fill a table of another capacity.
    pub(crate) fn begin_next(&mut self, prepared: Prepared, capacity: usize) -> Result<(), Prepared> {
        if self.next.is_some() || capacity == self.capacity() {
            return Err(prepared);
        }
        self.last_id += 1;
        self.next = Some((Owned::new(prepared, self.last_id, capacity), 0));
        Ok(())
    }

    /// Copies a few more records into the next table, and makes it the current one when it holds them all.
    ///
    /// It walks the agent's own records, not the current table, whose entries move when one is removed.
    fn advance(&mut self, blocks: &Blocks) {
        self.advance_by(blocks, STEP);
    }

    /// The same when nobody changes the index; returns whether there is more to copy.
    pub(crate) fn advance_unasked(&mut self, blocks: &Blocks) -> bool {
        self.advance_by(blocks, STEP_OF_UPKEEP);
        self.next.is_some()
    }

    fn advance_by(&mut self, blocks: &Blocks, step: u32) {
        let Some((next, cursor)) = &mut self.next else { return };
        let end = cursor.saturating_add(step).min(blocks.places());
        for at in *cursor..end {
            let block = blocks.get(at);
            let wanted = block.state == State::Published && !next.table.contains(block.hash, block.generation);
            if wanted && next.table.insert(&entry_of(block)).is_err() {
                // No room within reach: give this table up. The need for a larger one is seen again.
                self.discard_next();
                return;
            }
        }
        *cursor = end;
        if end == blocks.places() {
            self.switch();
        }
    }

    fn discard_next(&mut self) {
        if let Some((next, _)) = self.next.take() {
            self.too_small = self.too_small.max(next.table.capacity());
            self.discarded_bytes += next.memfd.len() as u64;
        }
    }

    fn switch(&mut self) {
        let Some((next, _)) = self.next.take() else { return };
        let id = next.table.id();
        self.old.push(std::mem::replace(&mut self.current, next));
        slot::publish_table(&self.control, id);
    }

    /// Publishes an entry.
    pub(crate) fn insert(&mut self, entry: &Entry, blocks: &Blocks) -> Result<(), Full> {
        if self.current.table.insert(entry).is_err() {
            // The next table, if there is one, has room: finish it now.
            self.advance_by(blocks, u32::MAX);
            if self.current.table.contains(entry.hash, entry.generation) {
                self.entries += 1;
                return Ok(());
            }
            self.current.table.insert(entry)?;
        } else if let Some((next, _)) = &self.next
            && next.table.insert(entry).is_err()
        {
            self.discard_next();
        }
        self.entries += 1;
        self.advance(blocks);
        Ok(())
    }

    /// Takes a publication out. Readers may still pin it until the next scan has looked.
    pub(crate) fn remove(&mut self, hash: [u64; 2], generation: u64) {
        if self.current.table.remove(hash, generation) {
            self.entries -= 1;
        }
        if let Some((next, _)) = &self.next {
            next.table.remove(hash, generation);
        }
    }

    /// Frees old tables that nobody has mapped any more; returns their bytes.
    pub(crate) fn drop_old(&mut self, platform: &Platform, no_sessions: bool) -> u64 {
        let mut freed = std::mem::take(&mut self.discarded_bytes);
        self.old.retain(|owned| {
            // Where the kernel cannot tell, an old table stays until its tenant's last session has ended.
            let others = owned.memfd.others(platform);
            let gone = others == Others::None || (others == Others::Unknown && no_sessions);
            if gone {
                freed += table_bytes(owned.table.capacity());
            }
            !gone
        });
        freed
    }

    pub(crate) fn has_old(&self) -> bool {
        !self.old.is_empty() || self.discarded_bytes > 0
    }

    pub(crate) fn control(&self) -> &MappedWords {
        &self.control
    }

    pub(crate) fn is_growing(&self) -> bool {
        self.next.is_some()
    }

    /// Words of the control area that clients look at, for the directory.
    pub(crate) fn bump_epoch(&self) {
        slot::bump_epoch(&self.control);
    }
}

/// The entry that publishes a block.
pub(crate) fn entry_of(block: &super::blocks::Block) -> Entry {
    Entry {
        generation: block.generation,
        hash: block.hash,
        block: block.id,
        len: block.len,
        expiry_ns: block.expiry_ns,
        payload_offset: u32::try_from(block.shape().payload_offset).unwrap_or(u32::MAX),
        key_len: u32::from(block.key_len),
        namespace: block.namespace,
    }
}

/// Writes the words that a control area starts with.
pub(crate) fn begin_control(words: &MappedWords, seed: u64, instance: u64) {
    use larder_protocol::layout::{LAYOUT_MAGIC, control};
    use std::sync::atomic::Ordering;
    words.store(control::SEED, seed, Ordering::Relaxed);
    words.store(control::INSTANCE, instance, Ordering::Relaxed);
    words.store(control::MAGIC, LAYOUT_MAGIC, Ordering::Release);
}
