//! The store's directory, and the way from it to a name.
//!
//! Every step of the way is one component, opened below the descriptor of the one before and never through a symbolic
//! link. The directory itself stays open: when its file system is unmounted, nothing is written below the empty mount
//! point.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode as Permissions, fstat, mkdirat};
use nix::unistd::{UnlinkatFlags, fsync, geteuid, unlinkat};

use super::StoreError;
use super::failure::{failure, of_io};

/// Longest name of an object, in bytes.
pub(super) const MOST_NAME_BYTES: usize = 900;

/// Directories whose own entry is known to outlast a crash, at most.
const MOST_LASTING: usize = 4096;

/// A store's directory.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    open: OwnedFd,
    /// Inodes of directories, by name, whose parent was synchronised after they were made, by whomever.
    lasting: Mutex<HashMap<String, u64>>,
}

impl Root {
    /// Opens and checks the directory.
    pub(super) fn open(path: &Path) -> Result<Root, StoreError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = open(path, flags, Permissions::empty()).map_err(|error| {
            let path = path.display();
            match error {
                Errno::ENOENT => StoreError::Failed(format!("the store {path} does not exist; make the directory")),
                Errno::ENOTDIR => StoreError::Failed(format!("the store {path} is not a directory; name one")),
                error => failure(error, "open the store", Path::new(&path.to_string())),
            }
        })?;
        let root = File::from(root);
        let found = root.metadata().map_err(|error| of_io(&error, "stat the store", path))?;
        let (user, owner, shown) = (geteuid().as_raw(), found.uid(), path.display());
        if owner != user && owner != 0 {
            return Err(StoreError::Denied(format!(
                "the store {shown} belongs to user {owner}, who could change what is in it; \
                 give it to user {user}, as whom the agent runs"
            )));
        }
        if found.mode() & 0o022 != 0 {
            return Err(StoreError::Denied(format!(
                "the store {shown} has mode {:o}, so that others could put entries into it; \
                 make a directory below it that only user {user} can write, and name that",
                found.mode() & 0o7777
            )));
        }
        Ok(Root { path: path.to_owned(), open: root.into(), lasting: Mutex::default() })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where an object is, for messages.
    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A directory below the root, which `""` is itself. `None` when there is none.
    pub(super) fn directory(&self, name: &str) -> Result<Option<OwnedFd>, StoreError> {
        let mut at = self.own()?;
        for component in name.split('/').filter(|component| !component.is_empty()) {
            at = match step(&at, component) {
                Ok(next) => next,
                Err(Errno::ENOENT) => return Ok(None),
                Err(error) => return Err(failure(error, "open", &self.path_of(name))),
            };
        }
        Ok(Some(at))
    }

