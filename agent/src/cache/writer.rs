//! Writers: a large payload that its client writes in place, published without a copy.
//!
//! The client fills memory of its own, unmaps it and asks for the commit. The agent writes header and checksums around
//! the payload, gives up its own writable map and seals the memory against writing: the kernel refuses that for as long
//! as anybody could still write. Then it reads everything again and publishes the memory as a segment of one block.

use std::io;
use std::sync::Arc;

use larder_protocol::checksum::{Checksums, Chunked};
use larder_protocol::clock;
use larder_protocol::layout::{BlockId, BlockShape};
use larder_protocol::memory::{Mapping, Memfd, Platform, Seals};
use larder_protocol::message::Refusal;

use super::Cache;
use super::blocks::{Block, State};
use super::extents::Extent;
use super::memory::{Material, for_client};
use super::put::{How, Reservation, write_block_ends};
use super::room::Stop;
use super::tenant::to_usize;

/// Memory of a writer from which on it becomes a segment of its own.
const OWN_SEGMENT_FROM_BYTES: u64 = 1 << 20;

/// A writer's memory while its client has it.
#[derive(Debug)]
pub(crate) struct WriterMemory {
    uid: u32,
    namespace: u64,
    key: Box<str>,
    len: u64,
    bytes: u64,
    memfd: Memfd,
    mapping: Arc<Mapping>,
}

/// What a commit found after it tried to seal the memory.
#[derive(Debug)]
pub(crate) enum Sealed {
    /// Nobody can write it any more and it is what was checked.
    Whole { mapping: Arc<Mapping>, checksums: Checksums, created_ms: u64 },
    /// It is small, or somebody still has it mapped for writing: the payload must be copied.
    StillWritable { mapping: Arc<Mapping> },
    /// It was changed while it was sealed.
    Changed,
}

impl WriterMemory {
    /// Makes the memory for a writer that [`Cache::begin_writer`] has admitted.
    pub(crate) fn make(uid: u32, namespace: u64, key: &str, len: u64, material: &Material) -> io::Result<WriterMemory> {
        let bytes = memory_bytes(key, len);
        let prepared = for_client(c"larder-writer", bytes, true, material)?;
        Ok(WriterMemory {
            uid,
            namespace,
            key: key.into(),
            len,
            bytes,
            memfd: prepared.memfd,
            mapping: prepared.mapping,
        })
    }

    pub(crate) fn shape(&self) -> BlockShape {
        BlockShape::new(self.key.len(), self.len)
    }

    pub(crate) fn memfd(&self) -> &Memfd {
        &self.memfd
    }

    /// Whether the payload is large enough to become a segment of its own. A small one is copied: a segment costs the agent
    /// a descriptor and its tenant a place.
    fn is_large(&self) -> bool {
        self.bytes >= OWN_SEGMENT_FROM_BYTES
    }

    pub(crate) fn target(&self) -> (u64, &str, u64) {
        (self.namespace, &self.key, self.len)
    }

    /// Checksums the payload, writes the ends of the block, and seals.
    pub(crate) fn seal(&mut self, platform: &Platform) -> io::Result<Sealed> {
        let checksums = self.checksums(&self.mapping);
        let created_ms = clock::wall_ms();
        let block = Block {
            hash: [0; 2],
            generation: 0,
            // Only its lengths and the namespace go into the header.
            id: BlockId::new(1, 0),
            extent_len: 0,
            len: self.len,
            namespace: self.namespace,
            expiry_ns: 0,
            checksum: checksums.summary(),
            key_len: u16::try_from(self.key.len()).unwrap_or(u16::MAX),
            state: State::Published,
            dirty: false,
        };
        write_block_ends(&self.mapping, 0, &block, &self.key, &checksums, created_ms);
        if !self.is_large() {
            return Ok(Sealed::StillWritable { mapping: Arc::clone(&self.mapping) });
        }
        // The map is replaced by a read-only one; the writable one goes with its last reference, here.
        // It must be of a description that cannot write, or the kernel would count it as one that may yet.
        self.mapping = Arc::new(Mapping::read_only(self.memfd.description(false)?, self.memfd.len())?);
        if self.memfd.seal(Seals::Immutable, platform).is_err() {
            return Ok(Sealed::StillWritable { mapping: Arc::clone(&self.mapping) });
        }
        let unchanged = self.checksums(&self.mapping) == checksums && self.ends_are(&block, &checksums, created_ms)?;
        if unchanged {
            Ok(Sealed::Whole { mapping: Arc::clone(&self.mapping), checksums, created_ms })
        } else {
            Ok(Sealed::Changed)
        }
    }

