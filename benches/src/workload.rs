//! The blocks that every contender holds and the order in which their keys are asked for.
//!
//! A walk is **dependent**: two keys lie side by side at each position, and the byte just read from a block decides which of
//! the two is asked for next. So a get cannot begin before the one before it has ended, as in a program that follows data.
//! The keys of a walk lie in visiting order, so the processor fetches them ahead and no contender is charged for key storage.

use crate::BenchResult;

/// Every key has this many bytes, so that no contender is charged for measuring a string.
pub(crate) const KEY_LEN_BYTES: usize = 16;

/// How many keys one vectored get asks for.
pub(crate) const MANY: usize = 64;

/// The smallest block that can carry its stamp.
pub(crate) const STAMP_LEN_BYTES: usize = 16;

/// A set of equal-sized blocks, numbered from zero.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockSet {
    pub(crate) blocks: u32,
    pub(crate) len_bytes: usize,
}

impl BlockSet {
    pub(crate) fn total_bytes(&self) -> usize {
        self.blocks as usize * self.len_bytes
    }

    pub(crate) fn title(&self) -> String {
        format!("{} x {}", grouped(u64::from(self.blocks)), size_words(self.len_bytes))
    }
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A size in the unit that divides it: the sets use both 4 KiB and 1 MB.
pub(crate) fn size_words(bytes: usize) -> String {
    for (unit, name) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1_000_000, "MB")] {
        if bytes >= unit && bytes.is_multiple_of(unit) && !(unit == 1 << 10 && bytes.is_multiple_of(1_000_000)) {
            return format!("{} {name}", bytes / unit);
        }
    }
    format!("{bytes} B")
}

/// The key of block `index` of a hit set.
pub(crate) fn key_of(index: u32) -> String {
    format!("blk/{index:012}")
}

/// Mixes the bits of a counter (splitmix64), for payloads and orders that repeat from run to run.
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The first byte of block `index`: what a walk reads, and what the model of a walk expects.
pub(crate) fn first_byte(index: u32) -> u8 {
    mix(u64::from(index)).to_le_bytes()[0]
}

/// A buffer of bytes that no memory system can shorten or share.
pub(crate) fn noise(len_bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len_bytes + 8);
    let mut counter = 0x1a2d_e100;
    while out.len() < len_bytes {
        out.extend_from_slice(&mix(counter).to_le_bytes());
        counter += 1;
    }
    out.truncate(len_bytes);
    out
}

/// Writes what makes block `index` different from the others over the head of a buffer of noise.
pub(crate) fn stamp(index: u32, block: &mut [u8]) {
    block[..8].copy_from_slice(&mix(u64::from(index)).to_le_bytes());
    block[8..STAMP_LEN_BYTES].copy_from_slice(&u64::from(index).to_le_bytes());
}

/// Hands every block of a set, with its key, to `put`.
pub(crate) fn for_each_block(set: &BlockSet, mut put: impl FnMut(&str, &[u8]) -> BenchResult<()>) -> BenchResult<()> {
    let mut block = noise(set.len_bytes);
    for index in 0..set.blocks {
        stamp(index, &mut block);
        put(&key_of(index), &block)?;
    }
    Ok(())
}

/// Hands every block of a set to a function that takes many at once: a MiB a call, or one larger block.
pub(crate) fn for_each_batch(
    set: &BlockSet,
    mut put_many: impl FnMut(&[(&str, &[u8])]) -> BenchResult<()>,
) -> BenchResult<()> {
    let batch = ((1 << 20) / set.len_bytes).clamp(1, MANY);
    let mut blocks = vec![noise(set.len_bytes); batch];
    let all: Vec<u32> = (0..set.blocks).collect();
    for indices in all.chunks(batch) {
        let keys: Vec<String> = indices.iter().map(|index| key_of(*index)).collect();
        for (index, block) in indices.iter().zip(&mut blocks) {
            stamp(*index, block);
        }
        let items: Vec<(&str, &[u8])> =
            keys.iter().zip(&blocks).map(|(key, block)| (key.as_str(), block.as_slice())).collect();
        put_many(&items)?;
    }
    Ok(())
}

/// All keys of a set in one random order.
#[derive(Debug)]
pub(crate) struct KeyOrder {
    text: String,
    keys: usize,
}

impl KeyOrder {
    pub(crate) fn new(blocks: u32) -> Self {
        let mut order: Vec<u32> = (0..blocks).collect();
        for last in (1..order.len()).rev() {
            let other = mix(last as u64) % (last as u64 + 1);
            order.swap(last, usize::try_from(other).unwrap_or(last));
        }
        // Two keys a position: an odd set leaves its last key to nobody.
        let keys = order.len() & !1;
        let mut text = String::with_capacity(keys * KEY_LEN_BYTES);
        for index in &order[..keys] {
            text.push_str(&key_of(*index));
        }
        Self { text, keys }
    }

    pub(crate) fn keys(&self) -> usize {
        self.keys
    }

    fn key(&self, slot: usize) -> &str {
        &self.text[slot * KEY_LEN_BYTES..(slot + 1) * KEY_LEN_BYTES]
    }
}

/// How a walk chooses its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum Access {
    /// The byte just read chooses the next key.
    Dependent,
    /// The keys are known in advance, one call each.
    Independent,
    /// `MANY` keys a call; the bytes of one call choose the keys of the next.
    Many,
}

