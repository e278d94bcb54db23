//! A copy of each block out of private memory, found by arithmetic: the floor of every contender that copies.

use std::path::Path;

use crate::BenchResult;
use crate::harness::Reader;
use crate::hit::{DEPENDENT, HitStore, Way};
use crate::workload::{Access, BlockSet, Walk, noise, stamp, walk_each};

struct MemcpyStore {
    memory: Vec<u8>,
    len_bytes: usize,
}

pub(crate) fn load(_scratch: &Path, set: &BlockSet) -> BenchResult<Box<dyn HitStore>> {
    let block = noise(set.len_bytes);
    let mut memory = Vec::with_capacity(set.total_bytes());
    for index in 0..set.blocks {
        let start = memory.len();
        memory.extend_from_slice(&block);
        stamp(index, &mut memory[start..]);
    }
    Ok(Box::new(MemcpyStore { memory, len_bytes: set.len_bytes }))
}

impl HitStore for MemcpyStore {
    fn ways(&self) -> &'static [Way] {
        &[DEPENDENT]
    }

    fn reader(&self, _way: Way) -> BenchResult<Box<dyn Reader + '_>> {
        Ok(Box::new(MemcpyReader { store: self, buffer: vec![0; self.len_bytes] }))
    }
}

struct MemcpyReader<'m> {
    store: &'m MemcpyStore,
    buffer: Vec<u8>,
}

impl Reader for MemcpyReader<'_> {
    fn batch(&mut self, walk: &mut Walk<'_>, access: Access, ops: usize) -> BenchResult<()> {
        walk_each(walk, access, ops, |key| {
            let at = key[4..].parse::<usize>()? * self.store.len_bytes;
            self.buffer.copy_from_slice(&self.store.memory[at..at + self.store.len_bytes]);
            // Without this the compiler might copy only the byte that is read.
            Ok(std::hint::black_box(&self.buffer)[0])
        })
    }
}
