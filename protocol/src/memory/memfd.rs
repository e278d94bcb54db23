//! Anonymous files of shared memory, as the agent makes, seals, sends and asks about them.

use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::unistd::ftruncate;

use super::Platform;

/// Linux 6.3's `MFD_NOEXEC_SEAL`, which nix does not name.
const MFD_NOEXEC_SEAL: u32 = 0x8;
/// Linux 5.1's `F_SEAL_FUTURE_WRITE`.
const F_SEAL_FUTURE_WRITE: i32 = 0x10;

/// The page size a segment is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum HugePages {
    /// 4 KiB pages.
    #[default]
    Off,
    /// 2 MiB pages where the kernel finds them (`shmem_enabled` must be `advise` or more).
    Transparent,
    /// 2 MiB pages from the pool that the administrator set aside.
    Hugetlb,
}

/// Which seals a memfd gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seals {
    /// The size is fixed; whoever has it mapped or maps it may write. For a writer's memory, sealed further at commit.
    Size,
    /// The size is fixed and no new writable map can be made, ever.
    Final,
    /// Nobody can write any more; refused by the kernel while a writable map exists.
    Immutable,
}

/// Whether anybody but this process has a memfd open or mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// Nobody has.
    None,
    /// Somebody has.
    Some,
    /// This kernel cannot tell.
    Unknown,
}

/// One anonymous file of shared memory.
///
/// The descriptor held here is a re-opened one. The kernel does not count the description that `memfd_create` returns
/// among the openers of a file, so the probe of [`Memfd::others`] needs a counted one of its own, and another for
/// whoever is sent the memory.
#[derive(Debug)]
pub struct Memfd {
    own: OwnedFd,
    len: usize,
}

impl Memfd {
    /// Makes `len` bytes of shared memory, mode 0600, not executable, closed on exec, without pages yet.
    pub fn create(name: &CStr, len: usize, huge: HugePages, platform: &Platform) -> io::Result<Memfd> {
        let mut flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        if huge == HugePages::Hugetlb {
            flags |= MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB;
        }
        if platform.noexec_seal {
            flags |= MFdFlags::from_bits_retain(MFD_NOEXEC_SEAL);
        }
        let first = memfd_create(name, flags)?;
        // A memfd starts with mode 0777: without this any user who is sent a read-only descriptor could re-open it
        // through /proc for writing.
        fchmod(&first, Mode::S_IRUSR | Mode::S_IWUSR)?;
        ftruncate(&first, i64::try_from(len).map_err(|_| io::Error::other("length over 8 EiB"))?)?;
        let own = reopen(first.as_fd(), true)?;
        Ok(Memfd { own, len })
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A new description of the same memory to send to a client. With `writable` false it cannot be mapped for writing
    /// whatever the seals say.
    pub fn description(&self, writable: bool) -> io::Result<OwnedFd> {
        reopen(self.own.as_fd(), writable)
    }

    /// Adds seals.
    pub fn seal(&self, seals: Seals, platform: &Platform) -> io::Result<()> {
        let mut flags = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
        match seals {
            Seals::Size => {}
            Seals::Final => {
                if platform.future_write_seal {
                    flags |= SealFlag::from_bits_retain(F_SEAL_FUTURE_WRITE);
                }
                flags |= SealFlag::F_SEAL_SEAL;
            }
            Seals::Immutable => flags |= SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL,
        }
        fcntl(&self.own, FcntlArg::F_ADD_SEALS(flags))?;
        Ok(())
    }

    /// Whether the size is still what it was made with, to be asked after the size was sealed: a client that held an
    /// unsealed descriptor may have changed it.
    pub fn is_whole(&self) -> bool {
        fstat(&self.own).is_ok_and(|stat| u64::try_from(stat.st_size).is_ok_and(|size| size == self.len as u64))
    }

    /// Asks the kernel whether any other process has this memory open or mapped.
    ///
    /// A write lease is granted exactly when nobody else has the file open, and a map keeps its file open; so the answer
    /// is right after exit, exec, fork, unmap and `closefrom` alike.
    pub fn others(&self, platform: &Platform) -> Others {
        if !platform.lease_probe {
            return Others::Unknown;
        }
        match set_lease(self.own.as_fd(), libc::F_WRLCK) {
            Ok(()) => {
                // Given back at once: it was only a question. Failing would mean that it was broken meanwhile, which
                // answers the question for the next time.
                let _ = set_lease(self.own.as_fd(), libc::F_UNLCK);
                Others::None
            }
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Others::Some,
            Err(_) => Others::Unknown,
        }
    }
}

impl AsFd for Memfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.own.as_fd()
    }
}

fn set_lease(fd: BorrowedFd<'_>, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: F_SETLEASE takes an int and touches no memory of ours.
    let result = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, kind) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn reopen(fd: BorrowedFd<'_>, writable: bool) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let file: File = OpenOptions::new().read(true).write(writable).custom_flags(libc::O_CLOEXEC).open(path)?;
    Ok(file.into())
}

/// What a client checks of a descriptor that it was sent before it maps it: that its size is fixed and at least
/// `len` bytes and, with `expect_future_write`, that no new writable map can be made.
pub fn received_seals(fd: impl AsFd, len: usize, expect_future_write: bool) -> io::Result<()> {
    let bits = fcntl(&fd, FcntlArg::F_GET_SEALS)?;
    let mut wanted = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
    let wrote_once = bits & libc::F_SEAL_WRITE != 0;
    if expect_future_write && !wrote_once {
        wanted |= F_SEAL_FUTURE_WRITE;
    }
    if bits & wanted != wanted {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("a descriptor of the agent has the seals {bits:#x}, expected at least {wanted:#x}"),
        ));
    }
    let size = fstat(&fd)?.st_size;
    if u64::try_from(size).unwrap_or(0) < len as u64 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a descriptor of the agent has {size} bytes, expected {len}"),
        ));
    }
    Ok(())
}
