//! Files of tmpfs as blocks: what a program without a cache service does, by copy or by a map of its own.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::BenchResult;
use crate::harness::Reader;
use crate::hit::{DEPENDENT, HitStore, Way};
use crate::workload::{Access, BlockSet, Walk, for_each_block, walk_each};

struct TmpfsStore {
    folder: PathBuf,
    len_bytes: usize,
    by_map: bool,
}

pub(crate) fn load_read(scratch: &Path, set: &BlockSet) -> BenchResult<Box<dyn HitStore>> {
    load(scratch, set, false)
}

pub(crate) fn load_map(scratch: &Path, set: &BlockSet) -> BenchResult<Box<dyn HitStore>> {
    load(scratch, set, true)
}

fn load(scratch: &Path, set: &BlockSet, by_map: bool) -> BenchResult<Box<dyn HitStore>> {
    let store = TmpfsStore { folder: scratch.join("files"), len_bytes: set.len_bytes, by_map };
    fs::create_dir_all(store.folder.join("blk"))?;
    for_each_block(set, |key, block| Ok(fs::write(store.folder.join(key), block)?))?;
    Ok(Box::new(store))
}

impl Drop for TmpfsStore {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl HitStore for TmpfsStore {
    fn ways(&self) -> &'static [Way] {
        &[DEPENDENT]
    }

    fn reader(&self, _way: Way) -> BenchResult<Box<dyn Reader + '_>> {
        let folder = format!("{}/", self.folder.display());
        if self.by_map {
            Ok(Box::new(MapReader { folder }))
        } else {
            Ok(Box::new(CopyReader { folder, buffer: vec![0; self.len_bytes] }))
        }
    }
}

/// Opens the file of a key, reusing the text of the folder's path.
fn open(folder: &mut String, key: &str) -> BenchResult<File> {
    let folder_len = folder.len();
    folder.push_str(key);
    let file = File::open(&*folder);
    folder.truncate(folder_len);
    Ok(file?)
}

struct CopyReader {
    folder: String,
    buffer: Vec<u8>,
}

impl Reader for CopyReader {
    fn batch(&mut self, walk: &mut Walk<'_>, access: Access, ops: usize) -> BenchResult<()> {
        walk_each(walk, access, ops, |key| {
            open(&mut self.folder, key)?.read_exact(&mut self.buffer)?;
            Ok(self.buffer[0])
        })
    }
}

struct MapReader {
    folder: String,
}

impl Reader for MapReader {
    fn batch(&mut self, walk: &mut Walk<'_>, access: Access, ops: usize) -> BenchResult<()> {
        walk_each(walk, access, ops, |key| {
            let file = open(&mut self.folder, key)?;
            // SAFETY: the file lies in the bench's own scratch folder, and nothing writes or truncates it once it is loaded.
            let map = unsafe { Mmap::map(&file) }?;
            Ok(map[0])
        })
    }
}
