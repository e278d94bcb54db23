//! What the store asks of its server at once, and in a second.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// The limits of one store. A clone is another handle on the same limits.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    requests: Arc<Semaphore>,
    requests_max: usize,
    pace: Option<Arc<Pace>>,
}

/// Requests at even distances.
#[derive(Debug)]
struct Pace {
    distance: Duration,
    /// When the next may begin.
    next: Mutex<Instant>,
}

impl Limits {
    pub(crate) fn new(requests_max: u32, requests_per_second: Option<u32>) -> Limits {
        let requests_max = requests_max as usize;
        let pace = requests_per_second
            .map(|rate| Pace { distance: Duration::from_secs(1) / rate.max(1), next: Mutex::new(Instant::now()) })
            .map(Arc::new);
        Limits { requests: Arc::new(Semaphore::new(requests_max)), requests_max, pace }
    }

    /// Requests that are under way.
    pub(crate) fn under_way(&self) -> usize {
        self.requests_max - self.requests.available_permits()
    }

    /// Waits until a request may begin. It is under way until the permit is dropped, and whoever has one asks for nothing
    /// else meanwhile.
    pub(crate) async fn request(&self) -> OwnedSemaphorePermit {
        let permit = Arc::clone(&self.requests).acquire_owned().await.expect("nobody closes the semaphore");
        if let Some(pace) = &self.pace {
            tokio::time::sleep_until(pace.turn(Instant::now())).await;
        }
        permit
    }
}

impl Pace {
    /// When a request that is asked for now may begin.
    fn turn(&self, now: Instant) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let at = (*next).max(now);
        *next = at + self.distance;
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_wait_for_room() {
        let limits = Limits::new(2, None);
        let (one, two) = (limits.request().await, limits.request().await);
        assert_eq!(limits.under_way(), 2);
        assert!(tokio::time::timeout(Duration::from_millis(5), limits.request()).await.is_err());
        drop(one);
        drop((limits.request().await, two));
        assert_eq!(limits.under_way(), 0);
    }

    #[test]
    fn a_pace_is_kept_and_what_was_not_used_is_not_saved_up() {
        let limits = Limits::new(16, Some(10));
        let pace = limits.pace.as_ref().unwrap();
        let now = Instant::now();
        for turn in 0..31 {
            assert_eq!(pace.turn(now), now + turn * Duration::from_millis(100));
        }
        let later = now + Duration::from_secs(60);
        for turn in 0..11 {
            assert_eq!(pace.turn(later), later + turn * Duration::from_millis(100));
        }
    }
}
