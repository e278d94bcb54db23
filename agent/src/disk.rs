//! Blocks on a disk of this node: a cache between the memory and the store.
//!
//! It is never an authority. Losing any of it at any moment costs time; what it cannot read, or cannot prove to be the
//! block that was asked for, is a miss. `docs/disk-tier.md` says what is promised and what each failure costs.
//!
//! **A file a block**, in 256 directories, named by a 128-bit hash of the block's name and a hash of its incarnation
//! ([`place`]): names are up to 900 bytes and would need directories of their own. The file is the entry as a store has
//! it, and behind it the whole name ([`trailer`]), which is compared at every look: a collision of hashes is a miss.
//! Large files are read in pieces side by side; the file system's own cache serves what is read again.
//!
//! **No flush.** A file is written under another name and renamed when it is whole, so a crash of the agent leaves
//! whole files; only a crash of the machine can tear one or bring back one that was removed, and after that the tier
//! begins anew ([`root`], [`marker`]). A tier that ended cleanly is flushed and survives a restart of the machine.
//!
//! **What is removed stays removed.** A removal takes effect in memory at once, also for blocks that are being written,
//! and returns when the file is unlinked: after a crash of the agent it is not there either. Where the disk does not
//! answer, that cannot be had: the removal says so. The blocks of an incarnation are given up all at once, by a mark, and
//! their files go afterwards; should a crash bring them back, nobody asks for that incarnation any more.
//!
//! **Earlier runs.** While no agent used the tier, or another agent changed the store, blocks here may have been
//! replaced or deleted there, and nothing here can know. A block that this agent did not keep itself is therefore *not
//! confirmed* ([`DiskFound::is_confirmed`]): compare it with the store's entry once, then [`Disk::confirm`] or
//! [`Disk::remove`] it.
//!
//! **Eviction** is S3-FIFO, the same code as in memory, by what the file system gives for each file: whole blocks of 4 KiB
//! or more, and 512 bytes for inode and directory entry. Room is taken before a file is begun and given back
//! after it is unlinked ([`ledger`]), so the sum never passes the capacity. A full file system is as a full tier.
//!
//! **A disk that hangs** holds at most 16 threads ([`crew`]), and nobody waits for it for longer than two
//! seconds without progress: a look is a miss, a load an error, a block not admitted.

mod crew;
mod file;
pub(crate) mod index;
mod keep;
mod ledger;
mod marker;
mod place;
mod rebuild;
mod root;
#[cfg(test)]
mod tests;
mod trailer;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use larder_protocol::stat::DiskStat;
use nix::errno::Errno;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use crate::config::DiskCapacity;
use crate::pieces::READ_LANES;
use crate::store::{Entry, Memory, StoreError};
use crew::{Busy, Crew, Gate, PATIENCE};
use file::{Judged, Loaded, Version};
use index::Index;
use ledger::{Ledger, Seen};
use marker::State;
use place::Place;
use rebuild::Rebuilt;
use root::{Past, Root, is_full};

/// Longest time without progress that a start waits.
const OPEN_PATIENCE: Duration = Duration::from_secs(60);
/// Longest time that an end waits for what it wrote to reach the disk.
const CLOSE_PATIENCE: Duration = Duration::from_secs(30);
/// Files that one step of a sweep unlinks.
const SWEEP_BATCH: usize = 64;
/// Locks that files are renamed and unlinked under, by hash.
const STRIPES: usize = 64;

/// The blocks on a disk.
#[derive(Clone, Debug)]
pub struct Disk {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: Root,
    ledger: Mutex<Ledger>,
    crew: Crew,
    /// Taken by threads that may block, only, and before the ledger.
    stripes: [Mutex<()>; STRIPES],
    /// Files of earlier instances are being removed, which take room that is not counted.
    is_emptying: AtomicBool,
    is_sweeping: AtomicBool,
    is_closed: AtomicBool,
}

