//! A pair of fences of which one costs nothing.
//!
//! [`light`] on the path that is taken a million times, [`heavy`] on the one that is taken once: together they order like
//! two SeqCst fences. The heavy one asks the kernel to run a barrier on every processor that runs a thread of this process
//! (`membarrier`, private and expedited). It never concerns another process, and is no part of the pin protocol, whose two
//! sides are in different processes. Where the kernel or a filter refuses it, the light one becomes a real fence.

#[cfg(not(loom))]
use crate::sync::{AtomicBool, compiler_fence};
use crate::sync::{Ordering, fence};

const MEMBARRIER_CMD_PRIVATE_EXPEDITED: libc::c_int = 1 << 3;
const MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;

/// Whether [`heavy`] can do its part, so that [`light`] need not be a fence.
#[cfg(not(loom))]
static REGISTERED: AtomicBool = AtomicBool::new(false);

fn membarrier(command: libc::c_int) -> bool {
    // SAFETY: the call takes three integers and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
}

/// Registers this process with the kernel. Until then, and where it fails, both sides are real fences.
pub(crate) fn prepare() {
    #[cfg(not(loom))]
    if membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) {
        REGISTERED.store(true, Ordering::SeqCst);
    }
    #[cfg(loom)]
    let _ = MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED;
}

/// The side that is taken often.
#[inline(always)]
pub(crate) fn light() {
    #[cfg(not(loom))]
    if REGISTERED.load(Ordering::Relaxed) {
        compiler_fence(Ordering::SeqCst);
        return;
    }
    fence(Ordering::SeqCst); // mutate: asymmetric-light
}

/// The side that is taken rarely. False when the kernel failed to run it: then nothing may be concluded.
pub(crate) fn heavy() -> bool {
    fence(Ordering::SeqCst); // mutate: asymmetric-heavy
    #[cfg(not(loom))]
    if REGISTERED.load(Ordering::SeqCst) {
        // It can fail for want of memory, for a moment.
        return (0..100).any(|_| membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED));
    }
    #[cfg(loom)]
    let _ = (MEMBARRIER_CMD_PRIVATE_EXPEDITED, membarrier as fn(libc::c_int) -> bool);
    true
}
