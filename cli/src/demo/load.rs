//! Loading: each file becomes a block under its path.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use larder::Namespace;
use larder_protocol::message::MANY_MAX;
use serde::Serialize;

use super::interrupt::Interrupt;
use super::tree::{Entry, Tree};

/// Files from this length on are read straight into a writer's memory; shorter ones are put many at a time.
const WRITER_FROM_BYTES: u64 = 1 << 20;
/// Bytes put at a time.
const BATCH_BYTES: usize = 4 << 20;
/// Bytes read at a time into a writer's memory.
const CHUNK_BYTES: usize = 4 << 20;

/// What loading took.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Loaded {
    /// Blocks stored.
    pub(super) blocks: u64,
    /// Their payload.
    pub(super) bytes: u64,
    /// All of it.
    pub(super) seconds: f64,
    /// Of it, opening and reading files: what a disk and the page cache take, the first time above all.
    pub(super) reading_seconds: f64,
    /// Payload by time.
    pub(super) bytes_per_s: f64,
    /// Blocks by time.
    pub(super) blocks_per_s: f64,
}

/// Files that wait to be put together.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    items: Vec<(String, Range<usize>)>,
}

/// Loads the tree. Files that cannot be read, or that are no longer as they were found, are counted in it.
pub(super) fn load(
    namespace: &Namespace,
    root: &Path,
    tree: &mut Tree,
    interrupt: &Interrupt,
    bar: &ProgressBar,
) -> Result<Loaded> {
    let start = Instant::now();
    let mut reading = Duration::ZERO;
    let mut loaded = Loaded::default();
    let mut batch = Batch::default();
    for entry in &tree.entries {
        interrupt.check()?;
        let path = root.join(&entry.key);
        let result = if entry.len_bytes >= WRITER_FROM_BYTES {
            write(namespace, entry, &path, &mut reading, interrupt, bar)?
        } else {
            timed(&mut reading, || batch.read(entry, &path))
        };
        match result {
            Ok(()) => {
                loaded.blocks += 1;
                loaded.bytes += entry.len_bytes;
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => tree.skipped.changed += 1,
            Err(_) => tree.skipped.unreadable += 1,
        }
        if batch.is_full() {
            batch.put(namespace, bar)?;
        }
    }
    batch.put(namespace, bar)?;
    loaded.seconds = start.elapsed().as_secs_f64();
    loaded.reading_seconds = reading.as_secs_f64();
    loaded.bytes_per_s = loaded.bytes as f64 / loaded.seconds;
    loaded.blocks_per_s = loaded.blocks as f64 / loaded.seconds;
    Ok(loaded)
}

impl Batch {
    fn is_full(&self) -> bool {
        self.items.len() == MANY_MAX || self.bytes.len() >= BATCH_BYTES
    }

    fn read(&mut self, entry: &Entry, path: &Path) -> io::Result<()> {
        let start = self.bytes.len();
        let len = usize::try_from(entry.len_bytes).map_err(io::Error::other)?;
        self.bytes.resize(start + len, 0);
        let result = File::open(path).and_then(|mut file| read_whole(&mut file, &mut self.bytes[start..]));
        match &result {
            Ok(()) => self.items.push((entry.key.clone(), start..start + len)),
            Err(_) => self.bytes.truncate(start),
        }
        result
    }

    fn put(&mut self, namespace: &Namespace, bar: &ProgressBar) -> Result<()> {
        let items: Vec<(&str, &[u8])> =
            self.items.iter().map(|(key, range)| (key.as_str(), &self.bytes[range.clone()])).collect();
        for ((key, _), outcome) in items.iter().zip(namespace.put_many(&items)) {
            outcome.with_context(|| format!("cannot put {key:?}"))?;
        }
        bar.inc(self.bytes.len() as u64);
        self.items.clear();
        self.bytes.clear();
        Ok(())
    }
}

/// Puts one large file without a copy. The outer error is Larder's, the inner one the file's.
fn write(
    namespace: &Namespace,
    entry: &Entry,
    path: &Path,
    reading: &mut Duration,
    interrupt: &Interrupt,
    bar: &ProgressBar,
) -> Result<io::Result<()>> {
    let mut file = match timed(reading, || File::open(path)) {
        Ok(file) => file,
        Err(error) => return Ok(Err(error)),
    };
    let len = usize::try_from(entry.len_bytes).context("a file is longer than the address space")?;
    let mut writer = namespace.create(&entry.key, len).with_context(|| format!("cannot put {:?}", entry.key))?;
    for chunk in writer.as_mut_slice().chunks_mut(CHUNK_BYTES) {
        interrupt.check()?;
        if let Err(error) = timed(reading, || file.read_exact(chunk)) {
            return Ok(Err(error));
        }
        bar.inc(chunk.len() as u64);
    }
    if let Err(error) = read_whole(&mut file, &mut []) {
        return Ok(Err(error));
    }
    writer.commit().with_context(|| format!("cannot put {:?}", entry.key))?;
    Ok(Ok(()))
}

/// Adds the time that an act takes to `total`.
fn timed<T>(total: &mut Duration, act: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let result = act();
    *total += begin.elapsed();
    result
}

/// Reads exactly what there is: a file that is shorter or longer than it was found to be is an `UnexpectedEof`.
fn read_whole(file: &mut File, into: &mut [u8]) -> io::Result<()> {
    file.read_exact(into)?;
    match file.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
