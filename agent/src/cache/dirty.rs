//! Blocks in memory that the store is to have and has not yet: those of `back` namespaces.
//!
//! A dirty block is published like any other, but stays in memory: it is in no eviction queue until the store has it. Dirty
//! blocks are written in the order of their puts. Whoever writes one [takes it](Cache::take_dirty), waits for the turn of
//! its key, [borrows its memory](Cache::borrow_dirty), which is then not used again before it is given back, and
//! [settles](Cache::settle_dirty) it. A block that is deleted, replaced, cleared or expires meanwhile owes nothing more.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_protocol::checksum::Checksums;
use larder_protocol::clock;
use larder_protocol::layout::{BlockId, block as header};
use larder_protocol::message::Refusal;
use tokio::sync::oneshot;

use super::Cache;
use super::blocks::Block;
use super::tenant::{Tenant, to_usize};
use crate::store::{Entry, Memory};

/// Blocks of a tenant that are written at once.
const UNDER_WAY_MAX: usize = 6;
/// How long nothing is written after a failure: at first, and after many.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MOST: Duration = Duration::from_secs(2);

/// Where a block stands in the line, by failed attempts and generation: what failed lets all others pass, and of those the
/// oldest is first.
type Place = (u32, u64);

/// What a tenant owes the store.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    /// The records of those that nobody writes yet.
    line: BTreeMap<Place, u32>,
    /// How often the writing of a generation has failed, if it has.
    attempts: HashMap<u64, u32>,
    /// Generations that somebody writes.
    under_way: HashSet<u64>,
    blocks: u64,
    bytes: u64,
    syncs: Vec<Sync>,
    failures_in_row: u32,
    paused_until: Option<Instant>,
}

/// Somebody waits until the store has what was put before.
#[derive(Debug)]
struct Sync {
    namespace: u64,
    /// Generations up to this one.
    up_to: u64,
    left: u64,
    done: oneshot::Sender<Result<(), String>>,
}

/// A dirty block that somebody is to write.
#[derive(Clone, Debug)]
pub(crate) struct Due {
    pub(crate) uid: u32,
    pub(crate) namespace: u64,
    pub(crate) key: String,
    /// Where the blocks of its namespace lie in the store.
    pub(crate) incarnation: Arc<str>,
    at: u32,
    generation: u64,
}

/// What there is to write now.
#[derive(Debug)]
pub(crate) enum Line {
    Due(Box<Due>),
    /// Nothing before that moment, if there is one.
    Later(Option<Instant>),
}

/// A dirty block whose memory is borrowed.
#[derive(Debug)]
pub(crate) struct Borrowed {
    pub(crate) entry: Entry,
    pub(crate) payload: Memory,
    /// The namespace lets puts replace.
    pub(crate) replace: bool,
    id: BlockId,
}

/// How the writing of a block ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// The store has it.
    Done,
    /// Not now; it is tried again.
    Failed(String),
    /// The store has other bytes under the key: what was put here goes.
    Refused(String),
}

impl Dirty {
    pub(crate) fn blocks(&self) -> u64 {
        self.blocks
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn place(&self, generation: u64) -> Place {
        (self.attempts.get(&generation).copied().unwrap_or(0), generation)
    }

    /// A block joins the line.
    fn enter(&mut self, at: u32, generation: u64, extent_len: u64) {
        self.line.insert((0, generation), at);
        self.blocks += 1;
        self.bytes += extent_len;
    }

    /// A block owes nothing more.
    fn leave(&mut self, namespace: u64, generation: u64, extent_len: u64) {
        let place = self.place(generation);
        self.line.remove(&place);
        self.attempts.remove(&generation);
        self.blocks -= 1;
        self.bytes -= extent_len;
        for sync in &mut self.syncs {
            sync.left -= u64::from(sync.covers(namespace, generation));
        }
        for ended in self.syncs.extract_if(.., |sync| sync.left == 0) {
            let _ = ended.done.send(Ok(()));
        }
    }

    /// Tells whoever waits for a block that it could not be written.
    fn tell(&mut self, namespace: u64, generation: u64, why: &str) {
        for ended in self.syncs.extract_if(.., |sync| sync.covers(namespace, generation)) {
            let _ = ended.done.send(Err(why.to_owned()));
        }
    }

    fn pause(&mut self, now: Instant) {
        self.failures_in_row += 1;
        let longest = PAUSE_FIRST.saturating_mul(1 << (self.failures_in_row - 1).min(10)).min(PAUSE_MOST);
        // Agents that were refused together should not come back together.
        let jitter = getrandom::u32().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX));
        self.paused_until = Some(now + longest.mul_f64(0.5 + jitter / 2.0));
    }

    fn is_paused(&self, now: Instant) -> bool {
        self.paused_until.is_some_and(|until| now < until)
    }
}

