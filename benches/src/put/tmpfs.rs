//! Files of tmpfs: each put makes a file's bytes anew, as a program does that must not show half of them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::BenchResult;
use crate::put::{PutStore, Shape};

struct TmpfsPut {
    folder: PathBuf,
}

pub(crate) fn start(scratch: &Path, _shape: &Shape) -> BenchResult<Box<dyn PutStore>> {
    let folder = scratch.join("files");
    fs::create_dir_all(folder.join("put"))?;
    Ok(Box::new(TmpfsPut { folder }))
}

impl PutStore for TmpfsPut {
    fn put(&mut self, key: &str, block: &[u8]) -> BenchResult<()> {
        Ok(fs::write(self.folder.join(key), block)?)
    }
}

impl Drop for TmpfsPut {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}