/// One reader's way through a key order.
#[derive(Debug)]
pub(crate) struct Walk<'k> {
    order: &'k KeyOrder,
    position: usize,
    sweep: usize,
    lap_bits: u64,
    laps: u64,
    choice: u8,
    digest: u64,
}

impl<'k> Walk<'k> {
    /// Begins at a place of its own for each `reader`, so that readers do not run in step.
    pub(crate) fn new(order: &'k KeyOrder, reader: usize) -> Self {
        let position = (reader * 7919 * 31) % (order.keys / 2);
        Self { order, position, sweep: position * 2, lap_bits: mix(reader as u64), laps: 0, choice: 0, digest: 0 }
    }

    /// The next key that depends on the last byte.
    #[inline]
    pub(crate) fn dependent_key(&self) -> &'k str {
        // A few random bits a lap, so that repeated laps reach both keys of every position.
        let side = self.choice ^ ((self.lap_bits >> (self.position & 63)) & 1) as u8;
        self.order.key(self.position * 2 + usize::from(side & 1))
    }

    #[inline]
    fn advance(&mut self) {
        self.position += 1;
        if self.position == self.order.keys / 2 {
            self.position = 0;
            self.laps += 1;
            self.lap_bits = mix(self.lap_bits ^ self.laps);
        }
    }

    /// Takes the byte that `dependent_key` led to.
    #[inline]
    pub(crate) fn took(&mut self, byte: u8) {
        self.choice = byte;
        self.note(byte);
        self.advance();
    }

    /// The next key that depends on nothing.
    #[inline]
    pub(crate) fn independent_key(&mut self) -> &'k str {
        let key = self.order.key(self.sweep);
        self.sweep += 1;
        if self.sweep == self.order.keys {
            self.sweep = 0;
        }
        key
    }

    /// Takes a byte without letting it choose.
    #[inline]
    pub(crate) fn note(&mut self, byte: u8) {
        self.digest = self.digest.rotate_left(1) ^ u64::from(byte);
    }

    /// The keys of one vectored get, all chosen by the bytes of the last one.
    #[inline]
    pub(crate) fn many_keys(&mut self) -> [&'k str; MANY] {
        std::array::from_fn(|_| {
            let key = self.dependent_key();
            self.advance();
            key
        })
    }

    /// Lets the bytes of one vectored get choose the keys of the next.
    #[inline]
    pub(crate) fn took_many(&mut self, bytes: impl Iterator<Item = u8>) {
        let mut choice = 0;
        for byte in bytes {
            self.note(byte);
            choice ^= byte;
        }
        self.choice = choice;
    }

    /// A digest over every byte taken, to compare with the model's.
    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }
}

/// Walks `ops` keys with a function that finds one block and returns its first byte.
#[inline]
pub(crate) fn walk_each(
    walk: &mut Walk<'_>,
    access: Access,
    ops: usize,
    mut get: impl FnMut(&str) -> BenchResult<u8>,
) -> BenchResult<()> {
    match access {
        Access::Dependent => {
            for _ in 0..ops {
                let byte = get(walk.dependent_key())?;
                walk.took(byte);
            }
        }
        Access::Independent => {
            for _ in 0..ops {
                let byte = get(walk.independent_key())?;
                walk.note(byte);
            }
        }
        Access::Many => {
            for _ in 0..ops / MANY {
                let keys = walk.many_keys();
                let mut bytes = [0; MANY];
                for (byte, key) in bytes.iter_mut().zip(keys) {
                    *byte = get(key)?;
                }
                walk.took_many(bytes.into_iter());
            }
        }
    }
    Ok(())
}

/// What the digest of an honest walk is: the same walk over a function that knows every block.
pub(crate) fn model_digest(walk: &mut Walk<'_>, access: Access, ops: usize) -> BenchResult<u64> {
    walk_each(walk, access, ops, |key| Ok(first_byte(key[4..].parse()?)))?;
    Ok(walk.digest())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn sizes_are_named_by_the_unit_that_divides_them() {
        assert_eq!(size_words(4096), "4 KiB");
        assert_eq!(size_words(1_000_000), "1 MB");
        assert_eq!(size_words(64 << 20), "64 MiB");
        assert_eq!(size_words(4097), "4097 B");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }

    #[test]
    fn an_independent_walk_meets_every_block_once_a_lap() {
        let order = KeyOrder::new(1000);
        let mut walk = Walk::new(&order, 3);
        let met: HashSet<String> = (0..1000).map(|_| walk.independent_key().to_owned()).collect();
        assert_eq!(met.len(), 1000);
    }

    #[test]
    fn dependent_walks_meet_every_block_sooner_or_later() {
        let order = KeyOrder::new(1000);
        for access in [Access::Dependent, Access::Many] {
            let mut met = HashSet::new();
            walk_each(&mut Walk::new(&order, 0), access, 64_000, |key| {
                met.insert(key.to_owned());
                Ok(first_byte(key[4..].parse()?))
            })
            .unwrap();
            assert!(met.len() > 990, "{access:?} met {} of 1,000 blocks", met.len());
        }
    }

    #[test]
    fn a_wrong_byte_changes_the_digest() {
        let order = KeyOrder::new(100);
        let honest = model_digest(&mut Walk::new(&order, 0), Access::Dependent, 50).unwrap();
        let mut walk = Walk::new(&order, 0);
        let mut asked = 0;
        walk_each(&mut walk, Access::Dependent, 50, |key| {
            asked += 1;
            Ok(first_byte(key[4..].parse()?) ^ u8::from(asked == 20))
        })
        .unwrap();
        assert_ne!(walk.digest(), honest);
    }
}
