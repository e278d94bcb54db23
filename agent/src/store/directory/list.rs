//! Names in byte order, from a tree that is read no further than asked.
//!
//! A directory is sorted as if its name ended with `/`, which is how the names in it go on. Of each directory no more
//! names are held than are asked for; where some of them turn out to be empty directories it is read again from there.

use std::collections::BinaryHeap;
use std::os::fd::{AsFd, OwnedFd};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode as Permissions, SFlag, fstatat};

use super::StoreError;
use super::failure::failure;
use super::root::{MOST_NAME_BYTES, Root};

/// Up to `most` names that begin with `prefix` and lie behind `after`.
pub(super) fn list(root: &Root, prefix: &str, after: &str, most: usize) -> Result<Vec<String>, StoreError> {
    check(prefix)?;
    let mut names = Vec::new();
    walk(root, prefix, after, most, &mut names)?;
    Ok(names)
}

/// The directories in the one that a prefix names.
pub(super) fn groups(root: &Root, prefix: &str) -> Result<Vec<String>, StoreError> {
    check(prefix)?;
    let Some(directory) = root.directory(prefix)? else { return Ok(Vec::new()) };
    let all = smallest(&directory, "", "", None, usize::MAX)
        .map_err(|error| failure(error, "read the directory", &root.path_of(prefix)))?;
    Ok(all.iter().filter_map(|name| name.strip_suffix('/')).map(str::to_owned).collect())
}

fn check(prefix: &str) -> Result<(), StoreError> {
    if !prefix.is_empty() && (!prefix.ends_with('/') || prefix.split_terminator('/').any(|part| !is_shown(part))) {
        return Err(StoreError::Failed(format!("{prefix:?} is no prefix of names; please report it")));
    }
    Ok(())
}

/// Adds the names below the directory `base` until there are `most`. No directory is open while one below it is read:
/// a key can make hundreds of them, one in another.
fn walk(root: &Root, base: &str, after: &str, most: usize, names: &mut Vec<String>) -> Result<(), StoreError> {
    let mut behind: Option<String> = None;
    while names.len() < most {
        let room = most - names.len();
        // Removed meanwhile, or never there.
        let Some(directory) = root.directory(base)? else { break };
        let entries = smallest(&directory, base, after, behind.as_deref(), room)
            .map_err(|error| failure(error, "read the directory", &root.path_of(base)))?;
        drop(directory);
        let is_all = entries.len() < room;
        behind = entries.last().cloned();
        for name in entries {
            if names.len() == most {
                return Ok(());
            }
            if name.ends_with('/') {
                walk(root, &name, after, most, names)?;
            } else {
                names.push(name);
            }
        }
        if is_all {
            break;
        }
    }
    Ok(())
}

/// The first `room` entries of a directory in order, with whole names, those of directories ending with `/`. Only such
/// behind `behind`, and such that are, or may lead to, names behind `after`.
fn smallest(
    directory: &OwnedFd,
    base: &str,
    after: &str,
    behind: Option<&str>,
    room: usize,
) -> Result<Vec<String>, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut open = match Dir::openat(directory, ".", flags, Permissions::empty()) {
        // Removed meanwhile.
        Err(Errno::ENOENT) => return Ok(Vec::new()),
        open => open?,
    };
    let mut first = BinaryHeap::new();
    for entry in open.iter() {
        let entry = entry?;
        let Ok(last) = entry.file_name().to_str() else { continue };
        if !is_shown(last) || base.len() + last.len() > MOST_NAME_BYTES {
            continue;
        }
        let mut name = format!("{base}{last}");
        match kind(directory, last, entry.file_type()) {
            Some(Type::File) if name.as_str() > after => {}
            Some(Type::Directory) => {
                name.push('/');
                if name.as_str() < after && !after.starts_with(&name) {
                    continue;
                }
            }
            _ => continue,
        }
        if behind.is_none_or(|behind| name.as_str() > behind) {
            first.push(name);
            if first.len() > room {
                first.pop();
            }
        }
    }
    Ok(first.into_sorted_vec())
}

/// What an entry is, where the directory does not say by asking for it.
fn kind(directory: &impl AsFd, last: &str, told: Option<Type>) -> Option<Type> {
    told.or_else(|| {
        let stat = fstatat(directory, last, AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
        match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFREG => Some(Type::File),
            SFlag::S_IFDIR => Some(Type::Directory),
            _ => None,
        }
    })
}

/// Whether a component may be of an object's name.
fn is_shown(component: &str) -> bool {
    !component.is_empty() && !component.starts_with('.') && component.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}