impl Sync {
    fn covers(&self, namespace: u64, generation: u64) -> bool {
        self.namespace == namespace && generation <= self.up_to
    }
}

impl Tenant {
    /// The store is to have a block that was just published.
    pub(super) fn make_dirty(&mut self, at: u32) {
        let block = self.blocks.get(at);
        self.dirty.enter(at, block.generation, block.extent_len);
        if let Some(namespace) = self.namespaces.get_mut(block.namespace) {
            namespace.dirty_blocks += 1;
        }
    }

    /// A block owes the store nothing more: it is there, or the block goes. Whether it did.
    pub(super) fn make_clean(&mut self, at: u32) -> bool {
        let block = self.blocks.get_mut(at);
        if !std::mem::take(&mut block.dirty) {
            return false;
        }
        self.dirty.leave(block.namespace, block.generation, block.extent_len);
        if let Some(namespace) = self.namespaces.get_mut(block.namespace) {
            namespace.dirty_blocks -= 1;
        }
        true
    }

    /// The block that somebody took from the line, if it is still the same and dirty.
    fn still_dirty(&self, due: &Due) -> Option<&Block> {
        Some(self.blocks.get(due.at)).filter(|block| block.dirty && block.generation == due.generation)
    }

    /// The checksums of a published block, as they lie beside its payload.
    pub(super) fn checksums_of(&self, block: &Block) -> Checksums {
        if block.len <= header::CHUNK_BYTES {
            return Checksums { chunks: if block.len == 0 { Vec::new() } else { vec![block.checksum] } };
        }
        let mut table = vec![0; to_usize(block.len.div_ceil(header::CHUNK_BYTES) * 8)];
        let at = block.id.offset_bytes() + block.shape().checksums_offset;
        self.mapping_of(block.id).copy_out(to_usize(at), &mut table);
        Checksums { chunks: table.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect() }
    }
}

impl Cache {
    /// What there is to write at this moment. A tenant of whom less is being written comes before the others.
    pub(crate) fn take_dirty(&mut self, now: Instant) -> Line {
        let mut later: Option<Instant> = None;
        let mut chosen: Option<&mut Tenant> = None;
        for tenant in self.tenants.values_mut() {
            let dirty = &tenant.dirty;
            if dirty.line.is_empty() || dirty.under_way.len() >= UNDER_WAY_MAX {
                continue;
            }
            if dirty.is_paused(now) {
                later = [later, dirty.paused_until].into_iter().flatten().min();
            } else if chosen.as_ref().is_none_or(|other| dirty.under_way.len() < other.dirty.under_way.len()) {
                chosen = Some(tenant);
            }
        }
        let Some(tenant) = chosen else { return Line::Later(later) };
        let Some(((_, generation), at)) = tenant.dirty.line.pop_first() else { return Line::Later(later) };
        tenant.dirty.under_way.insert(generation);
        let block = tenant.blocks.get(at);
        let incarnation = tenant.namespaces.get(block.namespace).and_then(|namespace| namespace.stored.clone());
        Line::Due(Box::new(Due {
            uid: tenant.uid,
            namespace: block.namespace,
            key: String::from_utf8_lossy(&tenant.key_of(block)).into_owned(),
            incarnation: incarnation.unwrap_or_else(|| unreachable!("a dirty block of a namespace without a store")),
            at,
            generation,
        }))
    }

