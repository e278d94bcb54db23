//! The shape of everything that lies in shared memory, word by word.
//!
//! `docs/layout.md` draws these structures; a test fails when only one of the two changes. Every figure is in 64-bit
//! little-endian words unless its name says bytes. Nothing here is a Rust reference into shared memory: offsets only.

/// "LARDER" and the version of this layout. Both sides refuse any other value.
pub const LAYOUT_MAGIC: u64 = u64::from_le_bytes(*b"LARDER\x00\x01");

/// Size of a cache line, the unit in which nothing is shared between writers.
pub const LINE_BYTES: usize = 64;
/// Size of a page.
pub const PAGE_BYTES: usize = 4096;
/// Words in a cache line.
pub const LINE_WORDS: usize = LINE_BYTES / 8;

/// The control area of a tenant: written by the agent, mapped read-only by everybody else.
pub mod control {
    use super::LINE_WORDS;
    /// [`super::LAYOUT_MAGIC`].
    pub const MAGIC: usize = 0;
    /// Moves when the current table or the set of live segments changes.
    pub const EPOCH: usize = 1;
    /// Number of the current index table.
    pub const TABLE_ID: usize = 2;
    /// Seed of the index hash.
    pub const SEED: usize = 3;
    /// Number of this agent's run; another run is another region.
    pub const INSTANCE: usize = 4;
    /// Words of the directory that may be in use, from [`DIRECTORY`] on.
    pub const DIRECTORY_USED: usize = 5;
    /// First word of the directory: numbers of the live segments, 0 for an empty place.
    pub const DIRECTORY: usize = LINE_WORDS;
    /// Places in the directory: how many segments a tenant may have.
    pub const DIRECTORY_LEN: usize = 16_376;
    /// Size of the control area.
    pub const BYTES: usize = (DIRECTORY + DIRECTORY_LEN) * 8;
}

/// The page that tells whether the agent lives; see [`crate::life`].
pub mod life {
    /// The robust futex word (32 bits) is the low half of this word.
    pub const FUTEX: usize = 0;
    /// Size of the area.
    pub const BYTES: usize = super::PAGE_BYTES;
}

/// An index table: a header line, then entries of one cache line each.
pub mod table {
    /// [`super::LAYOUT_MAGIC`].
    pub const MAGIC: usize = 0;
    /// The table's number, as the control area names it.
    pub const TABLE_ID: usize = 1;
    /// Entries, a power of two.
    pub const CAPACITY: usize = 2;
    /// First word of the first entry.
    pub const ENTRIES: usize = super::LINE_WORDS;
    /// Words in an entry.
    pub const ENTRY_WORDS: usize = super::LINE_WORDS;

    /// Generation: 0 while the entry is empty or being written.
    pub const GENERATION: usize = 0;
    /// Low half of the key's hash.
    pub const HASH_LOW: usize = 1;
    /// High half of the key's hash.
    pub const HASH_HIGH: usize = 2;
    /// Where the block is; see [`super::BlockId`].
    pub const BLOCK: usize = 3;
    /// Length of the payload in bytes.
    pub const LEN: usize = 4;
    /// Expiry in nanoseconds of the monotonic clock, 0 for none.
    pub const EXPIRY: usize = 5;
    /// Offset of the payload from the block's start in bytes (low 32 bits), length of the key in bytes (high 32 bits).
    pub const SHAPE: usize = 6;
    /// Number of the namespace's incarnation.
    pub const NAMESPACE: usize = 7;

    /// Bytes of a table with `capacity` entries.
    pub const fn bytes(capacity: usize) -> usize {
        (ENTRIES + capacity * ENTRY_WORDS) * 8
    }
}

/// The header of a block, followed by the key, then the payload, then, from two chunks on, the checksums of the chunks.
pub mod block {
    /// [`MAGIC_VALUE`].
    pub const MAGIC: usize = 0;
    /// Number of the namespace's incarnation that the block was put into.
    pub const NAMESPACE: usize = 1;
    /// Length of the payload in bytes.
    pub const LEN: usize = 2;
    /// Offset of the payload from the block's start in bytes (low 32 bits), length of the key in bytes (high 32 bits).
    pub const SHAPE: usize = 3;
    /// CRC-64/NVME of the only chunk, or of the table of checksums when there are several.
    pub const CHECKSUM: usize = 4;
    /// When the block was put, in milliseconds since 1970.
    pub const CREATED_MS: usize = 5;
    /// CRC-64/NVME of words 0 to 5 and the key.
    pub const HEADER_CHECKSUM: usize = 6;
    /// Reserved, 0.
    pub const RESERVED: usize = 7;
    /// Size of the header.
    pub const HEADER_BYTES: usize = 64;
    /// "LBLOCK" and the version of the block format.
    pub const MAGIC_VALUE: u64 = u64::from_le_bytes(*b"LBLOCK\x00\x01");
    /// Payload bytes that one checksum covers.
    pub const CHUNK_BYTES: u64 = 64 * 1024;
    /// From this length on a payload starts on a page of its own.
    pub const PAGE_ALIGNED_FROM_BYTES: u64 = 64 * 1024;
}

