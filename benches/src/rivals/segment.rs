//! A hand-made segment: one POSIX shared memory object with a hash table at its head and the payload behind it.
//!
//! It is the floor: no seals, no pins, no checksums, no tenants, no eviction, and any process that opens it can write it.

use std::path::Path;

use shared_memory::{Shmem, ShmemConf};
use xxhash_rust::xxh3::xxh3_64;

use crate::BenchResult;
use crate::workload::KEY_LEN_BYTES;

/// One cache line a bucket: hash, offset, length, key.
const BUCKET_BYTES: usize = 64;

/// The segment and the place where the next payload goes.
pub(crate) struct Segment {
    memory: Shmem,
    buckets: usize,
    next_payload: usize,
}

impl std::fmt::Debug for Segment {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Segment").field("len_bytes", &self.memory.len()).field("buckets", &self.buckets).finish()
    }
}

impl Segment {
    /// Makes a segment for `blocks` payloads of `len_bytes`. `name` has to be unused; the object goes when this is dropped.
    pub(crate) fn create(name: &str, blocks: usize, len_bytes: usize) -> BenchResult<Self> {
        let buckets = (blocks * 2).next_power_of_two();
        let payload_start = (buckets * BUCKET_BYTES).next_multiple_of(4096);
        let size = payload_start + blocks * stride(len_bytes);
        let memory = ShmemConf::new().os_id(name).size(size).create()?;
        Ok(Self { memory, buckets, next_payload: payload_start })
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the object was just made under a name that only this bench knows, no other process has it open, and every
        // write in this process goes through `bytes_mut`, which borrows the segment mutably.
        unsafe { self.memory.as_slice() }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`; the mutable borrow of the segment is the only way to its bytes while this slice lives.
        unsafe { self.memory.as_slice_mut() }
    }

    /// Puts a payload; a key that is there already gets its bytes replaced in place.
    pub(crate) fn put(&mut self, key: &str, value: &[u8]) -> BenchResult<()> {
        let key: &[u8; KEY_LEN_BYTES] = key.as_bytes().try_into()?;
        let hash = xxh3_64(key);
        let mask = self.buckets - 1;
        let fresh_at = self.next_payload;
        let bytes = self.bytes_mut();
        let mut bucket = bucket_of(hash, mask);
        loop {
            let entry = &mut bytes[bucket * BUCKET_BYTES..(bucket + 1) * BUCKET_BYTES];
            let offset = word(entry, 8);
            if offset == 0 {
                entry[..8].copy_from_slice(&hash.to_le_bytes());
                entry[8..16].copy_from_slice(&(fresh_at as u64).to_le_bytes());
                entry[16..24].copy_from_slice(&(value.len() as u64).to_le_bytes());
                entry[24..24 + KEY_LEN_BYTES].copy_from_slice(key);
                let room = bytes.get_mut(fresh_at..fresh_at + value.len()).ok_or("the segment is full")?;
                room.copy_from_slice(value);
                self.next_payload = fresh_at + stride(value.len());
                return Ok(());
            }
            if word(entry, 0) == hash && entry[24..24 + KEY_LEN_BYTES] == *key {
                let at = usize::try_from(offset)?;
                bytes[at..at + value.len()].copy_from_slice(value);
                return Ok(());
            }
            bucket = (bucket + 1) & mask;
        }
    }

    /// A view for lookups, taken once so that a lookup is nothing but the lookup.
    pub(crate) fn view(&self) -> SegmentView<'_> {
        SegmentView { bytes: self.bytes(), mask: self.buckets - 1 }
    }
}

/// The object is named after the scratch folder, so that whoever removes that can find it.
pub(crate) fn segment_name(scratch: &Path) -> BenchResult<String> {
    let name = scratch.file_name().ok_or("the scratch folder has no name")?;
    Ok(format!("/{}.segment", name.to_string_lossy()))
}

/// A segment as its readers see it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SegmentView<'s> {
    bytes: &'s [u8],
    mask: usize,
}

impl<'s> SegmentView<'s> {
    /// Finds the bytes of a key.
    #[inline]
    pub(crate) fn get(&self, key: &str) -> Option<&'s [u8]> {
        let key: &[u8; KEY_LEN_BYTES] = key.as_bytes().try_into().ok()?;
        let hash = xxh3_64(key);
        let mut bucket = bucket_of(hash, self.mask);
        loop {
            let entry = self.bytes.get(bucket * BUCKET_BYTES..(bucket + 1) * BUCKET_BYTES)?;
            let offset = usize::try_from(word(entry, 8)).ok()?;
            if offset == 0 {
                return None;
            }
            if word(entry, 0) == hash && entry[24..24 + KEY_LEN_BYTES] == *key {
                let len_bytes = usize::try_from(word(entry, 16)).ok()?;
                return self.bytes.get(offset..offset + len_bytes);
            }
            bucket = (bucket + 1) & self.mask;
        }
    }
}

/// Payloads stand one cache line further apart than they are long: heads at equal offsets of every page share one cache set.
fn stride(len_bytes: usize) -> usize {
    len_bytes.next_multiple_of(64) + 64
}

#[inline]
fn bucket_of(hash: u64, mask: usize) -> usize {
    usize::try_from(hash & mask as u64).unwrap_or(0)
}

#[inline]
fn word(entry: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&entry[at..at + 8]);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_last_under_a_key_is_found() {
        let mut segment = Segment::create(&format!("/larder-bench-test-{}", std::process::id()), 100, 64).unwrap();
        for round in 0..2u8 {
            for number in 0..100u8 {
                segment.put(&format!("put/{number:012}"), &[number ^ round; 64]).unwrap();
            }
        }
        for number in 0..100u8 {
            assert_eq!(segment.view().get(&format!("put/{number:012}")), Some(&[number ^ 1; 64][..]));
        }
        assert_eq!(segment.view().get("put/999999999999"), None);
        assert!(segment.put("put/888888888888", &[0; 64]).is_err(), "a full segment took one more");
    }
}
