//! One long transfer as several shorter ones, side by side.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Length of a piece: a few times what file servers move at once.
pub(crate) const PIECE_BYTES: usize = 4 << 20;

/// Pieces of a read under way at once.
pub(crate) const READ_LANES: usize = 4;

/// Pieces of a write under way at once. Many file systems let one writer at a time into a file: on ext4 two are faster
/// than one, and four than two are not.
pub(crate) const WRITE_LANES: usize = 2;

/// Calls `transfer` for every piece of `len` bytes, on this thread and up to `extra` others. The first error ends it.
pub(crate) fn each(
    len: usize,
    extra: usize,
    transfer: impl Fn(Range<usize>) -> io::Result<()> + Sync,
) -> io::Result<()> {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(None);
    let work = || {
        loop {
            let start = next.fetch_add(PIECE_BYTES, Ordering::Relaxed);
            if start >= len {
                return;
            }
            if let Err(error) = transfer(start..len.min(start + PIECE_BYTES)) {
                // Nobody begins another piece.
                next.store(len, Ordering::Relaxed);
                let mut failed = failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                failed.get_or_insert(error);
                return;
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..extra {
            // A thread that cannot be made is one that does not help.
            let _ = thread::Builder::new().name("larder-piece".to_owned()).spawn_scoped(scope, work);
        }
        work();
    });
    failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).map_or(Ok(()), Err)
}

/// Threads that would help to move so many bytes, beside the first.
pub(crate) fn extra_lanes(len_bytes: u64, most: usize) -> usize {
    usize::try_from(len_bytes).unwrap_or(usize::MAX).div_ceil(PIECE_BYTES).clamp(1, most) - 1
}

/// Takes permits without waiting: a thread that helps is never worth a wait, and waiting for several could deadlock.
pub(crate) fn further_permits(permits: &Arc<Semaphore>, most: usize) -> Vec<OwnedSemaphorePermit> {
    (0..most).map_while(|_| Arc::clone(permits).try_acquire_owned().ok()).collect()
}
