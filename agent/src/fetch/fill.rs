//! How the bytes of an origin come into shared memory: ranges side by side, each checked off as it is whole.

use std::sync::Arc;

use larder_protocol::checksum::Checksums;
use larder_protocol::clock;
use larder_protocol::layout::block::CHUNK_BYTES;
use larder_protocol::message::Refusal;
use tokio::task::JoinSet;

use super::{Bringing, Target, digest, refusal};
use crate::cache::{Cache, How, Reservation};
use crate::origin::{OriginError, Source};
use crate::session::{Stored, retry_commit};
use crate::store::{Entry, Memory, Store};
use crate::tier::OnDisk;

/// The key of what was fetched, on the disk: its name says which it is.
const ORIGIN_KEY: &str = "o";
/// Bytes of a range, and ranges of one object at once.
const RANGE_BYTES: u64 = 8 << 20;
const RANGES_MAX: usize = 8;
/// What is checked at once, without another thread.
const SHORT_BYTES: u64 = 256 << 10;

/// Why memory was not filled.
enum Unfilled {
    Origin(OriginError),
    /// Nobody waits any more.
    Unwanted,
    Failed(String),
}

/// Which bytes of a source a block is to have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    /// Stands for them, where anything does.
    pub(super) origin: Option<u128>,
    pub(super) from: u64,
    pub(super) len: u64,
    /// They take the place of an earlier version.
    pub(super) replaces: bool,
}

impl Bringing {
    /// Reads bytes of a source into fresh room and publishes them, if `agree` says so when they are all there.
    pub(super) async fn fill(
        &self,
        source: &Arc<Source>,
        name: &str,
        range: &Range,
        stored: Option<&Stored>,
        agree: impl FnOnce() -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let Target { uid, namespace, key } = &self.target;
        let how = How::Fetch { origin: range.origin, replaces: range.replaces };
        let reserve = |cache: &mut Cache| cache.reserve_for_fetch(*uid, *namespace, key, range.len, how);
        let mut reservation = Box::new(self.agent.with_memory(reserve).await?);
        let on_disk =
            range.origin.and_then(|origin| OnDisk::of(&self.agent, *uid, || Store::origin_name(*uid, origin)));
        let filled = match self.copy(&reservation).await {
            Some(copied) => copied,
            None => match from_disk(on_disk.as_ref(), &mut reservation).await {
                Some(checksums) => Ok(checksums),
                None => self.read(source, range.from, reservation.memory()).await,
            },
        };
        let checksums = match filled {
            Ok(checksums) => checksums,
            Err(why) => {
                self.agent.cache().abandon(&reservation);
                return Err(match why {
                    Unfilled::Origin(error) => refusal(error, name, *uid),
                    Unfilled::Unwanted => Refusal::Deadline,
                    Unfilled::Failed(why) => Refusal::Failed(why),
                });
            }
        };
        if let Some(named) = digest::named_by(key)
            && let Err(why) = is_as_named(named, reservation.memory(), key, name).await
        {
            self.agent.cache().abandon(&reservation);
            return Err(why);
        }
        // Not before: a fetch that failed has shown nobody anything.
        if let Err(why) = agree() {
            self.agent.cache().abandon(&reservation);
            return Err(why);
        }
        let turn = match stored {
            Some(stored) => Some(stored.store.turn(&stored.incarnation, key).await),
            None => None,
        };
        let now_ns = clock::coarse_ns();
        let committed = self.agent.cache().commit(reservation, &checksums, now_ns);
        let outcome = retry_commit(&self.agent, committed, &checksums, now_ns).await;
        if let Some(on_disk) = on_disk.filter(|_| outcome.is_ok()) {
            let lent = self.agent.cache().borrow(*uid, *namespace, key);
            on_disk.keep(lent, &Entry::now(ORIGIN_KEY, range.len, None, checksums));
        }
        drop(turn);
        match outcome {
            // Somebody has put the key meanwhile, and that is what it holds.
            Ok(_) | Err(Refusal::Exists { .. }) => Ok(()),
            Err(refusal) => Err(refusal),
        }
    }

    /// Takes the bytes from a block that has them, if there is one.
    async fn copy(&self, reservation: &Reservation) -> Option<Result<Checksums, Unfilled>> {
        let lent = self.agent.cache().borrow_fetched(reservation)?;
        let (from, to) = (lent.payload.clone(), reservation.memory());
        let copied = tokio::task::spawn_blocking(move || copy(&from, &to)).await;
        self.agent.cache().end_borrow(self.target.uid, &lent);
        Some(copied.map(|()| lent.checksums).map_err(|error| Unfilled::Failed(error.to_string())))
    }

