//! A few threads at a time, with a deadline.

use std::sync::{Condvar, Mutex, PoisonError};

use crate::deadline::{Deadline, Passed};

/// What only so many threads may do at a time. Unlike a mutex it is waited for no longer than a deadline allows.
#[derive(Debug)]
pub(crate) struct Turn {
    places: Mutex<usize>,
    free: Condvar,
}

/// A place is the holder's until this is dropped.
#[derive(Debug)]
pub(crate) struct TurnGuard<'t>(&'t Turn);

impl Turn {
    /// For `places` threads at a time.
    pub(crate) fn new(places: usize) -> Turn {
        Turn { places: Mutex::new(places), free: Condvar::new() }
    }

    /// Waits for a place.
    pub(crate) fn take(&self, deadline: Deadline) -> Result<TurnGuard<'_>, Passed> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        while *places == 0 {
            places = match deadline.left()? {
                None => self.free.wait(places).unwrap_or_else(PoisonError::into_inner),
                Some(left) => self.free.wait_timeout(places, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        *places -= 1;
        Ok(TurnGuard(self))
    }
}

impl Drop for TurnGuard<'_> {
    fn drop(&mut self) {
        *self.0.places.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.free.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn no_more_than_the_places_and_no_longer_than_the_deadline() {
        let turn = Turn::new(2);
        let first = turn.take(Deadline::after(None)).unwrap();
        let _second = turn.take(Deadline::after(None)).unwrap();
        assert_eq!(turn.take(Deadline::after(Some(Duration::from_millis(2)))).unwrap_err(), Passed);
        drop(first);
        drop(turn.take(Deadline::after(None)).unwrap());
    }
}
