//! Objects as files in a directory of any mounted file system: Lustre, NFS, a local disk.
//!
//! Every call that may block runs on a thread of its own with a permit, and the permit stays with the thread: a mount
//! that hangs holds [`MOST_BLOCKED`] threads and no more, whether or not anybody still waits for them. The thread also
//! goes on to read or write the memory that its operation was given: who stops waiting must not use that memory for
//! anything else.
//!
//! The directory must belong to the agent's user or to root and be writable by nobody else, with or without the sticky
//! bit: who can write there could put up entries of their own, and a checksum does not tell who wrote an entry.

mod failure;
mod list;
mod publish;
mod root;
mod temporary;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode as Permissions;
use nix::unistd::{UnlinkatFlags, unlinkat};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::pieces::{self, READ_LANES, WRITE_LANES, extra_lanes, further_permits};

use super::backend::{Backend, Memory, Mode, Object, Pending, Published, Start, StoreError};
use failure::failure;
use root::Root;

/// Threads that may wait for the file system at once.
const MOST_BLOCKED: usize = 16;

/// A store in a directory.
#[derive(Debug)]
pub(crate) struct Directory {
    root: Arc<Root>,
    permits: Arc<Semaphore>,
}

impl Directory {
    /// Opens a store in a directory that exists, and removes what dead publishers left there. Blocks.
    pub(crate) fn open(path: &Path) -> Result<Directory, StoreError> {
        let root = Root::open(path)?;
        temporary::remove_abandoned(&root)?;
        temporary::try_one(&root)?;
        Ok(Directory { root: Arc::new(root), permits: Arc::new(Semaphore::new(MOST_BLOCKED)) })
    }

    /// Runs `work` on a thread that may block, with the permits of as many further threads, up to `extra`, as are free.
    async fn blocking<T: Send + 'static>(
        &self,
        extra: usize,
        work: impl FnOnce(&Root, usize) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let root = Arc::clone(&self.root);
        let own = Arc::clone(&self.permits).acquire_owned().await;
        let own = own.map_err(|_| StoreError::Unavailable(format!("the store {} is closed", root.path().display())))?;
        let further = further_permits(&self.permits, extra);
        let name = self.root.path().display().to_string();
        let task = spawn_blocking(move || {
            let result = work(&root, further.len());
            drop((own, further));
            result
        });
        task.await.unwrap_or_else(|error| {
            Err(if error.is_panic() {
                StoreError::Failed(format!("a thread that worked on the store {name} panicked; please report it"))
            } else {
                StoreError::Unavailable(format!("the agent stops and asks the store {name} for nothing more"))
            })
        })
    }
}

impl Backend for Directory {
    fn under_way(&self) -> usize {
        MOST_BLOCKED - self.permits.available_permits()
    }

    fn publish<'a>(&'a self, name: &'a str, object: Object, mode: Mode) -> Pending<'a, Published> {
        let name = name.to_owned();
        let extra = extra_lanes(object.payload.as_ref().map_or(0, |payload| payload.len_bytes), WRITE_LANES);
        Box::pin(self.blocking(extra, move |root, extra| publish::publish(root, &name, &object, mode, extra)))
    }

    fn start<'a>(&'a self, name: &'a str, most: usize) -> Pending<'a, Option<Start>> {
        let name = name.to_owned();
        Box::pin(self.blocking(0, move |root, _| start(root, &name, most)))
    }

    fn read<'a>(&'a self, name: &'a str, version: &'a str, offset_bytes: u64, into: Memory) -> Pending<'a, ()> {
        let (name, version) = (name.to_owned(), version.to_owned());
        let extra = extra_lanes(into.len_bytes, READ_LANES);
        Box::pin(self.blocking(extra, move |root, extra| read(root, &name, &version, offset_bytes, &into, extra)))
    }

    fn remove<'a>(&'a self, name: &'a str) -> Pending<'a, bool> {
        let name = name.to_owned();
        Box::pin(self.blocking(0, move |root, _| remove(root, &name)))
    }

    fn groups<'a>(&'a self, prefix: &'a str) -> Pending<'a, Vec<String>> {
        let prefix = prefix.to_owned();
        Box::pin(self.blocking(0, move |root, _| list::groups(root, &prefix)))
    }

    fn list<'a>(&'a self, prefix: &'a str, after: &'a str, most: usize) -> Pending<'a, Vec<String>> {
        let (prefix, after) = (prefix.to_owned(), after.to_owned());
        Box::pin(self.blocking(0, move |root, _| list::list(root, &prefix, &after, most)))
    }
}

