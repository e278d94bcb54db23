//! Shared memory, the sign of life and the fork watch against the real kernel.
//!
//! Some tests need another process. That is this test program again, started with a variable in its environment that makes
//! `other_process::run` serve it; see there.
#![cfg(not(loom))]

#[path = "memory/features.rs"]
mod features;
#[path = "memory/fork.rs"]
mod fork;
#[path = "memory/life.rs"]
mod life;
#[path = "memory/other_process.rs"]
mod other_process;
#[path = "memory/others.rs"]
mod others;
#[path = "memory/seals.rs"]
mod seals;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Keeps the tests of this program from running at the same time where they share a process: a fork for one of them would
/// hold the descriptors of all.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until `condition` holds, at most ten seconds.
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < end, "not within ten seconds: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}