    fn checksums(&self, mapping: &Mapping) -> Checksums {
        let mut chunked = Chunked::default();
        let mut piece = vec![0; 64 * 1024];
        let start = self.shape().payload_offset;
        let mut done = 0;
        while done < self.len {
            let take = to_usize((self.len - done).min(piece.len() as u64));
            mapping.copy_out(to_usize(start + done), &mut piece[..take]);
            chunked.update(&piece[..take]);
            done += take as u64;
        }
        chunked.finish()
    }

    /// Whether the ends of the block are still what was written, compared with a fresh writing of them elsewhere.
    fn ends_are(&self, block: &Block, checksums: &Checksums, created_ms: u64) -> io::Result<bool> {
        let shape = self.shape();
        let mut expected = vec![0; to_usize(shape.payload_offset)];
        let mut found = expected.clone();
        super::header::header_bytes(block, &self.key, created_ms, &mut expected);
        self.mapping.copy_out(0, &mut found);
        let head_len = larder_protocol::layout::block::HEADER_BYTES + self.key.len();
        let table = if checksums.chunks.len() > 1 { checksums.table_bytes() } else { Vec::new() };
        let mut found_table = vec![0; table.len()];
        if !table.is_empty() {
            self.mapping.copy_out(to_usize(shape.checksums_offset), &mut found_table);
        }
        Ok(found[..head_len] == expected[..head_len] && found_table == table)
    }
}

fn memory_bytes(key: &str, len: u64) -> u64 {
    BlockShape::new(key.len(), len).total_len.next_multiple_of(4096)
}

impl Cache {
    /// Admits a writer and charges its memory. Returns the bytes charged.
    pub(crate) fn begin_writer(
        &mut self,
        uid: u32,
        namespace: u64,
        key: &str,
        len: u64,
        now_ns: u64,
    ) -> Result<u64, Stop> {
        self.admit(uid, namespace, key, len, now_ns)?;
        let bytes = memory_bytes(key, len);
        if !self.make_budget(uid, bytes) {
            return Err(self.no_space(uid, bytes).into());
        }
        self.known(uid).session_bytes += bytes;
        Ok(bytes)
    }

    /// The writer is given up, or its payload was copied elsewhere.
    pub(crate) fn end_writer(&mut self, writer: WriterMemory) {
        let WriterMemory { uid, memfd, mapping, .. } = writer;
        // Our own read-only map would count as somebody else's.
        drop(mapping);
        self.take_back(uid, memfd);
    }

    /// Takes over a writer's sealed memory as a segment of one block, to be published by [`Cache::commit`].
    pub(crate) fn adopt_writer(
        &mut self,
        writer: WriterMemory,
        mapping: Arc<Mapping>,
        created_ms: u64,
    ) -> Result<Box<Reservation>, Refusal> {
        if !self.known(writer.uid).segments.has_place() {
            self.end_writer(writer);
            return Err(Refusal::TooMany("this user has as many segments as there can be".into()));
        }
        let namespace = self.known(writer.uid).namespaces.current(writer.namespace);
        let (stored, back) = match namespace.map(|namespace| (namespace.stored.clone(), namespace.is_back())) {
            Ok(there) => there,
            Err(refusal) => {
                self.end_writer(writer);
                return Err(refusal);
            }
        };
        let WriterMemory { uid, namespace, key, len, bytes, memfd, .. } = writer;
        // From the session's account to the tenant's segments.
        self.known(uid).session_bytes -= bytes;
        let segment = self.add_immutable(uid, memfd, Arc::clone(&mapping));
        let shape = BlockShape::new(key.len(), len);
        let extents = self.known(uid).segments.get_mut(segment).map(|segment| &mut segment.extents);
        let whole = Extent { offset_bytes: 0, len_bytes: bytes };
        let extent = extents.and_then(|extents| extents.allocate(bytes, shape.align)).unwrap_or(whole);
        let reservation = Reservation {
            uid,
            namespace,
            key,
            len,
            segment,
            extent,
            mapping,
            sealed_ms: Some(created_ms),
            times: None,
            how: How::Put,
            stored,
            back,
            dirty: false,
        };
        Ok(Box::new(reservation))
    }
}
