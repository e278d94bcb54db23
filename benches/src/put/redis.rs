//! Redis puts.

use std::path::Path;

use crate::BenchResult;
use crate::put::{PutStore, Shape};
use crate::rivals::redis::{RedisClient, RedisServer};

struct RedisPut {
    client: RedisClient,
    _server: RedisServer,
}

pub(crate) fn start(scratch: &Path, _shape: &Shape) -> BenchResult<Box<dyn PutStore>> {
    let server = RedisServer::start(scratch)?;
    Ok(Box::new(RedisPut { client: server.connect()?, _server: server }))
}

impl PutStore for RedisPut {
    fn put(&mut self, key: &str, block: &[u8]) -> BenchResult<()> {
        self.client.set_many(&[(key, block)])
    }

    fn put_many(&mut self, items: &[(&str, &[u8])]) -> BenchResult<()> {
        self.client.set_many(items)
    }
}
