//! What stands behind an entry in a file of the tier: the whole name, so that a block is never taken for another's whose
//! name has the same hash. An entry knows its key, but not its namespace nor its user.
//!
//! ```text
//! name                 as it is, 1 to 900 bytes
//! length of the name   4 bytes, little-endian like all of it
//! version              4 bytes, 1
//! checksum             8 bytes: CRC-64/NVME of the head's checksum, the name, its length and the version
//! magic                8 bytes, LARDRNAM
//! ```
//!
//! The head's checksum ties the two ends of a file together: both were written by one keep, or the file is damaged.

use larder_protocol::checksum::crc64;

/// Longest name.
pub(super) const NAME_BYTES_MAX: usize = 900;
/// What stands behind the name.
const TAIL_BYTES: usize = 24;
/// Longest trailer: as much as a reader asks for from the end of a file.
pub(super) const TRAILER_BYTES_MAX: usize = NAME_BYTES_MAX + TAIL_BYTES;

const MAGIC: [u8; 8] = *b"LARDRNAM";
const VERSION: u32 = 1;

/// The trailer behind an entry with this head checksum.
///
/// # Panics
/// When the name is longer than any name is.
pub(super) fn trailer(name: &str, head_checksum: u64) -> Vec<u8> {
    assert!((1..=NAME_BYTES_MAX).contains(&name.len()), "a name has 1 to {NAME_BYTES_MAX} bytes");
    let mut bytes = name.as_bytes().to_vec();
    bytes.extend(u32::try_from(name.len()).expect("a name is short").to_le_bytes());
    bytes.extend(VERSION.to_le_bytes());
    let checksum = checksum(head_checksum, &bytes);
    bytes.extend(checksum.to_le_bytes());
    bytes.extend(MAGIC);
    bytes
}

/// The name at the end of `end`, the last bytes of a file, and the length of the trailer. To be believed when
/// [`is_of`] says so.
pub(super) fn read(end: &[u8]) -> Result<(&str, usize), &'static str> {
    let Some((before, tail)) = end.split_at_checked(end.len().wrapping_sub(TAIL_BYTES)) else {
        return Err("it is shorter than what stands behind a name");
    };
    if tail[16..] != MAGIC {
        return Err("it ends with other bytes than a block of the tier");
    }
    let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|byte| tail[at + byte]));
    if word(4) != VERSION {
        return Err("its end is of another version");
    }
    let len = word(0) as usize;
    if !(1..=NAME_BYTES_MAX).contains(&len) || len > before.len() {
        return Err("the name at its end has an impossible length");
    }
    let name = &before[before.len() - len..];
    let name = std::str::from_utf8(name).map_err(|_| "the name at its end is no text")?;
    Ok((name, len + TAIL_BYTES))
}

/// Whether the trailer at the end of `end`, which [`read`] took, was written with the head of this checksum.
pub(super) fn is_of(head_checksum: u64, end: &[u8], trailer_len: usize) -> bool {
    let trailer = &end[end.len() - trailer_len..];
    let (covered, rest) = trailer.split_at(trailer_len - 16);
    rest[..8] == checksum(head_checksum, covered).to_le_bytes()
}

fn checksum(head_checksum: u64, covered: &[u8]) -> u64 {
    crc64(&[&head_checksum.to_le_bytes(), covered].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trailer_is_read_back() {
        for name in ["a", "larder-1/u1/n.ns/0/k.block", &"x".repeat(NAME_BYTES_MAX)] {
            let mut file = b"payload".to_vec();
            file.extend(trailer(name, 77));
            let (read_name, len) = read(&file).unwrap();
            assert_eq!((read_name, len), (name, name.len() + TAIL_BYTES));
            assert!(is_of(77, &file, len) && !is_of(78, &file, len));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let good = trailer("larder-1/name", 5);
        let judge = |bytes: &[u8]| read(bytes).is_ok_and(|(name, len)| name == "larder-1/name" && is_of(5, bytes, len));
        assert!(judge(&good));
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!judge(&bad), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(!judge(&good[..len]), "{len} bytes");
        }
    }
}
