//! One block's file: written, judged, read.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, fallocate, openat, renameat};
use nix::sys::stat::Mode as Permissions;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::crew::Gate;
use super::index::UNIT_BYTES;
use super::place::{Place, shard_name};
use super::root::{Root, gone};
use super::trailer::{self, TRAILER_BYTES_MAX, trailer};
use crate::pieces::{self, PIECE_BYTES};
use crate::store::Memory;
use crate::store::entry::{self, Entry, HEAD_BYTES_MAX, START_BYTES};

/// What a file takes beside its bytes: an inode and an entry in a directory.
const OVERHEAD_BYTES: u64 = 512;
/// A file from this length on gets its room before it is written, or not at all, and in one piece if there is one.
const ALLOCATE_FROM_BYTES: u64 = 1 << 20;
/// What is read at once into a buffer, and copied from there while it is still in the processor's cache.
const COPY_BYTES: usize = 256 * 1024;

/// Tells a file at a place from the next. Files are never written in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    inode: u64,
    len_bytes: u64,
    written_s: i64,
    written_ns: i64,
}

impl Version {
    fn of(file: &Metadata) -> Version {
        let (written_s, written_ns) = (file.mtime(), file.mtime_nsec());
        Version { inode: file.ino(), len_bytes: file.len(), written_s, written_ns }
    }
}

/// A file whose head is sound and whose name is the one that was looked for.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) entry: Entry,
    pub(super) version: Version,
    pub(super) head_len_bytes: u64,
    /// The payload, when it came with the head.
    pub(super) payload: Option<Vec<u8>>,
}

/// What lies at a place.
#[derive(Debug)]
pub(super) enum Judged {
    Whole(Box<Whole>),
    Absent,
    /// The block of another name with the same hash.
    Other,
    Damaged(&'static str),
}

/// Room that a file of so many bytes takes, of which the file system says that it gave `given_bytes`.
pub(super) fn charge(len_bytes: u64, given_bytes: u64, block_bytes: u64) -> u64 {
    let whole = len_bytes.max(1).checked_next_multiple_of(block_bytes).unwrap_or(len_bytes);
    let taken = whole.max(given_bytes).saturating_add(OVERHEAD_BYTES);
    taken.checked_next_multiple_of(UNIT_BYTES).unwrap_or(taken)
}

/// The length of a block's file.
pub(super) fn file_len(head: &[u8], payload_bytes: u64, name: &str) -> u64 {
    (head.len() + trailer(name, entry::head_checksum(head)).len()) as u64 + payload_bytes
}

/// A file that has not its place yet. Removed when it is dropped before.
#[derive(Debug)]
pub(super) struct New<'r> {
    root: &'r Root,
    path: String,
    file: Option<File>,
}

impl<'r> New<'r> {
    /// Makes an empty one, in the directory of its place.
    pub(super) fn create(root: &'r Root, place: Place) -> io::Result<New<'r>> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = format!("{}/.{}-{number}", shard_name(place.shard()), std::process::id());
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(root.files(), path.as_str(), flags, Permissions::S_IRUSR | Permissions::S_IWUSR)?;
        Ok(New { root, path, file: Some(file.into()) })
    }

