//! CRC-64/NVME of block payloads, one per 64 KiB chunk.

use crc_fast::{CrcAlgorithm, Digest, checksum};

use crate::layout::block::CHUNK_BYTES;

/// CRC-64/NVME of `bytes`.
pub fn crc64(bytes: &[u8]) -> u64 {
    checksum(CrcAlgorithm::Crc64Nvme, bytes)
}

/// Has the code for this processor chosen now. That happens once, under a lock that stays locked for ever in the child of a
/// fork that another thread makes in the middle of it.
pub(crate) fn prepare() {
    crc64(b"larder");
}

/// Builds the checksums of a payload that arrives in pieces.
#[derive(Debug, Default)]
pub struct Chunked {
    finished: Vec<u64>,
    current: Option<Digest>,
    in_current: u64,
}

impl Chunked {
    /// Takes the next piece.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = CHUNK_BYTES - self.in_current;
            let take = usize::try_from(room).map_or(bytes.len(), |room| room.min(bytes.len()));
            if self.in_current == 0 && take as u64 == CHUNK_BYTES {
                self.finished.push(crc64(&bytes[..take]));
            } else {
                let digest = self.current.get_or_insert_with(|| Digest::new(CrcAlgorithm::Crc64Nvme));
                digest.update(&bytes[..take]);
                self.in_current += take as u64;
                if self.in_current == CHUNK_BYTES {
                    self.close_chunk();
                }
            }
            bytes = &bytes[take..];
        }
    }

    fn close_chunk(&mut self) {
        if let Some(digest) = self.current.take() {
            self.finished.push(digest.finalize());
        }
        self.in_current = 0;
    }

    /// Checksums of all chunks. An empty payload has none.
    pub fn finish(mut self) -> Checksums {
        self.close_chunk();
        Checksums { chunks: self.finished }
    }
}

/// The checksums of a whole payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checksums {
    /// One per chunk of 64 KiB.
    pub chunks: Vec<u64>,
}

impl Checksums {
    /// Of a payload at hand.
    pub fn of(payload: &[u8]) -> Checksums {
        let mut chunked = Chunked::default();
        chunked.update(payload);
        chunked.finish()
    }

    /// The one word that stands for all of it in the block's header: the only chunk's checksum, or that of the table.
    pub fn summary(&self) -> u64 {
        match self.chunks.as_slice() {
            [] => crc64(&[]),
            [only] => *only,
            _ => crc64(&self.table_bytes()),
        }
    }

    /// The table as it lies behind the payload: little-endian words.
    pub fn table_bytes(&self) -> Vec<u8> {
        self.chunks.iter().flat_map(|chunk| chunk.to_le_bytes()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_the_same_checksums_as_the_whole() {
        let payload: Vec<u8> = (0..200_000_u32).map(|i| (i * 7 % 251) as u8).collect();
        let whole = Checksums::of(&payload);
        assert_eq!(whole.chunks.len(), 4);
        assert_eq!(whole.chunks[1], crc64(&payload[65536..131_072]));
        for piece in [1_000, 4096, 65_536, 65_537, 131_072] {
            let mut chunked = Chunked::default();
            payload.chunks(piece).for_each(|bytes| chunked.update(bytes));
            assert_eq!(chunked.finish(), whole, "pieces of {piece}");
        }
    }

    #[test]
    fn known_answer() {
        // The check value of CRC-64/NVME.
        assert_eq!(crc64(b"123456789"), 0xae8b_1486_0a79_9888);
    }
}
