//! Putting a block: room first, then the copy by the caller, then the checks and the publication.

use std::sync::Arc;

use larder_protocol::checksum::{Checksums, Chunked};
use larder_protocol::clock;
use larder_protocol::layout::{BlockId, BlockShape};
use larder_protocol::memory::Mapping;
use larder_protocol::message::{PutOutcome, Refusal};

use super::Cache;
use super::blocks::{Block, State};
use super::extents::Extent;
use super::header::write_header;
use super::memory::Need;
use super::room::Stop;
use super::tenant::to_usize;
use crate::store::Memory;

/// Bytes that are copied at a time: through a private buffer that stays in the nearest cache.
const PIECE_BYTES: usize = 4 * 1024;

/// From this length on a block is written past the cache, which it would only drive others out of.
const STREAMED_FROM_BYTES: u64 = 1 << 20;

/// Room for a block that is not published yet. Belongs to whoever holds it, who ends it by [`Cache::commit`] or
/// [`Cache::abandon`].
#[derive(Debug)]
pub(crate) struct Reservation {
    pub(super) uid: u32,
    pub(super) namespace: u64,
    pub(super) key: Box<str>,
    pub(super) len: u64,
    pub(super) segment: u32,
    pub(super) extent: Extent,
    pub(super) mapping: Arc<Mapping>,
    /// When the block's header was written, for memory that was sealed with the header in it.
    pub(super) sealed_ms: Option<u64>,
    /// When the block was put and when it expires, if that was before now.
    pub(super) times: Option<Times>,
    /// Where the bytes come from.
    pub(super) how: How,
    /// Where the blocks of the namespace lie in the store, if it is durable.
    pub(super) stored: Option<Arc<str>>,
    /// The namespace is `back`.
    pub(super) back: bool,
    /// The store has not got the block yet when it is published.
    pub(super) dirty: bool,
}

/// Where the bytes of a block come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// From a client.
    Put,
    /// From the store, where they were put earlier.
    Load,
    /// From the disk, where they were kept.
    Disk,
    /// From an origin.
    Fetch {
        /// Stands for the origin and its version, where it names one.
        origin: Option<u128>,
        /// They take the place of an earlier version, whatever the namespace allows.
        replaces: bool,
    },
}

/// When a block that comes from elsewhere was put, and when it expires.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// Milliseconds since 1970.
    pub(crate) created_ms: u64,
    /// Nanoseconds of the coarse monotonic clock; 0 for never.
    pub(crate) expiry_ns: u64,
}

/// What lies under a key already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    Nothing,
    Same,
    Other { len: u64 },
}

