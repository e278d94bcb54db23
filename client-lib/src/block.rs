//! A block as the caller sees it.

use std::fmt;
use std::ops::Deref;

use larder_protocol::hit::PinnedBlock;

/// The bytes under a key, read in place.
///
/// They stay where they are and unchanged until the last clone is dropped, whatever happens to the key, the namespace,
/// the client and the agent meanwhile. A block holds one of the process's block slots; clones share it.
#[derive(Clone)]
pub struct Block(PinnedBlock);

impl Block {
    #[inline(always)]
    pub(crate) fn new(pinned: PinnedBlock) -> Block {
        Block(pinned)
    }

    /// The key.
    pub fn key(&self) -> &str {
        // Agent and client let only UTF-8 in.
        std::str::from_utf8(self.0.key()).unwrap_or_default()
    }

    /// When the block was put, in milliseconds since 1970.
    pub fn created_ms(&self) -> u64 {
        self.0.created_ms()
    }

    /// Whether bytes, key and header are what the agent's checksums say (CRC-64/NVME of each 64 KiB). Reads all of it.
    pub fn verify(&self) -> bool {
        self.0.verify()
    }
}

impl Deref for Block {
    type Target = [u8];

    #[inline(always)]
    fn deref(&self) -> &[u8] {
        self.0.as_slice()
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block").field("key", &self.key()).field("len", &self.len()).finish()
    }
}
