//! What a store is for: blocks are put into it, the agent is killed, and another finds them there.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use larder::{Block, Namespace};
use larder_protocol::units::ByteSize;

use super::interrupt::Interrupt;
use super::measure::{Known, digest_of};
use super::origin::Origin;
use super::tree::{Entry, Limit};

/// What is put into the store at most: a copy of everything would take room and time on whatever disk there is.
pub(super) const LIMIT: Limit = Limit { files: 10_000, bytes: 256 << 20 };
/// How long putting may take: on a disk that is slow to say that it has something, fewer files have to do.
const PUT_MAX: Duration = Duration::from_secs(20);
/// Blocks put together, and their payload. Few, since each waits for the disk and nothing interrupts them.
const BATCH_BLOCKS: usize = 64;
const BATCH_BYTES: usize = 4 << 20;

/// What was put.
#[derive(Debug, Default)]
pub(super) struct Saved {
    pub(super) known: Vec<Known>,
    pub(super) bytes: u64,
    pub(super) seconds: f64,
    /// Whether the time was over before everything was put.
    pub(super) cut: bool,
}

/// How much is saved when an agent has this capacity and its temporary directory this room.
pub(super) fn limit(capacity: ByteSize, free_bytes: u64) -> Limit {
    Limit { bytes: LIMIT.bytes.min(capacity.bytes() / 8).min(free_bytes / 4), ..LIMIT }
}

/// Puts blocks of one namespace into another, of durability `through`: each is on the disk when its put returns. What is not
/// in memory any more is fetched again.
pub(super) fn save(
    entries: &[Entry],
    from: &Namespace,
    origin: &Origin,
    to: &Namespace,
    interrupt: &Interrupt,
    bar: &ProgressBar,
) -> Result<Saved> {
    let mut saved = Saved::default();
    let mut batch: Vec<(&str, Block)> = Vec::new();
    let mut batch_bytes = 0;
    let start = Instant::now();
    for entry in entries {
        interrupt.check()?;
        if start.elapsed() > PUT_MAX {
            saved.cut = true;
            break;
        }
        // What the origin did not have when it was fetched first was counted then.
        let Ok(block) = from.get_or_fetch(&entry.key, &origin.url(&entry.key)) else { continue };
        batch_bytes += block.len();
        batch.push((&entry.key, block));
        if batch.len() == BATCH_BLOCKS || batch_bytes >= BATCH_BYTES {
            put(&mut batch, to, &mut saved, bar)?;
            batch_bytes = 0;
        }
    }
    put(&mut batch, to, &mut saved, bar)?;
    saved.seconds = start.elapsed().as_secs_f64();
    Ok(saved)
}

fn put(batch: &mut Vec<(&str, Block)>, to: &Namespace, saved: &mut Saved, bar: &ProgressBar) -> Result<()> {
    let items: Vec<(&str, &[u8])> = batch.iter().map(|(key, block)| (*key, &**block)).collect();
    for ((key, bytes), outcome) in items.iter().zip(to.put_many(&items)) {
        outcome.with_context(|| format!("cannot put {key:?} into the store"))?;
        saved.known.push(Known { key: (*key).to_owned(), digest: Some(digest_of(bytes)) });
        saved.bytes += bytes.len() as u64;
        bar.inc(bytes.len() as u64);
    }
    batch.clear();
    Ok(())
}
