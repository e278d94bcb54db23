//! What one reader does with blocks and files, and how long it takes.

use std::collections::BTreeMap;
use std::fs::File;
use std::hint::black_box;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use larder::Namespace;
use serde::{Deserialize, Serialize};

/// Hits timed together: reading the clock takes about as long as a quarter of a hit.
pub(super) const HITS_PER_TIMING: usize = 8;
/// Reads between two looks at the clock where single ones are not timed.
const READS_PER_LOOK: usize = 16;
/// Bytes of a file compared at a time.
const COMPARE_BYTES: usize = 1 << 20;
/// Kernels stamp a change with the time of the last tick, and clocks are set: only a file that was not touched for this
/// long before loading began counts as unchanged.
const CLOCK_SLACK_NS: i128 = 1_000_000_000;
/// How many keys with wrong bytes are named.
const WRONG_NAMED_MAX: usize = 5;

/// Times in nanoseconds and how often each occurred, to three digits: exact enough, small enough to send, and the
/// readers' can be added up.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Timings(BTreeMap<u64, u64>);

impl Timings {
    pub(super) fn add(&mut self, ns: u64) {
        let mut scale = 1;
        while ns / scale >= 1_000 {
            scale *= 10;
        }
        *self.0.entry(ns / scale * scale).or_default() += 1;
    }

    pub(super) fn merge(&mut self, other: &Timings) {
        for (ns, count) in &other.0 {
            *self.0.entry(*ns).or_default() += count;
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// The time that `percent` of all do not exceed; 0 when there are none.
    pub(super) fn percentile(&self, percent: u64) -> u64 {
        let rank = (self.count() * percent).div_ceil(100);
        let mut seen = 0;
        for (ns, count) in &self.0 {
            seen += count;
            if seen >= rank {
                return *ns;
            }
        }
        0
    }
}

/// What comparing blocks with files found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Verified {
    pub(super) blocks: u64,
    pub(super) bytes: u64,
    /// Blocks that differ from their file although it is as it was.
    pub(super) wrong: u64,
    /// The first of their keys.
    pub(super) wrong_keys: Vec<String>,
    /// Blocks that differ from their file because it was written or removed since.
    pub(super) changed: u64,
    pub(super) seconds: f64,
}

/// Reads and how long they took.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Reads {
    pub(super) timings: Timings,
    pub(super) reads: u64,
    pub(super) bytes: u64,
    pub(super) seconds: f64,
}

/// One reader's view of what was loaded.
#[derive(Debug)]
pub(super) struct Subject {
    namespace: Namespace,
    root: PathBuf,
    loaded_at_ns: i128,
    /// Keys, and the lengths of their blocks once they have been compared.
    blocks: Vec<(String, usize)>,
    random: Random,
}

impl Subject {
    /// Learns from the agent which keys there are, not from the process that loaded them.
    pub(super) fn new(namespace: Namespace, root: PathBuf, loaded_at_ns: i128) -> Result<Subject> {
        let blocks: Vec<(String, usize)> = namespace.list("")?.into_iter().map(|key| (key, 0)).collect();
        if blocks.is_empty() {
            bail!("the namespace is empty");
        }
        Ok(Subject { namespace, root, loaded_at_ns, blocks, random: Random(u64::from(std::process::id())) })
    }

