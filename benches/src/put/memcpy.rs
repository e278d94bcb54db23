//! A copy from private memory to private memory that is already populated: what no put can be faster than.

use std::path::Path;

use crate::BenchResult;
use crate::put::{PutStore, Shape};

struct MemcpyPut {
    memory: Vec<u8>,
    next: usize,
}

pub(crate) fn start(_scratch: &Path, shape: &Shape) -> BenchResult<Box<dyn PutStore>> {
    let len_bytes = shape.window() * shape.len_bytes;
    // Filled with ones, since zeroed memory is not there until it is written.
    Ok(Box::new(MemcpyPut { memory: vec![1; len_bytes], next: 0 }))
}

impl PutStore for MemcpyPut {
    fn put(&mut self, _key: &str, block: &[u8]) -> BenchResult<()> {
        if self.next + block.len() > self.memory.len() {
            self.next = 0;
        }
        self.memory[self.next..self.next + block.len()].copy_from_slice(block);
        self.next += block.len();
        Ok(())
    }
}
