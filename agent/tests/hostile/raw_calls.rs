//! The calls that no safe wrapper would make, each on memory or processes of the test's own.

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mprotect, munmap};
use nix::unistd::{ForkResult, Pid};

/// A shared map whose bytes are never looked at: only what the kernel says about it matters.
#[derive(Debug)]
pub(crate) struct Map {
    start: NonNull<c_void>,
    len: usize,
}

impl Map {
    pub(crate) fn new(fd: impl AsFd, len: usize, writable: bool) -> Result<Map, Errno> {
        let protection = if writable { ProtFlags::PROT_READ | ProtFlags::PROT_WRITE } else { ProtFlags::PROT_READ };
        let bytes = NonZeroUsize::new(len).ok_or(Errno::EINVAL)?;
        // SAFETY: a fresh map at an address of the kernel's choice touches nothing that exists.
        let start = unsafe { mmap(None, bytes, protection, MapFlags::MAP_SHARED, fd, 0) }?;
        Ok(Map { start, len })
    }

    /// Asks for write access to a map made without it.
    pub(crate) fn make_writable(&self) -> Result<(), Errno> {
        // SAFETY: the range is this map, and no Rust value lies in it.
        unsafe { mprotect(self.start, self.len, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE) }
    }

    /// Punches a hole through the map.
    pub(crate) fn remove_pages(&self) -> Result<(), Errno> {
        // SAFETY: the range is this map, and no Rust value lies in it.
        unsafe { madvise(self.start, self.len, MmapAdvise::MADV_REMOVE) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new` and nothing refers to it.
        let _ = unsafe { munmap(self.start, self.len) };
    }
}

/// Takes descriptor `number` out of another process, as its debugger could.
pub(crate) fn steal_descriptor(from: Pid, number: RawFd) -> Result<OwnedFd, Errno> {
    let pidfd = into_descriptor(
        // SAFETY: the call takes two integers.
        unsafe { libc::syscall(libc::SYS_pidfd_open, from.as_raw(), 0) },
    )?;
    into_descriptor(
        // SAFETY: the call takes three integers.
        unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) },
    )
}

fn into_descriptor(result: libc::c_long) -> Result<OwnedFd, Errno> {
    let raw = RawFd::try_from(result).map_err(|_| Errno::EOVERFLOW)?;
    if raw < 0 {
        return Err(Errno::last());
    }
    // SAFETY: the kernel just returned this descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Forks, and leaves a child that does nothing but hold all it inherited, until standard input ends or it is killed.
///
/// Returns the child's process id, to the parent only.
pub(crate) fn fork_a_holder() -> Pid {
    // SAFETY: the child calls nothing but `read` and `_exit`, which are async-signal-safe.
    match unsafe { nix::unistd::fork() } {
        Ok(ForkResult::Parent { child }) => child,
        Ok(ForkResult::Child) => {
            let mut byte = [0_u8; 1];
            // SAFETY: the buffer is one byte long and lives on this stack.
            while unsafe { libc::read(0, byte.as_mut_ptr().cast(), 1) } > 0 {}
            // SAFETY: ends the child at once; nothing of the parent's runtime is run twice.
            unsafe { libc::_exit(0) }
        }
        Err(errno) => panic!("fork failed: {errno}"),
    }
}
