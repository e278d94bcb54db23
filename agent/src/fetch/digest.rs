//! Keys that name their content: `sha256:` or `blake3:` and 64 hexadecimal digits, alone or as the last component.

use sha2::{Digest, Sha256};

use crate::store::Memory;

/// What a key says of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    Sha256([u8; 32]),
    Blake3([u8; 32]),
}

/// What a key says of its content, if anything.
pub(super) fn named_by(key: &str) -> Option<Named> {
    let last = key.rsplit('/').next()?;
    let (name, digits) = last.split_once(':')?;
    let digest = bytes(digits)?;
    match name {
        "sha256" => Some(Named::Sha256(digest)),
        "blake3" => Some(Named::Blake3(digest)),
        _ => None,
    }
}

fn bytes(digits: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

impl Named {
    /// Whether it is the digest of what lies there.
    pub(super) fn is_of(&self, memory: &Memory) -> bool {
        match self {
            Named::Sha256(named) => {
                let mut hasher = Sha256::new();
                memory.each_piece(|piece| hasher.update(piece));
                hasher.finalize()[..] == named[..]
            }
            Named::Blake3(named) => {
                let mut hasher = blake3::Hasher::new();
                memory.each_piece(|piece| {
                    hasher.update(piece);
                });
                hasher.finalize() == *named
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_read_from_keys() {
        let digits = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let Some(Named::Sha256(digest)) = named_by(&format!("sha256:{digits}")) else { panic!("it names a digest") };
        assert_eq!((digest[0], digest[31]), (0xe3, 0x55));
        assert_eq!(named_by(&format!("models/sha256:{digits}")), Some(Named::Sha256(digest)));
        assert_eq!(named_by(&format!("blake3:{}", digits.to_uppercase())), Some(Named::Blake3(digest)));
        for key in
            ["sha256:e3b0", "sha1:e3b0", digits, &format!("sha256:{digits}/x"), &format!("sha256:{}", "é".repeat(32))]
        {
            assert_eq!(named_by(key), None, "{key}");
        }
    }
}
