//! The tier's directory: whose it is, which of the files in it count, and who may use it.
//!
//! ```text
//! DIR/                       0700, of the agent's user, locked by the agent that uses it
//!   tier                     what the directory is (`marker`)
//!   index                    which blocks there are, after a clean end (`index`)
//!   0123456789abcdef/        the files of the present instance
//!     00/ ... ff/            256 shards
//!       <hash>.<group>       one block each: an entry, and its name behind it
//!       .<number>            one that is being written
//! ```
//!
//! After a crash of the *machine* files may be torn, and what was removed may be there again. Then all that is there is
//! given up by beginning another instance: no name leads to a file of the old one any more, and what is left of it is
//! removed in the background, however often that is interrupted.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, open, openat, renameat};
use nix::sys::stat::{Mode as Permissions, SFlag, fchmod, fstat, fstatat, mkdirat};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{UnlinkatFlags, fsync, geteuid, syncfs, unlinkat};

use super::index::{INDEX_BYTES_MAX, Stamp};
use super::marker::{self, Marker, State};
use super::place::{SHARDS, shard_name};

const MARKER: &str = "tier";
const INDEX: &str = "index";
/// What a file has in front of its name while it is being written.
const NEW: &str = "new.";
/// A longer marker is none.
const MARKER_BYTES_MAX: u64 = 4096;
/// The kernel calls directories so that file systems lay down for themselves.
const FILE_SYSTEMS_OWN: &str = "lost+found";
/// Least unit that a file system gives room in.
const BLOCK_BYTES_MIN: u64 = 4096;

/// A tier's directory, locked as long as this lives.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    open: Flock<OwnedFd>,
    /// The directory of the shards.
    files: OwnedFd,
    pub(super) instance: u64,
    boot: String,
    /// Whether files of earlier instances are left to remove.
    pub(super) has_leavings: bool,
    /// Unit that the file system gives room in.
    pub(super) block_bytes: u64,
    pub(super) file_system_bytes: u64,
}

/// How a tier was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Past {
    New,
    /// Its files count.
    Trusted,
    /// Its files do not, for this reason.
    GivenUp(&'static str),
}

