//! A durable namespace's blocks: a put is acknowledged when the store has it, a miss looks there.
//!
//! Whoever changes what memory or store hold under a key has the key's turn meanwhile, so the two never disagree for
//! longer than a turn. All of it runs as [`later`](super::later) says: nobody cancels it.

use std::sync::Arc;
use std::time::Instant;

use larder_protocol::checksum::Checksums;
use larder_protocol::clock;
use larder_protocol::message::{PutOutcome, Refusal, Reply};
use larder_protocol::namespace::NamespaceOptions;

use super::later::store_failed;
use crate::cache::{Held, Reservation, Times};
use crate::server::Agent;
use crate::store::{Entry, Found, Kept, Lookup, Store, StoreError};
use crate::tier::OnDisk;

/// A user's blocks in a namespace that is durable.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(super) agent: Arc<Agent>,
    pub(crate) store: Arc<Store>,
    pub(super) uid: u32,
    pub(super) namespace: u64,
    /// Where the blocks lie.
    pub(crate) incarnation: Arc<str>,
}

impl Stored {
    /// The store's side of a namespace; `None` where it has none.
    pub(crate) fn of(agent: &Arc<Agent>, uid: u32, namespace: u64) -> Result<Option<Stored>, Refusal> {
        let incarnation = agent.cache().stored(uid, namespace)?;
        Ok(Stored::at(agent, uid, namespace, incarnation))
    }

    /// The store's side of a put.
    pub(super) fn of_put(agent: &Arc<Agent>, reservation: &Reservation) -> Option<Stored> {
        let (uid, namespace, incarnation) = reservation.target();
        Stored::at(agent, uid, namespace, incarnation.cloned())
    }

    fn at(agent: &Arc<Agent>, uid: u32, namespace: u64, incarnation: Option<Arc<str>>) -> Option<Stored> {
        let (store, incarnation) = agent.store.clone().zip(incarnation)?;
        Some(Stored { agent: Arc::clone(agent), store, uid, namespace, incarnation })
    }

    pub(super) fn failed(&self, error: &StoreError) -> Refusal {
        store_failed(&self.agent, self.uid, error)
    }

    pub(super) fn on_disk(&self, key: &str) -> Option<OnDisk> {
        OnDisk::of(&self.agent, self.uid, || Store::block_name(&self.incarnation, key))
    }

    /// Keeps a block that was just published on the disk, if there is one.
    pub(super) fn keep_on_disk(&self, entry: &Entry) {
        if let Some(on_disk) = self.on_disk(&entry.key) {
            let lent = self.agent.cache().borrow(self.uid, self.namespace, &entry.key);
            on_disk.keep(lent, entry);
        }
    }

    /// Acknowledges a put whose payload is in place.
    pub(super) async fn put(
        &self,
        reservation: Box<Reservation>,
        checksums: &Checksums,
    ) -> Result<PutOutcome, Refusal> {
        // Before the turn: what the store takes meanwhile may be an older block of the same key.
        if reservation.is_back()
            && let Err(refusal) = self.wait_while_owing(&reservation).await
        {
            self.agent.cache().abandon(&reservation);
            return Err(refusal);
        }
        let turn = self.store.turn(&self.incarnation, reservation.key()).await;
        let options = match self.judge(&reservation, checksums) {
            Judged::Settled(settled) => {
                self.agent.cache().abandon(&reservation);
                return settled;
            }
            Judged::Goes(options) => options,
        };
        let outcome = if reservation.is_back() {
            self.put_back(reservation, checksums, &options).await
        } else {
            self.put_through(reservation, checksums, &options).await
        };
        drop(turn);
        outcome
    }