impl Reservation {
    pub(super) fn shape(&self) -> BlockShape {
        BlockShape::new(self.key.len(), self.len)
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Whose block it is to be, in which namespace, and where that lies in the store, if it is durable.
    pub(crate) fn target(&self) -> (u32, u64, Option<&Arc<str>>) {
        (self.uid, self.namespace, self.stored.as_ref())
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// Where the payload is to lie.
    pub(crate) fn memory(&self) -> Memory {
        Memory {
            mapping: Arc::clone(&self.mapping),
            offset_bytes: self.extent.offset_bytes + self.shape().payload_offset,
            len_bytes: self.len,
        }
    }

    /// Whether the put is acknowledged before the store has the block.
    pub(crate) fn is_back(&self) -> bool {
        self.back
    }

    /// The store has not got the block yet, and is to have it soon after.
    pub(crate) fn owe(&mut self) {
        self.dirty = true;
    }

    /// The bytes came from the disk after all.
    pub(crate) fn came_from_disk(&mut self) {
        self.how = How::Disk;
    }

    /// The block was put at another time than now.
    pub(crate) fn put_at(&mut self, times: Times) {
        self.times = Some(times);
    }

    /// Copies `len` bytes of staging into the payload at `at`, through `checksums`.
    ///
    /// What is checksummed is the private copy that is written to the block, so a client that changes its staging
    /// meanwhile changes what is put, never whether it matches its checksum. Ranges are the caller's to check.
    pub(crate) fn fill(&self, at: u64, staging: &Mapping, staging_at: u64, len: u64, checksums: &mut Chunked) {
        let mut piece = [0; PIECE_BYTES];
        let target = self.extent.offset_bytes + self.shape().payload_offset + at;
        let mut done = 0;
        while done < len {
            let take = to_usize((len - done).min(PIECE_BYTES as u64));
            staging.copy_out(to_usize(staging_at + done), &mut piece[..take]);
            let next = (len - done - take as u64).min(PIECE_BYTES as u64);
            staging.prefetch(to_usize(staging_at + done) + take, to_usize(next));
            checksums.update(&piece[..take]);
            if self.len >= STREAMED_FROM_BYTES {
                self.mapping.copy_in_streaming(to_usize(target + done), &piece[..take]);
            } else {
                self.mapping.copy_in(to_usize(target + done), &piece[..take]);
            }
            done += take as u64;
        }
    }
}

/// Why a commit did not happen.
#[derive(Debug)]
pub(crate) enum CommitError {
    /// Refused; the room is given back.
    Refused(Refusal),
    /// Memory is needed first; try again with the same reservation.
    Need(Need, Box<Reservation>),
}

/// What a put finds under its key.
enum Under {
    Nothing,
    Same(u32),
    Other(u32),
}

impl Cache {
    /// Gives the room of a put back that will not be finished.
    pub(crate) fn abandon(&mut self, reservation: &Reservation) {
        let id = BlockId::new(reservation.segment, reservation.extent.offset_bytes);
        // Never published, so no pin can name it: no scan.
        self.known(reservation.uid).segments.free(id, reservation.extent.len_bytes);
        if reservation.sealed_ms.is_some() {
            self.retire(reservation.uid, reservation.segment);
            self.drop_retired();
        }
    }

    /// Publishes a block whose payload is in place, unless its key holds something already.
    pub(crate) fn commit(
        &mut self,
        reservation: Box<Reservation>,
        checksums: &Checksums,
        now_ns: u64,
    ) -> Result<PutOutcome, CommitError> {
        let outcome = self.settle(&reservation, checksums, now_ns);
        match outcome {
            Ok(outcome @ (PutOutcome::Stored | PutOutcome::Replaced)) => Ok(outcome),
            Ok(outcome) => {
                self.abandon(&reservation);
                Ok(outcome)
            }
            Err(Stop::Refused(refusal) | Stop::Dirty(refusal)) => {
                self.abandon(&reservation);
                Err(CommitError::Refused(refusal))
            }
            Err(Stop::Need(need)) => Err(CommitError::Need(need, reservation)),
        }
    }

    pub(super) fn settle(
        &mut self,
        reservation: &Reservation,
        checksums: &Checksums,
        now_ns: u64,
    ) -> Result<PutOutcome, Stop> {
        let Reservation { uid, namespace, ref key, len, .. } = *reservation;
        let replaces = matches!(reservation.how, How::Fetch { replaces: true, .. });
        let overwrite = replaces || self.known(uid).namespaces.current(namespace)?.options.overwrite;
        let mut replaced = false;
        match self.under(reservation, checksums, now_ns) {
            Under::Nothing => {}
            Under::Same(at) => {
                if self.known(uid).blocks.get(at).state == State::Evicted {
                    let generation = self.fresh_generation();
                    if self.known(uid).republish(at, generation).is_err() {
                        return Err(self.need_table(uid));
                    }
                    let hash = self.known(uid).hash(namespace, key);
                    self.known(uid).wake(hash);
                }
                return Ok(PutOutcome::AlreadyHeld);
            }
            Under::Other(at) => {
                let held = self.known(uid).blocks.get(at).len;
                if !overwrite {
                    return Err(Refusal::Exists { held, offered: len }.into());
                }
                replaced = true;
            }
        }
        if self.known(uid).index.is_pressed() && !self.known(uid).index.is_growing() {
            return Err(self.need_table(uid));
        }
        let generation = self.fresh_generation();
        let created_ms = reservation.times.map_or_else(clock::wall_ms, |times| times.created_ms);
        let tenant = self.known(uid);
        let ttl_ms = tenant.namespaces.current(namespace)?.options.ttl_ms;
        let block = Block {
            hash: tenant.hash(namespace, key),
            generation,
            id: BlockId::new(reservation.segment, reservation.extent.offset_bytes),
            extent_len: reservation.extent.len_bytes,
            len,
            namespace,
            expiry_ns: match reservation.times {
                Some(times) => times.expiry_ns,
                None => ttl_ms.map_or(0, |ttl| now_ns.saturating_add(ttl.saturating_mul(1_000_000))),
            },
            checksum: checksums.summary(),
            key_len: u16::try_from(key.len()).unwrap_or(u16::MAX),
            state: State::Published,
            dirty: reservation.dirty,
        };
        if reservation.sealed_ms.is_none() {
            write_block_ends(&reservation.mapping, reservation.extent.offset_bytes, &block, key, checksums, created_ms);
        }
        let hash = block.hash;
        // The new block is published before the old one goes, so that a failure changes nothing and no reader finds
        // neither. For that moment two entries have one hash; a reader takes either, whole.
        let old = tenant.find(namespace, key);
        if tenant.publish_new(block).is_err() {
            return Err(self.need_table(uid));
        }
        if let Some(old) = old {
            tenant.remove(old);
        }
        let figures = &mut tenant.figures;
        let (blocks, bytes) = match reservation.how {
            How::Put => (&mut figures.puts, &mut figures.put_bytes),
            How::Load => (&mut figures.loads, &mut figures.load_bytes),
            How::Disk => (&mut figures.disk_loads, &mut figures.disk_load_bytes),
            How::Fetch { .. } => (&mut figures.fetches, &mut figures.fetch_bytes),
        };
        *blocks += 1;
        *bytes += len;
        if let How::Fetch { origin: Some(origin), .. } = reservation.how {
            tenant.note_fetched(origin, hash, generation);
        }
        tenant.wake(hash);
        Ok(if replaced { PutOutcome::Replaced } else { PutOutcome::Stored })
    }

    /// What is published under the key of a reservation, compared with its payload.
    pub(crate) fn held(&mut self, reservation: &Reservation, checksums: &Checksums, now_ns: u64) -> Held {
        let uid = reservation.uid;
        match self.under(reservation, checksums, now_ns) {
            Under::Nothing => Held::Nothing,
            // One that is only on its way out may be in the store, or not any more.
            Under::Same(at) if self.known(uid).blocks.get(at).state == State::Published => Held::Same,
            Under::Same(_) => Held::Nothing,
            Under::Other(at) => Held::Other { len: self.known(uid).blocks.get(at).len },
        }
    }

    /// What lies under the key of a reservation, compared with its payload.
    fn under(&mut self, reservation: &Reservation, checksums: &Checksums, now_ns: u64) -> Under {
        let tenant = self.known(reservation.uid);
        let Some(at) = tenant.find(reservation.namespace, &reservation.key) else {
            return Under::Nothing;
        };
        let block = tenant.blocks.get(at);
        if block.expiry_ns != 0 && now_ns >= block.expiry_ns {
            tenant.remove(at);
            return Under::Nothing;
        }
        let payload_at = reservation.extent.offset_bytes + reservation.shape().payload_offset;
        let same = block.len == reservation.len
            && block.checksum == checksums.summary()
            && tenant.same_payload(block, &reservation.mapping, payload_at);
        match (same, block.state) {
            (true, _) => Under::Same(at),
            (false, State::Published) => Under::Other(at),
            // Evicted for room: the key is free again.
            (false, _) => Under::Nothing,
        }
    }
}

/// Writes what lies before and behind the payload of a block that starts at `start`.
pub(super) fn write_block_ends(
    mapping: &Mapping,
    start: u64,
    block: &Block,
    key: &str,
    checksums: &Checksums,
    created_ms: u64,
) {
    if checksums.chunks.len() > 1 {
        mapping.copy_in(to_usize(start + block.shape().checksums_offset), &checksums.table_bytes());
    }
    write_header(mapping, start, block, key, created_ms);
}
