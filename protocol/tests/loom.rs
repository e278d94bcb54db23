//! Models of the lock-free protocols, run by `scripts/loom`: the very code of `slot`, `index`, `touch`, `ring`, `inside`
//! and `handover` over loom's atomics, in every interleaving of two or three threads and with every stale value that the
//! memory model allows.
//!
//! Each model is kept to a few steps so that it ends in seconds. Executions are bounded to three preemptions unless
//! `LOOM_MAX_PREEMPTIONS` says otherwise. What a block holds is a `loom::cell::UnsafeCell`, so that a read of bytes which
//! the agent writes over fails the model even where the value happens to be the right one.
#![cfg(loom)]

#[path = "loom/growth.rs"]
mod growth;
#[path = "loom/handles.rs"]
mod handles;
#[path = "loom/handover.rs"]
mod handover;
#[path = "loom/index.rs"]
mod index;
#[path = "loom/inside.rs"]
mod inside;
#[path = "loom/pin.rs"]
mod pin;
#[path = "loom/ring.rs"]
mod ring;
#[path = "loom/touch.rs"]
mod touch;
#[path = "loom/world.rs"]
mod world;