/// An object's file. `None` when there is none.
fn open_object(root: &Root, name: &str) -> Result<Option<(File, std::fs::Metadata)>, StoreError> {
    let Some((parent, last)) = root.parent_of(name)? else { return Ok(None) };
    // Without O_NONBLOCK a pipe that somebody put there would hold the thread for ever.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file: OwnedFd = match openat(&parent, last, flags, Permissions::empty()) {
        Ok(file) => file,
        Err(Errno::ENOENT) => return Ok(None),
        Err(error) => return Err(failure(error, "open", &root.path_of(name))),
    };
    let file = File::from(file);
    let found = file.metadata().map_err(|error| failure::of_io(&error, "stat", &root.path_of(name)))?;
    if !found.is_file() {
        let path = root.path_of(name);
        return Err(StoreError::Failed(format!("{} is not a file; take it away", path.display())));
    }
    Ok(Some((file, found)))
}

/// Tells one file under a name from the next. Files are never written in place, so the inode and the time of the last
/// write do. The time of the last change of the inode would not: it moves when the temporary name is taken away, which
/// is after the object is there to be read.
fn version_of(file: &std::fs::Metadata) -> String {
    format!("{:x}-{:x}-{}.{:09}", file.ino(), file.len(), file.mtime(), file.mtime_nsec())
}

fn start(root: &Root, name: &str, most: usize) -> Result<Option<Start>, StoreError> {
    let Some((file, found)) = open_object(root, name)? else { return Ok(None) };
    let want = usize::try_from(found.len()).unwrap_or(usize::MAX).min(most);
    let mut bytes = vec![0; want];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => Ok(Some(Start { bytes, len_bytes: found.len(), version: version_of(&found) })),
        Err(error) => Err(read_failure(&error, root, name)),
    }
}

fn read(
    root: &Root,
    name: &str,
    version: &str,
    offset_bytes: u64,
    into: &Memory,
    extra: usize,
) -> Result<(), StoreError> {
    let (at, len) = into.range()?;
    let Some((file, found)) = open_object(root, name)? else { return Err(changed(root, name)) };
    let end = offset_bytes.checked_add(into.len_bytes);
    if version_of(&found) != version || end.is_none_or(|end| end > found.len()) {
        return Err(changed(root, name));
    }
    let whole = pieces::each(len, extra, |piece| {
        let filled = into.mapping.fill_from(at + piece.start, piece.len(), &file, offset_bytes + piece.start as u64)?;
        if filled == piece.len() { Ok(()) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
    });
    whole.map_err(|error| read_failure(&error, root, name))
}

/// The error of a read of an open object. A stale handle is a file that another client of an NFS server removed; when it
/// is the whole mount that is stale, the next call says so.
fn read_failure(error: &std::io::Error, root: &Root, name: &str) -> StoreError {
    match error.raw_os_error().map(Errno::from_raw) {
        None if error.kind() == std::io::ErrorKind::UnexpectedEof => changed(root, name),
        Some(Errno::ESTALE) => changed(root, name),
        _ => failure::of_io(error, "read", &root.path_of(name)),
    }
}

fn remove(root: &Root, name: &str) -> Result<bool, StoreError> {
    let Some((parent, last)) = root.parent_of(name)? else { return Ok(false) };
    match unlinkat(&parent, last, UnlinkatFlags::NoRemoveDir) {
        Ok(()) => {}
        Err(Errno::ENOENT) => return Ok(false),
        Err(error) => return Err(failure(error, "remove", &root.path_of(name))),
    }
    root.sync(&parent, name)?;
    root.prune(name);
    Ok(true)
}

fn changed(root: &Root, name: &str) -> StoreError {
    StoreError::Changed(root.path_of(name).display().to_string())
}
