//! Blocks of durable namespaces that are not in memory: from the disk of the node, or from the store.

use larder_protocol::clock;
use larder_protocol::message::Refusal;
use tracing::warn;

use super::stored::Stored;
use crate::cache::{Cache, How};
use crate::store::{Found, Lookup, StoreError, is_intact};

/// How often a block that changes while it is read is looked up again.
const LOAD_ATTEMPTS: usize = 3;

/// How the filling of a block ended.
enum Filled {
    Resident,
    Damaged(Box<Found>),
    Changed,
}

impl Stored {
    /// Makes a block that is on the disk resident. Whether it was there, and what the store always has.
    async fn load_from_disk(&self, key: &str) -> Result<bool, Refusal> {
        let Some(on_disk) = self.on_disk(key) else { return Ok(false) };
        let Some(found) = on_disk.find().await else { return Ok(false) };
        if !found.is_confirmed() {
            // From an earlier agent: the store may have changed since.
            match self.store.find(&self.incarnation, key).await.map_err(|error| self.failed(&error))? {
                Lookup::Found(stored) if stored.entry == found.entry => on_disk.confirm(&found),
                _ => {
                    on_disk.remove().await;
                    return Ok(false);
                }
            }
        }
        let (uid, namespace, len) = (self.uid, self.namespace, found.entry.len_bytes);
        let reserve = |cache: &mut Cache| cache.reserve_for_load(uid, namespace, key, len, How::Disk);
        let reservation = Box::new(self.agent.with_memory(reserve).await?);
        if on_disk.fill(&found, &reservation).await.is_none() {
            self.agent.cache().abandon(&reservation);
            return Ok(false);
        }
        self.publish(reservation, &found.entry).await.map(|_| true)
    }

    /// Makes a block that is not in memory resident, if the store has it.
    pub(crate) async fn load(self, key: String) -> Result<(), Refusal> {
        let _turn = self.store.turn(&self.incarnation, &key).await;
        let _lane = self.store.lane(self.uid).await;
        let mut damaged = 0;
        for _ in 0..LOAD_ATTEMPTS {
            let now_ns = clock::coarse_ns();
            // Others may have loaded it while we waited for our turn.
            let again = self.agent.with_memory(|cache| cache.look_up(self.uid, self.namespace, &key, now_ns)).await;
            if !matches!(again, Err(Refusal::NotFound)) {
                return again;
            }
            if self.load_from_disk(&key).await? {
                return Ok(());
            }
            let found = match self.store.find(&self.incarnation, &key).await {
                // It stays until the key is put again: another agent's clock may say otherwise.
                Ok(Lookup::Found(found)) if found.entry.is_expired() => return Err(Refusal::NotFound),
                Ok(Lookup::Found(found)) if self.store.is_suspect(&found) => return Err(Refusal::NotFound),
                Ok(Lookup::Found(found)) => found,
                Ok(Lookup::Unreadable(why)) => {
                    warn!(why, uid = self.uid, "an object in the store is not read");
                    self.agent.cache().figures(self.uid).store_damaged += 1;
                    return Err(Refusal::NotFound);
                }
                Ok(Lookup::Absent) => return Err(Refusal::NotFound),
                Err(error) => return Err(self.failed(&error)),
            };
            match self.fill(*found, &key).await? {
                Filled::Resident => return Ok(()),
                Filled::Damaged(_) if damaged == 0 => damaged += 1,
                Filled::Damaged(found) => {
                    // Read twice, and wrong twice.
                    warn!(
                        key,
                        uid = self.uid,
                        "a block in the store does not match its checksums; it is a miss for now"
                    );
                    self.agent.cache().figures(self.uid).store_damaged += 1;
                    self.store.suspect(&found);
                    return Err(Refusal::NotFound);
                }
                Filled::Changed => {}
            }
        }
        Err(Refusal::Store(format!("{key:?} changed each time that it was read")))
    }

    /// Reads a block into fresh room and publishes it.
    async fn fill(&self, found: Found, key: &str) -> Result<Filled, Refusal> {
        let (uid, namespace, len) = (self.uid, self.namespace, found.entry.len_bytes);
        let reservation = Box::new(
            self.agent.with_memory(|cache| cache.reserve_for_load(uid, namespace, key, len, How::Load)).await?,
        );
        if let Err(error) = self.store.load(&found, reservation.memory()).await {
            self.agent.cache().abandon(&reservation);
            return match error {
                StoreError::Changed(_) => Ok(Filled::Changed),
                error => Err(self.failed(&error)),
            };
        }
        let memory = reservation.memory();
        // A pass over the whole payload, so not on a thread that others wait for.
        let checked = tokio::task::spawn_blocking(move || {
            let intact = is_intact(&found.entry, &memory);
            (found, intact)
        });
        let (found, intact) = match checked.await {
            Ok(checked) => checked,
            Err(error) => {
                self.agent.cache().abandon(&reservation);
                return Err(Refusal::Failed(error.to_string()));
            }
        };
        if !intact {
            self.agent.cache().abandon(&reservation);
            return Ok(Filled::Damaged(Box::new(found)));
        }
        self.publish(reservation, &found.entry).await?;
        self.keep_on_disk(&found.entry);
        Ok(Filled::Resident)
    }
}