    /// The directory of an object and the object's name in it. `None` when there is no such directory.
    pub(super) fn parent_of<'n>(&self, name: &'n str) -> Result<Option<(OwnedFd, &'n str)>, StoreError> {
        let (parent, last) = split(name)?;
        Ok(self.directory(parent)?.map(|open| (open, last)))
    }

    /// The same, with what is missing made. Its entry and those above it will outlast a crash.
    pub(super) fn make_parent_of<'n>(&self, name: &'n str) -> Result<(OwnedFd, &'n str), StoreError> {
        let (parent, last) = split(name)?;
        Ok((self.make_directory(parent)?, last))
    }

    /// A directory below the root, made when it is missing.
    pub(super) fn make_directory(&self, name: &str) -> Result<OwnedFd, StoreError> {
        let path = || self.path_of(name);
        let mut at = self.own()?;
        let mut end = 0;
        for component in name.split('/').filter(|component| !component.is_empty()) {
            end += component.len() + usize::from(end > 0);
            let next = match step(&at, component) {
                Err(Errno::ENOENT) => match mkdirat(&at, component, Permissions::S_IRWXU) {
                    // Somebody else made it just now, which is as good.
                    Ok(()) | Err(Errno::EEXIST) => step(&at, component),
                    Err(error) => Err(error),
                },
                found => found,
            };
            let next = next.map_err(|error| made_or_gone(error, &path()))?;
            let inode = fstat(&next).map_err(|error| failure(error, "stat", &path()))?.st_ino;
            let name = &name[..end];
            if self.lasting().get(name) != Some(&inode) {
                // Whoever made it may not have come to this yet, or may have died before.
                self.sync(&at, name)?;
                let mut lasting = self.lasting();
                if lasting.len() >= MOST_LASTING {
                    lasting.clear();
                }
                lasting.insert(name.to_owned(), inode);
            }
            at = next;
        }
        Ok(at)
    }

    /// Makes the entries of a directory outlast a crash. `name` is one of them.
    pub(super) fn sync(&self, directory: &OwnedFd, name: &str) -> Result<(), StoreError> {
        // The way is walked without opening files, which cannot be synchronised.
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let synced = openat(directory, ".", flags, Permissions::empty()).and_then(fsync);
        match synced {
            Ok(()) => Ok(()),
            // The directory was removed meanwhile: that it is gone must outlast a crash, and with it what was in it.
            Err(Errno::ENOENT) => self.sync_above(name),
            Err(Errno::EINVAL | Errno::EOPNOTSUPP) => Err(StoreError::Failed(format!(
                "the file system of {} cannot synchronise a directory, so nothing in it would outlast a crash; \
                 use another",
                self.path.display()
            ))),
            Err(error) => Err(failure(error, "synchronise the directory of", &self.path_of(name))),
        }
    }

    /// Makes the entries of the lowest directory above a name that is there outlast a crash.
    fn sync_above(&self, name: &str) -> Result<(), StoreError> {
        if name.is_empty() {
            return Err(StoreError::Failed(format!("the store {} is gone; start the agent anew", self.path.display())));
        }
        let above = name.rsplit_once('/').map_or("", |(above, _)| above);
        match self.directory(above)? {
            Some(open) => self.sync(&open, above),
            None => self.sync_above(above),
        }
    }

    /// Removes the directories above a name that are empty, but the topmost. What cannot be removed stays: the next
    /// removal tries again, and an empty directory harms nobody.
    pub(super) fn prune(&self, name: &str) {
        let mut name = name;
        while let Some((directory, _)) = name.rsplit_once('/') {
            let Some((above, last)) = directory.rsplit_once('/') else { return };
            let Ok(Some(open)) = self.directory(above) else { return };
            // Before it goes: another of the same name and number may be made at once.
            self.lasting().remove(directory);
            if unlinkat(&open, last, UnlinkatFlags::RemoveDir).is_err() {
                return;
            }
            name = directory;
        }
    }

    fn own(&self) -> Result<OwnedFd, StoreError> {
        self.open.try_clone().map_err(|error| of_io(&error, "open", &self.path))
    }

    fn lasting(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.lasting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens a directory in another, as a place only: that asks no file server to open anything.
fn step(at: &impl AsFd, component: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(at, component, flags, Permissions::empty())
}

/// The error of a directory that was made, or found, and is gone again.
fn made_or_gone(error: Errno, path: &Path) -> StoreError {
    match error {
        Errno::ENOENT => StoreError::Changed(path.display().to_string()),
        error => failure(error, "make the directory", path),
    }
}

/// Splits a name, which it checks, into its directory and the rest.
fn split(name: &str) -> Result<(&str, &str), StoreError> {
    let fits = |component: &str| {
        !component.starts_with('.')
            && (1..=255).contains(&component.len())
            && component.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
    };
    if name.len() > MOST_NAME_BYTES || !name.split('/').all(fits) {
        return Err(StoreError::Failed(format!("{name:?} is no name for an object; please report it")));
    }
    Ok(name.rsplit_once('/').unwrap_or(("", name)))
}
