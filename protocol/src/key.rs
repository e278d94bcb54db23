//! Keys and namespace names: what is legal, and how a key becomes an index hash.

use thiserror::Error;
use xxhash_rust::xxh3::{xxh3_128, xxh3_128_with_seed};

/// Longest key in bytes.
pub const KEY_LEN_MAX: usize = 1024;
/// Longest namespace name in bytes.
pub const NAMESPACE_LEN_MAX: usize = 255;

/// Why a key or a namespace name was refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum KeyError {
    /// Nothing was given.
    #[error("the key is empty; a key is 1 to {KEY_LEN_MAX} bytes of UTF-8")]
    Empty,
    /// Too many bytes.
    #[error("the key has {len} bytes; the longest allowed is {max}")]
    TooLong {
        /// Bytes given.
        len: usize,
        /// Most bytes allowed.
        max: usize,
    },
    /// `a//b`, `/a` or `a/`.
    #[error("the key {key:?} has an empty segment; write `a/b`, without a `/` at either end or two in a row")]
    EmptySegment {
        /// The key.
        key: String,
    },
    /// `.` or `..` as a segment.
    #[error("the key {key:?} has the segment {segment:?}; `.` and `..` are not allowed as segments")]
    DotSegment {
        /// The key.
        key: String,
        /// The segment.
        segment: String,
    },
    /// A control character, NUL among them.
    #[error("the key {key:?} has the control character U+{character:04X}; control characters are not allowed")]
    Control {
        /// The key.
        key: String,
        /// Its code point.
        character: u32,
    },
    /// Bytes that are not UTF-8.
    #[error("the key is not UTF-8 (bad byte at offset {at}); a key is 1 to {KEY_LEN_MAX} bytes of UTF-8")]
    NotUtf8 {
        /// Offset of the first bad byte.
        at: usize,
    },
}

/// The key of a chunk of an object: the object's key, `#`, its version as 16 hexadecimal digits, `.`, and the chunk's number.
/// Where that would be too long for a key, the object's XXH3-128 stands for its key.
pub fn chunk(object: &str, version: u64, index: u64) -> String {
    let behind = format!("#{version:016x}.{index}");
    if object.len() + behind.len() <= KEY_LEN_MAX {
        format!("{object}{behind}")
    } else {
        format!("url/{:032x}{behind}", digest(object.as_bytes()))
    }
}

/// XXH3-128 of bytes, for names that are made of what is too long or too odd to be one.
pub fn digest(bytes: &[u8]) -> u128 {
    xxh3_128(bytes)
}

/// Checks a key given as bytes.
pub fn check_key_bytes(key: &[u8]) -> Result<&str, KeyError> {
    if key.len() > KEY_LEN_MAX {
        return Err(KeyError::TooLong { len: key.len(), max: KEY_LEN_MAX });
    }
    let key = std::str::from_utf8(key).map_err(|error| KeyError::NotUtf8 { at: error.valid_up_to() })?;
    check_key(key)?;
    Ok(key)
}

/// Checks a key: 1 to 1,024 bytes, segments between `/` that are not empty, `.` or `..`, no control characters.
pub fn check_key(key: &str) -> Result<(), KeyError> {
    check(key, KEY_LEN_MAX)
}

/// Checks a namespace name, which has the same form as a key and at most 255 bytes.
pub fn check_namespace(name: &str) -> Result<(), KeyError> {
    check(name, NAMESPACE_LEN_MAX)
}

fn check(key: &str, max: usize) -> Result<(), KeyError> {
    if key.is_empty() {
        return Err(KeyError::Empty);
    }
    if key.len() > max {
        return Err(KeyError::TooLong { len: key.len(), max });
    }
    if let Some(character) = key.chars().find(|c| c.is_control()) {
        return Err(KeyError::Control { key: key.to_owned(), character: u32::from(character) });
    }
    for segment in key.split('/') {
        match segment {
            "" => return Err(KeyError::EmptySegment { key: key.to_owned() }),
            "." | ".." => {
                return Err(KeyError::DotSegment { key: key.to_owned(), segment: segment.to_owned() });
            }
            _ => {}
        }
    }
    Ok(())
}

/// The index hash of a key in an incarnation of a namespace: 128-bit XXH3 seeded by the index's own secret seed and the
/// namespace's number. Two keys that collide are told apart by the full key in the block's header.
#[inline]
pub fn hash(seed: u64, namespace: u64, key: &[u8]) -> [u64; 2] {
    let hash = xxh3_128_with_seed(key, seed ^ namespace.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of the hash")]
    let halves = [hash as u64, (hash >> 64) as u64];
    halves
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legal_keys_pass() {
        for key in ["a", "a/b", "...", "a.b/..c", "é/漢字", " ", "-", &"x".repeat(KEY_LEN_MAX)] {
            assert_eq!(check_key_bytes(key.as_bytes()), Ok(key));
        }
    }

    #[test]
    fn each_illegal_form_has_its_own_kind() {
        assert_eq!(check_key(""), Err(KeyError::Empty));
        assert!(matches!(check_key(&"x".repeat(1025)), Err(KeyError::TooLong { len: 1025, max: 1024 })));
        for key in ["/a", "a/", "a//b", "/"] {
            assert!(matches!(check_key(key), Err(KeyError::EmptySegment { .. })), "{key}");
        }
        for key in [".", "..", "a/./b", "../x", "x/.."] {
            assert!(matches!(check_key(key), Err(KeyError::DotSegment { .. })), "{key}");
        }
        for key in ["a\0b", "a\nb", "\u{7f}", "\u{85}"] {
            assert!(matches!(check_key(key), Err(KeyError::Control { .. })), "{key:?}");
        }
        assert_eq!(check_key_bytes(b"ab\xff"), Err(KeyError::NotUtf8 { at: 2 }));
    }

    #[test]
    fn hash_is_pinned() {
        // Golden: the hash may only change together with the layout's version.
        assert_eq!(hash(7, 3, b"climate/2026/t2m"), hash(7, 3, b"climate/2026/t2m"));
        assert_ne!(hash(7, 3, b"a"), hash(7, 4, b"a"));
        assert_ne!(hash(7, 3, b"a"), hash(8, 3, b"a"));
    }
}
