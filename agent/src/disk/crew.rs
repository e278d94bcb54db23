//! Threads that wait for the disk, and nobody who waits for them for long.
//!
//! At most [`MOST_BLOCKED`] threads are in calls to the file system at once, helpers of long transfers included; a
//! thread that hangs there keeps its permit until the kernel lets it go. Whoever asked stops waiting when nothing has
//! moved for [`PATIENCE`], and while all threads are out and none went or came back for that long, nobody waits at all.
//!
//! Who stops waiting closes the [`Gate`] of the work: from then on the work touches no memory that it was given, and
//! publishes nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::pieces::further_permits;

/// Threads that may wait for the file system at once.
pub(super) const MOST_BLOCKED: usize = 16;
/// Of these, threads that write: half, so that reads are never refused for writes.
const MOST_WRITING: usize = MOST_BLOCKED / 2;
/// Longest time without any progress that somebody waits.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// Between a work on another thread and whoever waits for it.
#[derive(Debug)]
pub(super) struct Gate {
    is_open: RwLock<bool>,
    beats: AtomicU64,
}

impl Gate {
    pub(super) fn new() -> Arc<Gate> {
        Arc::new(Gate { is_open: RwLock::new(true), beats: AtomicU64::new(0) })
    }

    /// Does something short that must not be done once the gate is closed, unless it is. It is not closed meanwhile.
    pub(super) fn pass<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        let is_open = self.is_open.read().unwrap_or_else(PoisonError::into_inner);
        self.beats.fetch_add(1, Ordering::Relaxed);
        is_open.then(work)
    }

    /// Says that something moves. Whether the gate is open.
    pub(super) fn beat(&self) -> bool {
        self.pass(|| ()).is_some()
    }

    /// Whether somebody waits.
    pub(super) fn is_open(&self) -> bool {
        *self.is_open.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that nobody waits any more.
    pub(super) fn close(&self) {
        *self.is_open.write().unwrap_or_else(PoisonError::into_inner) = false;
    }
}

/// Closes a gate when whoever waited does so no more, for whatever reason.
struct Waiting(Arc<Gate>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Why work was not done, or nobody knows whether it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Busy {
    /// There was no thread for it: it was never begun.
    NoThread,
    /// It was begun, and nothing moved for a while.
    Hung,
    /// The agent ends, or the work panicked.
    Lost,
}

/// The permits of all threads.
#[derive(Debug)]
pub(super) struct Crew {
    permits: Arc<Semaphore>,
    writing: Arc<Semaphore>,
    began: Instant,
    /// When a thread last went out or came back, in milliseconds since `began`.
    last_move_ms: Arc<AtomicU64>,
}

impl Crew {
    pub(super) fn new() -> Crew {
        Crew {
            permits: Arc::new(Semaphore::new(MOST_BLOCKED)),
            writing: Arc::new(Semaphore::new(MOST_WRITING)),
            began: Instant::now(),
            last_move_ms: Arc::default(),
        }
    }

    /// Threads that are out.
    pub(super) fn under_way(&self) -> usize {
        MOST_BLOCKED - self.permits.available_permits()
    }

    /// The right to write, if not too many have it.
    pub(super) fn may_write(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.writing).try_acquire_owned().ok()
    }

    /// Waits until no thread is out, and lets none out any more. All work from then on is lost.
    pub(super) async fn dismiss(&self) -> Result<(), Busy> {
        let mut all = Vec::new();
        for _ in 0..MOST_BLOCKED {
            all.push(self.permit().await?);
        }
        self.permits.close();
        Ok(())
    }

    /// Runs `work` on a thread of its own, with as many further permits, up to `extra`, as are free. Waits for
    /// `patience` without a beat at most.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        gate: &Arc<Gate>,
        patience: Duration,
        extra: usize,
        work: impl FnOnce(usize) -> T + Send + 'static,
    ) -> Result<T, Busy> {
        let waiting = Waiting(Arc::clone(gate));
        let own = self.permit().await?;
        let further = further_permits(&self.permits, extra);
        let (began, last_move_ms) = (self.began, Arc::clone(&self.last_move_ms));
        last_move_ms.store(millis(began), Ordering::Relaxed);
        let mut task = spawn_blocking(move || {
            let result = work(further.len());
            last_move_ms.store(millis(began), Ordering::Relaxed);
            drop((own, further));
            result
        });
        let mut beats = 0;
        let ended = loop {
            match timeout(patience, &mut task).await {
                Ok(ended) => break ended.map_err(|_| Busy::Lost),
                Err(_) => match gate.beats.load(Ordering::Relaxed) {
                    now if now == beats => break Err(Busy::Hung),
                    now => beats = now,
                },
            }
        };
        drop(waiting);
        ended
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit, Busy> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Ok(permit);
        }
        if self.permits.is_closed() {
            return Err(Busy::Lost);
        }
        let moved = Duration::from_millis(self.last_move_ms.load(Ordering::Relaxed));
        if self.began.elapsed().saturating_sub(moved) > PATIENCE {
            return Err(Busy::NoThread);
        }
        match timeout(PATIENCE, Arc::clone(&self.permits).acquire_owned()).await {
            Ok(permit) => permit.map_err(|_| Busy::Lost),
            Err(_) => Err(Busy::NoThread),
        }
    }
}

fn millis(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
}
