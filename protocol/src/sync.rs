//! The only place from which atomics are imported.
//!
//! Process-private atomics of the lock-free protocols come from here, so that the very same code runs under loom's
//! model checker (`--cfg loom`) and on the machine. Words in shared memory go through [`crate::words::Words`].

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
#[cfg(loom)]
pub(crate) use loom::thread::yield_now;
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, compiler_fence, fence};
#[cfg(not(loom))]
pub(crate) use std::thread::yield_now;