impl Root {
    /// Opens, checks and locks the directory, and makes what is missing in it. `boot` is [`marker::boot_id`].
    pub(super) fn open(path: &Path, boot: &str) -> Result<(Root, Past), String> {
        let shown = path.display();
        let directory = checked(path)?;
        let open = Flock::lock(directory, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
            Errno::EWOULDBLOCK => {
                format!("{shown} is used by another larderd; stop that first or name another directory")
            }
            error => cannot("lock", path, error),
        })?;
        let inode = fstat(&*open).map_err(|error| cannot("stat", path, error))?.st_ino;
        let names = names_in(&open).map_err(|error| cannot("read", path, error))?;
        let found = read_marker(&open).map_err(|error| format!("cannot read {shown}/{MARKER}: {error}"))?;
        let (instance, past) = match found {
            None if names.iter().all(|name| is_initial(name)) => (None, Past::New),
            None | Some(marker::Read::Foreign) => {
                return Err(format!(
                    "{shown} is not empty and was not made by larderd; name an empty directory, which it will fill and \
                     empty as it likes"
                ));
            }
            Some(marker::Read::OtherVersion(version)) => {
                return Err(format!("{shown} was made by a larderd with format {version}; empty the directory"));
            }
            Some(marker::Read::Damaged) => (None, Past::GivenUp("its marker is damaged")),
            Some(marker::Read::Whole(marker)) if marker.is_trusted(inode, boot) => {
                (Some(marker.instance), Past::Trusted)
            }
            Some(marker::Read::Whole(marker)) if marker.directory != inode => (None, Past::GivenUp("it is a copy")),
            Some(marker::Read::Whole(_)) => {
                (None, Past::GivenUp("the machine crashed, or went down before the disk had it all"))
            }
        };
        let instance = match instance {
            Some(instance) => instance,
            None => fresh(&names)?,
        };
        // Only now is it known to be nobody else's.
        fchmod(&*open, Permissions::S_IRWXU).map_err(|error| cannot("set the mode to 700 of", path, error))?;
        let file_system = fstatvfs(&*open).map_err(|error| cannot("ask the file system of", path, error))?;
        let block_bytes = (file_system.fragment_size() as u64).max(BLOCK_BYTES_MIN);
        // Before anything is changed: from here on only this run of the machine can tell what the files are.
        let marker = Marker { instance, directory: inode, boot: boot.to_owned(), state: State::Open };
        let own = instance_name(instance);
        let mut shards = 0..SHARDS;
        let files = loop {
            match prepare(&open, &marker, &own) {
                Ok(files) => break files,
                // What is ours makes way: without these few blocks nothing of it could be used.
                Err(error)
                    if is_full(&error)
                        && let Some(shard) = shards.next() =>
                {
                    make_way(&open, &names, shard).map_err(|error| cannot("make room in", path, error))?;
                }
                Err(error) => return Err(format!("cannot write in {shown}: {error}")),
            }
        };
        let root = Root {
            path: path.to_owned(),
            files,
            instance,
            boot: boot.to_owned(),
            has_leavings: names.iter().any(|name| is_instance(name) && *name != own),
            block_bytes,
            file_system_bytes: (file_system.blocks() as u64).saturating_mul(file_system.fragment_size() as u64),
            open,
        };
        Ok((root, past))
    }

    /// Where it is, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory that the paths of places are below.
    pub(super) fn files(&self) -> &OwnedFd {
        &self.files
    }

    /// Room that the directories take.
    pub(super) fn base_bytes(&self) -> u64 {
        (SHARDS as u64 + 3) * self.block_bytes
    }

    /// A shard's directory, for reading, and its present state.
    pub(super) fn shard(&self, shard: usize) -> Result<(OwnedFd, Stamp), Errno> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let open = openat(&self.files, shard_name(shard).as_str(), flags, Permissions::empty())?;
        let stat = fstat(&open)?;
        #[expect(clippy::useless_conversion, reason = "the fields are not as wide everywhere")]
        let stamp =
            Stamp { inode: stat.st_ino, changed_s: stat.st_mtime.into(), changed_ns: stat.st_mtime_nsec.into() };
        Ok((open, stamp))
    }

    /// The index file's bytes, which is removed: what happens from now on is not in it.
    pub(super) fn take_index(&self) -> std::io::Result<Option<Vec<u8>>> {
        let bytes = read_file(&self.open, INDEX, INDEX_BYTES_MAX);
        self.remove_index()?;
        bytes
    }

    /// Removes the index file, if there is one.
    pub(super) fn remove_index(&self) -> std::io::Result<()> {
        match unlinkat(&*self.open, INDEX, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes the index file.
    pub(super) fn write_index(&self, bytes: &[u8]) -> std::io::Result<()> {
        write_lasting(&self.open, INDEX, bytes)
    }

    /// Says how this agent ends. Before [`State::Flushed`] everything is flushed.
    pub(super) fn set_state(&self, state: State) -> std::io::Result<()> {
        if state == State::Flushed {
            syncfs(&*self.open)?;
        }
        let directory = fstat(&*self.open)?.st_ino;
        let marker = Marker { instance: self.instance, directory, boot: self.boot.clone(), state };
        write_lasting(&self.open, MARKER, marker.to_text().as_bytes())
    }

    /// Removes all of earlier instances. `beat` is called now and then.
    pub(super) fn remove_leavings(&self, beat: &dyn Fn()) -> Result<(), Errno> {
        let own = instance_name(self.instance);
        for name in names_in(&self.open)?.iter().filter(|name| is_instance(name) && **name != own) {
            let Some(old) = step(&self.open, name)? else { continue };
            for shard in 0..SHARDS {
                let shard = shard_name(shard);
                let Some(files) = step(&old, &shard)? else { continue };
                for file in names_in(&files)? {
                    gone(unlinkat(&files, file.as_str(), UnlinkatFlags::NoRemoveDir))?;
                    beat();
                }
                gone(unlinkat(&old, shard.as_str(), UnlinkatFlags::RemoveDir))?;
            }
            gone(unlinkat(&*self.open, name.as_str(), UnlinkatFlags::RemoveDir))?;
        }
        Ok(())
    }
}

/// Writes the marker, and makes what is missing of the directories of an instance.
fn prepare(root: &OwnedFd, marker: &Marker, own: &str) -> std::io::Result<OwnedFd> {
    write_lasting(root, MARKER, marker.to_text().as_bytes())?;
    let files = make_directory(root, own)?;
    for shard in 0..SHARDS {
        make_directory(&files, &shard_name(shard))?;
    }
    Ok(files)
}

/// Removes the index and the blocks of one shard, of all instances.
fn make_way(root: &OwnedFd, names: &[String], shard: usize) -> Result<(), Errno> {
    gone(unlinkat(root, INDEX, UnlinkatFlags::NoRemoveDir))?;
    for name in names.iter().filter(|name| is_instance(name)) {
        let Some(old) = step(root, name)? else { continue };
        let Some(files) = step(&old, &shard_name(shard))? else { continue };
        for file in names_in(&files)? {
            gone(unlinkat(&files, file.as_str(), UnlinkatFlags::NoRemoveDir))?;
        }
    }
    Ok(())
}

/// Whether there is no room on the file system, or in the user's part of it.
pub(super) fn is_full(error: &std::io::Error) -> bool {
    [Errno::ENOSPC, Errno::EDQUOT].iter().any(|full| error.raw_os_error() == Some(*full as i32))
}

/// Tries a directory as [`Root::open`] would, and leaves it as it is, whether or not an agent uses it.
pub(super) fn check(path: &Path) -> Result<u64, String> {
    let shown = path.display();
    let directory = checked(path)?;
    let names = names_in(&directory).map_err(|error| cannot("read", path, error))?;
    let found = read_marker(&directory).map_err(|error| format!("cannot read {shown}/{MARKER}: {error}"))?;
    match found {
        None if !names.iter().all(|name| is_initial(name)) => {
            return Err(format!("{shown} is not empty and was not made by larderd; name an empty directory"));
        }
        Some(marker::Read::Foreign) => {
            return Err(format!("{shown} has a file {MARKER} that larderd did not write; name an empty directory"));
        }
        Some(marker::Read::OtherVersion(version)) => {
            return Err(format!("{shown} was made by a larderd with format {version}; empty the directory"));
        }
        _ => {}
    }
    let tried = format!("{NEW}check-{}", std::process::id());
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(&directory, tried.as_str(), flags, Permissions::S_IRUSR | Permissions::S_IWUSR)
        .and_then(|_| unlinkat(&directory, tried.as_str(), UnlinkatFlags::NoRemoveDir))
        .map_err(|error| cannot("write in", path, error))?;
    let file_system = fstatvfs(&directory).map_err(|error| cannot("ask the file system of", path, error))?;
    Ok((file_system.blocks() as u64).saturating_mul(file_system.fragment_size() as u64))
}

/// Opens a directory that is the agent's alone; makes it when it is missing.
fn checked(path: &Path) -> Result<OwnedFd, String> {
    let shown = path.display();
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(format!("{shown} does not exist, nor does the directory it would lie in; make it"));
        }
        Err(error) => return Err(format!("cannot make {shown}: {error}")),
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = match open(path, flags, Permissions::empty()) {
        Ok(directory) => File::from(directory),
        Err(Errno::ENOTDIR) => return Err(format!("{shown} is not a directory; name one")),
        Err(error) => return Err(cannot("open", path, error)),
    };
    let found = directory.metadata().map_err(|error| format!("cannot stat {shown}: {error}"))?;
    let (user, owner, mode) = (geteuid().as_raw(), found.uid(), found.mode() & 0o7777);
    if owner != user {
        return Err(format!(
            "{shown} belongs to user {owner}, who could change what is in it; give it to user {user}, as whom larderd \
             runs, or name another directory"
        ));
    }
    if mode & 0o022 != 0 {
        return Err(format!(
            "{shown} has mode {mode:o}, so that others could put blocks into it; empty it and set its mode to 700"
        ));
    }
    Ok(directory.into())
}

