//! What durable namespaces do beyond the memory: a put is acknowledged when the store has it, a miss looks there.
//!
//! Whoever changes what memory or store hold under a key has the key's turn meanwhile, so the two never disagree for
//! longer than a turn. Everything here runs in a task of its own that nobody cancels, neither when its session ends nor
//! when its caller has waited long enough: a store that has hung may still read or write the memory that it was given, so
//! that memory, and the turn, are held until it has ended.

use std::future::{Future, poll_fn};
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use larder_protocol::checksum::Checksums;
use larder_protocol::clock;
use larder_protocol::message::{PutOutcome, Refusal, Reply};
use larder_protocol::namespace::{Durability, NamespaceInfo, NamespaceOptions};
use tracing::{debug, warn};

use super::{Session, send};
use crate::cache::{Held, Reservation, Times, check_options};
use crate::server::Agent;
use crate::store::{Entry, Found, Kept, Lookup, Record, Store, StoreError, is_intact};

/// Requests of a user that may wait for the store at once.
const VISITS_MAX: usize = 4096;
/// How long a client may leave an answer unread after its session has ended.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a block that changes while it is read is looked up again.
const LOAD_ATTEMPTS: usize = 3;

/// Keeps a user's tenant for a task that may outlive the session that it works for.
#[derive(Debug)]
struct Visit {
    agent: Arc<Agent>,
    uid: u32,
}

impl Visit {
    /// To be made while the user has a session.
    fn new(agent: &Arc<Agent>, uid: u32) -> Visit {
        agent.cache().begin_visit(uid);
        Visit { agent: Arc::clone(agent), uid }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.agent.cache().end_visit(self.uid);
        self.agent.keeper.notify_one();
    }
}

/// Work that may outlive the session that asks for it now.
pub(super) fn visiting<F: Future>(agent: &Arc<Agent>, uid: u32, work: F) -> impl Future<Output = F::Output> + use<F> {
    let visit = Visit::new(agent, uid);
    async move {
        let outcome = work.await;
        drop(visit);
        outcome
    }
}

impl Session {
    /// Answers at once if `work` is done at once, which it is where no store is asked and no memory made; else later,
    /// while the session goes on.
    pub(super) async fn now_or_later(
        &mut self,
        id: u64,
        work: impl Future<Output = Result<Reply, Refusal>> + Send + 'static,
    ) -> io::Result<()> {
        let mut work = Box::pin(work);
        match poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await {
            Poll::Ready(outcome) => self.answer(id, outcome.unwrap_or_else(Reply::Refused)).await,
            Poll::Pending => self.later(id, work).await,
        }
    }

    /// Refuses what may have to wait for the store, while too much of this user does so already.
    pub(super) fn may_wait_for_store(&self) -> Result<(), Refusal> {
        if self.agent().store.is_none() || self.agent().cache().visits(self.peer.uid) < VISITS_MAX {
            return Ok(());
        }
        Err(Refusal::TooMany(format!("{VISITS_MAX} requests of this user wait for the store already")))
    }

    /// Answers when `work` is done, or when the store has taken too long, while the session goes on. The work goes on in
    /// any case.
    async fn later(
        &mut self,
        id: u64,
        work: impl Future<Output = Result<Reply, Refusal>> + Send + 'static,
    ) -> io::Result<()> {
        let work = visiting(self.agent(), self.peer.uid, work);
        let (agent, connection) = (Arc::clone(self.agent()), Arc::clone(&self.connection));
        tokio::spawn(async move {
            let mut work = tokio::spawn(work);
            let done = match &agent.store {
                Some(store) => tokio::time::timeout(store.timeout(), &mut work)
                    .await
                    .map_err(|_| Refusal::Store(store.no_answer().to_string())),
                None => Ok((&mut work).await),
            };
            let outcome = match done {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(error)) => Err(Refusal::Failed(error.to_string())),
                Err(refusal) => Err(refusal),
            };
            let reply = outcome.unwrap_or_else(Reply::Refused);
            // A client that does not read must not keep the socket open beyond its session.
            let _ = tokio::time::timeout(ANSWER_TIMEOUT, send(&connection, id, reply, &[])).await;
        });
        Ok(())
    }
}

/// A user's blocks in a namespace that is durable.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) agent: Arc<Agent>,
    pub(super) store: Arc<Store>,
    pub(super) uid: u32,
    pub(super) namespace: u64,
    /// Where the blocks lie.
    pub(super) incarnation: Arc<str>,
}

