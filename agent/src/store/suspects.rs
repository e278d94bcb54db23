//! Objects whose payload did not match its checksums when it was read here.
//!
//! Whether the object is damaged or the way to it cannot be told from here, and a node with a bad way must not take
//! anything away from the others. So an object under suspicion is a miss for a while, is read again after that, and is
//! replaced only by a put of the same block.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long an object is not read again.
const SUSPECT_FOR: Duration = Duration::from_secs(60);
/// Most objects that are remembered.
const SUSPECTS_MAX: usize = 10_000;

/// Objects under suspicion, by name, with version and time.
#[derive(Debug, Default)]
pub(super) struct Suspects(Mutex<HashMap<String, (String, Instant)>>);

impl Suspects {
    pub(super) fn add(&self, name: &str, version: &str) {
        let mut suspects = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if suspects.len() >= SUSPECTS_MAX {
            suspects.retain(|_, (_, since)| since.elapsed() < SUSPECT_FOR);
        }
        if suspects.len() < SUSPECTS_MAX {
            suspects.insert(name.to_owned(), (version.to_owned(), Instant::now()));
        }
    }

    /// Whether this very object was found wrong a short while ago.
    pub(super) fn has(&self, name: &str, version: &str) -> bool {
        let suspects = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        suspects.get(name).is_some_and(|(of, since)| of == version && since.elapsed() < SUSPECT_FOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_object_of_the_name_is_not_suspected() {
        let suspects = Suspects::default();
        suspects.add("a", "1");
        assert!(suspects.has("a", "1") && !suspects.has("a", "2") && !suspects.has("b", "1"));
        for n in 0..2 * SUSPECTS_MAX {
            suspects.add(&n.to_string(), "1");
        }
        assert!(suspects.0.lock().unwrap().len() <= SUSPECTS_MAX);
    }
}
