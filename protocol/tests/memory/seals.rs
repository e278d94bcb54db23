//! What the kernel refuses once memory is sealed, to whoever holds a descriptor of it.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use larder_protocol::memory::{HugePages, Mapping, Memfd, Platform, Seals, received_seals};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mprotect, munmap};
use nix::unistd::ftruncate;

const LEN: usize = 8192;

fn platform() -> Platform {
    Platform::detect(&[]).unwrap()
}

fn memfd() -> Memfd {
    Memfd::create(c"seals", LEN, HugePages::Off, &platform()).unwrap()
}

/// Opens the memory again by its name under /proc, as any process could that holds a descriptor and passes its mode.
fn reopened(fd: BorrowedFd<'_>) -> File {
    OpenOptions::new().read(true).write(true).open(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap()
}

fn assert_not_writable(fd: &impl AsFd) {
    let error = Mapping::read_write(fd, LEN).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "a new writable map");
}

/// Whether a read-only map of `fd` can be made writable.
fn mprotect_to_writable(fd: impl AsFd) -> Result<(), Errno> {
    let len = NonZeroUsize::new(LEN).unwrap();
    // SAFETY: maps fresh addresses, chosen by the kernel.
    let at = unsafe { mmap(None, len, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, fd, 0) }.unwrap();
    // SAFETY: changes the protection of the map just made, which nothing refers to.
    let result = unsafe { mprotect(at, LEN, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE) };
    // SAFETY: unmaps the map just made, which nothing refers to.
    unsafe { munmap(at, LEN) }.unwrap();
    result
}

#[test]
fn final_memory_is_written_by_the_maps_there_are_and_by_no_others() {
    let platform = platform();
    if !platform.future_write_seal {
        return println!("SKIPPED: this kernel has no F_SEAL_FUTURE_WRITE");
    }
    let memfd = memfd();
    let writer = Mapping::read_write(&memfd, LEN).unwrap();
    writer.write_word(0, 1);
    memfd.seal(Seals::Final, &platform).unwrap();

    let sent = memfd.description(true).unwrap();
    let again = reopened(sent.as_fd());
    assert_not_writable(&memfd);
    assert_not_writable(&sent);
    assert_not_writable(&again);
    assert_eq!(mprotect_to_writable(&sent), Err(Errno::EACCES));
    assert_eq!(again.write_at(b"x", 0).unwrap_err().kind(), ErrorKind::PermissionDenied, "pwrite");
    for len in [0, 4096, 3 * 4096] {
        assert_eq!(ftruncate(&again, len), Err(Errno::EPERM), "resize to {len}");
    }
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    assert_eq!(fallocate(&again, punch, 0, 4096), Err(Errno::EPERM), "punch a hole");
    let more = FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE);
    assert_eq!(fcntl(&again, more), Err(Errno::EPERM), "a seal that would stop the agent itself");

    let reader = Mapping::read_only(&sent, LEN).unwrap();
    assert_eq!(reader.read_word(0), 1);
    writer.write_word(4096, 2);
    assert_eq!(reader.read_word(4096), 2, "the map from before still writes");
    assert!(memfd.is_whole());
}

#[test]
fn a_read_only_description_cannot_be_mapped_writable_even_before_any_seal() {
    let memfd = memfd();
    let read_only = memfd.description(false).unwrap();
    assert_not_writable(&read_only);
    assert_eq!(mprotect_to_writable(&read_only), Err(Errno::EACCES));
    assert_eq!(ftruncate(&read_only, 0), Err(Errno::EINVAL));
    assert!(Mapping::read_write(memfd.description(true).unwrap(), LEN).is_ok());
}

#[test]
fn memory_is_the_agents_alone_by_mode() {
    let mode = nix::sys::stat::fstat(memfd()).unwrap().st_mode;
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_client_that_changed_the_size_before_the_seals_is_found_out() {
    for (len, whole) in [(LEN, true), (4096, false), (2 * LEN, false)] {
        let memfd = memfd();
        ftruncate(memfd.description(true).unwrap(), i64::try_from(len).unwrap()).unwrap();
        memfd.seal(Seals::Final, &platform()).unwrap();
        assert_eq!(memfd.is_whole(), whole, "resized to {len}");
        assert_eq!(memfd.len(), LEN);
    }
}

#[test]
fn immutable_memory_is_refused_while_somebody_can_write_and_then_is_final() {
    let platform = platform();
    let memfd = memfd();
    memfd.seal(Seals::Size, &platform).unwrap();
    let client = Mapping::read_write(memfd.description(true).unwrap(), LEN).unwrap();
    client.write_word(0, 7);
    assert!(memfd.seal(Seals::Immutable, &platform).is_err(), "the client still has it mapped");
    client.write_word(8, 8);
    drop(client);
    memfd.seal(Seals::Immutable, &platform).unwrap();
    assert_not_writable(&memfd);
    assert_eq!(reopened(memfd.as_fd()).write_at(b"x", 0).unwrap_err().kind(), ErrorKind::PermissionDenied);
    let reader = Mapping::read_only(&memfd, LEN).unwrap();
    assert_eq!((reader.read_word(0), reader.read_word(8)), (7, 8));
    assert!(received_seals(&memfd, LEN, true).is_ok(), "nobody can write it, which is more than was asked");
}

#[test]
fn a_client_takes_only_what_is_sealed_and_long_enough() {
    let platform = platform();
    let unsealed = memfd();
    assert_eq!(received_seals(&unsealed, LEN, false).unwrap_err().kind(), ErrorKind::PermissionDenied);
    let sized = memfd();
    sized.seal(Seals::Size, &platform).unwrap();
    assert!(received_seals(&sized, LEN, false).is_ok());
    assert_eq!(received_seals(&sized, LEN, true).unwrap_err().kind(), ErrorKind::PermissionDenied);
    let last = memfd();
    last.seal(Seals::Final, &platform).unwrap();
    assert_eq!(received_seals(&last, LEN, true).is_ok(), platform.future_write_seal);
    assert_eq!(received_seals(&last, LEN + 1, false).unwrap_err().kind(), ErrorKind::InvalidData);
    let file = tempfile::tempfile().unwrap();
    assert!(received_seals(&file, 0, false).is_err(), "a file that is no shared memory has no seals");
}