/// What a tier did and has. Counts begin with the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DiskFigures {
    pub(crate) capacity_bytes: u64,
    /// What the files take, and those that are being written or removed.
    pub(crate) used_bytes: u64,
    pub(crate) blocks: u64,
    /// Looks that found a block.
    pub(crate) hits: u64,
    /// Looks that did not.
    pub(crate) misses: u64,
    /// Payload bytes that were loaded.
    pub(crate) hit_bytes: u64,
    /// Blocks that were kept, and their payload.
    pub(crate) writes: u64,
    pub(crate) write_bytes: u64,
    /// Blocks that were offered and not kept: too large, no room, too much to do.
    pub(crate) not_admitted: u64,
    /// Blocks that went to make room.
    pub(crate) evictions: u64,
    /// Files that were not what they should be, or not there.
    pub(crate) damaged: u64,
    /// Calls to the file system that failed or did not return in time.
    pub(crate) failures: u64,
}

impl DiskFigures {
    /// As clients see them.
    pub(crate) fn to_stat(self, under_way: usize) -> DiskStat {
        DiskStat {
            capacity_bytes: self.capacity_bytes,
            used_bytes: self.used_bytes,
            blocks: self.blocks,
            writes: self.writes,
            write_bytes: self.write_bytes,
            not_admitted: self.not_admitted,
            evictions: self.evictions,
            damaged: self.damaged,
            failures: self.failures,
            under_way: under_way as u64,
        }
    }
}

/// A block that is on the disk. Its payload is not checked.
#[derive(Debug)]
pub(crate) struct DiskFound {
    pub(crate) entry: Entry,
    seen: Seen,
    version: Version,
    head_len_bytes: u64,
    /// A small payload comes with its head.
    payload: Option<Vec<u8>>,
}

impl DiskFound {
    /// Whether this agent kept the block, or was told by [`Disk::confirm`] that the store still has the same. Otherwise
    /// the store may have changed while nobody here saw it.
    pub(crate) fn is_confirmed(&self) -> bool {
        self.seen.is_confirmed()
    }
}

impl Disk {
    /// Opens the tier in a directory, which is made when it is missing, and finds what is in it.
    ///
    /// # Errors
    /// One sentence that says what is wrong and what to do.
    pub async fn open(path: &Path, capacity: DiskCapacity) -> Result<Disk, String> {
        let (path, gate, crew) = (path.to_owned(), Gate::new(), Crew::new());
        let beats = Arc::clone(&gate);
        let opening = move |_| {
            let beat = || {
                beats.beat();
            };
            Inner::open(&path, capacity, &marker::boot_id(), &beat)
        };
        let opened = crew.run(&gate, OPEN_PATIENCE, 0, opening).await;
        let (inner, past, rebuilt) = match opened {
            Ok(opened) => opened?,
            Err(_) => return Err(format!("the disk gave no answer within {} s", OPEN_PATIENCE.as_secs())),
        };
        let Rebuilt { listed, found, foreign } = rebuilt;
        info!(path = %inner.root.path().display(), ?past, listed, found, foreign, "the disk tier is open");
        let disk = Disk { inner: Arc::new(inner) };
        disk.remove_leavings();
        Ok(disk)
    }

    /// Tries a directory without changing what is in it, whether or not an agent uses it.
    ///
    /// # Errors
    /// The sentence that [`Disk::open`] would say.
    pub fn check(path: &Path, capacity: DiskCapacity) -> Result<(), String> {
        let file_system_bytes = root::check(path)?;
        capacity_of(capacity, file_system_bytes, path).map(|_| ())
    }

    /// The figures at this moment.
    pub(crate) fn figures(&self) -> DiskFigures {
        self.inner.ledger().figures()
    }

    /// Threads that are in calls to the file system.
    pub(crate) fn under_way(&self) -> usize {
        self.inner.crew.under_way()
    }

