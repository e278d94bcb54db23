//! How many calls to a store one user may have under way: so that nobody's thousand requests stand in line before
//! another's first.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Calls of a user at once. Half of what a directory takes in all.
const CALLS_MAX: usize = 8;

/// A line for each user who waits at present.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    users: Mutex<HashMap<u32, Weak<Semaphore>>>,
}

/// A place in a user's lane.
#[derive(Debug)]
pub(crate) struct Lane {
    _permit: Option<OwnedSemaphorePermit>,
    // The permit alone would not keep the lane of later callers the same.
    _lane: Arc<Semaphore>,
}

impl Lanes {
    /// Waits for a place, which lasts until it is dropped.
    pub(crate) async fn enter(&self, uid: u32) -> Lane {
        let lane = {
            let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
            let present = users.get(&uid).and_then(Weak::upgrade);
            present.unwrap_or_else(|| {
                users.retain(|_, lane| lane.strong_count() > 0);
                let lane = Arc::new(Semaphore::new(CALLS_MAX));
                users.insert(uid, Arc::downgrade(&lane));
                lane
            })
        };
        // Nobody closes it.
        let permit = Arc::clone(&lane).acquire_owned().await.ok();
        Lane { _permit: permit, _lane: lane }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_lane_is_nobody_elses() {
        let lanes = Lanes::default();
        let mut inside = Vec::new();
        for _ in 0..CALLS_MAX {
            inside.push(lanes.enter(1).await);
        }
        let late = lanes.enter(1);
        tokio::pin!(late);
        assert!(futures_now(late.as_mut()).await.is_none());
        drop(lanes.enter(2).await);
        inside.pop();
        assert!(futures_now(late.as_mut()).await.is_some());
        drop(inside);
    }

    /// What a future gives without waiting.
    async fn futures_now<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        let mut future = Some(future);
        std::future::poll_fn(|context| {
            let polled = future.take().map(|future| future.poll(context));
            std::task::Poll::Ready(match polled {
                Some(std::task::Poll::Ready(output)) => Some(output),
                _ => None,
            })
        })
        .await
    }
}
