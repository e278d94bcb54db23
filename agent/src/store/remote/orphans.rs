//! Large objects to which no link leads: what publishers left that crashed, or that never learned how a link's create
//! ended.

use std::time::Duration;

use futures_util::StreamExt;
use object_store::{ObjectStoreExt, PutPayload};
use tracing::{debug, info};

use super::link::{self, LARGE};
use super::{Place, StoreError};

/// How old a large object must be before anybody asks whether it is an orphan. No publication takes as long.
const AGE_MIN: Duration = Duration::from_secs(24 * 3600);

/// Large objects that one look goes through.
const LISTED_MAX: usize = 100_000;

/// Of these, how many are looked at: a random choice, so that all agents together, and the next ones, get to all.
const CHOSEN_MAX: usize = 500;

impl Place {
    /// Looks for orphans and removes them. A failure is of no consequence: somebody will look again.
    pub(super) async fn remove_orphans(&self) {
        match self.remove_orphans_older_than(AGE_MIN).await {
            Ok(0) => {}
            Ok(removed) => info!(removed, store = %self.url, "removed what crashed writers had left"),
            Err(error) => debug!(%error, "did not look for what crashed writers left"),
        }
    }

    /// The same with an age, by the server's clock. Returns how many were removed.
    pub(super) async fn remove_orphans_older_than(&self, age: Duration) -> Result<usize, StoreError> {
        let chosen = self.choose().await?;
        if chosen.is_empty() {
            return Ok(0);
        }
        let now_ms = self.server_now_ms().await?;
        let age_ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        let mut removed = 0;
        for (target, modified_ms) in chosen {
            if now_ms.saturating_sub(modified_ms) < age_ms {
                continue;
            }
            let Some(name) = link::name_of(&target) else { continue };
            // An object that cannot be read is not judged.
            let is_linked = self.link_at(name).await?.is_some_and(|link| link.target == target);
            if !is_linked {
                removed += usize::from(self.delete(&target).await?);
            }
        }
        Ok(removed)
    }

    /// Some large objects, with the time each was written.
    async fn choose(&self) -> Result<Vec<(String, i64)>, StoreError> {
        let mut chosen: Vec<(String, i64)> = Vec::new();
        let _request = self.limits.request().await;
        let mut listed = self.listed(LARGE, None)?;
        let mut seen = 0;
        while let Some(found) = listed.next().await {
            let found = found.map_err(|error| self.failure(&error, "list", LARGE))?;
            let Some(name) = self.name_of(&found) else { continue };
            let target = (name, found.last_modified.timestamp_millis());
            if chosen.len() < CHOSEN_MAX {
                chosen.push(target);
            } else {
                // Each that was seen is among the chosen with the same chance.
                let number = getrandom::u64().unwrap_or(u64::MAX);
                let slot = usize::try_from(number % (seen + 1)).unwrap_or(usize::MAX);
                if let Some(place) = chosen.get_mut(slot) {
                    *place = target;
                }
            }
            seen += 1;
            if seen >= LISTED_MAX as u64 {
                break;
            }
        }
        Ok(chosen)
    }

    /// The server's time, which is that of an object written now.
    async fn server_now_ms(&self) -> Result<i64, StoreError> {
        let number = getrandom::u64()
            .map_err(|error| StoreError::Failed(format!("the system has no random numbers: {error}")))?;
        let name = format!("larder-1/probe/{number:016x}/clock");
        let key = self.key(&name)?;
        let _request = self.limits.request().await;
        let written = self.writes.put(&key, PutPayload::from_static(b"clock")).await;
        written.map_err(|error| self.failure(&error, "write", &name))?;
        let meta = self.reads.head(&key).await;
        let _ = self.writes.delete(&key).await;
        Ok(meta.map_err(|error| self.failure(&error, "read", &name))?.last_modified.timestamp_millis())
    }
}