impl Stored {
    /// The store's side of a namespace; `None` where it has none.
    pub(super) fn of(agent: &Arc<Agent>, uid: u32, namespace: u64) -> Result<Option<Stored>, Refusal> {
        let incarnation = agent.cache().stored(uid, namespace)?;
        let both = agent.store.as_ref().zip(incarnation);
        Ok(both.map(|(store, incarnation)| Stored {
            agent: Arc::clone(agent),
            store: Arc::clone(store),
            uid,
            namespace,
            incarnation,
        }))
    }

    fn failed(&self, error: StoreError) -> Refusal {
        warn!(%error, uid = self.uid, "the store failed");
        self.agent.cache().figures(self.uid).store_failures += 1;
        Refusal::Store(error.to_string())
    }

    /// Makes a block that is not in memory resident, if the store has it.
    pub(super) async fn load(self, key: String) -> Result<Reply, Refusal> {
        let _turn = self.store.turn(&self.incarnation, &key).await;
        let _lane = self.store.lane(self.uid).await;
        let mut damaged = 0;
        for _ in 0..LOAD_ATTEMPTS {
            let now_ns = clock::coarse_ns();
            // Others may have loaded it while we waited for our turn.
            let again = self.agent.with_memory(|cache| cache.get(self.uid, self.namespace, &key, now_ns)).await;
            if !matches!(again, Err(Refusal::NotFound)) {
                return again.map(|()| Reply::Resident);
            }
            let found = match self.store.find(&self.incarnation, &key).await {
                // It stays until the key is put again: another agent's clock may say otherwise.
                Ok(Lookup::Found(found)) if found.entry.is_expired() => return Err(Refusal::NotFound),
                Ok(Lookup::Found(found)) => found,
                Ok(Lookup::Unreadable(why)) => {
                    warn!(why, uid = self.uid, "an object in the store is not read");
                    self.agent.cache().figures(self.uid).store_damaged += 1;
                    return Err(Refusal::NotFound);
                }
                Ok(Lookup::Absent) => return Err(Refusal::NotFound),
                Err(error) => return Err(self.failed(error)),
            };
            match self.fill(*found, &key).await? {
                Filled::Resident => return Ok(Reply::Resident),
                Filled::Damaged if damaged == 0 => damaged += 1,
                Filled::Damaged => {
                    // Read twice, and wrong twice. It must go, or an equal put would be taken for held already.
                    warn!(key, uid = self.uid, "a block in the store does not match its checksums; it is removed");
                    self.agent.cache().figures(self.uid).store_damaged += 1;
                    self.store.remove(&self.incarnation, &key).await.map_err(|error| self.failed(error))?;
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
        let now_ns = clock::coarse_ns();
        let reservation =
            Box::new(self.agent.with_memory(|cache| cache.reserve(uid, namespace, key, len, now_ns)).await?);
        if let Err(error) = self.store.load(&found, reservation.memory()).await {
            self.agent.cache().abandon(&reservation);
            return match error {
                StoreError::Changed(_) => Ok(Filled::Changed),
                error => Err(self.failed(error)),
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
            return Ok(Filled::Damaged);
        }
        match self.publish(reservation, &found.entry).await {
            Ok(_) => {
                let mut cache = self.agent.cache();
                let figures = cache.figures(uid);
                figures.loads += 1;
                figures.load_bytes += len;
                Ok(Filled::Resident)
            }
            Err(refusal) => Err(refusal),
        }
    }

    /// Acknowledges a put whose payload is in place: first the store has it, then everybody finds it.
    pub(super) async fn put(
        &self,
        reservation: Box<Reservation>,
        checksums: &Checksums,
    ) -> Result<PutOutcome, Refusal> {
        let _turn = self.store.turn(&self.incarnation, reservation.key()).await;
        let _lane = self.store.lane(self.uid).await;
        let offered = reservation.len();
        let options = 'judged: {
            // Under one lock, or what is judged here would be gone when it is acted upon.
            let mut cache = self.agent.cache();
            let held = cache.held(&reservation, checksums, clock::coarse_ns());
            let settled = match (cache.options(self.uid, self.namespace), held) {
                (Err(refusal), _) => Err(refusal),
                (Ok(_), Held::Same) => Ok(PutOutcome::AlreadyHeld),
                (Ok(options), Held::Other { len }) if !options.overwrite => Err(Refusal::Exists { held: len, offered }),
                (Ok(options), _) => break 'judged options,
            };
            cache.abandon(&reservation);
            return settled;
        };
        let entry = Entry::now(reservation.key(), offered, options.ttl_ms, checksums.clone());
        let kept = self.store.put(&self.incarnation, &entry, reservation.memory(), options.overwrite).await;
        match kept {
            Ok(Kept::Stored) => {
                let outcome = self.publish(reservation, &entry).await?;
                let mut cache = self.agent.cache();
                let figures = cache.figures(self.uid);
                figures.stored += 1;
                figures.stored_bytes += offered;
                Ok(outcome)
            }
            Ok(Kept::Held(there)) if there.len_bytes == offered && there.checksums == *checksums => {
                self.publish(reservation, &there).await.map(|_| PutOutcome::AlreadyHeld)
            }
            Ok(Kept::Held(there)) => {
                self.agent.cache().abandon(&reservation);
                Err(Refusal::Exists { held: there.len_bytes, offered })
            }
            Err(error) => {
                self.agent.cache().abandon(&reservation);
                self.forget(&entry.key);
                Err(self.failed(error))
            }
        }
    }

    /// Publishes what the store has, with the times that it has there.
    async fn publish(&self, mut reservation: Box<Reservation>, entry: &Entry) -> Result<PutOutcome, Refusal> {
        let left_ns = entry.left_ms().map(|left_ms| left_ms.saturating_mul(1_000_000));
        let expiry_ns = left_ns.map_or(0, |left_ns| clock::coarse_ns().saturating_add(left_ns));
        reservation.came_back(Times { created_ms: entry.created_ms, expiry_ns });
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
        let was_stored = self.store.remove(&self.incarnation, &key).await.map_err(|error| {
            self.forget(&key);
            self.failed(error)
        })?;
        let now_ns = clock::coarse_ns();
        let deleted = self.agent.with_memory(|cache| cache.delete(self.uid, self.namespace, &key, now_ns)).await;
        match deleted {
            Err(Refusal::NotFound) if was_stored => Ok(Reply::Done),
            other => other.map(|()| Reply::Done),
        }
    }

    /// Keys that begin with `prefix`, in memory or in the store.
    pub(super) async fn keys(&self, prefix: &str, now_ns: u64) -> Result<Vec<String>, Refusal> {
        let lane = self.store.lane(self.uid).await;
        let mut keys = self.store.keys(&self.incarnation, prefix).await.map_err(|error| self.failed(error))?;
        drop(lane);
        keys.extend(self.agent.cache().keys(self.uid, self.namespace, prefix, now_ns)?);
        keys.sort_unstable();
        keys.dedup();
        Ok(keys)
    }
}

/// How the filling of a block ended.
enum Filled {
    Resident,
    Damaged,
    Changed,
}

/// A user's namespaces by name, in memory and in the store.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub(super) agent: Arc<Agent>,
    pub(super) uid: u32,
    pub(super) name: String,
}

impl Named {
    fn failed(&self, error: StoreError) -> Refusal {
        warn!(%error, uid = self.uid, namespace = self.name, "the store failed");
        self.agent.cache().figures(self.uid).store_failures += 1;
        Refusal::Store(error.to_string())
    }

    /// As [`Named::failed`], after a record may or may not have been written: what memory has of the namespace goes, and
    /// whoever uses it next asks the store.
    fn failed_and_forgotten(&self, error: StoreError) -> Refusal {
        let _ = self.agent.cache().remove_namespace(self.uid, &self.name);
        self.failed(error)
    }

    fn info(&self) -> Result<NamespaceInfo, Refusal> {
        self.agent.cache().namespace_info(self.uid, &self.name)
    }

    /// Opens a namespace, making it at its first use.
    pub(super) async fn open(self, options: Option<NamespaceOptions>) -> Result<NamespaceInfo, Refusal> {
        match self.find().await {
            Ok(info) => {
                options.map_or(Ok(()), |options| check_options(&self.name, &options, &info.options))?;
                return Ok(info);
            }
            Err(Refusal::NoNamespace(_)) => {}
            Err(refusal) => return Err(refusal),
        }
        let mut options = options.unwrap_or_default();
        let Some(store) = self.agent.store.clone() else {
            if options.durability == Some(Durability::Through) {
                let why = "a namespace of durability `through` needs a store, and this agent has none; start larderd with --store";
                return Err(Refusal::Invalid(why.into()));
            }
            options.durability = Some(Durability::Scratch);
            return self.agent.cache().open_namespace(self.uid, &self.name, options, None);
        };
        let _turn = store.namespace_turn(self.uid, &self.name).await;
        let _lane = store.lane(self.uid).await;
        // Another session may have been quicker.
        if let Ok(info) = self.info() {
            check_options(&self.name, &options, &info.options)?;
            return Ok(info);
        }
        options.durability.get_or_insert(Durability::Through);
        if options.durability == Some(Durability::Scratch) {
            return self.agent.cache().open_namespace(self.uid, &self.name, options, None);
        }
        let made = store.create_namespace(self.uid, &self.name, &options).await;
        let record = made.map_err(|error| self.failed(error))?;
        check_options(&self.name, &options, &record.options)?;
        self.adopt(&record)
    }

    /// A namespace that is there, in memory or in the store.
    pub(super) async fn find(&self) -> Result<NamespaceInfo, Refusal> {
        let absent = match self.info() {
            Ok(info) => return Ok(info),
            Err(refusal) => refusal,
        };
        let Some(store) = self.agent.store.clone() else { return Err(absent) };
        let _turn = store.namespace_turn(self.uid, &self.name).await;
        let _lane = store.lane(self.uid).await;
        if let Ok(info) = self.info() {
            return Ok(info);
        }
        match store.namespace(self.uid, &self.name).await {
            Ok(Some(record)) => self.adopt(&record),
            Ok(None) => Err(absent),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Takes a namespace of the store into memory.
    fn adopt(&self, record: &Record) -> Result<NamespaceInfo, Refusal> {
        let incarnation = Store::incarnation(self.uid, &self.name, record);
        self.sweep();
        self.agent.cache().open_namespace(self.uid, &self.name, record.options.clone(), Some(incarnation))
    }

    /// Removes what earlier incarnations left in the store, some time later.
    fn sweep(&self) {
        let Some(store) = self.agent.store.clone() else { return };
        let Named { uid, name, .. } = self.clone();
        let sweeping = async move {
            let _lane = store.lane(uid).await;
            match store.sweep(uid, &name).await {
                Ok(gone) => debug!(uid, namespace = name, gone, "swept"),
                Err(error) => {
                    warn!(%error, uid, namespace = name, "what was cleared could not be swept; it is tried again when the namespace is next opened")
                }
            }
        };
        tokio::spawn(visiting(&self.agent, uid, sweeping));
    }

    /// Changes the options of a namespace, but for its durability.
    pub(super) async fn set(self, mut options: NamespaceOptions) -> Result<NamespaceInfo, Refusal> {
        let present = self.find().await?.options;
        if options.durability.is_some_and(|durability| Some(durability) != present.durability) {
            let why = "the durability of a namespace cannot be changed; make another namespace and copy the blocks";
            return Err(Refusal::Invalid(why.into()));
        }
        options.durability = present.durability;
        if let Some(store) = self.agent.store.clone().filter(|_| options.durability == Some(Durability::Through)) {
            let _turn = store.namespace_turn(self.uid, &self.name).await;
            let _lane = store.lane(self.uid).await;
            let record = store.namespace(self.uid, &self.name).await.map_err(|error| self.failed(error))?;
            let Some(record) = record else { return Err(Refusal::NoNamespace(self.name)) };
            let record = Record { options: options.clone(), ..record };
            store
                .set_namespace(self.uid, &self.name, &record)
                .await
                .map_err(|error| self.failed_and_forgotten(error))?;
            return self.agent.cache().set_namespace(self.uid, &self.name, options);
        }
        self.agent.cache().set_namespace(self.uid, &self.name, options)
    }

    /// Drops all that a namespace holds.
    pub(super) async fn clear(self) -> Result<Reply, Refusal> {
        let options = self.find().await?.options;
        let Some(store) = self.agent.store.clone().filter(|_| options.durability == Some(Durability::Through)) else {
            return Ok(Reply::Count(self.agent.cache().clear(self.uid, &self.name, None)?));
        };
        let _turn = store.namespace_turn(self.uid, &self.name).await;
        let _lane = store.lane(self.uid).await;
        // Not as it was before the turn: others may have changed it.
        let options = self.info()?.options;
        let record = store
            .clear_namespace(self.uid, &self.name, &options)
            .await
            .map_err(|error| self.failed_and_forgotten(error))?;
        let incarnation = Store::incarnation(self.uid, &self.name, &record);
        let gone = self.agent.cache().clear(self.uid, &self.name, Some(incarnation))?;
        self.sweep();
        Ok(Reply::Count(gone))
    }

    /// Removes a namespace with all it holds.
    pub(super) async fn remove(self) -> Result<Reply, Refusal> {
        let options = self.find().await?.options;
        if let Some(store) = self.agent.store.clone().filter(|_| options.durability == Some(Durability::Through)) {
            let _turn = store.namespace_turn(self.uid, &self.name).await;
            let _lane = store.lane(self.uid).await;
            store.remove_namespace(self.uid, &self.name).await.map_err(|error| self.failed_and_forgotten(error))?;
            let gone = self.agent.cache().remove_namespace(self.uid, &self.name)?;
            self.sweep();
            return Ok(Reply::Count(gone));
        }
        Ok(Reply::Count(self.agent.cache().remove_namespace(self.uid, &self.name)?))
    }
}
