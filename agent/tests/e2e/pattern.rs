//! Bytes that say whose they are: each word of a block is made from the block's key, its length and the word's place.

use larder::{Block, Error, Namespace, PutOutcome};
use larder_protocol::checksum::crc64;

fn seed(key: &str, len: usize) -> u64 {
    crc64(key.as_bytes()) ^ (len as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn word(seed: u64, place: u64) -> u64 {
    let mixed = (seed ^ place).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ (mixed >> 32)
}

/// Fills the block of `key` that has as many bytes as there are.
pub(crate) fn fill(key: &str, bytes: &mut [u8]) {
    let seed = seed(key, bytes.len());
    for (place, piece) in (0..).zip(bytes.chunks_mut(8)) {
        piece.copy_from_slice(&word(seed, place).to_le_bytes()[..piece.len()]);
    }
}

/// The block of `key` with `len` bytes.
pub(crate) fn bytes(key: &str, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fill(key, &mut bytes);
    bytes
}

/// Where the first word is that does not belong there.
pub(crate) fn first_wrong(key: &str, bytes: &[u8]) -> Option<usize> {
    let seed = seed(key, bytes.len());
    let (words, rest) = bytes.as_chunks::<8>();
    let wrong = (0..).zip(words).find(|(place, found)| word(seed, *place) != u64::from_le_bytes(**found));
    let place = match wrong {
        Some((place, _)) => place,
        None if word(seed, words.len() as u64).to_le_bytes()[..rest.len()] == *rest => return None,
        None => words.len() as u64,
    };
    usize::try_from(place * 8).ok()
}

/// What is wrong with a block that was asked for as `key`, if anything: its key, a byte, or what the agent's checksums say.
pub(crate) fn fault(key: &str, block: &Block) -> Option<String> {
    if block.key() != key {
        return Some(format!("{key:?} is {:?}", block.key()));
    }
    if let Some(at) = first_wrong(key, block) {
        return Some(format!("{key:?} of {} bytes is wrong at {at}", block.len()));
    }
    (!block.verify()).then(|| format!("{key:?} of {} bytes differs from its checksums", block.len()))
}

/// Checks every byte of a block.
#[track_caller]
pub(crate) fn assert_whole(key: &str, block: &Block) {
    if let Some(fault) = fault(key, block) {
        panic!("{fault}");
    }
}

/// Puts the block of `key` with `len` bytes.
pub(crate) fn put(cache: &Namespace, key: &str, len: usize) -> Result<PutOutcome, Error> {
    cache.put(key, &bytes(key, len))
}

/// Gets a block that must be there, with `len` bytes, and checks every one.
#[track_caller]
pub(crate) fn get_whole(cache: &Namespace, key: &str, len: usize) -> Block {
    let block = cache.get(key).unwrap_or_else(|error| panic!("{key:?}: {error}"));
    assert_eq!(block.len(), len, "length of {key:?}");
    assert_whole(key, &block);
    block
}

/// Numbers that look random and are the same for the same seed (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % (bound as u64)).expect("below a usize")
    }

    /// Whether this is one time in `times`.
    pub(crate) fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}
