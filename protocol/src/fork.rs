//! Noticing a fork for the price of one load.
//!
//! A private page that the kernel wipes in a child (`MADV_WIPEONFORK`) holds the process's fork generation. A session
//! remembers the generation it was made in. The fork handler moves the parent's generation on *before* the child exists,
//! which freezes every session of the parent; in the child the page reads 0, which no session was made in. So one
//! comparison tells a session that its slot page is, or may be, shared with another process by now.

use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// The words that are wiped in a child, null until [`watch`] was called: the fork generation, then the process.
static GENERATION: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());
/// Counts the generations of this process and, inherited over a fork, those of its ancestors: never wiped.
static NEXT: AtomicU64 = AtomicU64::new(1);
static WATCHING: Mutex<bool> = Mutex::new(false);

extern "C" fn before_fork() {
    if let Some(word) = word() {
        // Ordered before the child's existence by the fork itself.
        word.store(NEXT.fetch_add(1, Ordering::Relaxed) + 1, Ordering::SeqCst);
    }
}

fn word() -> Option<&'static AtomicU64> {
    let word = GENERATION.load(Ordering::Acquire);
    // SAFETY: null, or the start of a page that `watch` mapped and never unmaps, zeroed and aligned.
    unsafe { word.as_ref() }
}

/// Starts watching for forks. Idempotent.
pub fn watch() -> std::io::Result<()> {
    let mut watching = WATCHING.lock().unwrap_or_else(PoisonError::into_inner);
    if *watching {
        return Ok(());
    }
    // SAFETY: asks for a fresh private anonymous page anywhere.
    let page = unsafe {
        libc::mmap(
            ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if page == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the page was mapped just above and belongs to nobody else.
    if unsafe { libc::madvise(page, 4096, libc::MADV_WIPEONFORK) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    GENERATION.store(page.cast(), Ordering::Release);
    // SAFETY: `before_fork` is an `extern "C"` function without arguments that only touches atomics, which is allowed in
    // a fork handler.
    let result = unsafe { libc::pthread_atfork(Some(before_fork), None, None) };
    if result != 0 {
        return Err(std::io::Error::from_raw_os_error(result));
    }
    *watching = true;
    drop(watching);
    crate::asymmetric::prepare();
    crate::checksum::prepare();
    generation();
    Ok(())
}

/// The generation of this process, renewed when it finds itself a child.
pub fn generation() -> u64 {
    let Some(word) = word() else { return 0 };
    let now = word.load(Ordering::Acquire);
    if now != 0 {
        return now;
    }
    name(word)
}

/// A number of this process that a fork's child does not share, unlike everything else it inherits.
#[inline(always)]
pub fn process() -> u64 {
    let words = GENERATION.load(Ordering::Relaxed);
    if words.is_null() {
        return 0;
    }
    // SAFETY: `watch` mapped a page of 512 zeroed, aligned words there, which is never unmapped; this is the second.
    let word = unsafe { &*words.wrapping_add(1) };
    match word.load(Ordering::Relaxed) {
        0 => name(word),
        process => process,
    }
}

/// Gives a wiped word a number that was never used before.
#[cold]
fn name(word: &AtomicU64) -> u64 {
    let fresh = NEXT.fetch_add(1, Ordering::Relaxed) + 1;
    match word.compare_exchange(0, fresh, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => fresh,
        Err(other) => other,
    }
}

/// Whether something made in generation `born` may by now be shared with another process.
#[inline(always)]
pub fn is_frozen(born: u64) -> bool {
    let word = GENERATION.load(Ordering::Relaxed);
    // SAFETY: sessions exist only after `watch` succeeded, so the pointer names the page, which is never unmapped.
    let now = unsafe { word.as_ref() }.map_or(0, |word| word.load(Ordering::Acquire));
    now != born
}
