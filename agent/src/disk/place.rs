//! Where the block of a name lies: two hashes, which are the file's name.

use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

use crate::store::names;

/// Directories that files are spread over, by the first byte of the hash.
pub(super) const SHARDS: usize = 256;

/// Hexadecimal digits of the rest of the hash, and of the group's.
const REST_DIGITS: usize = 30;
const GROUP_DIGITS: usize = 16;

/// A name, hashed. Two names that share a place take each other's room and nothing else: the whole name is in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) hash: u128,
    /// Of the incarnation that the block lies in, so that all of one can go without a look into any file.
    pub(super) group: u64,
}

impl Place {
    /// The place of a block. `None` when the name is no block's.
    ///
    /// The seed is the tier's own and told nobody: who chooses keys cannot choose which of them collide.
    pub(super) fn of(seed: u64, name: &str) -> Option<Place> {
        let incarnation = names::incarnation_of(name)?;
        Some(Place { hash: xxh3_128_with_seed(name.as_bytes(), seed), group: Place::group(seed, incarnation) })
    }

    /// The group of an incarnation, by its prefix.
    pub(super) fn group(seed: u64, incarnation_prefix: &str) -> u64 {
        xxh3_64_with_seed(incarnation_prefix.as_bytes(), seed)
    }

    /// The directory it lies in.
    pub(super) fn shard(self) -> usize {
        (self.hash >> 120) as usize
    }

    /// The path below the tier's files.
    pub(super) fn path(self) -> String {
        let Place { hash, group } = self;
        format!("{:02x}/{:030x}.{group:016x}", self.shard(), hash << 8 >> 8)
    }

    /// The place that a file's name says. `None` when no block has such a name.
    pub(super) fn read(shard: usize, file_name: &str) -> Option<Place> {
        let (rest, group) = file_name.split_once('.')?;
        let is_hex = |digits: &str| digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        if rest.len() != REST_DIGITS || group.len() != GROUP_DIGITS || !is_hex(rest) || !is_hex(group) {
            return None;
        }
        let hash = (shard as u128) << 120 | u128::from_str_radix(rest, 16).ok()?;
        Some(Place { hash, group: u64::from_str_radix(group, 16).ok()? })
    }
}

/// The name of a shard's directory.
pub(super) fn shard_name(shard: usize) -> String {
    format!("{shard:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_back_from_its_path() {
        for (seed, key) in [(0, "a"), (1, "a"), (u64::MAX, "b/c d"), (7, "\u{e9}")] {
            let prefix = names::incarnation(1000, "job/1.ns", 42);
            let name = names::block(&prefix, key);
            let place = Place::of(seed, &name).unwrap();
            assert_eq!(place.group, Place::group(seed, &prefix));
            let path = place.path();
            let (shard, file) = path.split_once('/').unwrap();
            assert_eq!(shard, shard_name(place.shard()));
            assert_eq!(Place::read(place.shard(), file), Some(place));
        }
    }

    #[test]
    fn what_is_no_name_of_a_block_has_no_place() {
        for name in ["", "a", "larder-1/u1/n.ns/options", "larder-1/u1/n.ns/0/k.block", "larder-1/u1/n.ns/k.block"] {
            assert_eq!(Place::of(0, name), None, "{name}");
        }
        let good = Place { hash: 5, group: 6 }.path();
        let good = good.split_once('/').unwrap().1;
        assert!(Place::read(0, good).is_some());
        for bad in ["", ".", ".tmp", &good[1..], &good.replace('5', "G"), &good.to_uppercase().replace('0', "A"), "x.y"]
        {
            assert_eq!(Place::read(0, bad), None, "{bad}");
        }
        assert_eq!(Place::read(0, &format!("+{}", &good[1..])), None);
    }
}