    /// Whether there is a block of this name, as far as memory knows. No sign of use.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.inner.place(name).is_some_and(|place| self.inner.ledger().look(place, false).is_some())
    }

    /// Looks a block up, which counts as a use of it. `None` as well when the disk does not answer.
    pub(crate) async fn find(&self, name: &str) -> Option<DiskFound> {
        let found = self.look(name).await;
        let mut ledger = self.inner.ledger();
        match found {
            Some(_) => ledger.counts.hits += 1,
            None => ledger.counts.misses += 1,
        }
        found
    }

    async fn look(&self, name: &str) -> Option<DiskFound> {
        let place = self.inner.place(name).filter(|_| !self.inner.is_closed.load(Ordering::SeqCst))?;
        let seen = self.inner.ledger().look(place, true)?;
        let (inner, wanted) = (Arc::clone(&self.inner), name.to_owned());
        let judging = move |_| file::judge(&inner.root, place, &wanted);
        let judged = self.inner.crew.run(&Gate::new(), PATIENCE, 0, judging).await;
        let why = match judged {
            Ok(Ok(Judged::Whole(whole))) => {
                let file::Whole { entry, version, head_len_bytes, payload } = *whole;
                if entry.is_expired() {
                    self.inner.ledger().remove_seen(seen);
                    self.sweep();
                    return None;
                }
                // Replaced or removed meanwhile: what was read was right then, and is not now.
                let seen = self.inner.ledger().look(place, false).filter(|now| now.is_same(seen))?;
                return Some(DiskFound { entry, seen, version, head_len_bytes, payload });
            }
            Ok(Ok(Judged::Other)) => return None,
            Ok(Ok(Judged::Absent)) => "it is gone",
            Ok(Ok(Judged::Damaged(why))) => why,
            Ok(Err(error)) => {
                self.inner.failed("read", name, &error);
                // Nothing else comes of what the disk cannot read; other errors pass.
                if error.raw_os_error() == Some(Errno::EIO as i32) {
                    self.inner.ledger().remove_seen(seen);
                    self.sweep();
                }
                return None;
            }
            Err(busy) => {
                self.inner.hung("read", name, busy);
                return None;
            }
        };
        self.inner.lose(seen, name, why);
        self.sweep();
        None
    }

    /// Fills `into`, which is as long as the payload, and is not touched any more when this returns. The caller compares
    /// it with the entry's checksums, and says [`Disk::damaged`] where it is not the same.
    pub(crate) async fn load(&self, found: &DiskFound, into: Memory) -> Result<(), StoreError> {
        let len_bytes = found.entry.len_bytes;
        if into.len_bytes != len_bytes {
            let given = into.len_bytes;
            return Err(StoreError::Failed(format!("{given} bytes are no room for {len_bytes}; please report it")));
        }
        if let Some(payload) = &found.payload {
            let (at, _) = into.range()?;
            into.mapping.copy_in(at, payload);
        } else {
            into.range()?;
            self.load_file(found, into).await?;
        }
        self.inner.ledger().counts.hit_bytes += len_bytes;
        Ok(())
    }

    async fn load_file(&self, found: &DiskFound, into: Memory) -> Result<(), StoreError> {
        let (place, from) = (found.seen.place, (found.version, found.head_len_bytes));
        let extra = file::extra_lanes(into.len_bytes, READ_LANES);
        let (gate, inner) = (Gate::new(), Arc::clone(&self.inner));
        let work_gate = Arc::clone(&gate);
        let work = move |extra| file::load(&inner.root, place, from, &into, &work_gate, extra);
        let key = &found.entry.key;
        match self.inner.crew.run(&gate, PATIENCE, extra, work).await {
            Ok(Ok(Loaded::Whole)) => Ok(()),
            Ok(Ok(Loaded::Changed)) => Err(StoreError::Changed(format!("{key:?} on the disk"))),
            Ok(Ok(Loaded::GivenUp)) => Err(self.inner.hung("load", key, Busy::Hung)),
            Ok(Err(error)) => {
                self.inner.failed("load", key, &error);
                if error.raw_os_error() == Some(Errno::EIO as i32) {
                    self.inner.ledger().remove_seen(found.seen);
                    self.sweep();
                }
                Err(StoreError::Failed(format!("cannot read {key:?} from the disk: {error}")))
            }
            Err(busy) => Err(self.inner.hung("load", key, busy)),
        }
    }

    /// Says that the payload was not what the entry says. The block is gone when this returns, unless it was replaced.
    pub(crate) fn damaged(&self, found: &DiskFound) {
        self.inner.lose(found.seen, &found.entry.key, "its payload does not match its checksums");
        self.sweep();
    }

    /// Says that the store still has the same entry.
    pub(crate) fn confirm(&self, found: &DiskFound) {
        self.inner.ledger().confirm(found.seen);
    }

    /// Takes a block away. It is gone for every look that begins after this was called, and what was begun to be kept
    /// under this name before is not kept. When the result is good, it is gone after a crash of the agent as well.
    pub(crate) fn remove(&self, name: &str) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let disk = self.clone();
        let place = self.inner.place(name);
        let is_left = place.filter(|place| self.inner.ledger().remove(*place));
        let name = name.to_owned();
        async move {
            let Some(place) = is_left else { return Ok(()) };
            let inner = Arc::clone(&disk.inner);
            let work = move |_| inner.unlink(place);
            match disk.inner.crew.run(&Gate::new(), PATIENCE, 0, work).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => {
                    disk.inner.failed("remove", &name, &error);
                    Err(StoreError::Failed(format!(
                        "cannot remove {name} from the disk, where it may be found again after a crash: {error}"
                    )))
                }
                Err(busy) => Err(disk.inner.hung("remove", &name, busy)),
            }
        }
    }

    /// Takes all blocks of an incarnation away, in no time: none is found by any look that begins after this was called.
    /// Their files go in the background. `incarnation_prefix` ends with `/`.
    pub(crate) fn remove_all(&self, incarnation_prefix: &str) {
        let group = Place::group(self.inner.root.instance, incarnation_prefix);
        self.inner.ledger().remove_group(group);
        self.sweep();
    }

    /// Ends the use of the tier: writes the index, and waits until all is on the disk, for a while. To be called when
    /// nobody uses it any more; afterwards nothing is found, nothing kept, and no removal succeeds.
    pub(crate) async fn close(&self) {
        self.inner.is_closed.store(true, Ordering::SeqCst);
        if self.inner.crew.dismiss().await.is_err() {
            return warn!("the disk has hung; the next start looks at every block there");
        }
        let inner = Arc::clone(&self.inner);
        let ending = tokio::task::spawn_blocking(move || inner.end());
        match timeout(CLOSE_PATIENCE, ending).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => {
                warn!(%error, "the disk tier did not end cleanly; the next start looks at every block")
            }
            Ok(Err(_)) | Err(_) => warn!("the disk tier did not end in time; a restart of the machine empties it"),
        }
    }

    /// Has files of earlier instances removed.
    fn remove_leavings(&self) {
        if !self.inner.root.has_leavings {
            return;
        }
        let disk = self.clone();
        tokio::spawn(async move {
            let (gate, inner) = (Gate::new(), Arc::clone(&disk.inner));
            let beats = Arc::clone(&gate);
            let work = move |_| {
                let beat = || {
                    beats.beat();
                };
                match inner.root.remove_leavings(&beat) {
                    Ok(()) => inner.is_emptying.store(false, Ordering::SeqCst),
                    Err(error) => warn!(%error, "cannot empty the disk tier, which takes no blocks until it is empty"),
                }
            };
            // The work goes on by itself when nobody waits for it.
            let _ = disk.inner.crew.run(&gate, OPEN_PATIENCE, 0, work).await;
        });
    }

    /// Has doomed files unlinked, unless somebody is at it. Needs a runtime around it.
    fn sweep(&self) {
        if !self.inner.ledger().has_doomed() || self.inner.is_sweeping.swap(true, Ordering::SeqCst) {
            return;
        }
        let inner = Arc::clone(&self.inner);
        tokio::spawn(async move {
            // What fails is tried again at the next sweep.
            while inner.ledger().has_doomed() {
                let worker = Arc::clone(&inner);
                let swept = inner.crew.run(&Gate::new(), PATIENCE, 0, move |_| worker.sweep_some()).await;
                if !matches!(swept, Ok(Ok(()))) {
                    break;
                }
            }
            inner.is_sweeping.store(false, Ordering::SeqCst);
        });
    }
}