/// One stripe of a slot page: what one thread of a client writes.
pub mod stripe {
    /// Size of a stripe; a slot page is a run of stripes.
    pub const BYTES: usize = super::PAGE_BYTES;
    /// Words in a stripe.
    pub const WORDS: usize = BYTES / 8;
    /// Touches ever written to the touch ring.
    pub const TOUCH_HEAD: usize = 0;
    /// Hits served from the map.
    pub const HITS: usize = 8;
    /// Payload bytes of those hits.
    pub const HIT_BYTES: usize = 9;
    /// Look-ups that had to ask the agent, by reason: the entry was not found.
    pub const ASKED_ABSENT: usize = 10;
    /// The entry changed while it was being pinned, more often than we retry.
    pub const ASKED_RACED: usize = 11;
    /// A table or segment was not mapped yet.
    pub const ASKED_UNMAPPED: usize = 12;
    /// The entry had expired.
    pub const ASKED_EXPIRED: usize = 13;
    /// No slot was free.
    pub const ASKED_NO_SLOT: usize = 14;
    /// First word of the touch ring.
    pub const TOUCH: usize = 128;
    /// Places in the touch ring.
    pub const TOUCH_LEN: usize = 128;
    /// First slot.
    pub const SLOTS: usize = 256;
    /// Slots in a stripe.
    pub const SLOTS_LEN: usize = 256;
}

const _: () = assert!(control::BYTES == 128 * 1024);
const _: () = assert!(control::DIRECTORY.is_multiple_of(LINE_WORDS));
const _: () = assert!(table::ENTRY_WORDS * 8 == LINE_BYTES);
const _: () = assert!(table::NAMESPACE < table::ENTRY_WORDS);
const _: () = assert!(block::HEADER_BYTES == LINE_BYTES && block::RESERVED * 8 + 8 == block::HEADER_BYTES);
const _: () = assert!(stripe::TOUCH + stripe::TOUCH_LEN == stripe::SLOTS);
const _: () = assert!(stripe::SLOTS + stripe::SLOTS_LEN == stripe::WORDS);
const _: () = assert!(stripe::ASKED_NO_SLOT < stripe::TOUCH);

/// Where a block lies: its segment's number and its offset in granules of 64 bytes. Never 0.
///
/// This is what a client writes into a slot. It names memory, not a publication: a block that is taken back out of
/// limbo keeps its id and so keeps its pins. A slot that still holds the id of memory since reused is a false pin, which
/// costs room and nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub u64);

impl BlockId {
    /// Bytes in a granule.
    pub const GRANULE_BYTES: u64 = 64;

    /// The id of the block at `offset_bytes` (a multiple of 64) of segment `segment` (not 0).
    pub fn new(segment: u32, offset_bytes: u64) -> BlockId {
        assert!(segment != 0, "segment numbers start at 1");
        let granules = offset_bytes / Self::GRANULE_BYTES;
        assert!(
            granules * Self::GRANULE_BYTES == offset_bytes && granules <= u64::from(u32::MAX),
            "offset {offset_bytes} cannot be named"
        );
        BlockId(u64::from(segment) << 32 | granules)
    }
    /// Number of the segment.
    pub fn segment(self) -> u32 {
        u32::try_from(self.0 >> 32).unwrap_or(u32::MAX)
    }
    /// Offset in the segment in bytes.
    pub fn offset_bytes(self) -> u64 {
        (self.0 & 0xffff_ffff) * Self::GRANULE_BYTES
    }
}

impl std::fmt::Debug for BlockId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}+{}", self.segment(), self.offset_bytes())
    }
}

/// How a block with a key and payload of given lengths is laid out, as offsets from its start in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockShape {
    /// Where the payload starts.
    pub payload_offset: u64,
    /// Where the table of checksums starts; equal to `total_len` when there is one chunk or none.
    pub checksums_offset: u64,
    /// Bytes in all.
    pub total_len: u64,
    /// What the block's start must be aligned to.
    pub align: u64,
}

impl BlockShape {
    /// The shape for a key of `key_len` bytes and a payload of `len` bytes.
    pub fn new(key_len: usize, len: u64) -> BlockShape {
        let align = if len >= block::PAGE_ALIGNED_FROM_BYTES { PAGE_BYTES as u64 } else { LINE_BYTES as u64 };
        let payload_offset = (block::HEADER_BYTES as u64 + key_len as u64).next_multiple_of(align);
        let end = payload_offset + len;
        let chunks = len.div_ceil(block::CHUNK_BYTES);
        let (checksums_offset, total_len) =
            if chunks <= 1 { (end, end) } else { (end.next_multiple_of(8), end.next_multiple_of(8) + chunks * 8) };
        BlockShape { payload_offset, checksums_offset, total_len, align }
    }
}