    /// What memory says of a put.
    fn judge(&self, reservation: &Reservation, checksums: &Checksums) -> Judged {
        let mut cache = self.agent.cache();
        let held = cache.held(reservation, checksums, clock::coarse_ns());
        match (cache.options(self.uid, self.namespace), held) {
            (Err(refusal), _) => Judged::Settled(Err(refusal)),
            (Ok(_), Held::Same) => Judged::Settled(Ok(PutOutcome::AlreadyHeld)),
            (Ok(options), Held::Other { len }) if !options.overwrite => {
                Judged::Settled(Err(Refusal::Exists { held: len, offered: reservation.len() }))
            }
            (Ok(options), _) => Judged::Goes(options),
        }
    }

    /// Holds a put back while the store is behind, and refuses it when that lasts too long.
    async fn wait_while_owing(&self, reservation: &Reservation) -> Result<(), Refusal> {
        let mut until = None;
        loop {
            // Before the look, or what the store takes meanwhile would not be heard of.
            let written = self.agent.written.notified();
            {
                let mut cache = self.agent.cache();
                if !cache.owes_too_much(self.uid, reservation.len()) {
                    return Ok(());
                }
                cache.figures(self.uid).put_waits += u64::from(until.is_none());
            }
            // A little less than the caller waits, so that it learns this and not only that there was no answer.
            let until = *until.get_or_insert_with(|| Instant::now() + self.store.timeout().mul_f64(0.9));
            if tokio::time::timeout_at(until.into(), written).await.is_err() {
                return Err(Refusal::Store(
                    "the store is slower than the puts, and half of the quota waits for it already; put less at a time, or look at the store".into(),
                ));
            }
        }
    }

    /// First everybody finds the block, then the store has it.
    async fn put_back(
        &self,
        mut reservation: Box<Reservation>,
        checksums: &Checksums,
        options: &NamespaceOptions,
    ) -> Result<PutOutcome, Refusal> {
        let may_be_stored = self.agent.cache().may_be_stored(self.uid, self.namespace, reservation.key());
        if may_be_stored && !options.overwrite {
            let lane = self.store.lane(self.uid).await;
            let found = self.store.find(&self.incarnation, reservation.key()).await;
            drop(lane);
            match found {
                Ok(Lookup::Found(found)) if !self.gives_way(&found, checksums) => {
                    return self.keep_held(reservation, checksums, &found.entry).await;
                }
                Ok(_) => {}
                Err(error) => {
                    self.agent.cache().abandon(&reservation);
                    return Err(self.failed(&error));
                }
            }
        }
        reservation.owe();
        let outcome = self.commit(reservation, checksums).await;
        self.agent.owes.notify_one();
        outcome
    }

    /// Whether a put may write anew what the store has: it has expired, or could not be read here and is the same.
    fn gives_way(&self, found: &Found, checksums: &Checksums) -> bool {
        found.entry.is_expired() || (found.entry.checksums == *checksums && self.store.is_suspect(found))
    }

    /// Ends a put under whose key the store has a block.
    async fn keep_held(
        &self,
        reservation: Box<Reservation>,
        checksums: &Checksums,
        there: &Entry,
    ) -> Result<PutOutcome, Refusal> {
        let offered = reservation.len();
        if there.len_bytes == offered && there.checksums == *checksums {
            return self.publish(reservation, there).await.map(|_| PutOutcome::AlreadyHeld);
        }
        self.agent.cache().abandon(&reservation);
        Err(Refusal::Exists { held: there.len_bytes, offered })
    }

    /// First the store has the block, then everybody finds it.
    async fn put_through(
        &self,
        reservation: Box<Reservation>,
        checksums: &Checksums,
        options: &NamespaceOptions,
    ) -> Result<PutOutcome, Refusal> {
        let _lane = self.store.lane(self.uid).await;
        let offered = reservation.len();
        let entry = Entry::now(reservation.key(), offered, options.ttl_ms, checksums.clone());
        if let Some(on_disk) = self.on_disk(&entry.key) {
            on_disk.remove().await;
        }
        let kept = self.store.put(&self.incarnation, &entry, reservation.memory(), options.overwrite).await;
        match kept {
            Ok(Kept::Stored) => {
                let outcome = self.publish(reservation, &entry).await?;
                self.keep_on_disk(&entry);
                let mut cache = self.agent.cache();
                let figures = cache.figures(self.uid);
                figures.stored += 1;
                figures.stored_bytes += offered;
                Ok(outcome)
            }
            Ok(Kept::Held(there)) => self.keep_held(reservation, checksums, &there).await,
            Err(error) => {
                self.agent.cache().abandon(&reservation);
                self.forget(&entry.key);
                Err(self.failed(&error))
            }
        }
    }

