//! The index file: which blocks there are, written at a clean end, so that a start need not look at every file.
//!
//! ```text
//!   0 magic              8 bytes, LARDRIDX
//!   8 version            4 bytes, 1; all numbers are little-endian
//!  12 zero               4 bytes
//!  16 instance           8 bytes: of the files that it lists
//!  24 blocks             8 bytes: how many
//!  32 shards             256 times: inode 8 bytes, time of the last change 8 bytes, its nanoseconds 8 bytes
//! ... blocks             32 bytes each: hash 16, group 8, bytes it takes 8 with the lowest bit set when it is past probation
//! ... checksum           8 bytes: CRC-64/NVME of all before
//! ```
//!
//! A directory's time of the last change moves when a file is added, taken away or renamed in it. A shard that is not as
//! the index says is read instead, so an index can be late without being wrong. What stands in a file is judged when the
//! file is asked for.

use larder_protocol::checksum::crc64;

use super::ledger::BLOCKS_MAX;
use super::place::{Place, SHARDS};

const MAGIC: [u8; 8] = *b"LARDRIDX";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 32;
const SHARD_BYTES: usize = 24;
const BLOCK_BYTES: usize = 32;
const BLOCKS_AT: usize = HEADER_BYTES + SHARDS * SHARD_BYTES;
/// An index without blocks.
const BYTES_MIN: usize = BLOCKS_AT + 8;
/// The longest index.
pub(super) const INDEX_BYTES_MAX: u64 = (BYTES_MIN + BLOCKS_MAX * BLOCK_BYTES) as u64;

/// What a block takes comes in this unit, so that the lowest bit is free.
pub(super) const UNIT_BYTES: u64 = 512;
/// No file takes more.
const FILE_BYTES_MAX: u64 = 1 << 50;

/// A state of a shard's directory, which another state does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) inode: u64,
    pub(super) changed_s: i64,
    pub(super) changed_ns: i64,
}

/// A block in the order of the eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) place: Place,
    pub(super) bytes: u64,
    pub(super) is_main: bool,
}

/// All that an index says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Index {
    pub(super) instance: u64,
    /// One per shard.
    pub(super) shards: Vec<Stamp>,
    pub(super) blocks: Vec<Listed>,
}

impl Index {
    /// The file's bytes.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BYTES_MIN + self.blocks.len() * BLOCK_BYTES);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(0_u32.to_le_bytes());
        bytes.extend(self.instance.to_le_bytes());
        bytes.extend((self.blocks.len() as u64).to_le_bytes());
        for stamp in &self.shards {
            bytes.extend(stamp.inode.to_le_bytes());
            bytes.extend(stamp.changed_s.to_le_bytes());
            bytes.extend(stamp.changed_ns.to_le_bytes());
        }
        for block in &self.blocks {
            bytes.extend(block.place.hash.to_le_bytes());
            bytes.extend(block.place.group.to_le_bytes());
            bytes.extend((block.bytes | u64::from(block.is_main)).to_le_bytes());
        }
        seal(&mut bytes);
        bytes
    }

    /// Reads a file's bytes; says what is wrong with them. Takes at most one and a half times their memory.
    pub(super) fn read(bytes: &[u8]) -> Result<Index, &'static str> {
        if bytes.len() < BYTES_MIN {
            return Err("it is shorter than an index without blocks");
        }
        if bytes[..8] != MAGIC {
            return Err("it begins with other bytes than an index");
        }
        if bytes[8..16] != u64::from(VERSION).to_le_bytes() {
            return Err("it is of another version");
        }
        let (covered, checksum) = bytes.split_at(bytes.len() - 8);
        if checksum != crc64(covered).to_le_bytes() {
            return Err("its checksum is another");
        }
        let blocks = &covered[BLOCKS_AT..];
        let count = (blocks.len() / BLOCK_BYTES) as u64;
        if !blocks.len().is_multiple_of(BLOCK_BYTES) || count > BLOCKS_MAX as u64 || word(bytes, 24) != count {
            return Err("it has not the length that its blocks need");
        }
        let shards = covered[HEADER_BYTES..BLOCKS_AT].chunks_exact(SHARD_BYTES).map(|shard| Stamp {
            inode: word(shard, 0),
            changed_s: word(shard, 8).cast_signed(),
            changed_ns: word(shard, 16).cast_signed(),
        });
        let blocks: Option<Vec<Listed>> = blocks.chunks_exact(BLOCK_BYTES).map(listed).collect();
        let blocks = blocks.ok_or("a block in it takes an impossible number of bytes")?;
        Ok(Index { instance: word(bytes, 16), shards: shards.collect(), blocks })
    }
}