/// An instance that was never used, as far as anybody can tell, and of which nothing is there.
fn fresh(names: &[String]) -> Result<u64, String> {
    loop {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).map_err(|error| format!("the kernel gave no random bytes: {error}"))?;
        let instance = u64::from_le_bytes(bytes);
        if !names.contains(&instance_name(instance)) {
            return Ok(instance);
        }
    }
}

fn instance_name(instance: u64) -> String {
    format!("{instance:016x}")
}

fn is_instance(name: &str) -> bool {
    name.len() == 16 && name.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

/// What may be in a directory that no tier was ever in.
fn is_initial(name: &str) -> bool {
    name == FILE_SYSTEMS_OWN || name.starts_with(NEW)
}

fn read_marker(directory: &OwnedFd) -> std::io::Result<Option<marker::Read>> {
    let bytes = read_file(directory, MARKER, MARKER_BYTES_MAX)?;
    Ok(bytes.map(|bytes| Marker::read(&String::from_utf8_lossy(&bytes))))
}

/// A file's bytes. `None` when there is no such file; longer ones read as empty.
fn read_file(directory: &OwnedFd, name: &str, most: u64) -> std::io::Result<Option<Vec<u8>>> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = match openat(directory, name, flags, Permissions::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::ENOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let found = file.metadata()?;
    let mut bytes = Vec::new();
    if found.is_file() && found.len() <= most {
        bytes.reserve_exact(usize::try_from(found.len()).unwrap_or(0));
        file.take(most).read_to_end(&mut bytes)?;
    }
    Ok(Some(bytes))
}

/// Writes a file whole, and so that it lasts.
fn write_lasting(directory: &OwnedFd, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let new = format!("{NEW}{name}");
    gone(unlinkat(directory, new.as_str(), UnlinkatFlags::NoRemoveDir))?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut file = File::from(openat(directory, new.as_str(), flags, Permissions::S_IRUSR | Permissions::S_IWUSR)?);
    file.write_all(bytes)?;
    file.sync_all()?;
    renameat(directory, new.as_str(), directory, name)?;
    Ok(fsync(directory)?)
}

/// A directory in another, made when it is missing.
fn make_directory(at: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    match mkdirat(at, name, Permissions::S_IRWXU) {
        Ok(()) | Err(Errno::EEXIST) => step(at, name)?.ok_or(Errno::ENOENT),
        Err(error) => Err(error),
    }
}

/// A directory in another, never through a symbolic link. `None` when it is not there.
fn step(at: &OwnedFd, name: &str) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat(at, name, flags, Permissions::empty()) {
        Ok(open) => Ok(Some(open)),
        Err(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The names in a directory but `.` and `..`; those that are no text are left out.
pub(super) fn names_in(directory: &OwnedFd) -> Result<Vec<String>, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut open = Dir::openat(directory, ".", flags, Permissions::empty())?;
    let mut names = Vec::new();
    for found in open.iter() {
        match found?.file_name().to_str() {
            Ok("." | "..") | Err(_) => {}
            Ok(name) => names.push(name.to_owned()),
        }
    }
    Ok(names)
}

/// What a file is, if it is one.
pub(super) fn stat_file(directory: &OwnedFd, name: &str) -> Result<Option<nix::sys::stat::FileStat>, Errno> {
    match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => {
            let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
            Ok((kind == SFlag::S_IFREG).then_some(stat))
        }
        Err(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The result of a removal: what is gone already is as good.
pub(super) fn gone(removed: Result<(), Errno>) -> Result<(), Errno> {
    if removed == Err(Errno::ENOENT) { Ok(()) } else { removed }
}

fn cannot(what: &str, path: &Path, error: Errno) -> String {
    format!("cannot {what} {}: {}", path.display(), error.desc())
}
