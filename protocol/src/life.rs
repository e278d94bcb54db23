//! How a client learns, with one load of a line that nobody writes, that the agent has died.
//!
//! The agent keeps a *robust futex* in a page that every client maps read-only. When the thread that holds it ends, by
//! whatever cause, the kernel itself sets `FUTEX_OWNER_DIED` in the word. No heartbeat, no timer, no system call on a
//! hit. Where robust futexes are not to be had the word stays 0 and clients learn of a death at their next message.

use std::cell::Cell;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc;

use crate::layout::life;
use crate::memory::{HugePages, Mapping, Memfd, Platform, Seals};
use crate::sync::Ordering;
use crate::words::{MappedWords, Words};

/// `struct robust_list_head` of the kernel.
#[repr(C)]
#[derive(Clone, Copy)]
struct RobustListHead {
    next: *const RobustEntry,
    futex_offset: libc::c_long,
    pending: *const RobustEntry,
}

/// `struct robust_list` of the kernel.
#[repr(C)]
#[derive(Clone, Copy)]
struct RobustEntry {
    // The kernel's list ends where it began, at the head.
    next: *const RobustEntry,
}

/// The list of one thread that holds one futex.
#[repr(C)]
#[derive(Clone, Copy)]
struct RobustList {
    head: RobustListHead,
    entry: RobustEntry,
}

/// The agent's side: the page, and the thread whose end the kernel will report.
#[derive(Debug)]
pub struct Beacon {
    memfd: Memfd,
    watched: bool,
    // Dropping the sender ends the thread, and with it the sign of life.
    _alive: mpsc::Sender<()>,
}

impl Beacon {
    /// Makes the page and, where the platform can, starts the thread that holds the futex.
    pub fn light(platform: &Platform) -> io::Result<Beacon> {
        let memfd = Memfd::create(c"larder-life", life::BYTES, HugePages::Off, platform)?;
        let mapping = Arc::new(Mapping::read_write(&memfd, life::BYTES)?);
        mapping.populate_by_touch(0, life::BYTES);
        memfd.seal(Seals::Final, platform)?;
        let (alive, ended) = mpsc::channel::<()>();
        let mut watched = false;
        if platform.robust_futex {
            let words = MappedWords::new(mapping, 0, life::BYTES / 8);
            let (ready, is_ready) = mpsc::channel();
            std::thread::Builder::new().name("life".into()).spawn(move || hold(&words, &ready, &ended))?;
            // Refused by a filter, say: then clients learn of our death at their next message, as documented.
            watched = is_ready.recv().is_ok_and(|registered| registered.is_ok());
        }
        Ok(Beacon { memfd, watched, _alive: alive })
    }

    /// Whether the kernel will tell clients of this process's death.
    pub fn is_watched(&self) -> bool {
        self.watched
    }

    /// A read-only description of the page to send to a client.
    pub fn description(&self) -> io::Result<std::os::fd::OwnedFd> {
        self.memfd.description(false)
    }
}

/// Owns the futex until the agent is gone or the beacon dropped.
fn hold(words: &MappedWords, ready: &mpsc::Sender<io::Result<()>>, ended: &mpsc::Receiver<()>) {
    let thread = nix::unistd::gettid().as_raw();
    words.store(life::FUTEX, u64::from(thread.unsigned_abs()), Ordering::Release);
    let futex = words.mapping().words_at(life::FUTEX * 8, 1);
    let list = Cell::new(RobustList {
        head: RobustListHead { next: std::ptr::null(), futex_offset: 0, pending: std::ptr::null() },
        entry: RobustEntry { next: std::ptr::null() },
    });
    let at: *const RobustList = list.as_ptr();
    let entry = at.wrapping_byte_add(std::mem::offset_of!(RobustList, entry)).cast::<RobustEntry>();
    // A ring of one entry. The distance from an entry to its futex may be anything, and with one entry it is the same
    // for all: so the entry stays private and only the futex is shared.
    list.set(RobustList {
        head: RobustListHead {
            next: entry,
            futex_offset: (futex as isize - entry as isize) as libc::c_long,
            pending: std::ptr::null(),
        },
        entry: RobustEntry { next: at.cast() },
    });
    // SAFETY: registers the list for this thread in place of libc's, in which this thread has no robust mutex. It lives
    // on this stack until the thread ends, which is when the kernel reads it.
    let result = unsafe { libc::syscall(libc::SYS_set_robust_list, at, size_of::<RobustListHead>()) };
    let outcome = if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    let failed = outcome.is_err();
    let _ = ready.send(outcome);
    if failed {
        words.store(life::FUTEX, 0, Ordering::Release);
        return;
    }
    // Parks until the beacon is dropped: nothing is ever sent.
    let _ = ended.recv();
    words.store(life::FUTEX, u64::from(libc::FUTEX_OWNER_DIED), Ordering::Release);
    // SAFETY: an empty list, so that the kernel does not look at this stack when the thread ends.
    let _ = unsafe {
        libc::syscall(libc::SYS_set_robust_list, std::ptr::null::<RobustListHead>(), size_of::<RobustListHead>())
    };
}

/// A client's side.
#[derive(Debug)]
pub struct Watch {
    words: MappedWords,
}

impl Watch {
    /// Maps the page that the agent sent.
    pub fn new(fd: impl AsFd) -> io::Result<Watch> {
        let mapping = Arc::new(Mapping::read_only(fd, life::BYTES)?);
        Ok(Watch { words: MappedWords::new(mapping, 0, life::BYTES / 8) })
    }

    /// Whether the agent has died.
    #[inline(always)]
    pub fn is_dead(&self) -> bool {
        self.words.load(life::FUTEX, Ordering::Relaxed) & u64::from(libc::FUTEX_OWNER_DIED) != 0
    }
}
