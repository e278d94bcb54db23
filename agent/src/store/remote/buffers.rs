//! Private memory for payloads on their way out: copied from the segments, since a request may be sent twice and goes
//! through code that knows nothing of shared memory.
//!
//! It comes in pieces of one length that are used again and again. Large allocations of changing length, freed by other
//! threads than made them, would leave the allocator with twice as much.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Length of a piece.
const PIECE_BYTES: usize = 1 << 20;

/// Pieces that may be in use at once, over all requests.
const PIECES_MAX: usize = 32;

/// Pieces that are kept while none is in use.
const PIECES_KEPT: usize = 8;

/// The pieces. A clone is another handle on the same ones.
#[derive(Clone, Debug)]
pub(super) struct Buffers {
    room: Arc<Semaphore>,
    pool: Arc<Pool>,
}

#[derive(Debug, Default)]
struct Pool {
    free: Mutex<Free>,
}

#[derive(Debug, Default)]
struct Free {
    pieces: Vec<Box<[u8]>>,
    in_use: usize,
}

/// Room for a payload. It is taken until this is dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    pool: Arc<Pool>,
    len_bytes: usize,
    _room: OwnedSemaphorePermit,
}

/// A piece with bytes in it, which goes back when nobody has it any more.
struct Filled {
    pool: Arc<Pool>,
    piece: Box<[u8]>,
    len_bytes: usize,
}

impl Buffers {
    pub(super) fn new() -> Buffers {
        Buffers { room: Arc::new(Semaphore::new(PIECES_MAX)), pool: Arc::default() }
    }

    /// Waits for room. To be taken before a request, never after. What is longer than all room gets all of it.
    pub(super) async fn take(&self, len_bytes: usize) -> Buffer {
        let pieces = u32::try_from(len_bytes.div_ceil(PIECE_BYTES).clamp(1, PIECES_MAX)).unwrap_or(1);
        let room = Arc::clone(&self.room).acquire_many_owned(pieces).await.expect("nobody closes the semaphore");
        Buffer { pool: Arc::clone(&self.pool), len_bytes, _room: room }
    }
}

impl Buffer {
    /// Has `fill` write all bytes, piece by piece; it is told where each piece begins.
    pub(super) fn fill(&self, mut fill: impl FnMut(usize, &mut [u8])) -> Vec<Bytes> {
        // Also counted as a piece. As long as it has to be: a store in memory keeps what it is given.
        if self.len_bytes <= PIECE_BYTES {
            let mut bytes = vec![0; self.len_bytes];
            fill(0, &mut bytes);
            return vec![bytes.into()];
        }
        let starts = (0..self.len_bytes).step_by(PIECE_BYTES);
        let pieces = starts.map(|start| {
            let len_bytes = PIECE_BYTES.min(self.len_bytes - start);
            let mut piece = self.pool.take();
            fill(start, &mut piece[..len_bytes]);
            Bytes::from_owner(Filled { pool: Arc::clone(&self.pool), piece, len_bytes })
        });
        pieces.collect()
    }
}

impl Pool {
    fn take(&self) -> Box<[u8]> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.in_use += 1;
        let piece = free.pieces.pop();
        drop(free);
        piece.unwrap_or_else(|| vec![0; PIECE_BYTES].into())
    }

    fn give_back(&self, piece: Box<[u8]>) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.in_use -= 1;
        free.pieces.push(piece);
        if free.in_use == 0 {
            free.pieces.truncate(PIECES_KEPT);
        }
    }
}

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        &self.piece[..self.len_bytes]
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.piece));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn fill(buffer: &Buffer) -> Vec<Bytes> {
        let mut value = 0_u8;
        buffer.fill(|_, piece| {
            piece.iter_mut().for_each(|byte| {
                *byte = value;
                value = value.wrapping_add(1);
            });
        })
    }

    #[tokio::test]
    async fn what_is_filled_in_comes_out_and_pieces_are_used_again() {
        let buffers = Buffers::new();
        for len in [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 5, 100_000] {
            let filled = fill(&buffers.take(len).await).concat();
            assert_eq!(filled.len(), len);
            assert!(filled.iter().enumerate().all(|(at, byte)| usize::from(*byte) == at % 256), "{len}");
        }
        let many = fill(&buffers.take(20 * PIECE_BYTES).await);
        assert_eq!(buffers.pool.free.lock().unwrap().in_use, 20);
        drop(many);
        let free = buffers.pool.free.lock().unwrap();
        assert_eq!((free.in_use, free.pieces.len()), (0, PIECES_KEPT));
    }

    #[tokio::test]
    async fn payloads_wait_for_room_and_the_largest_gets_all_of_it() {
        let buffers = Buffers::new();
        let most = buffers.take((PIECES_MAX - 1) * PIECE_BYTES).await;
        let one = buffers.take(1).await;
        assert!(tokio::time::timeout(Duration::from_millis(5), buffers.take(1)).await.is_err());
        drop((most, one));
        drop(buffers.take(usize::MAX).await);
    }
}