fn listed(block: &[u8]) -> Option<Listed> {
    let hash = u128::from(word(block, 8)) << 64 | u128::from(word(block, 0));
    let (bytes, is_main) = (word(block, 24) & !1, word(block, 24) & 1 == 1);
    let is_possible = bytes > 0 && bytes.is_multiple_of(UNIT_BYTES) && bytes <= FILE_BYTES_MAX;
    is_possible.then_some(Listed { place: Place { hash, group: word(block, 16) }, bytes, is_main })
}

/// Appends the checksum.
pub(crate) fn seal(bytes: &mut Vec<u8>) {
    let checksum = crc64(bytes);
    bytes.extend(checksum.to_le_bytes());
}

/// The word at an offset that is known to be there.
fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]))
}

/// For the fuzz target: reads `bytes`, as they are and with their checksum put right, and panics when what was read is
/// not what would be written.
#[cfg(any(fuzzing, test))]
pub(crate) fn judge(bytes: &[u8]) {
    let mut sealed = bytes[..bytes.len().saturating_sub(8)].to_vec();
    seal(&mut sealed);
    for bytes in [bytes, &sealed] {
        if let Ok(index) = Index::read(bytes) {
            assert_eq!(index.shards.len(), SHARDS);
            assert!(index.to_bytes() == bytes, "another index would be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn index(blocks: &[(u128, u64, u64, bool)]) -> Index {
        let shards = (0..SHARDS as u64).map(|n| Stamp { inode: n, changed_s: -1, changed_ns: 7 }).collect();
        let blocks = blocks.iter().map(|&(hash, group, units, is_main)| Listed {
            place: Place { hash, group },
            bytes: units * UNIT_BYTES,
            is_main,
        });
        Index { instance: 9, shards, blocks: blocks.collect() }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(blocks in prop::collection::vec((any::<u128>(), any::<u64>(), 1..1_u64 << 41, any::<bool>()), 0..20)) {
            let index = index(&blocks);
            let bytes = index.to_bytes();
            prop_assert_eq!(Index::read(&bytes), Ok(index));
            judge(&bytes);
        }

        #[test]
        fn whatever_stands_there_is_judged_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..8000), at in any::<usize>()) {
            judge(&bytes);
            let mut near = index(&[(1, 2, 3, true), (4, 5, 6, false)]).to_bytes();
            let len = near.len();
            near[at % len] ^= bytes.first().copied().unwrap_or(1);
            judge(&near);
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let good = index(&[(1, 2, 3, true), (4, 5, 6, false)]).to_bytes();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Index::read(&bad).is_err(), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(Index::read(&good[..len]).is_err(), "{len} bytes");
            judge(&good[..len]);
        }
        assert!(Index::read(&[&good[..], &[0]].concat()).is_err());
    }

    #[test]
    fn sealed_nonsense_is_refused() {
        let resealed = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = index(&[(1, 2, 3, true)]).to_bytes();
            bytes.truncate(bytes.len() - 8);
            change(&mut bytes);
            seal(&mut bytes);
            Index::read(&bytes).map(|_| ()).unwrap_err()
        };
        assert!(resealed(&|bytes| bytes[8] = 2).contains("version"));
        assert!(resealed(&|bytes| bytes[24] = 2).contains("length"));
        assert!(resealed(&|bytes| bytes.extend([0; 31])).contains("length"));
        let takes = BLOCKS_AT + 24;
        assert!(resealed(&|bytes| bytes[takes..takes + 8].fill(0)).contains("impossible"));
        assert!(resealed(&|bytes| bytes[takes..takes + 8].fill(0xff)).contains("impossible"));
        assert!(resealed(&|bytes| bytes[takes] = 2).contains("impossible"));
    }
}
