//! The disk between memory and store, as loads, puts and fetches use it: what is published is kept there in the
//! background, what is looked for is looked for there first, what changes is taken away there before it changes in the store.

use std::sync::Arc;

use larder_protocol::checksum::Checksums;
use larder_protocol::stat::DiskStat;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, warn};

use crate::cache::{Lent, Reservation};
use crate::disk::{Disk, DiskFound};
use crate::server::Agent;
use crate::session::visiting;
use crate::store::{Entry, is_intact};

/// Blocks that are written at once: fewer than the disk takes, so that none is turned away.
const WRITERS: usize = 6;
/// Of the capacity, the share that may be held in memory until it is on the disk.
const HELD_SHARE: u64 = 8;

/// The disk, and how much may wait for it.
#[derive(Debug)]
pub(crate) struct Tier {
    pub(crate) disk: Disk,
    writers: Arc<Semaphore>,
    /// In KiB.
    held: Arc<Semaphore>,
}

impl Tier {
    pub(crate) fn new(disk: Disk, memory_bytes: u64) -> Tier {
        let held = usize::try_from(memory_bytes / HELD_SHARE / 1024).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Tier { disk, writers: Arc::new(Semaphore::new(WRITERS)), held: Arc::new(Semaphore::new(held)) }
    }

    /// The disk's figures.
    pub(crate) fn stat(&self) -> DiskStat {
        self.disk.figures().to_stat(self.disk.under_way())
    }

    /// Room to hold a block until it is written, if there is some now.
    fn hold(&self, len_bytes: u64) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from(len_bytes / 1024 + 1).ok()?;
        Arc::clone(&self.held).try_acquire_many_owned(kib).ok()
    }
}

/// A block's place on the disk, by its name.
#[derive(Clone, Debug)]
pub(crate) struct OnDisk {
    agent: Arc<Agent>,
    tier: Arc<Tier>,
    uid: u32,
    name: String,
}

impl OnDisk {
    /// `None` where there is no disk.
    pub(crate) fn of(agent: &Arc<Agent>, uid: u32, name: impl FnOnce() -> String) -> Option<OnDisk> {
        let tier = Arc::clone(agent.tier.as_ref()?);
        Some(OnDisk { agent: Arc::clone(agent), tier, uid, name: name() })
    }

    pub(crate) async fn find(&self) -> Option<DiskFound> {
        self.tier.disk.find(&self.name).await
    }

    /// Says that the store has the same.
    pub(crate) fn confirm(&self, found: &DiskFound) {
        self.tier.disk.confirm(found);
    }

    /// Fills room with what was found; its checksums, if it is whole. Nothing touches the room any more then.
    pub(crate) async fn fill(&self, found: &DiskFound, reservation: &Reservation) -> Option<Checksums> {
        if let Err(error) = self.tier.disk.load(found, reservation.memory()).await {
            debug!(%error, name = self.name, "not loaded from the disk");
            return None;
        }
        let (entry, memory) = (found.entry.clone(), reservation.memory());
        // A pass over the whole payload, so not on a thread that others wait for.
        let intact = tokio::task::spawn_blocking(move || is_intact(&entry, &memory)).await;
        if intact.is_ok_and(|intact| intact) {
            return Some(found.entry.checksums.clone());
        }
        self.tier.disk.damaged(found);
        None
    }

    /// Keeps a block that was just published, in the background, while its memory is borrowed. To be called under the turn of
    /// its key, if it has one.
    pub(crate) fn keep(self, lent: Option<Lent>, entry: &Entry) {
        let Some(lent) = lent else { return };
        let held = if self.tier.disk.contains(&self.name) { None } else { self.tier.hold(entry.len_bytes) };
        let Some(held) = held else {
            self.agent.cache().end_borrow(self.uid, &lent);
            return;
        };
        // Begun now, so that a later removal wins.
        let keeping = self.tier.disk.keep(&self.name, entry, lent.payload.clone());
        let agent = Arc::clone(&self.agent);
        tokio::spawn(visiting(&agent, self.uid, async move {
            // Nobody closes it.
            let writer = self.tier.writers.acquire().await;
            if let Err(error) = keeping.await {
                warn!(%error, uid = self.uid, "a block was not kept on the disk");
            }
            drop(writer);
            self.agent.cache().end_borrow(self.uid, &lent);
            self.agent.keeper.notify_one();
            drop(held);
        }));
    }

    /// Takes a block away that is about to change in the store.
    pub(crate) async fn remove(&self) {
        if let Err(error) = self.tier.disk.remove(&self.name).await {
            // It is not found by this agent any more, and the next one compares it with the store first.
            warn!(%error, uid = self.uid, "a block was not removed from the disk");
        }
    }
}
