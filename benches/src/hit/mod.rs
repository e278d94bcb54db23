//! One local hit: find a block, touch its first byte, let it go.

pub(crate) mod goals;
mod larder;
mod lmdb;
mod memcached;
mod memcpy;
pub(crate) mod names;
mod redis;
mod run;
mod scale;
mod segment;
mod tmpfs;

use std::path::Path;

use crate::BenchResult;
use crate::harness::Reader;
use crate::workload::{Access, BlockSet};

pub(crate) use larder::capacity_bytes;
pub(crate) use run::run;
pub(crate) use scale::{ChildKind, run_child};

/// One way of reading a store that gets a row of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Way {
    /// What the row is called, after the store.
    pub(crate) words: &'static str,
    pub(crate) access: Access,
}

pub(crate) const LARDER: &str = "Larder";
pub(crate) const LARDER_HUGE: &str = "Larder, 2 MiB pages";
pub(crate) const MANY_WORDS: &str = "get_many of 64";

/// The dependent walk, which every store has.
pub(crate) const DEPENDENT: Way = Way { words: names::DEPENDENT, access: Access::Dependent };

/// The walk whose keys are known in advance.
pub(crate) const INDEPENDENT: Way = Way { words: "independent", access: Access::Independent };

/// A store that has taken a set of blocks.
pub(crate) trait HitStore {
    /// The ways in which it can be read.
    fn ways(&self) -> &'static [Way];

    /// A reader for one of the ways.
    fn reader(&self, way: Way) -> BenchResult<Box<dyn Reader + '_>>;

    /// Where a child process finds the store, and which way the scaling rows read it; none for stores that get no such rows.
    fn scaling(&self) -> Option<Scaling<'_>> {
        None
    }
}

/// How a store is read by many threads or processes at once.
#[derive(Clone, Copy)]
pub(crate) struct Scaling<'s> {
    /// The store, for threads of this process.
    pub(crate) store: &'s (dyn HitStore + Sync),
    pub(crate) way: Way,
    /// Which store a child process opens, and where.
    pub(crate) kind: ChildKind,
    pub(crate) path: &'s Path,
}

/// A store to be measured.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    /// Whether readers map the blocks, so that a first touch faults.
    pub(crate) in_place: bool,
    /// Bytes of memory for each byte of payload in blocks of one page, with room to spare.
    pub(crate) memory_factor: f64,
    /// Starts it and loads the set.
    pub(crate) load: fn(&Path, &BlockSet) -> BenchResult<Box<dyn HitStore>>,
}

/// Every contender, in the order of the table.
pub(crate) fn contenders() -> Vec<Contender> {
    vec![
        Contender { name: LARDER, in_place: true, memory_factor: 1.3, load: larder::load },
        Contender { name: LARDER_HUGE, in_place: true, memory_factor: 1.3, load: larder::load_huge },
        Contender { name: names::LMDB, in_place: true, memory_factor: 2.1, load: lmdb::load },
        Contender { name: names::REDIS, in_place: false, memory_factor: 1.6, load: redis::load },
        Contender { name: names::MEMCACHED, in_place: false, memory_factor: 1.6, load: memcached::load },
        Contender { name: "tmpfs file, open + read", in_place: false, memory_factor: 1.4, load: tmpfs::load_read },
        Contender {
            name: "tmpfs file, open + mmap + touch",
            in_place: false,
            memory_factor: 1.4,
            load: tmpfs::load_map,
        },
        Contender {
            name: "hand-made segment (crate shared_memory)",
            in_place: true,
            memory_factor: 1.1,
            load: segment::load,
        },
        Contender { name: "memcpy of the block, no lookup", in_place: true, memory_factor: 1.1, load: memcpy::load },
    ]
}
