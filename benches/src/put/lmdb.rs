//! LMDB puts: one write transaction a put, or one for 64.

use std::fs;
use std::path::{Path, PathBuf};

use heed::EnvFlags;

use crate::BenchResult;
use crate::put::{PutStore, Shape};
use crate::rivals::lmdb::Lmdb;

struct LmdbPut {
    lmdb: Lmdb,
    folder: PathBuf,
}

pub(crate) fn start(scratch: &Path, shape: &Shape) -> BenchResult<Box<dyn PutStore>> {
    open(scratch, shape, EnvFlags::empty())
}

pub(crate) fn start_write_map(scratch: &Path, shape: &Shape) -> BenchResult<Box<dyn PutStore>> {
    open(scratch, shape, EnvFlags::WRITE_MAP)
}

fn open(scratch: &Path, shape: &Shape, flags: EnvFlags) -> BenchResult<Box<dyn PutStore>> {
    let folder = scratch.join("lmdb");
    fs::create_dir(&folder)?;
    // A replaced value's pages are reused only two transactions later.
    let lmdb = Lmdb::open(&folder, 2 * Lmdb::map_bytes(shape.window(), shape.len_bytes), flags)?;
    Ok(Box::new(LmdbPut { lmdb, folder }))
}

impl PutStore for LmdbPut {
    fn put(&mut self, key: &str, block: &[u8]) -> BenchResult<()> {
        self.lmdb.put_many(&[(key, block)])
    }

    fn put_many(&mut self, items: &[(&str, &[u8])]) -> BenchResult<()> {
        self.lmdb.put_many(items)
    }
}

impl Drop for LmdbPut {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}
