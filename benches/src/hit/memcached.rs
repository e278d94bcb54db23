//! memcached as a store of blocks: `get` copies the whole value through the socket.

use std::path::Path;

use crate::BenchResult;
use crate::harness::Reader;
use crate::hit::{DEPENDENT, HitStore, Way};
use crate::rivals::memcached::{MemcachedClient, MemcachedServer};
use crate::workload::{Access, BlockSet, Walk, for_each_batch, walk_each};

struct MemcachedStore {
    server: MemcachedServer,
    len_bytes: usize,
}

pub(crate) fn load(scratch: &Path, set: &BlockSet) -> BenchResult<Box<dyn HitStore>> {
    // Slab classes waste up to a fifth, and nothing may be evicted before it is read.
    let server = MemcachedServer::start(scratch, set.total_bytes() * 3 / 2 + (256 << 20), set.len_bytes)?;
    let mut client = server.connect()?;
    for_each_batch(set, |items| client.set_many(items))?;
    Ok(Box::new(MemcachedStore { server, len_bytes: set.len_bytes }))
}

impl HitStore for MemcachedStore {
    fn ways(&self) -> &'static [Way] {
        &[DEPENDENT]
    }

    fn reader(&self, _way: Way) -> BenchResult<Box<dyn Reader + '_>> {
        Ok(Box::new(MemcachedReader { client: self.server.connect()?, buffer: vec![0; self.len_bytes] }))
    }
}

struct MemcachedReader {
    client: MemcachedClient,
    buffer: Vec<u8>,
}

impl Reader for MemcachedReader {
    fn batch(&mut self, walk: &mut Walk<'_>, access: Access, ops: usize) -> BenchResult<()> {
        walk_each(walk, access, ops, |key| {
            self.client.get(key, &mut self.buffer)?;
            Ok(self.buffer[0])
        })
    }
}
