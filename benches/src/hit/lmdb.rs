//! LMDB as a store of blocks: read in place, under one long snapshot or one snapshot a get.

use std::fs;
use std::path::{Path, PathBuf};

use heed::{EnvFlags, RoTxn, WithTls};

use crate::BenchResult;
use crate::harness::Reader;
use crate::hit::{ChildKind, HitStore, Scaling, Way, names};
use crate::rivals::lmdb::Lmdb;
use crate::workload::{Access, BlockSet, Walk, for_each_batch, walk_each};

/// One snapshot for the whole walk: quickest, but while it lives LMDB reclaims nothing.
pub(crate) const LONG_SNAPSHOT: Way = Way { words: names::LONG_SNAPSHOT, access: Access::Dependent };

/// A snapshot for every get: what a program does that must not hold back the reclaim of old pages.
pub(crate) const SNAPSHOT_PER_GET: Way = Way { words: names::SNAPSHOT_PER_GET, access: Access::Dependent };

struct LmdbStore {
    lmdb: Lmdb,
    folder: PathBuf,
}

pub(crate) fn load(scratch: &Path, set: &BlockSet) -> BenchResult<Box<dyn HitStore>> {
    let folder = scratch.join("lmdb");
    fs::create_dir(&folder)?;
    let store = LmdbStore {
        lmdb: Lmdb::open(&folder, Lmdb::map_bytes(set.blocks as usize, set.len_bytes), EnvFlags::empty())?,
        folder,
    };
    for_each_batch(set, |items| store.lmdb.put_many(items))?;
    Ok(Box::new(store))
}

/// Opens an environment that another process has loaded.
pub(crate) fn attach(folder: &Path, set: &BlockSet) -> BenchResult<Lmdb> {
    Lmdb::open(folder, Lmdb::map_bytes(set.blocks as usize, set.len_bytes), EnvFlags::empty())
}

impl HitStore for LmdbStore {
    fn ways(&self) -> &'static [Way] {
        &[LONG_SNAPSHOT, SNAPSHOT_PER_GET]
    }

    fn reader(&self, way: Way) -> BenchResult<Box<dyn Reader + '_>> {
        reader(&self.lmdb, way)
    }

    fn scaling(&self) -> Option<Scaling<'_>> {
        Some(Scaling { store: self, way: LONG_SNAPSHOT, kind: ChildKind::Lmdb, path: &self.folder })
    }
}

impl Drop for LmdbStore {
    fn drop(&mut self) {
        // The next set starts from an empty folder, and tmpfs memory is free only once the files are gone.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A reader of an open environment.
pub(crate) fn reader(lmdb: &Lmdb, way: Way) -> BenchResult<Box<dyn Reader + '_>> {
    if way == SNAPSHOT_PER_GET {
        Ok(Box::new(SnapshotPerGet { lmdb }))
    } else {
        Ok(Box::new(LongSnapshot { lmdb, txn: lmdb.env.read_txn()? }))
    }
}

struct LongSnapshot<'l> {
    lmdb: &'l Lmdb,
    txn: RoTxn<'l, WithTls>,
}

impl Reader for LongSnapshot<'_> {
    fn batch(&mut self, walk: &mut Walk<'_>, access: Access, ops: usize) -> BenchResult<()> {
        walk_each(walk, access, ops, |key| {
            let block = self.lmdb.database.get(&self.txn, key)?.ok_or("a key is not found")?;
            Ok(block[0])
        })
    }
}

struct SnapshotPerGet<'l> {
    lmdb: &'l Lmdb,
}

impl Reader for SnapshotPerGet<'_> {
    fn batch(&mut self, walk: &mut Walk<'_>, access: Access, ops: usize) -> BenchResult<()> {
        walk_each(walk, access, ops, |key| {
            let txn = self.lmdb.env.read_txn()?;
            let block = self.lmdb.database.get(&txn, key)?.ok_or("a key is not found")?;
            Ok(block[0])
        })
    }
}