    /// Lends the memory of a block that was taken; `None` when it owes nothing any more. To be settled in any case.
    pub(crate) fn borrow_dirty(&mut self, due: &Due, now_ns: u64) -> Option<Borrowed> {
        let tenant = self.tenants.get_mut(&due.uid)?;
        let block = tenant.still_dirty(due)?;
        let mut created_ms = [0; 8];
        let at = to_usize(block.id.offset_bytes()) + header::CREATED_MS * 8;
        tenant.mapping_of(block.id).copy_out(at, &mut created_ms);
        let left_ms = (block.expiry_ns != 0).then(|| block.expiry_ns.saturating_sub(now_ns) / 1_000_000);
        let borrowed = Borrowed {
            entry: Entry {
                key: due.key.clone(),
                len_bytes: block.len,
                created_ms: u64::from_le_bytes(created_ms),
                expires_ms: left_ms.map_or(0, |left_ms| clock::wall_ms().saturating_add(left_ms)),
                checksums: tenant.checksums_of(block),
            },
            payload: tenant.payload_of(block),
            replace: tenant.namespaces.get(block.namespace).is_some_and(|namespace| namespace.options.overwrite),
            id: block.id,
        };
        tenant.lend(borrowed.id);
        Some(borrowed)
    }

    /// Ends what [`Cache::take_dirty`] began.
    pub(crate) fn settle_dirty(&mut self, due: &Due, borrowed: Option<(&Borrowed, Written)>, now: Instant) {
        let Some(tenant) = self.tenants.get_mut(&due.uid) else { return };
        tenant.dirty.under_way.remove(&due.generation);
        let Some((borrowed, written)) = borrowed else { return };
        tenant.take_back_lent(borrowed.id);
        if written == Written::Done {
            tenant.dirty.failures_in_row = 0;
            tenant.dirty.paused_until = None;
            tenant.figures.stored += 1;
            tenant.figures.stored_bytes += borrowed.entry.len_bytes;
        }
        let Some(block) = tenant.still_dirty(due) else { return };
        let (extent_len, fingerprint) = (block.extent_len, block.hash[1]);
        match written {
            Written::Done => {
                tenant.make_clean(due.at);
                if let Some(fifo) = tenant.fifo_of(due.namespace) {
                    fifo.insert(due.at, extent_len, fingerprint);
                }
            }
            Written::Failed(why) => {
                *tenant.dirty.attempts.entry(due.generation).or_default() += 1;
                let place = tenant.dirty.place(due.generation);
                tenant.dirty.line.insert(place, due.at);
                tenant.dirty.pause(now);
                tenant.dirty.tell(due.namespace, due.generation, &why);
            }
            Written::Refused(why) => {
                tenant.dirty.tell(due.namespace, due.generation, &why);
                tenant.remove(due.at);
            }
        }
    }

    /// Waits, once received, until the store has all that a namespace owes it now; an error when a block could not be
    /// written. `None` when it owes nothing.
    pub(crate) fn begin_sync(
        &mut self,
        uid: u32,
        namespace: u64,
    ) -> Result<Option<oneshot::Receiver<Result<(), String>>>, Refusal> {
        let up_to = self.last_generation;
        let tenant = self.known(uid);
        let left = tenant.namespaces.current(namespace)?.dirty_blocks;
        if left == 0 {
            return Ok(None);
        }
        let (done, ended) = oneshot::channel();
        tenant.dirty.syncs.retain(|sync| !sync.done.is_closed());
        tenant.dirty.syncs.push(Sync { namespace, up_to, left, done });
        // Whoever asks wants to know now.
        tenant.dirty.paused_until = None;
        Ok(Some(ended))
    }

    /// Whether puts of a tenant must wait until the store has taken some of what it is owed: it may owe half its quota.
    pub(crate) fn owes_too_much(&mut self, uid: u32, len: u64) -> bool {
        let most = self.quota_of(uid) / 2;
        let bytes = self.known(uid).dirty.bytes;
        bytes > 0 && bytes + len > most
    }

    /// Blocks that the store is to have and has not, of all tenants, and their bytes.
    pub(crate) fn dirty(&self) -> (u64, u64) {
        let all = self.tenants.values().map(|tenant| &tenant.dirty);
        all.fold((0, 0), |(blocks, bytes), dirty| (blocks + dirty.blocks, bytes + dirty.bytes))
    }
}
