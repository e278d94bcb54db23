//! How long and how often a read is tried: one budget of time for a call, and a count of tries that progress resets.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::failure::{OriginError, Stop};
use super::url::OriginUrl;
use crate::config::StoreOptions;

/// The longest first wait; each following one is up to twice as long.
const WAIT_FIRST: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(10);

/// What an origin must deliver in a second for a call not to run out of time.
const BYTES_PER_SECOND_MIN: u64 = 64 << 10;

/// What is left of a call.
#[derive(Debug)]
pub(super) struct Budget {
    ends: Instant,
    tries_max: u32,
    tries: u32,
    last: Option<OriginError>,
}

impl Budget {
    /// For a call that reads that many bytes.
    pub(super) fn new(options: &StoreOptions, len_bytes: u64) -> Budget {
        let patience = options.retry_timeout + Duration::from_secs(len_bytes / BYTES_PER_SECOND_MIN);
        Budget { ends: Instant::now() + patience, tries_max: options.retries, tries: 0, last: None }
    }

    /// Something came: what failed before does not count any more.
    pub(super) fn progress(&mut self) {
        self.tries = 0;
    }

    /// Waits for one try, no longer than the budget lasts.
    pub(super) async fn within<T>(
        &self,
        what: &OriginUrl,
        one: impl Future<Output = Result<T, Stop>>,
    ) -> Result<T, Stop> {
        timeout_at(self.ends, one).await.unwrap_or_else(|_| {
            let late = || OriginError::Unavailable(format!("cannot fetch {what} now: it takes too long"));
            Err(Stop::Final(self.last.clone().unwrap_or_else(late)))
        })
    }

    /// Waits before another try; gives the error back when there shall be none.
    pub(super) async fn again(&mut self, stop: Stop) -> Result<(), OriginError> {
        let (error, asked) = match stop {
            Stop::Final(error) => return Err(error),
            Stop::Again(error, asked) => (error, asked),
        };
        let wait = asked.map_or_else(|| jittered(self.tries), |asked| asked.min(WAIT_MAX));
        if self.tries >= self.tries_max || Instant::now() + wait >= self.ends {
            return Err(error);
        }
        self.tries += 1;
        self.last = Some(error);
        sleep(wait).await;
        Ok(())
    }
}

/// Between half of the wait that is due and all of it, so that many who failed together do not come back together.
fn jittered(tries: u32) -> Duration {
    let due = WAIT_FIRST.saturating_mul(1 << tries.min(16)).min(WAIT_MAX);
    // Without random numbers there is still the doubling.
    let share = getrandom::u32().map_or(1.0, |number| f64::from(number) / f64::from(u32::MAX));
    due.mul_f64(0.5 + share / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit_and_differ() {
        for tries in 0..40 {
            let due = WAIT_FIRST.saturating_mul(1 << tries.min(16)).min(WAIT_MAX);
            let waits: Vec<_> = (0..50).map(|_| jittered(tries)).collect();
            assert!(waits.iter().all(|wait| *wait >= due / 2 && *wait <= due), "{tries}");
            assert!(waits.iter().any(|wait| *wait != waits[0]), "{tries}");
        }
        assert!(jittered(0) >= Duration::from_millis(50));
    }

    #[tokio::test(start_paused = true)]
    async fn tries_are_counted_from_the_last_progress_and_time_is_not() {
        let again = || Stop::Again(OriginError::Unavailable("x".into()), Some(Duration::from_millis(10)));
        let options = StoreOptions { retries: 3, retry_timeout: Duration::from_secs(1), ..StoreOptions::default() };
        let mut budget = Budget::new(&options, 0);
        for _ in 0..3 {
            budget.again(again()).await.unwrap();
        }
        assert!(budget.again(again()).await.is_err());
        let mut rounds = 0;
        loop {
            budget.progress();
            if budget.again(again()).await.is_err() {
                break;
            }
            rounds += 1;
        }
        assert!((90..100).contains(&rounds), "{rounds}");
        let late =
            budget.within(&OriginUrl::parse("http://h/").unwrap(), std::future::pending::<Result<(), Stop>>()).await;
        assert!(matches!(late, Err(Stop::Final(OriginError::Unavailable(_)))), "{late:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_read_has_longer() {
        let options = StoreOptions { retry_timeout: Duration::from_secs(1), ..StoreOptions::default() };
        let long = Budget::new(&options, 100 * BYTES_PER_SECOND_MIN);
        assert_eq!(long.ends - Instant::now(), Duration::from_secs(101));
    }
}
