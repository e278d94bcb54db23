//! Puts: whole ones, vectors of them, those that arrive in chunks, and writers' commits.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use larder_protocol::checksum::{Checksums, Chunked};
use larder_protocol::clock;
use larder_protocol::message::{PutItem, PutOutcome, Refusal, Reply, Staged};
use tokio::task::JoinSet;

use super::stored::Stored;
use super::{Session, give_way};
use crate::cache::{Cache, CommitError, Reservation, Sealed, Stop, WriterMemory};
use crate::server::Agent;

/// Puts in chunks that a session may have under way.
pub(super) const PUTS_MAX: usize = 16;

/// Bytes that are copied while the cache is locked: some tens of microseconds.
const LOCKED_BYTES_MAX: u64 = 256 * 1024;

/// A put whose chunks are arriving.
#[derive(Debug)]
pub(super) struct OpenPut {
    reservation: Box<Reservation>,
    filled: u64,
    checksums: Chunked,
}

impl OpenPut {
    pub(super) fn abandon(self, cache: &mut Cache) {
        cache.abandon(&self.reservation);
    }
}

impl Session {
    /// One put whose payload lies in staging whole.
    pub(super) async fn put(&mut self, id: u64, namespace: u64, item: &PutItem, now_ns: u64) -> io::Result<()> {
        match self.take(namespace, item, now_ns).await {
            Ok(taken) => self.now_or_later(id, async move { taken.commit().await.map(Reply::Put) }).await,
            Err(refusal) => self.answer(id, Reply::Refused(refusal)).await,
        }
    }

    /// Copies a payload out of staging.
    async fn take(&self, namespace: u64, item: &PutItem, now_ns: u64) -> Result<Taken, Refusal> {
        let staging = if item.staged.len == 0 { None } else { Some(self.staged(item.staged)?) };
        let uid = self.peer.uid;
        let len = item.staged.len;
        let reservation =
            self.agent().with_memory(|cache| cache.reserve(uid, namespace, &item.key, len, now_ns)).await?;
        let mut checksums = Chunked::default();
        if let Some(staging) = staging {
            reservation.fill(0, staging, item.staged.offset, len, &mut checksums);
        }
        Ok(Taken::new(self.agent(), Box::new(reservation), checksums.finish()))
    }

    /// Many puts whose payloads lie in staging. For the memory alone, as many as need no fresh memory under one lock and
    /// the others one by one; for the store, all at once.
    pub(super) async fn put_many(&mut self, id: u64, namespace: u64, items: &[PutItem], now_ns: u64) -> io::Result<()> {
        let mut outcomes = Vec::with_capacity(items.len());
        match Stored::of(self.agent(), self.peer.uid, namespace) {
            Ok(None) => {}
            Ok(Some(_)) => {
                let mut taken = Vec::with_capacity(items.len());
                for item in items {
                    let began = Instant::now();
                    taken.push(self.take(namespace, item, now_ns).await);
                    give_way(began).await;
                }
                return self.now_or_later(id, commit_all(taken)).await;
            }
            Err(refusal) => {
                outcomes.extend(items.iter().map(|_| Err(refusal.clone())));
                return self.answer(id, Reply::PutMany(outcomes)).await;
            }
        }
        while outcomes.len() < items.len() {
            let began = Instant::now();
            self.put_ready(namespace, &items[outcomes.len()..], now_ns, &mut outcomes);
            if let Some(item) = items.get(outcomes.len()) {
                outcomes.push(match self.take(namespace, item, now_ns).await {
                    Ok(taken) => taken.commit().await,
                    Err(refusal) => Err(refusal),
                });
            }
            give_way(began).await;
        }
        self.answer(id, Reply::PutMany(outcomes)).await
    }

