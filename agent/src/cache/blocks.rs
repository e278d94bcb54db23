//! The agent's private record of every block: a slab with two hash tables over it.
//!
//! Clients never see any of this, so nothing that they write can mislead it. A record costs about 100 bytes in all.

use hashbrown::HashTable;
use larder_protocol::layout::{BlockId, BlockShape};

/// What has become of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// In the index.
    Published,
    /// Out of the index for room, while a reader may have it pinned. A get or an equal put takes it back.
    Evicted,
    /// Out of the index for good (deleted, replaced, expired, cleared), while a reader may have it pinned.
    Removed,
    /// The record is free.
    Free,
}

/// A block.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) hash: [u64; 2],
    pub(crate) generation: u64,
    pub(crate) id: BlockId,
    pub(crate) extent_len: u64,
    pub(crate) len: u64,
    pub(crate) namespace: u64,
    pub(crate) expiry_ns: u64,
    pub(crate) checksum: u64,
    pub(crate) key_len: u16,
    pub(crate) state: State,
    /// Published, and the store is to have it and has not yet.
    pub(crate) dirty: bool,
}

impl Block {
    pub(crate) fn shape(&self) -> BlockShape {
        BlockShape::new(usize::from(self.key_len), self.len)
    }
}

/// All blocks of a tenant.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    records: Vec<Block>,
    free: Vec<u32>,
    by_hash: HashTable<u32>,
    by_id: HashTable<u32>,
}

fn id_hash(id: BlockId) -> u64 {
    // The table takes its bucket from the low bits and its tag from the high ones.
    (id.0 ^ (id.0 >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

impl Blocks {
    /// Adds a record that is found by its hash and its id.
    pub(crate) fn add(&mut self, block: Block) -> u32 {
        let (hash, id) = (block.hash, block.id);
        let at = match self.free.pop() {
            Some(at) => {
                self.records[at as usize] = block;
                at
            }
            None => {
                self.records.push(block);
                u32::try_from(self.records.len() - 1).unwrap_or_else(|_| unreachable!("four billion blocks"))
            }
        };
        let records = &self.records;
        self.by_hash.insert_unique(hash[0], at, |at| records[*at as usize].hash[0]);
        self.by_id.insert_unique(id_hash(id), at, |at| id_hash(records[*at as usize].id));
        at
    }

    /// Makes a record unfindable by its key: its key is free for another block.
    pub(crate) fn forget_key(&mut self, at: u32) {
        let hash = self.records[at as usize].hash;
        if let Ok(entry) = self.by_hash.find_entry(hash[0], |other| *other == at) {
            entry.remove();
        }
    }

    /// Frees a record.
    pub(crate) fn remove(&mut self, at: u32) -> Block {
        self.forget_key(at);
        let id = self.records[at as usize].id;
        if let Ok(entry) = self.by_id.find_entry(id_hash(id), |other| *other == at) {
            entry.remove();
        }
        self.free.push(at);
        let block = self.records[at as usize].clone();
        self.records[at as usize].state = State::Free;
        block
    }

    pub(crate) fn get(&self, at: u32) -> &Block {
        &self.records[at as usize]
    }

    pub(crate) fn get_mut(&mut self, at: u32) -> &mut Block {
        &mut self.records[at as usize]
    }

    /// Records with this hash: one, but for collisions of 128 bits, which the caller tells apart by the key.
    pub(crate) fn with_hash(&self, hash: [u64; 2]) -> impl Iterator<Item = u32> + '_ {
        self.by_hash.iter_hash(hash[0]).copied().filter(move |at| self.records[*at as usize].hash == hash)
    }

    /// The record at a place in memory.
    pub(crate) fn with_id(&self, id: BlockId) -> Option<u32> {
        self.by_id.find(id_hash(id), |at| self.records[*at as usize].id == id).copied()
    }

    /// Places of the slab, free ones included, for walking it step by step.
    pub(crate) fn places(&self) -> u32 {
        u32::try_from(self.records.len()).unwrap_or(u32::MAX)
    }

    /// Every record that is not free.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Block)> {
        (0_u32..).zip(&self.records).filter(|(_, block)| block.state != State::Free)
    }
}
