//! Temporary files, and what becomes of those whose publisher died.
//!
//! All lie in one directory, `.tmp`, under names that say whose they are: host, boot of the host, process namespace,
//! process, start of the process, number. A file goes when its process is known to be gone, which only the same host can
//! tell; of another host, or another container of this one, when nobody wrote to it for a day. Hosts that share a store
//! need names of their own.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{fs, process};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::signal::kill;
use nix::sys::stat::{Mode as Permissions, SFlag, fstatat};
use nix::unistd::{Pid, UnlinkatFlags, unlinkat};

use super::StoreError;
use super::failure::failure;
use super::root::Root;

/// The directory of temporary files, which no list shows.
const DIRECTORY: &str = ".tmp";

/// How long a file stays whose publisher cannot be asked for.
const MOST_AGE: Duration = Duration::from_hours(24);

/// A file that has no name of an object yet. Its temporary name is removed when it is dropped.
#[derive(Debug)]
pub(super) struct Temporary<'r> {
    // Closed before the name goes: NFS would otherwise keep the file under yet another name until then.
    file: File,
    named: Named<'r>,
}

/// A temporary name.
#[derive(Debug)]
struct Named<'r> {
    root: &'r Root,
    directory: OwnedFd,
    name: String,
    is_taken: bool,
}

impl<'r> Temporary<'r> {
    /// Makes an empty one.
    pub(super) fn create(root: &'r Root) -> Result<Temporary<'r>, StoreError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = Owner::this().file_name(NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = root.make_directory(DIRECTORY)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&directory, name.as_str(), flags, Permissions::S_IRUSR | Permissions::S_IWUSR)
            .map_err(|error| failure(error, "make", &root.path_of(DIRECTORY).join(&name)))?;
        Ok(Temporary { file: file.into(), named: Named { root, directory, name, is_taken: false } })
    }

    /// The directory of temporary files.
    pub(super) fn directory(&self) -> &OwnedFd {
        &self.named.directory
    }

    /// Its name there.
    pub(super) fn name(&self) -> &str {
        &self.named.name
    }

    /// The open file.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Where it is, for messages.
    pub(super) fn path(&self) -> PathBuf {
        self.named.root.path_of(DIRECTORY).join(&self.named.name)
    }

    /// Whether it still has its temporary name.
    pub(super) fn is_there(&self) -> bool {
        fstatat(&self.named.directory, self.name(), AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
    }

    /// It was renamed, so that there is no temporary name to remove.
    pub(super) fn was_renamed(&mut self) {
        self.named.is_taken = true;
    }
}

impl Drop for Named<'_> {
    fn drop(&mut self) {
        if !self.is_taken {
            // What stays is removed at some later start.
            let _ = unlinkat(&self.directory, self.name.as_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

/// Makes a temporary file and removes it: whether a directory can be written is asked of nothing else on NFS.
pub(super) fn try_one(root: &Root) -> Result<(), StoreError> {
    Temporary::create(root).map(drop)
}

/// Removes the files of publishers that are gone.
pub(super) fn remove_abandoned(root: &Root) -> Result<(), StoreError> {
    let Some(directory) = root.directory(DIRECTORY)? else { return Ok(()) };
    let path = root.path_of(DIRECTORY);
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut names = Dir::openat(&directory, ".", flags, Permissions::empty())
        .map_err(|error| failure(error, "read the directory", &path))?;
    for found in names.iter() {
        let found = found.map_err(|error| failure(error, "read the directory", &path))?;
        let Ok(name) = found.file_name().to_str() else { continue };
        let Some(owner) = Owner::of_file(name) else { continue };
        let Ok(stat) = fstatat(&directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) else { continue };
        let is_file = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFREG;
        let is_old = || {
            let written = UNIX_EPOCH + Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
            SystemTime::now().duration_since(written).is_ok_and(|age| age > MOST_AGE)
        };
        if is_file && owner.is_gone().unwrap_or_else(is_old) {
            match unlinkat(&directory, name, UnlinkatFlags::NoRemoveDir) {
                // Another agent cleans too.
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(error) => return Err(failure(error, "remove", &path.join(name))),
            }
        }
    }
    Ok(())
}

/// Whose a temporary file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) host: String,
    /// The kernel's name for this run of the host.
    pub(super) boot: String,
    /// Numbers of processes mean something within one namespace only.
    pub(super) namespace: u64,
    pub(super) pid: u32,
    /// In clock ticks since the boot: tells a process from a later one of the same number.
    pub(super) started: u64,
}

impl Owner {
    /// This process.
    pub(super) fn this() -> &'static Owner {
        static THIS: OnceLock<Owner> = OnceLock::new();
        THIS.get_or_init(|| Owner {
            host: plain(fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim()),
            boot: plain(fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim()),
            namespace: pid_namespace(),
            pid: process::id(),
            started: state_and_start(process::id()).map_or(0, |(_, started)| started),
        })
    }

    /// The name of its file of number `number`.
    pub(super) fn file_name(&self, number: u64) -> String {
        let Owner { host, boot, namespace, pid, started } = self;
        format!("{host}+{boot}+{namespace}+{pid}+{started}+{number}")
    }

    fn of_file(name: &str) -> Option<Owner> {
        let parts: Vec<&str> = name.split('+').collect();
        let [host, boot, namespace, pid, started, number] = parts[..] else { return None };
        number.parse::<u64>().ok()?;
        let (host, boot) = (host.to_owned(), boot.to_owned());
        let (namespace, pid, started) = (namespace.parse().ok()?, pid.parse().ok()?, started.parse().ok()?);
        Some(Owner { host, boot, namespace, pid, started })
    }

    /// Whether the process has ended. `None` when this process cannot tell.
    pub(super) fn is_gone(&self) -> Option<bool> {
        let this = Owner::this();
        if self == this {
            return Some(false);
        }
        if self.host != this.host || self.host.is_empty() || self.boot.is_empty() || this.boot.is_empty() {
            return None;
        }
        if self.boot != this.boot {
            return Some(true);
        }
        if self.namespace != this.namespace || this.namespace == 0 {
            return None;
        }
        let pid = i32::try_from(self.pid).ok().filter(|pid| *pid > 0)?;
        // Where /proc hides the processes of others, a signal still finds them.
        if kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH) {
            return Some(true);
        }
        let (state, started) = state_and_start(self.pid)?;
        Some(started != self.started || matches!(state, 'Z' | 'X'))
    }
}

/// The number of this process's process namespace; 0 when it is not known.
fn pid_namespace() -> u64 {
    let link = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let digits: String = link.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}

/// State of a process and when it started, from `/proc`.
fn state_and_start(pid: u32) -> Option<(char, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name, which may hold spaces and brackets.
    let mut rest = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = rest.next()?.chars().next()?;
    Some((state, rest.nth(18)?.parse().ok()?))
}

/// A part of a file name without the sign that parts them.
fn plain(text: &str) -> String {
    let byte = |byte: u8| if byte.is_ascii_alphanumeric() || byte == b'-' { char::from(byte) } else { '_' };
    text.bytes().take(64).map(byte).collect()
}
