//! The header of a block, as the agent writes it in front of the payload.

use larder_protocol::checksum::crc64;
use larder_protocol::layout::block as header;
use larder_protocol::memory::Mapping;

use super::blocks::Block;
use super::tenant::to_usize;

/// Writes a block's header and key in front of its payload.
pub(crate) fn write_header(mapping: &Mapping, start: u64, block: &Block, key: &str, created_ms: u64) {
    let mut head = vec![0; header::HEADER_BYTES + key.len()];
    header_bytes(block, key, created_ms, &mut head);
    mapping.copy_in(to_usize(start), &head);
}

/// The header and key of a block, at the start of `head`, which has room for them.
pub(crate) fn header_bytes(block: &Block, key: &str, created_ms: u64, head: &mut [u8]) {
    let words = [
        header::MAGIC_VALUE,
        block.namespace,
        block.len,
        u64::from(block.key_len) << 32 | block.shape().payload_offset,
        block.checksum,
        created_ms,
    ];
    for (word, bytes) in words.iter().zip(head.chunks_exact_mut(8)) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    let covered = [&head[..header::HEADER_CHECKSUM * 8], key.as_bytes()].concat();
    head[header::HEADER_CHECKSUM * 8..][..8].copy_from_slice(&crc64(&covered).to_le_bytes());
    head[header::HEADER_BYTES..][..key.len()].copy_from_slice(key.as_bytes());
}