    /// Puts the first of `items` under one lock, up to one that needs memory or to as many bytes as others may wait for.
    fn put_ready(
        &self,
        namespace: u64,
        items: &[PutItem],
        now_ns: u64,
        outcomes: &mut Vec<Result<PutOutcome, Refusal>>,
    ) {
        let mut cache = self.agent().cache();
        let mut bytes = 0;
        for item in items {
            bytes = item.staged.len.saturating_add(bytes);
            if bytes > LOCKED_BYTES_MAX {
                return;
            }
            let staging = if item.staged.len == 0 { Ok(None) } else { self.staged(item.staged).map(Some) };
            let staging = match staging {
                Ok(staging) => staging,
                Err(refusal) => {
                    outcomes.push(Err(refusal));
                    continue;
                }
            };
            let reservation = match cache.reserve(self.peer.uid, namespace, &item.key, item.staged.len, now_ns) {
                Ok(reservation) => reservation,
                Err(Stop::Refused(refusal)) => {
                    outcomes.push(Err(refusal));
                    continue;
                }
                // It waits alone.
                Err(Stop::Dirty(_)) => return,
                Err(Stop::Need(need)) => {
                    // The item comes again, alone, and says then what it needs.
                    cache.supply_failed(need);
                    return;
                }
            };
            let mut checksums = Chunked::default();
            if let Some(staging) = staging {
                reservation.fill(0, staging, item.staged.offset, item.staged.len, &mut checksums);
            }
            match cache.commit(Box::new(reservation), &checksums.finish(), now_ns) {
                Ok(outcome) => outcomes.push(Ok(outcome)),
                Err(CommitError::Refused(refusal)) => outcomes.push(Err(refusal)),
                Err(CommitError::Need(need, reservation)) => {
                    cache.supply_failed(need);
                    cache.abandon(&reservation);
                    return;
                }
            }
        }
    }

    /// Begins a put in chunks.
    pub(super) async fn put_begin(
        &mut self,
        id: u64,
        namespace: u64,
        key: &str,
        len: u64,
        now_ns: u64,
    ) -> Result<(), Refusal> {
        if self.puts.len() >= PUTS_MAX || self.puts.contains_key(&id) {
            return Err(Refusal::TooMany(format!("{PUTS_MAX} puts are under way in this session; end some first")));
        }
        let uid = self.peer.uid;
        let reservation = self.agent().with_memory(|cache| cache.reserve(uid, namespace, key, len, now_ns)).await?;
        self.puts.insert(id, OpenPut { reservation: Box::new(reservation), filled: 0, checksums: Chunked::default() });
        Ok(())
    }

    /// Takes the next chunk.
    pub(super) fn put_chunk(&mut self, put: u64, staged: Staged) -> Result<Reply, Refusal> {
        let staging = Arc::clone(self.staged(staged)?);
        let Some(open) = self.puts.get_mut(&put) else {
            return Err(Refusal::Invalid(format!("no put {put} is under way")));
        };
        if staged.len > open.reservation.len() - open.filled {
            return Err(Refusal::Invalid(format!(
                "put {put} has {} bytes left, a chunk of {} is too much",
                open.reservation.len() - open.filled,
                staged.len
            )));
        }
        open.reservation.fill(open.filled, &staging, staged.offset, staged.len, &mut open.checksums);
        open.filled += staged.len;
        Ok(Reply::Done)
    }

    /// Publishes a put whose chunks have all arrived.
    pub(super) async fn put_end(&mut self, id: u64, put: u64) -> io::Result<()> {
        match self.whole(put) {
            Ok(taken) => self.now_or_later(id, async move { taken.commit().await.map(Reply::Put) }).await,
            Err(refusal) => self.answer(id, Reply::Refused(refusal)).await,
        }
    }

    /// A put all of whose chunks have arrived.
    fn whole(&mut self, put: u64) -> Result<Taken, Refusal> {
        let Some(open) = self.puts.remove(&put) else {
            return Err(Refusal::Invalid(format!("no put {put} is under way")));
        };
        let agent = Arc::clone(self.agent());
        if open.filled != open.reservation.len() {
            let (filled, len) = (open.filled, open.reservation.len());
            open.abandon(&mut agent.cache());
            return Err(Refusal::Invalid(format!("put {put} ended after {filled} of {len} bytes")));
        }
        Ok(Taken::new(&agent, open.reservation, open.checksums.finish()))
    }

    /// Gives up a put or a writer.
    pub(super) fn give_up(&mut self, put: u64) {
        let agent = Arc::clone(self.agent());
        if let Some(open) = self.puts.remove(&put) {
            open.abandon(&mut agent.cache());
        } else if let Some(writer) = self.writers.remove(&put) {
            agent.cache().end_writer(writer);
        }
    }

    /// Publishes what a writer's memory holds.
    pub(super) async fn commit_writer(&mut self, id: u64, writer: u64) -> io::Result<()> {
        let Some(memory) = self.writers.remove(&writer) else {
            let refusal = Refusal::Invalid(format!("no writer {writer} is open"));
            return self.answer(id, Reply::Refused(refusal)).await;
        };
        let (agent, uid) = (Arc::clone(self.agent()), self.peer.uid);
        self.now_or_later(id, async move { commit_sealed(agent, uid, memory).await.map(Reply::Put) }).await
    }
}

