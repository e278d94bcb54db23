//! A store in a small file system, which a test can fill up and empty again.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// A mounted file system, unmounted when dropped.
pub(crate) struct SmallStore(TempDir);

impl SmallStore {
    /// With room for so many MiB; `None` where this machine mounts none.
    pub(crate) fn mount(mib: usize) -> Option<SmallStore> {
        let directory = tempfile::tempdir().expect("there is room for a directory");
        let options = format!("size={mib}m,mode=700");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(directory.path()).status();
        mounted.is_ok_and(|status| status.success()).then_some(SmallStore(directory))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Leaves no room, and directories of the store as they are.
    pub(crate) fn fill(&self) {
        let filler = self.path().join("filler");
        let _ = fs::write(&filler, vec![1; 1 << 30]);
        assert!(fs::metadata(&filler).is_ok_and(|filler| filler.len() > 0), "there was some room");
    }

    /// Takes back what [`SmallStore::fill`] did.
    pub(crate) fn make_room(&self) {
        fs::remove_file(self.path().join("filler")).expect("it was filled");
    }
}

impl Drop for SmallStore {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}
