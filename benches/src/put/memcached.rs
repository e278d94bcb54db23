//! memcached puts.

use std::path::Path;

use crate::BenchResult;
use crate::put::{PutStore, Shape};
use crate::rivals::memcached::{MemcachedClient, MemcachedServer};

struct MemcachedPut {
    client: MemcachedClient,
    _server: MemcachedServer,
}

pub(crate) fn start(scratch: &Path, shape: &Shape) -> BenchResult<Box<dyn PutStore>> {
    let server = MemcachedServer::start(scratch, shape.live_bytes * 2, shape.len_bytes)?;
    Ok(Box::new(MemcachedPut { client: server.connect()?, _server: server }))
}

impl PutStore for MemcachedPut {
    fn put(&mut self, key: &str, block: &[u8]) -> BenchResult<()> {
        self.client.set_many(&[(key, block)])
    }

    fn put_many(&mut self, items: &[(&str, &[u8])]) -> BenchResult<()> {
        self.client.set_many(items)
    }
}