    pub(super) fn blocks(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// Compares every byte of every block with its file. This also maps and touches every page once.
    pub(super) fn verify(&mut self, mut progress: impl FnMut(u64) -> Result<()>) -> Result<Verified> {
        let mut verified = Verified::default();
        let mut buffer = vec![0; COMPARE_BYTES];
        let start = Instant::now();
        for (key, len) in &mut self.blocks {
            let block = self.namespace.get(key).with_context(|| format!("cannot get {key:?}"))?;
            *len = block.len();
            let path = self.root.join(key.as_str());
            if !is_same(&path, &block, &mut buffer).unwrap_or(false) {
                if is_unchanged_since(&path, self.loaded_at_ns - CLOCK_SLACK_NS) {
                    verified.wrong += 1;
                    if verified.wrong_keys.len() < WRONG_NAMED_MAX {
                        verified.wrong_keys.push(key.clone());
                    }
                } else {
                    verified.changed += 1;
                }
            }
            verified.blocks += 1;
            verified.bytes += block.len() as u64;
            progress(block.len() as u64)?;
        }
        verified.seconds = start.elapsed().as_secs_f64();
        Ok(verified)
    }

    /// Gets random keys: find, pin, touch the first byte, let go. The keys are in the processor's cache, as a key is
    /// that was just made; the blocks and their index entries are wherever they are.
    pub(super) fn hits(&mut self, how_long: Duration) -> Result<Reads> {
        let mut reads = Reads::default();
        let mut keys: [String; HITS_PER_TIMING] = Default::default();
        let start = Instant::now();
        while start.elapsed() < how_long {
            for key in &mut keys {
                key.clear();
                key.push_str(&self.blocks[self.random.below(self.blocks.len())].0);
            }
            let begin = Instant::now();
            for key in &keys {
                let block = self.namespace.get(key).with_context(|| format!("cannot get {key:?}"))?;
                black_box(block.first());
            }
            let ns = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
            reads.timings.add(ns / HITS_PER_TIMING as u64);
            reads.reads += HITS_PER_TIMING as u64;
        }
        reads.seconds = start.elapsed().as_secs_f64();
        Ok(reads)
    }

    /// Gets random keys and reads every word of their blocks where they lie.
    pub(super) fn in_place(&mut self, how_long: Duration) -> Result<Reads> {
        let mut reads = Reads::default();
        let start = Instant::now();
        while start.elapsed() < how_long {
            for _ in 0..READS_PER_LOOK {
                let (key, _) = &self.blocks[self.random.below(self.blocks.len())];
                let block = self.namespace.get(key).with_context(|| format!("cannot get {key:?}"))?;
                black_box(sum_words(&block));
                reads.reads += 1;
                reads.bytes += block.len() as u64;
            }
        }
        reads.seconds = start.elapsed().as_secs_f64();
        Ok(reads)
    }

    /// The same from files: open, read into memory that is there already, close; then every word as before. Paths are
    /// made and buffers grown outside the time, and the length is known, which saves the file a system call.
    pub(super) fn files(&mut self, how_long: Duration) -> Result<Reads> {
        let mut reads = Reads::default();
        let mut buffer = vec![0; self.blocks.iter().map(|(_, len)| *len).max().unwrap_or(0)];
        let mut path = self.root.clone();
        let start = Instant::now();
        let mut reading = Duration::ZERO;
        while start.elapsed() < how_long {
            let (key, len) = &self.blocks[self.random.below(self.blocks.len())];
            path.clone_from(&self.root);
            path.push(key);
            let into = &mut buffer[..*len];
            let begin = Instant::now();
            // A file that is gone or shorter by now says nothing about reading files.
            if File::open(&path).and_then(|mut file| file.read_exact(into)).is_err() {
                continue;
            }
            let read = begin.elapsed();
            black_box(sum_words(into));
            reading += begin.elapsed();
            reads.timings.add(u64::try_from(read.as_nanos()).unwrap_or(u64::MAX));
            reads.reads += 1;
            reads.bytes += into.len() as u64;
        }
        reads.seconds = reading.as_secs_f64();
        Ok(reads)
    }
}

/// Whether a file holds exactly these bytes.
fn is_same(path: &Path, block: &[u8], buffer: &mut [u8]) -> io::Result<bool> {
    let mut file = File::open(path)?;
    for chunk in block.chunks(buffer.len()) {
        let read = &mut buffer[..chunk.len()];
        file.read_exact(read)?;
        if read != chunk {
            return Ok(false);
        }
    }
    Ok(file.read(&mut [0])? == 0)
}

/// Whether a file is there and was neither written nor replaced since a time in nanoseconds since 1970. The time of its
/// last change cannot be set back, unlike that of its last write.
fn is_unchanged_since(path: &Path, since_ns: i128) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| {
        i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec()) < since_ns
    })
}

/// Reads every byte, eight at a time.
fn sum_words(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let sum = words.iter().fold(0_u64, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)));
    rest.iter().fold(sum, |sum, byte| sum.wrapping_add(u64::from(*byte)))
}

/// SplitMix64: enough to jump about, and no crate.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        // The high word of the product is below the limit and, for limits far below 2^64, as good as uniform.
        let high = (u128::from(mixed) * limit as u128) >> 64;
        usize::try_from(high).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_rounded_timings() {
        let mut timings = Timings::default();
        assert_eq!(timings.percentile(50), 0);
        for ns in 1..=100 {
            timings.add(ns * 10);
        }
        assert_eq!((timings.count(), timings.percentile(50), timings.percentile(99)), (100, 500, 990));
        let mut other = Timings::default();
        other.add(123_456);
        timings.merge(&other);
        assert_eq!(timings.percentile(100), 123_000);
    }

    #[test]
    fn every_byte_counts_in_the_sum() {
        let bytes: Vec<u8> = (0..37).collect();
        let whole = sum_words(&bytes);
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 1;
            assert_ne!(sum_words(&other), whole, "byte {at}");
        }
    }

    #[test]
    fn random_numbers_reach_everything_below_the_limit() {
        let mut random = Random(7);
        let mut seen = [false; 10];
        for _ in 0..1_000 {
            seen[random.below(10)] = true;
        }
        assert_eq!(seen, [true; 10]);
    }
}
