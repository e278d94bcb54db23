//! Entry for the fuzz targets under `fuzz/`: what the agent reads from a store, over arbitrary bytes. Not part of the
//! interface.

use crate::store::entry::{HEAD_LEN_AT, KEY_AT, LEN_AT, Read, read, seal};

/// Reads `bytes` as the start of an object: as long as they are, longer, and as long as they claim; as they stand, and with
/// the head's checksum put right, since chance does not get past that. Panics when more is asked for than the object has, or
/// when what was read is not what would be written.
pub fn store_entry(bytes: &[u8]) {
    judge(bytes);
    let mut sealed = bytes.to_vec();
    if let Some(head) = head_len(bytes).and_then(|len| sealed.get_mut(..len as usize))
        && head.len() >= KEY_AT
    {
        seal(head);
        judge(&sealed);
    }
}

/// Reads `bytes` as the index of a disk tier. Panics when what was read is not what would be written.
pub fn disk_index(bytes: &[u8]) {
    crate::disk::index::judge(bytes);
}

fn judge(bytes: &[u8]) {
    let given = bytes.len() as u64;
    let claimed =
        head_len(bytes).zip(payload_len(bytes)).map_or(0, |(head, payload)| payload.wrapping_add(head.into()));
    for object_len_bytes in [given, claimed, given.saturating_add(claimed), given << 13, u64::MAX] {
        match read(bytes, object_len_bytes) {
            Read::Whole { entry, head_len_bytes } => {
                let head = entry.head();
                assert_eq!(head.len() as u64, head_len_bytes);
                assert_eq!(head_len_bytes + entry.len_bytes, object_len_bytes);
                assert!(bytes.starts_with(&head), "another head would be written");
            }
            Read::NeedMore { head_len_bytes } => {
                assert!(head_len_bytes > given, "asked for what was given");
                assert!(head_len_bytes <= object_len_bytes, "asked for more than there is");
            }
            Read::OtherVersion(_) | Read::Damaged(_) => {}
        }
    }
}

/// What the bytes claim to be the length of the head.
fn head_len(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(HEAD_LEN_AT..HEAD_LEN_AT + 4)?.try_into().ok()?))
}

/// What the bytes claim to be the length of the payload.
fn payload_len(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(LEN_AT..LEN_AT + 8)?.try_into().ok()?))
}
