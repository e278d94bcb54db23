//! One tenant: its segments, index, blocks, namespaces and readers' pins. Nothing here knows of other tenants.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use larder_protocol::index::Full;
use larder_protocol::key;
use larder_protocol::layout::{BlockId, block as header};
use larder_protocol::memory::{Mapping, Memfd};
use larder_protocol::namespace::Eviction;

use super::blocks::{Block, Blocks, State};
use super::dirty::Dirty;
use super::eviction::S3Fifo;
use super::fetched::Fetched;
use super::index::{Index, entry_of};
use super::memory::Need;
use super::namespaces::Namespaces;
use super::pins::Pins;
use super::segments::Segments;
use crate::store::Memory;

/// Told once when a key that somebody waits for is put, or a namespace is cleared. Nothing here waits for it.
pub(crate) type Waker = tokio::sync::oneshot::Sender<()>;

/// What a tenant has done since the agent started.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) hits_asked: u64,
    pub(crate) misses: u64,
    pub(crate) puts: u64,
    pub(crate) put_bytes: u64,
    pub(crate) evictions: u64,
    pub(crate) expirations: u64,
    pub(crate) loads: u64,
    pub(crate) load_bytes: u64,
    pub(crate) stored: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) store_damaged: u64,
    pub(crate) store_failures: u64,
    pub(crate) put_waits: u64,
    pub(crate) disk_loads: u64,
    pub(crate) disk_load_bytes: u64,
    pub(crate) fetches: u64,
    pub(crate) fetch_bytes: u64,
    pub(crate) fetch_copies: u64,
    pub(crate) fetch_failures: u64,
}

/// A tenant.
pub(crate) struct Tenant {
    pub(crate) uid: u32,
    pub(crate) guaranteed_bytes: u64,
    pub(crate) pinned_limit_bytes: u64,
    pub(crate) seed: u64,
    pub(crate) control: Memfd,
    pub(crate) index: Index,
    pub(crate) segments: Segments,
    pub(crate) blocks: Blocks,
    pub(crate) namespaces: Namespaces,
    pub(crate) pins: Pins,
    pub(crate) figures: Figures,
    /// Bytes of slot pages, staging and writers' memory.
    pub(crate) session_bytes: u64,
    /// Bytes of memory that has served and that somebody still has mapped.
    pub(crate) retired_bytes: u64,
    /// Bytes of memory that is being made.
    pub(crate) awaited_bytes: u64,
    pub(crate) sessions: usize,
    /// Tasks that work for it and may outlive their session.
    pub(crate) guests: usize,
    /// Bytes of blocks that some slot named at the last scan.
    pub(crate) pinned_bytes: u64,
    /// A table is being prepared.
    pub(crate) awaits_table: bool,
    pub(crate) waiters: HashMap<[u64; 2], Vec<Waker>>,
    pub(super) fifo: S3Fifo,
    /// Blocks out of the index that a reader may still have pinned.
    pub(super) limbo: Vec<u32>,
    /// What it owes the store.
    pub(super) dirty: Dirty,
    /// Blocks whose memory the agent itself reads outside the lock, and how often: not used again until given back.
    pub(super) lent: HashMap<BlockId, u32>,
    /// What was fetched, and under which key.
    pub(super) fetched: Fetched,
    expiries: BinaryHeap<Reverse<(u64, u32, u64)>>,
}

impl std::fmt::Debug for Tenant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tenant({}, {} segments)", self.uid, self.segments.len())
    }
}

/// Limits and names that a tenant begins with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) quota_bytes: u64,
    pub(crate) guaranteed_bytes: u64,
    pub(crate) pinned_bytes: u64,
}

impl Tenant {
    pub(crate) fn new(uid: u32, limits: Limits, seed: u64, control: Memfd, index: Index) -> Tenant {
        let segments = Segments::new(index.control().clone());
        Tenant {
            uid,
            guaranteed_bytes: limits.guaranteed_bytes,
            pinned_limit_bytes: limits.pinned_bytes,
            seed,
            control,
            index,
            segments,
            blocks: Blocks::default(),
            namespaces: Namespaces::default(),
            pins: Pins::default(),
            figures: Figures::default(),
            session_bytes: 0,
            retired_bytes: 0,
            awaited_bytes: 0,
            sessions: 0,
            guests: 0,
            pinned_bytes: 0,
            awaits_table: false,
            waiters: HashMap::new(),
            fifo: S3Fifo::new(),
            limbo: Vec::new(),
            dirty: Dirty::default(),
            lent: HashMap::new(),
            fetched: Fetched::default(),
            expiries: BinaryHeap::new(),
        }
    }

