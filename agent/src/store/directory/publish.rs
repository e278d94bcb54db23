//! An object's way from memory to its name: a temporary file, whole and synchronised, that then gets the name.

use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, renameat};
use nix::sys::stat::{FileStat, fstat, fstatat};
use nix::unistd::linkat;

use crate::pieces::{self, WRITE_LANES};

use super::failure::{failure, of_io};
use super::root::Root;
use super::temporary::Temporary;
use super::{Mode, Object, Published, StoreError};

/// How often others may remove the directories on the way before it is their fault.
const MOST_TRIES: usize = 64;

/// Publishes an object. `extra` threads beside this one may write.
pub(super) fn publish(
    root: &Root,
    name: &str,
    object: &Object,
    mode: Mode,
    extra: usize,
) -> Result<Published, StoreError> {
    // Spares the writing of an object that would be thrown away. The link decides.
    if mode == Mode::Create && there_is(root, name)? {
        return exists(root, name);
    }
    let mut temporary = Temporary::create(root)?;
    write(&temporary, object, extra)?;
    for _ in 0..MOST_TRIES {
        let (parent, last) = match root.make_parent_of(name) {
            Err(StoreError::Changed(_)) => continue,
            made => made?,
        };
        let given = match mode {
            Mode::Create => linkat(temporary.directory(), temporary.name(), &parent, last, AtFlags::empty()),
            Mode::Replace => renameat(temporary.directory(), temporary.name(), &parent, last),
        };
        match given {
            Ok(()) => {}
            // On NFS a call whose answer was lost is made again and finds what it did itself.
            Err(Errno::EEXIST | Errno::ENOENT) if is_same(&temporary, &parent, last) => {}
            Err(Errno::EEXIST) if mode == Mode::Create => return exists(root, name),
            Err(Errno::ENOENT) => {
                if temporary.is_there() {
                    continue;
                }
                return Err(StoreError::Unavailable(format!(
                    "{} was removed by somebody while it was written; keep cleaners out of the store",
                    temporary.path().display()
                )));
            }
            Err(error @ (Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EMLINK)) if mode == Mode::Create => {
                return Err(StoreError::Failed(format!(
                    "the file system of {} makes no hard links (link(2): {}), \
                     without which two agents could both publish one key; use another",
                    root.path().display(),
                    error.desc()
                )));
            }
            Err(error) => return Err(failure(error, "publish", &root.path_of(name))),
        }
        if mode == Mode::Replace {
            temporary.was_renamed();
        }
        root.sync(&parent, name)?;
        return Ok(Published::Done);
    }
    let path = root.path_of(name);
    Err(StoreError::Unavailable(format!("the directories above {} are removed as fast as made", path.display())))
}

/// Whoever made the object may have died before its name was flushed, and who finds it here may tell others that it lasts.
fn exists(root: &Root, name: &str) -> Result<Published, StoreError> {
    match root.make_parent_of(name) {
        Ok((parent, _)) => root.sync(&parent, name)?,
        // It is being removed, with the directories above it.
        Err(StoreError::Changed(_)) => {}
        Err(error) => return Err(error),
    }
    Ok(Published::Exists)
}

fn write(temporary: &Temporary<'_>, object: &Object, extra: usize) -> Result<(), StoreError> {
    let failed = |error: &std::io::Error, what: &str| of_io(error, what, &temporary.path());
    let file = temporary.file();
    file.write_all_at(&object.head, 0).map_err(|error| failed(&error, "write"))?;
    if let Some(payload) = &object.payload {
        let (at, len) = payload.range()?;
        let head = object.head.len() as u64;
        let written = pieces::each(len, extra.min(WRITE_LANES - 1), |piece| {
            payload.mapping.write_to(at + piece.start, piece.len(), file, head + piece.start as u64)
        });
        written.map_err(|error| failed(&error, "write"))?;
    }
    file.sync_all().map_err(|error| failed(&error, "synchronise"))
}

/// Whether anything has the name.
fn there_is(root: &Root, name: &str) -> Result<bool, StoreError> {
    let Some((parent, last)) = root.parent_of(name)? else { return Ok(false) };
    match entry(&parent, last) {
        Ok(_) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(error) => Err(failure(error, "stat", &root.path_of(name))),
    }
}

/// Whether the entry is the temporary file. When that cannot be told it is not: the caller takes it as lost to another.
pub(super) fn is_same(temporary: &Temporary<'_>, parent: &OwnedFd, last: &str) -> bool {
    let (Ok(ours), Ok(theirs)) = (fstat(temporary.file()), entry(parent, last)) else { return false };
    (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)
}

fn entry(parent: &OwnedFd, last: &str) -> Result<FileStat, Errno> {
    fstatat(parent, last, AtFlags::AT_SYMLINK_NOFOLLOW)
}
