//! What one reader does with blocks and files, and how long it takes.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::hint::black_box;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use larder::{Error, Namespace};
use larder_protocol::key;
use serde::{Deserialize, Serialize};

use super::origin::Origin;

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

/// What asking for every key once brought.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Asked {
    pub(super) blocks: u64,
    pub(super) bytes: u64,
    /// Keys that could not be had.
    pub(super) failed: u64,
    /// Why, of the first of them.
    pub(super) failure: Option<String>,
    pub(super) seconds: f64,
}

/// What the demo tells its readers of a key that is there, or is to be fetched.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Known {
    pub(super) key: String,
    /// 32 hexadecimal digits of what was put, where that is known.
    pub(super) digest: Option<String>,
}

/// What a reader knows from the demo; the rest it asks the agent.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The directory that has the same files.
    pub(super) root: Option<PathBuf>,
    /// What the keys are fetched from.
    pub(super) origin: Option<Origin>,
    /// All keys, where the agent does not know them yet, or whose digests are to be compared.
    pub(super) known: Vec<Known>,
    pub(super) loaded_at_ns: i128,
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
    root: Option<PathBuf>,
    origin: Option<Origin>,
    /// Of the keys of which they are known.
    digests: HashMap<String, String>,
    loaded_at_ns: i128,
    /// Keys, and the lengths of their blocks once they have been compared.
    blocks: Vec<(String, usize)>,
    random: Random,
}

impl Subject {
    /// Learns from the agent which keys there are, not from the process that loaded them.
    ///
    /// But for what is still to be fetched, which is as told.
    pub(super) fn new(namespace: Namespace, told: Told) -> Result<Subject> {
        let keys = match &told.origin {
            Some(_) => told.known.iter().map(|known| known.key.clone()).collect(),
            None => namespace.list("")?,
        };
        let blocks: Vec<(String, usize)> = keys.into_iter().map(|key| (key, 0)).collect();
        if blocks.is_empty() {
            bail!("the namespace is empty");
        }
        let Told { root, origin, known, loaded_at_ns } = told;
        let digests = known.into_iter().filter_map(|known| Some((known.key, known.digest?))).collect();
        let random = Random(u64::from(std::process::id()));
        Ok(Subject { namespace, root, origin, digests, loaded_at_ns, blocks, random })
    }

    /// Asks for every key once, in order: from the origin where there is one. What cannot be had is left out from here on.
    pub(super) fn ask_all(&mut self, mut progress: impl FnMut(u64) -> Result<()>) -> Result<Asked> {
        let mut asked = Asked::default();
        let mut had = Vec::with_capacity(self.blocks.len());
        let start = Instant::now();
        for (key, _) in std::mem::take(&mut self.blocks) {
            let found = match &self.origin {
                Some(origin) => self.namespace.get_or_fetch(&key, &origin.url(&key)),
                None => self.namespace.get(&key),
            };
            match found {
                Ok(block) => {
                    asked.blocks += 1;
                    asked.bytes += block.len() as u64;
                    progress(block.len() as u64)?;
                    had.push((key, block.len()));
                }
                Err(error @ (Error::NotFound | Error::Denied(_) | Error::Origin(_) | Error::OriginChanged(_))) => {
                    asked.failed += 1;
                    asked.failure.get_or_insert_with(|| format!("{key:?}: {error}"));
                    // Of a server that is gone each file would take minutes to find that out.
                    if self.origin.as_ref().is_some_and(Origin::is_url) {
                        break;
                    }
                }
                Err(error) => return Err(error).with_context(|| format!("cannot get {key:?}")),
            }
        }
        asked.seconds = start.elapsed().as_secs_f64();
        self.blocks = had;
        Ok(asked)
    }

    pub(super) fn blocks(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// Compares every byte of every block with its file, or with what was put. This also maps and touches every page once.
    pub(super) fn verify(&mut self, mut progress: impl FnMut(u64) -> Result<()>) -> Result<Verified> {
        let mut verified = Verified::default();
        let mut buffer = vec![0; COMPARE_BYTES];
        let start = Instant::now();
        for (key, len) in &mut self.blocks {
            let block = self.namespace.get(key).with_context(|| format!("cannot get {key:?}"))?;
            *len = block.len();
            let path = self.root.as_ref().map(|root| root.join(key.as_str()));
            let is_right = match (self.digests.get(key), &path) {
                (Some(digest), _) => *digest == digest_of(&block),
                (None, Some(path)) => is_same(path, &block, &mut buffer).unwrap_or(false),
                (None, None) => bail!("there is nothing to compare {key:?} with"),
            };
            if !is_right {
                let is_file = !self.digests.contains_key(key);
                let file = path.filter(|_| is_file);
                if file.is_none_or(|path| is_unchanged_since(&path, self.loaded_at_ns - CLOCK_SLACK_NS)) {
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
        let root = self.root.as_ref().context("there are no files to read")?;
        let mut path = root.clone();
        let start = Instant::now();
        let mut reading = Duration::ZERO;
        while start.elapsed() < how_long {
            let (key, len) = &self.blocks[self.random.below(self.blocks.len())];
            path.clone_from(root);
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

/// What a block's bytes are told by when there is no file to compare them with.
pub(super) fn digest_of(block: &[u8]) -> String {
    format!("{:032x}", key::digest(block))
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
