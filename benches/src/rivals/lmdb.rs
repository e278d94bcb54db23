//! LMDB through `heed`: one unnamed database of strings to bytes, in a folder of tmpfs.

use std::path::Path;

use heed::types::{Bytes, Str};
use heed::{Database, Env, EnvFlags, EnvOpenOptions};

use crate::BenchResult;

/// An open environment with its database.
#[derive(Debug, Clone)]
pub(crate) struct Lmdb {
    pub(crate) env: Env,
    pub(crate) database: Database<Str, Bytes>,
}

impl Lmdb {
    /// Opens or creates the environment in `folder`. `extra` is added to `NO_SYNC`, since tmpfs has nothing to sync to.
    pub(crate) fn open(folder: &Path, map_bytes: usize, extra: EnvFlags) -> BenchResult<Self> {
        let mut options = EnvOpenOptions::new();
        options.map_size(map_bytes.next_multiple_of(1 << 20)).max_readers(1024);
        // SAFETY: NO_SYNC and WRITE_MAP give up durability and protection from stray writes, which a scratch database needs not.
        unsafe { options.flags(EnvFlags::NO_SYNC | extra) };
        // SAFETY: the folder is the bench's own scratch folder: only this bench and its children open it, and none truncates it.
        let env = unsafe { options.open(folder) }?;
        let mut txn = env.write_txn()?;
        let database = env.create_database(&mut txn, None)?;
        txn.commit()?;
        Ok(Self { env, database })
    }

    /// A map size with room for `blocks` values of `len_bytes`: a large value takes whole pages and a header.
    pub(crate) fn map_bytes(blocks: usize, len_bytes: usize) -> usize {
        let pages = (len_bytes + 16).div_ceil(4096);
        blocks * (pages * 4096 + 128) * 5 / 4 + (256 << 20)
    }

    /// Puts all items in one transaction.
    pub(crate) fn put_many(&self, items: &[(&str, &[u8])]) -> BenchResult<()> {
        let mut txn = self.env.write_txn()?;
        for (key, value) in items {
            self.database.put(&mut txn, key, value)?;
        }
        txn.commit()?;
        Ok(())
    }
}