    /// Publishes what the store has, with the times that it has there.
    pub(super) async fn publish(
        &self,
        mut reservation: Box<Reservation>,
        entry: &Entry,
    ) -> Result<PutOutcome, Refusal> {
        let left_ns = entry.left_ms().map(|left_ms| left_ms.saturating_mul(1_000_000));
        let expiry_ns = left_ns.map_or(0, |left_ns| clock::coarse_ns().saturating_add(left_ns));
        reservation.put_at(Times { created_ms: entry.created_ms, expiry_ns });
        let published = self.commit(reservation, &entry.checksums).await;
        if published.is_err() {
            self.forget(&entry.key);
        }
        published
    }

    /// Takes a key out of memory of which nobody can say whether the store has the same: the next look asks the store.
    fn forget(&self, key: &str) {
        self.agent.cache().forget(self.uid, self.namespace, key);
    }

    async fn commit(&self, reservation: Box<Reservation>, checksums: &Checksums) -> Result<PutOutcome, Refusal> {
        let now_ns = clock::coarse_ns();
        let committed = self.agent.cache().commit(reservation, checksums, now_ns);
        super::put::retry_commit(&self.agent, committed, checksums, now_ns).await
    }

    /// Takes a key out of the store and out of memory.
    pub(super) async fn delete(self, key: String) -> Result<Reply, Refusal> {
        let _turn = self.store.turn(&self.incarnation, &key).await;
        let _lane = self.store.lane(self.uid).await;
        if let Some(on_disk) = self.on_disk(&key) {
            on_disk.remove().await;
        }
        let was_stored = self.store.remove(&self.incarnation, &key).await.map_err(|error| {
            self.forget(&key);
            self.failed(&error)
        })?;
        let now_ns = clock::coarse_ns();
        let deleted = self.agent.with_memory(|cache| cache.delete(self.uid, self.namespace, &key, now_ns)).await;
        match deleted {
            Err(Refusal::NotFound) if was_stored => Ok(Reply::Done),
            other => other.map(|()| Reply::Done),
        }
    }

    /// Waits until the store has all that was put before.
    pub(super) async fn sync(self) -> Result<Reply, Refusal> {
        let waiting = self.agent.cache().begin_sync(self.uid, self.namespace)?;
        self.agent.owes.notify_one();
        match waiting {
            None => Ok(Reply::Done),
            Some(ended) => match ended.await {
                Ok(Ok(())) => Ok(Reply::Done),
                Ok(Err(why)) => Err(Refusal::Store(format!("not all that was put is in the store yet: {why}"))),
                Err(_) => Err(Refusal::Failed("the agent ends".into())),
            },
        }
    }

    /// Keys that begin with `prefix`, in memory or in the store.
    pub(super) async fn keys(&self, prefix: &str, now_ns: u64) -> Result<Vec<String>, Refusal> {
        let lane = self.store.lane(self.uid).await;
        let mut keys = self.store.keys(&self.incarnation, prefix).await.map_err(|error| self.failed(&error))?;
        drop(lane);
        keys.extend(self.agent.cache().keys(self.uid, self.namespace, prefix, now_ns)?);
        keys.sort_unstable();
        keys.dedup();
        Ok(keys)
    }
}

/// What memory says of a put.
enum Judged {
    /// It has ended so.
    Settled(Result<PutOutcome, Refusal>),
    /// It goes on, in a namespace of these options.
    Goes(NamespaceOptions),
}