    /// Shared memory that exists for this tenant.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.segments.bytes()
            + self.index.bytes()
            + self.session_bytes
            + self.retired_bytes
            + self.awaited_bytes
            + self.control.len() as u64
    }

    /// Memory is being made for this tenant.
    pub(crate) fn awaits(&mut self, need: Need) {
        self.awaited_bytes += need.bytes();
        self.awaits_table |= matches!(need, Need::Table { .. });
    }

    pub(crate) fn hash(&self, namespace: u64, key: &str) -> [u64; 2] {
        key::hash(self.seed, namespace, key.as_bytes())
    }

    /// The record under a key, published or evicted but still here.
    pub(crate) fn find(&self, namespace: u64, key: &str) -> Option<u32> {
        let hash = self.hash(namespace, key);
        self.blocks.with_hash(hash).find(|at| {
            let block = self.blocks.get(*at);
            block.namespace == namespace && self.key_of(block) == key.as_bytes()
        })
    }

    pub(super) fn mapping_of(&self, id: BlockId) -> &Mapping {
        let segment = self.segments.get(id.segment());
        &segment.unwrap_or_else(|| unreachable!("{id:?} lies in no segment")).mapping
    }

    /// Where the payload of a block lies.
    pub(super) fn payload_of(&self, block: &Block) -> Memory {
        let segment = self.segments.get(block.id.segment());
        let segment = segment.unwrap_or_else(|| unreachable!("{:?} lies in no segment", block.id));
        Memory {
            mapping: Arc::clone(&segment.mapping),
            offset_bytes: block.id.offset_bytes() + block.shape().payload_offset,
            len_bytes: block.len,
        }
    }

    /// The key of a block, read back from its header in the segment, which only this process writes.
    pub(crate) fn key_of(&self, block: &Block) -> Vec<u8> {
        let mut key = vec![0; usize::from(block.key_len)];
        let at = block.id.offset_bytes() + header::HEADER_BYTES as u64;
        self.mapping_of(block.id).copy_out(to_usize(at), &mut key);
        key
    }

    /// Whether two blocks hold the same bytes.
    pub(crate) fn same_payload(&self, block: &Block, other: &Mapping, other_at: u64) -> bool {
        let mine = self.mapping_of(block.id);
        let mine_at = block.id.offset_bytes() + block.shape().payload_offset;
        let (mut a, mut b) = ([0; 4096], [0; 4096]);
        let mut done = 0;
        while done < block.len {
            let take = to_usize((block.len - done).min(4096));
            mine.copy_out(to_usize(mine_at + done), &mut a[..take]);
            other.copy_out(to_usize(other_at + done), &mut b[..take]);
            if a[..take] != b[..take] {
                return false;
            }
            done += take as u64;
        }
        true
    }

    pub(super) fn fifo_of(&mut self, namespace: u64) -> Option<&mut S3Fifo> {
        let namespace = self.namespaces.get_mut(namespace)?;
        if namespace.options.eviction == Eviction::Keep {
            return None;
        }
        Some(namespace.fifo.as_mut().unwrap_or(&mut self.fifo))
    }

    /// Adds a new block and publishes it. The key must be free.
    pub(crate) fn publish_new(&mut self, block: Block) -> Result<(), Full> {
        let (namespace, expiry, generation) = (block.namespace, block.expiry_ns, block.generation);
        let (hash, extent_len, dirty) = (block.hash, block.extent_len, block.dirty);
        let entry = entry_of(&block);
        let at = self.blocks.add(block);
        if let Err(full) = self.index.insert(&entry, &self.blocks) {
            self.blocks.remove(at);
            return Err(full);
        }
        self.count(at, true);
        if dirty {
            self.make_dirty(at);
        } else if let Some(fifo) = self.fifo_of(namespace) {
            fifo.insert(at, extent_len, hash[1]);
        }
        self.note_expiry(expiry, at, generation);
        Ok(())
    }

    fn note_expiry(&mut self, expiry_ns: u64, at: u32, generation: u64) {
        if expiry_ns == 0 {
            return;
        }
        // Blocks that went before their time leave a note behind; more such notes than blocks are thrown out.
        if self.expiries.len() > 1024 + 2 * self.blocks.places() as usize {
            let blocks = &self.blocks;
            self.expiries.retain(|Reverse((_, at, generation))| blocks.get(*at).generation == *generation);
        }
        self.expiries.push(Reverse((expiry_ns, at, generation)));
    }

    /// Takes an evicted block back under a new generation.
    pub(crate) fn republish(&mut self, at: u32, generation: u64) -> Result<(), Full> {
        let block = self.blocks.get_mut(at);
        assert!(block.state == State::Evicted, "block in state {:?} taken back", block.state);
        block.generation = generation;
        block.state = State::Published;
        let (namespace, hash, extent_len, expiry) = (block.namespace, block.hash, block.extent_len, block.expiry_ns);
        let entry = entry_of(block);
        if let Err(full) = self.index.insert(&entry, &self.blocks) {
            self.blocks.get_mut(at).state = State::Evicted;
            return Err(full);
        }
        self.limbo.retain(|other| *other != at);
        self.count(at, true);
        if let Some(fifo) = self.fifo_of(namespace) {
            fifo.reinsert(at, extent_len, hash[1]);
        }
        self.note_expiry(expiry, at, generation);
        Ok(())
    }

    fn count(&mut self, at: u32, more: bool) {
        let block = self.blocks.get(at);
        let (len, namespace) = (block.len, block.namespace);
        if let Some(namespace) = self.namespaces.get_mut(namespace) {
            if more {
                namespace.blocks += 1;
                namespace.bytes += len;
            } else {
                namespace.blocks -= 1;
                namespace.bytes -= len;
            }
        }
    }

    /// Takes a published block out of the index. Its memory stays until a later [`Tenant::sweep`] finds it unpinned.
    pub(crate) fn unpublish(&mut self, at: u32, into: State) {
        let block = self.blocks.get(at);
        assert!(block.state == State::Published, "block in state {:?} taken out of the index", block.state);
        let (hash, generation, namespace) = (block.hash, block.generation, block.namespace);
        assert!(!block.dirty || into == State::Removed, "a block that the store is owed is evicted");
        self.make_clean(at);
        if let Some(namespace) = self.namespaces.get_mut(namespace) {
            namespace.note_departed(hash[1]);
        }
        self.index.remove(hash, generation);
        self.count(at, false);
        if let Some(fifo) = self.fifo_of(namespace) {
            fifo.remove(at);
        }
        self.blocks.get_mut(at).state = into;
        if into == State::Removed {
            self.blocks.forget_key(at);
        }
        self.limbo.push(at);
    }

    /// Takes a block out for good, whatever its state.
    pub(crate) fn remove(&mut self, at: u32) {
        match self.blocks.get(at).state {
            State::Published => self.unpublish(at, State::Removed),
            State::Evicted => {
                self.blocks.get_mut(at).state = State::Removed;
                self.blocks.forget_key(at);
            }
            State::Removed | State::Free => {}
        }
    }

    /// Takes out what has expired; returns when the next block will.
    pub(crate) fn expire(&mut self, now_ns: u64) -> Option<u64> {
        while let Some(Reverse((at_ns, at, generation))) = self.expiries.peek().copied() {
            if at_ns > now_ns {
                return Some(at_ns);
            }
            self.expiries.pop();
            let block = self.blocks.get(at);
            if block.generation == generation && block.state != State::Free {
                self.figures.expirations += u64::from(block.state == State::Published);
                self.remove(at);
            }
        }
        None
    }

    /// Wakes whoever waits for this hash.
    pub(crate) fn wake(&mut self, hash: [u64; 2]) {
        for waker in self.waiters.remove(&hash).unwrap_or_default() {
            let _ = waker.send(());
        }
    }

    /// Wakes everybody who waits, to look again: a namespace was cleared or removed.
    pub(crate) fn wake_all(&mut self) {
        for waker in std::mem::take(&mut self.waiters).into_values().flatten() {
            let _ = waker.send(());
        }
    }

    /// Forgets who does not wait any more.
    pub(crate) fn prune_waiters(&mut self) {
        self.waiters.retain(|_, wakers| {
            wakers.retain(|waker| !waker.is_closed());
            !wakers.is_empty()
        });
    }

    /// Moves blocks of a namespace into the queue that its present options name.
    pub(crate) fn requeue(&mut self, namespace: u64, old_fifo: Option<S3Fifo>) {
        drop(old_fifo);
        let there: Vec<(u32, u64, u64)> = self
            .blocks
            .iter()
            .filter(|(_, block)| block.namespace == namespace && block.state == State::Published && !block.dirty)
            .map(|(at, block)| (at, block.extent_len, block.hash[1]))
            .collect();
        for (at, len, fingerprint) in there {
            self.fifo.remove(at);
            if let Some(fifo) = self.fifo_of(namespace) {
                fifo.insert(at, len, fingerprint);
            }
        }
    }
}

/// An offset inside a map of this process.
pub(crate) fn to_usize(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or_else(|_| unreachable!("offset {offset} over the address space"))
}