impl Inner {
    fn open(
        path: &Path,
        capacity: DiskCapacity,
        boot: &str,
        beat: &dyn Fn(),
    ) -> Result<(Inner, Past, Rebuilt), String> {
        let (root, past) = Root::open(path, boot)?;
        let shown = path.display();
        let capacity_bytes = capacity_of(capacity, root.file_system_bytes, path)?;
        let mut ledger = Ledger::new(capacity_bytes, root.base_bytes());
        if ledger.excess_bytes() > 0 {
            return Err(format!("{capacity_bytes} bytes do not even hold the directories of {shown}; give it more"));
        }
        let index = match root.take_index().map_err(|error| format!("cannot take the index of {shown}: {error}"))? {
            Some(bytes) => match Index::read(&bytes) {
                Ok(index) => Some(index),
                Err(why) => {
                    info!(why, "the index of the disk tier cannot be used");
                    None
                }
            },
            None => None,
        };
        let rebuilt = rebuild::fill(&root, &mut ledger, index, beat)
            .map_err(|error| format!("cannot read the blocks in {shown}: {error}"))?;
        let inner = Inner {
            is_emptying: AtomicBool::new(root.has_leavings),
            root,
            ledger: Mutex::new(ledger),
            crew: Crew::new(),
            stripes: std::array::from_fn(|_| Mutex::default()),
            is_sweeping: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
        };
        inner.shrink(beat).map_err(|error| format!("cannot make {shown} as small as its capacity: {error}"))?;
        Ok((inner, past, rebuilt))
    }