    /// Writes all of it. `extra` threads beside this one may help. Returns what it takes.
    pub(super) fn write(
        &self,
        head: &[u8],
        payload: Option<&Memory>,
        name: &str,
        gate: &Gate,
        extra: usize,
    ) -> io::Result<u64> {
        let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let payload_bytes = payload.map_or(0, |payload| payload.len_bytes);
        let len_bytes = file_len(head, payload_bytes, name);
        if len_bytes >= ALLOCATE_FROM_BYTES {
            let len = i64::try_from(len_bytes).map_err(|_| io::ErrorKind::FileTooLarge)?;
            match fallocate(file, FallocateFlags::empty(), 0, len) {
                Ok(()) | Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let end = trailer(name, entry::head_checksum(head));
        if let Some(payload) = payload {
            let (at, len) = payload.range().map_err(io::Error::other)?;
            let from = head.len() as u64;
            pieces::each(len, extra, |piece| {
                if !gate.beat() {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                payload.mapping.write_to(at + piece.start, piece.len(), file, from + piece.start as u64)
            })?;
        }
        file.write_all_at(head, 0)?;
        file.write_all_at(&end, len_bytes - end.len() as u64)?;
        let given = file.metadata()?;
        Ok(charge(given.len(), given.blocks() * 512, self.root.block_bytes))
    }

    /// Gives it its place; what was there is gone.
    pub(super) fn publish(mut self, place: Place) -> Result<(), Errno> {
        // Closed before, since some file systems only then give back what they laid by for the file.
        drop(self.file.take());
        renameat(self.root.files(), self.path.as_str(), self.root.files(), place.path().as_str())?;
        self.path.clear();
        Ok(())
    }
}

impl Drop for New<'_> {
    fn drop(&mut self) {
        drop(self.file.take());
        if !self.path.is_empty() {
            // What stays is removed at the next start.
            let _ = unlinkat(self.root.files(), self.path.as_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

/// Unlinks a place's file.
pub(super) fn unlink(root: &Root, place: Place) -> Result<(), Errno> {
    gone(unlinkat(root.files(), place.path().as_str(), UnlinkatFlags::NoRemoveDir))
}

fn open(root: &Root, place: Place) -> io::Result<Option<(File, Metadata)>> {
    // Without O_NONBLOCK a pipe that somebody put there would hold the thread for ever.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = match openat(root.files(), place.path().as_str(), flags, Permissions::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::ENOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let found = file.metadata()?;
    Ok(Some((file, found)))
}

/// Reads the ends of the file at a place and judges whether it is the whole block of that name.
pub(super) fn judge(root: &Root, place: Place, name: &str) -> io::Result<Judged> {
    let Some((file, found)) = open(root, place)? else { return Ok(Judged::Absent) };
    if !found.is_file() {
        return Ok(Judged::Damaged("it is not a file"));
    }
    let len = found.len();
    let read = |at: u64, len: usize| {
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, at).map(|()| bytes)
    };
    let least = |most: usize| usize::try_from(len).unwrap_or(usize::MAX).min(most);
    let mut start = read(0, least(START_BYTES))?;
    let end_len = least(TRAILER_BYTES_MAX);
    let end = if start.len() as u64 == len {
        start[start.len() - end_len..].to_vec()
    } else {
        read(len - end_len as u64, end_len)?
    };
    let (there, trailer_len) = match trailer::read(&end) {
        Ok(read) => read,
        Err(why) => return Ok(Judged::Damaged(why)),
    };
    let object_len_bytes = len - trailer_len as u64;
    start.truncate(usize::try_from(object_len_bytes).unwrap_or(usize::MAX));
    let mut judged = entry::read(&start, object_len_bytes);
    if let entry::Read::NeedMore { head_len_bytes } = judged {
        if head_len_bytes > HEAD_BYTES_MAX {
            return Ok(Judged::Damaged("its head is longer than that of any block"));
        }
        start = read(0, usize::try_from(head_len_bytes).unwrap_or(usize::MAX))?;
        judged = entry::read(&start, object_len_bytes);
    }
    let (entry, head_len_bytes) = match judged {
        entry::Read::Whole { entry, head_len_bytes } => (entry, head_len_bytes),
        entry::Read::NeedMore { .. } => return Ok(Judged::Damaged("it ends within its head")),
        entry::Read::OtherVersion(_) => return Ok(Judged::Damaged("its entry is of another version")),
        entry::Read::Damaged(why) => return Ok(Judged::Damaged(why)),
    };
    if !trailer::is_of(entry::head_checksum(&start), &end, trailer_len) {
        return Ok(Judged::Damaged("its two ends are not of one block"));
    }
    if there != name {
        return Ok(Judged::Other);
    }
    let head_len = usize::try_from(head_len_bytes).unwrap_or(usize::MAX);
    let payload = (start.len() as u64 == object_len_bytes).then(|| start.split_off(head_len));
    Ok(Judged::Whole(Box::new(Whole { entry, version: Version::of(&found), head_len_bytes, payload })))
}

/// How the reading of a payload ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Loaded {
    Whole,
    /// The place has another file by now, or none.
    Changed,
    /// Nobody waits for it any more.
    GivenUp,
}

/// Reads a payload into memory. `extra` threads beside this one may help.
///
/// The bytes go through a buffer: memory is only written while the gate is open, so that whoever gave it can have it
/// back at once, though a disk that has hung never answers.
pub(super) fn load(
    root: &Root,
    place: Place,
    (version, head_len_bytes): (Version, u64),
    into: &Memory,
    gate: &Gate,
    extra: usize,
) -> io::Result<Loaded> {
    let (at, len) = into.range().map_err(io::Error::other)?;
    let Some((file, found)) = open(root, place)? else { return Ok(Loaded::Changed) };
    if Version::of(&found) != version {
        return Ok(Loaded::Changed);
    }
    let whole = pieces::each(len, extra, |piece| {
        let mut buffer = vec![0; COPY_BYTES.min(piece.len())];
        for start in piece.clone().step_by(COPY_BYTES) {
            let bytes = &mut buffer[..COPY_BYTES.min(piece.end - start)];
            file.read_exact_at(bytes, head_len_bytes + start as u64)?;
            gate.pass(|| into.mapping.copy_in(at + start, bytes)).ok_or(io::ErrorKind::Interrupted)?;
        }
        Ok(())
    });
    match whole {
        Ok(()) => Ok(Loaded::Whole),
        Err(_) if !gate.is_open() => Ok(Loaded::GivenUp),
        // Files do not get shorter by themselves.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Loaded::Changed),
        Err(error) => Err(error),
    }
}

/// Threads that would help to write or read a payload, beside the first.
pub(super) fn extra_lanes(len_bytes: u64, most: usize) -> usize {
    if len_bytes < 2 * PIECE_BYTES as u64 { 0 } else { pieces::extra_lanes(len_bytes, most) }
}
