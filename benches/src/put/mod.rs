//! Putting blocks: latency one at a time, throughput by 64, and large blocks.

pub(crate) mod goals;
mod larder;
mod lmdb;
mod memcached;
mod memcpy;
mod redis;
mod run;
mod segment;
mod tmpfs;
mod ways;

use std::path::Path;

use crate::BenchResult;
use crate::hit::LARDER;

pub(crate) use run::run;

/// What is put, and how many at a time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) len_bytes: usize,
    /// `MANY` blocks a call rather than one.
    pub(crate) many: bool,
    /// How many bytes stay live: contenders that replace go round over so many, the others evict beyond it.
    pub(crate) live_bytes: usize,
}

impl Shape {
    /// How many keys a contender that replaces goes round over.
    pub(crate) fn window(&self) -> usize {
        (self.live_bytes / self.len_bytes).max(2)
    }
}

/// A store that takes blocks.
pub(crate) trait PutStore {
    /// Whether the same keys come round again. A store of write-once keys is given fresh ones and evicts.
    fn replaces(&self) -> bool {
        true
    }

    /// How many bytes it takes before it is timed.
    fn fill_bytes(&self, shape: &Shape) -> usize {
        shape.live_bytes
    }

    /// Puts a block; when this returns, every reader finds it.
    fn put(&mut self, key: &str, block: &[u8]) -> BenchResult<()>;

    /// Puts many blocks, by the best way that the store has for it.
    fn put_many(&mut self, items: &[(&str, &[u8])]) -> BenchResult<()> {
        for (key, block) in items {
            self.put(key, block)?;
        }
        Ok(())
    }
}

/// A row of the put tables.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) way: &'static str,
    /// Whether the row makes sense for a shape.
    pub(crate) fits: fn(&Shape) -> bool,
    pub(crate) start: fn(&Path, &Shape) -> BenchResult<Box<dyn PutStore>>,
}

/// The name of the ceiling, which goals refer to.
pub(crate) const MEMCPY: &str = "memcpy, populated to populated (the ceiling)";
/// The rival that goals refer to.
pub(crate) const REDIS: &str = "Redis SET, UNIX socket";

fn contenders() -> Vec<Contender> {
    let all = |_: &Shape| true;
    let one = |shape: &Shape| !shape.many;
    let many = |shape: &Shape| shape.many;
    let large = |shape: &Shape| shape.len_bytes >= 1 << 20;
    vec![
        Contender { name: LARDER, way: ways::PUT, fits: one, start: larder::start },
        Contender { name: LARDER, way: ways::PUT_SPIN, fits: one, start: larder::start_spin },
        Contender { name: LARDER, way: ways::PUT_MANY, fits: many, start: larder::start },
        Contender { name: LARDER, way: ways::PUT_MANY_SPIN, fits: many, start: larder::start_spin },
        Contender { name: LARDER, way: ways::WRITER, fits: large, start: larder::start_writer },
        Contender { name: "LMDB put", way: "MDB_NOSYNC", fits: all, start: lmdb::start },
        Contender { name: "LMDB put", way: "MDB_NOSYNC, MDB_WRITEMAP", fits: all, start: lmdb::start_write_map },
        Contender { name: REDIS, way: "pipelined when by 64", fits: all, start: redis::start },
        Contender {
            name: "memcached set, UNIX socket",
            way: "pipelined when by 64",
            fits: all,
            start: memcached::start,
        },
        Contender { name: "tmpfs file", way: "create, write, close", fits: all, start: tmpfs::start },
        Contender {
            name: "hand-made segment (crate shared_memory)",
            way: "no safety",
            fits: all,
            start: segment::start,
        },
        Contender { name: MEMCPY, way: "no index", fits: all, start: memcpy::start },
    ]
}