    /// Reads the bytes of a source from `base` on. All that was begun has ended when this returns.
    async fn read(&self, source: &Arc<Source>, base: u64, memory: Memory) -> Result<Checksums, Unfilled> {
        let len = memory.len_bytes;
        let mut start = if base == 0 { copy_first(&source.first, &memory) } else { 0 };
        // What comes as one stream is read in order.
        let at_once = if source.is_ranged { RANGES_MAX } else { 1 };
        let mut parts: Vec<Vec<u64>> = vec![checksums(part(&memory, 0, start)).await];
        let mut under_way: JoinSet<Result<(usize, Vec<u64>), OriginError>> = JoinSet::new();
        let mut failed = None;
        loop {
            while failed.is_none() && start < len && under_way.len() < at_once {
                if !self.is_wanted() {
                    failed = Some(Unfilled::Unwanted);
                    break;
                }
                let (from, place) = (start, parts.len());
                start = (start + RANGE_BYTES).min(len);
                parts.push(Vec::new());
                let (source, part) = (Arc::clone(source), part(&memory, from, start));
                under_way.spawn(async move {
                    source.read(base + from, part.clone()).await?;
                    Ok((place, checksums(part).await))
                });
            }
            match under_way.join_next().await {
                None => break,
                Some(Ok(Ok((place, of_part)))) => parts[place] = of_part,
                Some(Ok(Err(error))) => failed = failed.or(Some(Unfilled::Origin(error))),
                Some(Err(error)) => failed = failed.or(Some(Unfilled::Failed(error.to_string()))),
            }
        }
        match failed {
            Some(why) => Err(why),
            None => Ok(Checksums { chunks: parts.concat() }),
        }
    }
}

/// Takes the bytes from the disk, if they are there.
async fn from_disk(on_disk: Option<&OnDisk>, reservation: &mut Reservation) -> Option<Checksums> {
    let on_disk = on_disk?;
    // Whether or not an earlier agent kept it: a version of an origin does not change.
    let found = on_disk.find().await.filter(|found| found.entry.len_bytes == reservation.len())?;
    let checksums = on_disk.fill(&found, reservation).await?;
    reservation.came_from_disk();
    Some(checksums)
}

async fn is_as_named(named: digest::Named, memory: Memory, key: &str, name: &str) -> Result<(), Refusal> {
    match tokio::task::spawn_blocking(move || named.is_of(&memory)).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(Refusal::Origin(format!("what {name} has is not what the key {key:?} names"))),
        Err(error) => Err(Refusal::Failed(error.to_string())),
    }
}

/// Copies what the first request brought: all of it where that is the whole object, else whole chunks, so that each checksum
/// is of one read. Returns how many bytes that were.
fn copy_first(first: &[u8], memory: &Memory) -> u64 {
    let brought = first.len() as u64;
    let whole = if brought >= memory.len_bytes { memory.len_bytes } else { brought / CHUNK_BYTES * CHUNK_BYTES };
    let (at, len) = (usize::try_from(memory.offset_bytes), usize::try_from(whole));
    memory.mapping.copy_in(at.unwrap_or(usize::MAX), &first[..len.unwrap_or(usize::MAX)]);
    whole
}

/// The bytes of a payload from `start` up to `end`.
fn part(memory: &Memory, start: u64, end: u64) -> Memory {
    Memory { mapping: Arc::clone(&memory.mapping), offset_bytes: memory.offset_bytes + start, len_bytes: end - start }
}

/// The checksums of a part that begins where a chunk does.
async fn checksums(part: Memory) -> Vec<u64> {
    if part.len_bytes <= SHORT_BYTES {
        return part.checksums().chunks;
    }
    // A pass over all of it, so not on a thread that others wait for.
    tokio::task::spawn_blocking(move || part.checksums().chunks).await.unwrap_or_default()
}

/// Copies a payload from one place to another of the same length.
fn copy(from: &Memory, to: &Memory) {
    let mut at = usize::try_from(to.offset_bytes).unwrap_or(usize::MAX);
    from.each_piece(|piece| {
        to.mapping.copy_in(at, piece);
        at += piece.len();
    });
}
