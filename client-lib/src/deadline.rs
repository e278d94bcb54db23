//! Until when a call may wait.

use std::time::{Duration, Instant};

use larder_protocol::message::NO_TIMEOUT;

/// The moment by which a call must have ended, if there is one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Option<Instant>);

/// The deadline has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Passed;

impl Deadline {
    /// `timeout` from now. A moment too far away to be told counts as none.
    pub(crate) fn after(timeout: Option<Duration>) -> Deadline {
        Deadline(timeout.and_then(|timeout| Instant::now().checked_add(timeout)))
    }

    /// How long is left, `None` for ever.
    pub(crate) fn left(self) -> Result<Option<Duration>, Passed> {
        let Some(at) = self.0 else { return Ok(None) };
        match at.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(Passed),
            left => Ok(Some(left)),
        }
    }

    /// What is left as the agent is told it, rounded up so that the agent does not give up before we do.
    pub(crate) fn timeout_ms(self) -> u64 {
        match self.left() {
            Ok(None) => NO_TIMEOUT,
            Ok(Some(left)) => u64::try_from(left.as_micros().div_ceil(1000)).unwrap_or(NO_TIMEOUT),
            Err(Passed) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_timeout_never_passes() {
        let deadline = Deadline::after(None);
        assert_eq!(deadline.left(), Ok(None));
        assert_eq!(deadline.timeout_ms(), NO_TIMEOUT);
        assert_eq!(Deadline::after(Some(Duration::MAX)).left(), Ok(None), "too far away to be told");
    }

    #[test]
    fn a_deadline_rounds_up_and_passes() {
        let passed = Deadline::after(Some(Duration::ZERO));
        assert_eq!(passed.left(), Err(Passed));
        assert_eq!(passed.timeout_ms(), 0);
        let soon = Deadline::after(Some(Duration::from_secs(3600)));
        assert!((3_599_000..=3_600_000).contains(&soon.timeout_ms()));
    }
}
