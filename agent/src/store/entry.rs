//! A block as a store holds it: a head that says all about it, then its payload.
//!
//! Every byte of a head follows from what it says, so there is exactly one head for an entry and everything else is
//! damage. `docs/store-format.md` draws it.

use larder_protocol::checksum::{Checksums, crc64};
use larder_protocol::key::{KEY_LEN_MAX, check_key_bytes};
use larder_protocol::layout::block::{CHUNK_BYTES, PAGE_ALIGNED_FROM_BYTES};
use larder_protocol::layout::{LINE_BYTES, PAGE_BYTES};

#[cfg(test)]
mod tests;

/// First bytes of every entry, of whatever version.
const MAGIC: [u8; 8] = *b"LARDRENT";
/// The version written here, and the only one read.
const VERSION: u32 = 1;

const VERSION_AT: usize = 8;
/// Length of the head, four bytes.
pub(crate) const HEAD_LEN_AT: usize = 12;
/// Length of the payload, eight bytes.
pub(crate) const LEN_AT: usize = 16;
const CREATED_MS_AT: usize = 24;
const EXPIRES_MS_AT: usize = 32;
const KEY_LEN_AT: usize = 40;
const CHUNK_LEN_AT: usize = 44;
const CHECKSUM_AT: usize = 48;
const HEAD_CHECKSUM_AT: usize = 56;
/// The key begins where the fields end.
pub(crate) const KEY_AT: usize = 64;

/// Payload bytes that one checksum covers, as the head says it.
#[expect(clippy::cast_possible_truncation, reason = "a constant, 65536")]
const CHUNK_LEN: u32 = CHUNK_BYTES as u32;

/// How much of an object a caller asks for first: the whole head of every payload up to 500 MB.
pub(crate) const START_BYTES: usize = 64 * 1024;

/// Longest head that is read: that of 256 GiB.
pub(crate) const HEAD_BYTES_MAX: u64 = 32 << 20;

/// What a head says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The key, which a name does not always tell.
    pub(crate) key: String,
    /// Length of the payload.
    pub(crate) len_bytes: u64,
    /// When the block was put, in milliseconds since 1970.
    pub(crate) created_ms: u64,
    /// When it ends, in milliseconds since 1970, 0 for never.
    pub(crate) expires_ms: u64,
    /// Of the payload.
    pub(crate) checksums: Checksums,
}

/// What an object turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// An entry with a sound head. Its payload is from `head_len_bytes` to the object's end, and not checked yet.
    Whole { entry: Entry, head_len_bytes: u64 },
    /// To judge it, as many first bytes are needed: more than were given, never more than the object has.
    NeedMore { head_len_bytes: u64 },
    /// An entry of another version of this format: not ours to read.
    OtherVersion(u32),
    /// Not an entry, or not what was written; says what is wrong with it.
    Damaged(&'static str),
}

impl Entry {
    /// The bytes before the payload.
    ///
    /// # Panics
    /// When the key is no key or the checksums are not of a payload of this length.
    pub(crate) fn head(&self) -> Vec<u8> {
        let key = self.key.as_bytes();
        assert!((1..=KEY_LEN_MAX).contains(&key.len()), "an entry has a key of 1 to {KEY_LEN_MAX} bytes");
        assert_eq!(self.checksums.chunks.len() as u64, chunks(self.len_bytes), "an entry has a checksum a chunk");
        // 4 GiB of checksums are those of 32 TiB, more than any memory that a payload comes from.
        let head_len = u32::try_from(head_len_bytes(key.len(), self.len_bytes)).expect("a head is below 4 GiB");
        let key_len = u32::try_from(key.len()).expect("a key is short");

        let mut head = vec![0; head_len as usize];
        let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(VERSION_AT, &VERSION.to_le_bytes());
        put(HEAD_LEN_AT, &head_len.to_le_bytes());
        put(LEN_AT, &self.len_bytes.to_le_bytes());
        put(CREATED_MS_AT, &self.created_ms.to_le_bytes());
        put(EXPIRES_MS_AT, &self.expires_ms.to_le_bytes());
        put(KEY_LEN_AT, &key_len.to_le_bytes());
        put(CHUNK_LEN_AT, &CHUNK_LEN.to_le_bytes());
        put(CHECKSUM_AT, &self.checksums.summary().to_le_bytes());
        put(KEY_AT, key);
        put(table_at(key.len()), &self.checksums.table_bytes());
        seal(&mut head);
        head
    }
}