/// Seals a writer's memory and publishes it.
async fn commit_sealed(agent: Arc<Agent>, uid: u32, mut memory: WriterMemory) -> Result<PutOutcome, Refusal> {
    let platform = agent.settings.material.platform;
    // Two passes over the payload, so not on a thread that others wait for.
    let sealed = tokio::task::spawn_blocking(move || {
        let sealed = memory.seal(&platform);
        (memory, sealed)
    });
    let (memory, sealed) = sealed.await.map_err(|error| Refusal::Failed(error.to_string()))?;
    let now_ns = clock::coarse_ns();
    let outcome = match sealed {
        Ok(Sealed::Whole { mapping, checksums, created_ms }) => {
            // As it is, as a segment of one block.
            let reservation = agent.cache().adopt_writer(memory, mapping, created_ms)?;
            return Taken::new(&agent, reservation, checksums).commit().await;
        }
        Ok(Sealed::StillWritable { mapping }) => {
            // A fork of the client, say, has it mapped: then what is there now is copied.
            let (namespace, key, len) = memory.target();
            let reserved = agent.with_memory(|cache| cache.reserve(uid, namespace, key, len, now_ns)).await;
            match reserved {
                Ok(reservation) => {
                    let mut checksums = Chunked::default();
                    reservation.fill(0, &mapping, memory.shape().payload_offset, len, &mut checksums);
                    Taken::new(&agent, Box::new(reservation), checksums.finish()).commit().await
                }
                Err(refusal) => Err(refusal),
            }
        }
        Ok(Sealed::Changed) => Err(Refusal::Invalid("the payload was changed while it was being committed".into())),
        Err(error) => Err(super::lend::failed(error)),
    };
    agent.cache().end_writer(memory);
    outcome
}

/// A put whose payload is in place.
struct Taken {
    agent: Arc<Agent>,
    stored: Option<Stored>,
    reservation: Box<Reservation>,
    checksums: Checksums,
}

impl Taken {
    fn new(agent: &Arc<Agent>, reservation: Box<Reservation>, checksums: Checksums) -> Taken {
        let stored = Stored::of_put(agent, &reservation);
        Taken { agent: Arc::clone(agent), stored, reservation, checksums }
    }

    /// Makes it last, if its namespace is durable, and publishes it.
    async fn commit(self) -> Result<PutOutcome, Refusal> {
        let Taken { agent, stored, reservation, checksums } = self;
        if let Some(stored) = stored {
            return stored.put(reservation, &checksums).await;
        }
        let now_ns = clock::coarse_ns();
        let committed = agent.cache().commit(reservation, &checksums, now_ns);
        retry_commit(&agent, committed, &checksums, now_ns).await
    }
}

/// Commits all, each for itself: what needs no store at once, the others together. Puts of one key follow one another.
async fn commit_all(taken: Vec<Result<Taken, Refusal>>) -> Result<Reply, Refusal> {
    let mut under_way = JoinSet::new();
    let mut outcomes = Vec::with_capacity(taken.len());
    for (place, taken) in taken.into_iter().enumerate() {
        let mut commit = match taken {
            Ok(taken) => Box::pin(taken.commit()),
            Err(refusal) => {
                outcomes.push(Err(refusal));
                continue;
            }
        };
        // The first look makes it stand in line for the turn of its key.
        match poll_fn(|context| Poll::Ready(commit.as_mut().poll(context))).await {
            Poll::Ready(outcome) => outcomes.push(outcome),
            Poll::Pending => {
                outcomes.push(Err(Refusal::Failed("the put ended without an outcome".into())));
                under_way.spawn(async move { (place, commit.await) });
            }
        }
    }
    while let Some(done) = under_way.join_next().await {
        if let Ok((place, outcome)) = done {
            outcomes[place] = outcome;
        }
    }
    Ok(Reply::PutMany(outcomes))
}

/// Commits again with the memory that it needed.
pub(crate) async fn retry_commit(
    agent: &Arc<Agent>,
    mut committed: Result<PutOutcome, CommitError>,
    checksums: &Checksums,
    now_ns: u64,
) -> Result<PutOutcome, Refusal> {
    loop {
        match committed {
            Ok(outcome) => return Ok(outcome),
            Err(CommitError::Refused(refusal)) => return Err(refusal),
            Err(CommitError::Need(need, reservation)) => {
                if let Err(refusal) = agent.supply(need).await {
                    agent.cache().abandon(&reservation);
                    return Err(refusal);
                }
                committed = agent.cache().commit(reservation, checksums, now_ns);
            }
        }
    }
}
