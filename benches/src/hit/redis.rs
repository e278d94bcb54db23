//! Redis as a store of blocks: GET copies the whole value through the socket.

use std::path::Path;

use crate::BenchResult;
use crate::harness::Reader;
use crate::hit::{DEPENDENT, HitStore, Way};
use crate::rivals::redis::{RedisClient, RedisServer};
use crate::workload::{Access, BlockSet, Walk, for_each_batch, walk_each};

struct RedisStore {
    server: RedisServer,
    len_bytes: usize,
}

pub(crate) fn load(scratch: &Path, set: &BlockSet) -> BenchResult<Box<dyn HitStore>> {
    let server = RedisServer::start(scratch)?;
    let mut client = server.connect()?;
    for_each_batch(set, |items| client.set_many(items))?;
    Ok(Box::new(RedisStore { server, len_bytes: set.len_bytes }))
}

impl HitStore for RedisStore {
    fn ways(&self) -> &'static [Way] {
        &[DEPENDENT]
    }

    fn reader(&self, _way: Way) -> BenchResult<Box<dyn Reader + '_>> {
        Ok(Box::new(RedisReader { client: self.server.connect()?, buffer: vec![0; self.len_bytes] }))
    }
}

struct RedisReader {
    client: RedisClient,
    buffer: Vec<u8>,
}

impl Reader for RedisReader {
    fn batch(&mut self, walk: &mut Walk<'_>, access: Access, ops: usize) -> BenchResult<()> {
        walk_each(walk, access, ops, |key| {
            self.client.get(key, &mut self.buffer)?;
            Ok(self.buffer[0])
        })
    }
}