/// Reads the first bytes of an object of `object_len_bytes`. Takes at most twice the memory of `start`, whatever
/// it claims.
pub(crate) fn read(start: &[u8], object_len_bytes: u64) -> Read {
    if start.len() as u64 > object_len_bytes {
        return Read::Damaged("more bytes than the object has");
    }
    if object_len_bytes < KEY_AT as u64 && start.len() < HEAD_LEN_AT {
        return Read::Damaged("shorter than the fields of a head");
    }
    if start.len() < HEAD_LEN_AT {
        return Read::NeedMore { head_len_bytes: KEY_AT as u64 };
    }
    if start[..VERSION_AT] != MAGIC {
        return Read::Damaged("not an entry: it begins with other bytes");
    }
    // Only these two fields are in the same place in every version.
    let version = u32_at(start, VERSION_AT);
    if version != VERSION {
        return Read::OtherVersion(version);
    }
    if object_len_bytes < KEY_AT as u64 {
        return Read::Damaged("shorter than the fields of a head");
    }
    if start.len() < KEY_AT {
        return Read::NeedMore { head_len_bytes: KEY_AT as u64 };
    }
    let len_bytes = u64_at(start, LEN_AT);
    let key_len = u32_at(start, KEY_LEN_AT) as usize;
    if u32_at(start, CHUNK_LEN_AT) != CHUNK_LEN {
        return Read::Damaged("a checksum is not of 64 KiB");
    }
    if !(1..=KEY_LEN_MAX).contains(&key_len) {
        return Read::Damaged("the key has an impossible length");
    }
    if len_bytes > object_len_bytes {
        return Read::Damaged("the payload is longer than the object");
    }
    let head_len_bytes = head_len_bytes(key_len, len_bytes);
    if u64::from(u32_at(start, HEAD_LEN_AT)) != head_len_bytes {
        return Read::Damaged("the head has not the length that its key and payload need");
    }
    if object_len_bytes - len_bytes != head_len_bytes {
        return Read::Damaged("head and payload are not as long as the object");
    }
    match usize::try_from(head_len_bytes).ok().and_then(|len| start.get(..len)) {
        Some(head) => read_head(head, key_len, len_bytes),
        None => Read::NeedMore { head_len_bytes },
    }
}

/// Reads a head whose lengths are right.
fn read_head(head: &[u8], key_len: usize, len_bytes: u64) -> Read {
    if checksum(head.to_vec()) != u64_at(head, HEAD_CHECKSUM_AT) {
        return Read::Damaged("the head's checksum is another");
    }
    let (key, behind_key) = head[KEY_AT..].split_at(key_len);
    let Ok(key) = check_key_bytes(key) else {
        return Read::Damaged("the key is not a legal one");
    };
    let table_at = table_at(key_len);
    let table_len = usize::try_from(chunks(len_bytes) * 8).expect("the table is a part of the head");
    let (table, behind_table) = head[table_at..].split_at(table_len);
    let gap = &behind_key[..table_at - KEY_AT - key_len];
    if gap.iter().chain(behind_table).any(|&byte| byte != 0) {
        return Read::Damaged("what should be zero is not");
    }
    let checksums = Checksums { chunks: table.chunks_exact(8).map(|word| u64_at(word, 0)).collect() };
    if checksums.summary() != u64_at(head, CHECKSUM_AT) {
        return Read::Damaged("the payload's checksum is not that of its chunks");
    }
    let entry = Entry {
        key: key.to_owned(),
        len_bytes,
        created_ms: u64_at(head, CREATED_MS_AT),
        expires_ms: u64_at(head, EXPIRES_MS_AT),
        checksums,
    };
    Read::Whole { entry, head_len_bytes: head.len() as u64 }
}

/// Puts the checksum of a head where it belongs.
pub(crate) fn seal(head: &mut [u8]) {
    let checksum = checksum(head.to_vec());
    head[HEAD_CHECKSUM_AT..KEY_AT].copy_from_slice(&checksum.to_le_bytes());
}

/// The checksum that a head says it has. The head must be whole.
pub(crate) fn head_checksum(head: &[u8]) -> u64 {
    u64_at(head, HEAD_CHECKSUM_AT)
}

/// The checksum of a head, whatever stands in the checksum's place.
fn checksum(mut head: Vec<u8>) -> u64 {
    head[HEAD_CHECKSUM_AT..KEY_AT].fill(0);
    crc64(&head)
}

/// Chunks of a payload.
fn chunks(len_bytes: u64) -> u64 {
    len_bytes.div_ceil(CHUNK_BYTES)
}

/// Where the table of checksums begins.
fn table_at(key_len: usize) -> usize {
    (KEY_AT + key_len).next_multiple_of(8)
}

/// Length of the head: the payload behind it begins on a line, a large one on a page, so that it can be read directly
/// to where it will lie in memory.
fn head_len_bytes(key_len: usize, len_bytes: u64) -> u64 {
    let alignment = if len_bytes < PAGE_ALIGNED_FROM_BYTES { LINE_BYTES } else { PAGE_BYTES };
    (table_at(key_len) as u64 + chunks(len_bytes) * 8).next_multiple_of(alignment as u64)
}

/// The word at an offset that is known to be there.
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]))
}

/// The half word at an offset that is known to be there.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]))
}
