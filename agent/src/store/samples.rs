//! What tests of stores and of the disk tier are made of.

use std::process::Command;
use std::sync::Arc;

use larder_protocol::memory::{HugePages, Mapping, Memfd, Platform};
use tempfile::TempDir;

use super::Memory;

/// Memory that holds `bytes`, behind a page of something else.
pub(crate) fn memory(bytes: &[u8]) -> Memory {
    let len = 4096 + bytes.len().max(1);
    let memfd = Memfd::create(c"store-test", len, HugePages::Off, &Platform::detect(&[]).unwrap()).unwrap();
    let mapping = Arc::new(Mapping::read_write(&memfd, len).unwrap());
    mapping.copy_in(4096, bytes);
    Memory { mapping, offset_bytes: 4096, len_bytes: bytes.len() as u64 }
}

/// Bytes that are found nowhere else.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes: Vec<u8> = std::iter::repeat_with(step).take(len.div_ceil(8)).flat_map(u64::to_le_bytes).collect();
    bytes.truncate(len);
    bytes
}

/// A tmpfs, unmounted when dropped.
pub(crate) struct Mounted(pub(crate) TempDir);

impl Mounted {
    /// `None` where this process may not mount.
    pub(crate) fn new(options: &str) -> Option<Mounted> {
        let dir = tempfile::tempdir().unwrap();
        let made = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(dir.path()).output();
        if made.is_ok_and(|made| made.status.success()) {
            Some(Mounted(dir))
        } else {
            println!("SKIPPED: this process may not mount a tmpfs");
            None
        }
    }

    pub(crate) fn remount(&self, options: &str) {
        let made = Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(self.0.path()).status();
        assert!(made.unwrap().success());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: a failed test may still have it open.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}
