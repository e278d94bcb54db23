//! Files that a client opened and passed: what the kernel let the client read, and nothing else.
//!
//! The agent opens no path on anybody's behalf. Every call that may block runs on a thread of its own with a permit that
//! stays with the thread: a mount that hangs holds [`MOST_BLOCKED`] threads and no more, and one user half of these. A
//! thread goes on to fill the memory it was given, whether or not anybody still waits.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::statfs::fstatfs;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;

use super::failure::OriginError;
use crate::pieces::{self, PIECE_BYTES, READ_LANES};
use crate::store::Memory;
use crate::store::lanes::Lanes;

/// Threads that may wait for files at once.
const MOST_BLOCKED: usize = 16;

/// File systems whose files are views of the kernel: who reads them decides what is in them, and that would be the agent.
/// proc, sysfs, debugfs, tracefs, securityfs, selinuxfs, bpf, cgroup (two), efivarfs, pstore, nsfs.
const VIEWS: [i64; 12] = [
    0x9fa0,
    0x6265_6572,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0xf97c_ff8c,
    0xcafe_4a11,
    0x0027_e0eb,
    0x6367_7270,
    0xde5e_81e4,
    0x6165_676c,
    0x6e73_6673,
];

/// The threads for files.
#[derive(Debug)]
pub(super) struct Files {
    permits: Arc<Semaphore>,
    lanes: Lanes,
}

/// A file that is read in parts.
#[derive(Clone, Debug)]
pub(super) struct OpenFile {
    file: Arc<File>,
    uid: u32,
    pub(super) len_bytes: u64,
    pub(super) version: String,
}

impl Default for Files {
    fn default() -> Files {
        Files { permits: Arc::new(Semaphore::new(MOST_BLOCKED)), lanes: Lanes::default() }
    }
}

impl Files {
    /// Looks at a descriptor, and reads the first bytes of the file behind it.
    pub(super) async fn open(
        &self,
        uid: u32,
        descriptor: OwnedFd,
        first_most: usize,
    ) -> Result<(OpenFile, Vec<u8>), OriginError> {
        self.blocking(uid, 0, move |_| look(descriptor, uid, first_most)).await
    }

    /// Fills memory from a file, several pieces at once.
    pub(super) async fn read(&self, file: &OpenFile, offset_bytes: u64, into: Memory) -> Result<(), OriginError> {
        let (at, len) = into.range().map_err(|error| OriginError::Failed(error.to_string()))?;
        let end = offset_bytes.checked_add(into.len_bytes).filter(|end| *end <= file.len_bytes);
        if end.is_none() {
            return Err(OriginError::Invalid(format!("the file has only {} bytes", file.len_bytes)));
        }
        let (file, extra) = (file.clone(), len.div_ceil(PIECE_BYTES).clamp(1, READ_LANES) - 1);
        self.blocking(file.uid, extra, move |extra| {
            let whole = pieces::each(len, extra, |piece| {
                let from = offset_bytes + piece.start as u64;
                let filled = into.mapping.fill_from(at + piece.start, piece.len(), &*file.file, from)?;
                if filled == piece.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
            });
            whole.map_err(|error| failure(&error, "read"))?;
            // What was read is of one state only if the file still is in it.
            let found = version_of(&file.file).map_err(|error| failure(&error, "look at"))?;
            if found == file.version { Ok(()) } else { Err(changed()) }
        })
        .await
    }

    /// Runs `work` on a thread that may block, with as many others, up to `extra`, as are free.
    async fn blocking<T: Send + 'static>(
        &self,
        uid: u32,
        extra: usize,
        work: impl FnOnce(usize) -> Result<T, OriginError> + Send + 'static,
    ) -> Result<T, OriginError> {
        let lane = self.lanes.enter(uid).await;
        let own = Arc::clone(&self.permits).acquire_owned().await;
        let own = own.map_err(|_| OriginError::Unavailable("the agent stops and reads no more files".to_owned()))?;
        // Only what nobody else could use: half stays for others.
        let free = self.permits.available_permits().saturating_sub(MOST_BLOCKED / 2).min(extra);
        let further: Vec<OwnedSemaphorePermit> =
            (0..free).map_while(|_| Arc::clone(&self.permits).try_acquire_owned().ok()).collect();
        let task = spawn_blocking(move || {
            let result = work(further.len());
            drop((lane, own, further));
            result
        });
        task.await.unwrap_or_else(|error| {
            Err(if error.is_panic() {
                OriginError::Failed("a thread that read a file panicked; please report it".to_owned())
            } else {
                OriginError::Unavailable("the agent stops and reads no more files".to_owned())
            })
        })
    }
}

fn look(descriptor: OwnedFd, uid: u32, first_most: usize) -> Result<(OpenFile, Vec<u8>), OriginError> {
    let flags = fcntl(&descriptor, FcntlArg::F_GETFL).map_err(|error| failure(&error.into(), "look at"))?;
    let flags = OFlag::from_bits_retain(flags);
    if flags.contains(OFlag::O_PATH) || flags & OFlag::O_ACCMODE != OFlag::O_RDONLY {
        return Err(OriginError::Invalid("the file is not open for reading alone; open it with O_RDONLY".to_owned()));
    }
    let file = File::from(descriptor);
    let found = file.metadata().map_err(|error| failure(&error, "look at"))?;
    if !found.is_file() {
        return Err(OriginError::Invalid("only regular files can be fetched; this is none".to_owned()));
    }
    let kind = fstatfs(&file).map_err(|error| failure(&error.into(), "look at"))?.filesystem_type();
    if VIEWS.contains(&kind.0) {
        return Err(OriginError::Invalid(
            "files of the kernel (/proc, /sys and the like) cannot be fetched".to_owned(),
        ));
    }
    let (len_bytes, version) = (found.len(), version_of(&file).map_err(|error| failure(&error, "look at"))?);
    let mut first = vec![0; usize::try_from(len_bytes).unwrap_or(usize::MAX).min(first_most)];
    file.read_exact_at(&mut first, 0).map_err(|error| failure(&error, "read"))?;
    if version_of(&file).map_err(|error| failure(&error, "look at"))? != version {
        return Err(changed());
    }
    Ok((OpenFile { file: Arc::new(file), uid, len_bytes, version }, first))
}

/// Tells one state of one file from all others. Whoever writes moves both times on, and can set back only the first.
fn version_of(file: &File) -> io::Result<String> {
    let found = file.metadata()?;
    Ok(format!(
        "{:x}-{:x}-{:x}-{}.{:09}-{}.{:09}",
        found.dev(),
        found.ino(),
        found.len(),
        found.mtime(),
        found.mtime_nsec(),
        found.ctime(),
        found.ctime_nsec()
    ))
}

fn changed() -> OriginError {
    OriginError::Changed("the file".to_owned())
}

fn failure(error: &io::Error, what: &str) -> OriginError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::StaleNetworkFileHandle => changed(),
        io::ErrorKind::PermissionDenied => OriginError::Denied(format!("cannot {what} the file: {error}")),
        io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NotConnected => {
            OriginError::Unavailable(format!("cannot {what} the file now: {error}"))
        }
        _ => OriginError::Failed(format!("cannot {what} the file: {error}")),
    }
}