    /// Removes what is over the capacity, which may have been larger.
    fn shrink(&self, beat: &dyn Fn()) -> std::io::Result<()> {
        loop {
            let victims = {
                let mut ledger = self.ledger();
                let excess = ledger.excess_bytes();
                ledger.victims(excess)
            };
            if victims.is_empty() {
                return Ok(());
            }
            for victim in victims {
                self.unlink(victim)?;
                beat();
            }
        }
    }

    /// The place of a name. `None` when it is no name of a block.
    fn place(&self, name: &str) -> Option<Place> {
        Place::of(self.root.instance, name)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Every change of it is complete before anything can panic.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stripe(&self, place: Place) -> MutexGuard<'_, ()> {
        self.stripes[place.shard() % STRIPES].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Unlinks the file at a place, if it is still to be. Blocks.
    fn unlink(&self, place: Place) -> std::io::Result<()> {
        let _stripe = self.stripe(place);
        let Some(doomed) = self.ledger().is_doomed(place) else { return Ok(()) };
        file::unlink(&self.root, doomed)?;
        self.ledger().unlinked(doomed);
        Ok(())
    }

    /// Unlinks some of the files that are to be. Blocks.
    fn sweep_some(&self) -> std::io::Result<()> {
        let doomed = self.ledger().doomed(SWEEP_BATCH);
        doomed.into_iter().try_for_each(|place| self.unlink(place))
    }

    fn end(&self) -> std::io::Result<()> {
        while self.ledger().has_doomed() {
            self.sweep_some()?;
        }
        let index = rebuild::index_of(&self.root, &self.ledger())?;
        self.root.write_index(&index.to_bytes())?;
        self.root.set_state(State::Closed)?;
        self.root.set_state(State::Flushed)
    }

    /// A block turned out not to be what it should be.
    fn lose(&self, seen: Seen, name: &str, why: &str) {
        let mut ledger = self.ledger();
        if ledger.remove_seen(seen) {
            ledger.counts.damaged += 1;
            drop(ledger);
            warn!(name, why, "a block on the disk is damaged; it is removed");
        }
    }

    fn failed(&self, what: &str, name: &str, error: &std::io::Error) {
        self.ledger().counts.failures += 1;
        if is_full(error) {
            debug!(what, name, %error, "there is no room on the disk");
        } else {
            warn!(what, name, %error, "the disk failed");
        }
    }

    fn hung(&self, what: &str, name: &str, busy: Busy) -> StoreError {
        self.ledger().counts.failures += 1;
        let why = match busy {
            Busy::NoThread => "all threads for the disk are out and none comes back",
            Busy::Hung => "the disk has not answered for too long",
            Busy::Lost => "the agent ends",
        };
        // Whoever finds all threads out is one of many; those that are out have been named.
        if busy == Busy::Hung {
            warn!(what, name, why, "the disk does not answer");
        } else {
            debug!(what, name, why, "the disk is not asked");
        }
        StoreError::Unavailable(format!("cannot {what} {name} on the disk now: {why}"))
    }
}

/// The capacity in bytes on a file system of this size.
fn capacity_of(capacity: DiskCapacity, file_system_bytes: u64, path: &Path) -> Result<u64, String> {
    let bytes = capacity.bytes(file_system_bytes);
    if bytes > file_system_bytes {
        let shown = path.display();
        return Err(format!("the file system of {shown} has {file_system_bytes} bytes; give it at most that"));
    }
    Ok(bytes)
}
