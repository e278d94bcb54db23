//! A fresh process that reads every byte of the blocks, pass after pass.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::time::Instant;

use larder::Namespace;
use memmap2::{Advice, Mmap};
use nix::sys::mman::{MmapAdvise, madvise};
use serde::{Deserialize, Serialize};

use crate::machine::page_bytes;
use crate::workload::{BlockSet, key_of, noise, stamp};
use crate::{BenchResult, agent};

/// Where the bytes lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Memory {
    Private,
    Files,
    Larder,
}

/// All that a child process has to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BytesSpec {
    pub(crate) memory: Memory,
    /// The folder of files, or the agent's socket.
    pub(crate) path: PathBuf,
    pub(crate) blocks: u32,
    pub(crate) len_bytes: usize,
    /// Whether the first pass populates before it reads.
    pub(crate) populate: bool,
    /// What all words of all blocks add up to.
    pub(crate) sum: u64,
}

/// Passes after the first.
pub(crate) const LATER_PASSES: usize = 4;

/// What a child process does: answers with the bytes a second of each pass.
pub(crate) fn run_child(spec: &str) -> BenchResult<String> {
    let spec: BytesSpec = serde_json::from_str(spec)?;
    let keys: Vec<String> = (0..spec.blocks).map(key_of).collect();
    let passes = match spec.memory {
        Memory::Private => {
            let block = noise(spec.len_bytes);
            let mut memory = block.repeat(spec.blocks as usize);
            for (index, block) in (0..spec.blocks).zip(memory.chunks_exact_mut(spec.len_bytes)) {
                stamp(index, block);
            }
            time_passes(&spec, || Ok(memory.chunks_exact(spec.len_bytes).map(sum_of).fold(0, u64::wrapping_add)))?
        }
        Memory::Files => {
            let maps = keys.iter().map(|key| map_file(&spec.path.join(key))).collect::<BenchResult<Vec<Mmap>>>()?;
            let mut populate = spec.populate;
            time_passes(&spec, || {
                if std::mem::take(&mut populate) {
                    maps.iter().try_for_each(|map| map.advise(Advice::PopulateRead))?;
                }
                Ok(maps.iter().map(|map| sum_of(map)).fold(0, u64::wrapping_add))
            })?
        }
        Memory::Larder => {
            let namespace = agent::namespace(&spec.path)?;
            let mut populate = spec.populate;
            time_passes(&spec, || larder_pass(&namespace, &keys, std::mem::take(&mut populate)))?
        }
    };
    Ok(serde_json::to_string(&passes)?)
}

fn larder_pass(namespace: &Namespace, keys: &[String], populate: bool) -> BenchResult<u64> {
    let mut sum = 0u64;
    for key in keys {
        let block = namespace.get(key)?;
        if populate {
            populate_read(&block)?;
        }
        sum = sum.wrapping_add(sum_of(&block));
    }
    Ok(sum)
}

/// Times the first pass and the later ones.
fn time_passes(spec: &BytesSpec, mut pass: impl FnMut() -> BenchResult<u64>) -> BenchResult<Vec<f64>> {
    let bytes = f64::from(spec.blocks) * spec.len_bytes as f64;
    let mut speeds = Vec::new();
    for _ in 0..=LATER_PASSES {
        let started = Instant::now();
        let sum = pass()?;
        speeds.push(bytes / started.elapsed().as_secs_f64());
        if sum != spec.sum {
            return Err("the bytes read are not those that were put".into());
        }
    }
    Ok(speeds)
}

/// What all words of all blocks of a set add up to.
pub(crate) fn expected_sum(set: &BlockSet) -> u64 {
    let mut sum = 0u64;
    let mut block = noise(set.len_bytes);
    for index in 0..set.blocks {
        stamp(index, &mut block);
        sum = sum.wrapping_add(sum_of(&block));
    }
    sum
}

/// Adds up the words of a block in lanes, so that memory and not the adder is the limit.
fn sum_of(block: &[u8]) -> u64 {
    const LANES: usize = 16;
    let mut lanes = [0u64; LANES];
    for line in block.chunks_exact(LANES * 8) {
        for (lane, word) in lanes.iter_mut().zip(line.chunks_exact(8)) {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(word);
            *lane = lane.wrapping_add(u64::from_le_bytes(bytes));
        }
    }
    lanes.into_iter().fold(0, u64::wrapping_add)
}

fn map_file(path: &Path) -> BenchResult<Mmap> {
    let file = File::open(path)?;
    // SAFETY: the file lies in the bench's own scratch folder, and nothing writes or truncates it once it is loaded.
    Ok(unsafe { Mmap::map(&file) }?)
}

/// Asks the kernel to map every page of a block at once.
fn populate_read(block: &[u8]) -> BenchResult<()> {
    let page = usize::try_from(page_bytes())?;
    let into_page = block.as_ptr().addr() % page;
    let start = block.as_ptr().map_addr(|address| address - into_page);
    let start = NonNull::new(start.cast_mut().cast()).ok_or("a block has no address")?;
    // SAFETY: the range is the pages of a live mapping that the borrow of `block` keeps; MADV_POPULATE_READ only reads them in.
    unsafe { madvise(start, into_page + block.len(), MmapAdvise::MADV_POPULATE_READ) }?;
    Ok(())
}
