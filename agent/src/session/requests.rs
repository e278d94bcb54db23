//! What each request does.

use std::fs;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use larder_protocol::clock;
use larder_protocol::message::{Envelope, Refusal, Reply, Request};
use larder_protocol::socket::MESSAGE_LEN_MAX;
use larder_protocol::stat::{AgentStat, DiskStat};
use tokio::sync::oneshot;

use super::later::{store_failed, visiting};
use super::lists::Lists;
use super::namespaces::Named;
use super::stored::Stored;
use super::{Session, WAITS_MAX, send, time_left};
use crate::cache::Cache;
use crate::server::Agent;

/// Bytes of names in one page of a list.
const PAGE_BYTES: usize = MESSAGE_LEN_MAX / 2;
/// Least capacity that a resize may set.
const CAPACITY_MIN_BYTES: u64 = 32 << 20;

impl Session {
    pub(super) async fn handle(&mut self, envelope: Envelope) -> io::Result<()> {
        let Envelope { id, timeout_ms, request } = envelope;
        let now_ns = clock::coarse_ns();
        if !self.greeted && !matches!(request, Request::Hello { .. }) {
            return self.answer(id, Reply::Refused(Refusal::Invalid("a session begins with Hello".into()))).await;
        }
        if may_ask_store(&request)
            && let Err(refusal) = self.may_wait_for_store()
        {
            return self.answer(id, Reply::Refused(refusal)).await;
        }
        match request {
            Request::Hello { layout, version } => return self.hello(id, layout, version).await,
            Request::Received { count } => {
                self.unacknowledged = self.unacknowledged.saturating_sub(count);
                return Ok(());
            }
            Request::MoreSlots => return self.more_slots(id).await,
            Request::Staging => return self.lend_staging(id).await,
            Request::Ring => return self.lend_rings(id).await,
            // It has been heard: the ring is looked at before the socket.
            Request::Doorbell => return Ok(()),
            Request::Table => return self.lend_table(id).await,
            Request::Segment { segment } => return self.lend_segment(id, segment).await,
            Request::Create { namespace, key, len } => {
                return self.create(id, namespace, &key, len, now_ns).await;
            }
            Request::OpenNamespace { name, options } => {
                let named = self.named(name);
                let opens = async move { named.open(options).await.map(Reply::Namespace) };
                self.now_or_later(id, opens).await?;
            }
            Request::ShowNamespace { name } => {
                let named = self.named(name);
                self.now_or_later(id, async move { named.find().await.map(Reply::Namespace) }).await?;
            }
            Request::SetNamespace { name, options } => {
                let named = self.named(name);
                self.now_or_later(id, async move { named.set(options).await.map(Reply::Namespace) }).await?;
            }
            Request::ListNamespaces { after } => {
                let (agent, uid) = (Arc::clone(self.agent()), self.peer.uid);
                self.now_or_later(id, namespace_names(agent, uid, after)).await?;
            }
            Request::RemoveNamespace { name } => {
                let named = self.named(name);
                self.now_or_later(id, named.remove()).await?;
            }
            Request::Clear { name } => {
                let named = self.named(name);
                self.now_or_later(id, named.clear()).await?;
            }
            Request::Get { namespace, key } => {
                let (agent, uid) = (Arc::clone(self.agent()), self.peer.uid);
                self.now_or_later(id, get(agent, uid, namespace, key)).await?;
            }
            Request::Delete { namespace, key } => {
                let (agent, uid) = (Arc::clone(self.agent()), self.peer.uid);
                self.now_or_later(id, delete(agent, uid, namespace, key)).await?;
            }
            Request::List { namespace, prefix, children, cursor } => {
                let lists = Arc::clone(&self.lists);
                let asked = List { agent: Arc::clone(self.agent()), uid: self.peer.uid, namespace, prefix, children };
                self.now_or_later(id, asked.page(lists, cursor)).await?;
            }
            Request::Put { namespace, item } => self.put(id, namespace, &item, now_ns).await?,
            Request::PutMany { namespace, items } => self.put_many(id, namespace, &items, now_ns).await?,
            Request::PutEnd { put } => self.put_end(id, put).await?,
            Request::Commit { writer } => self.commit_writer(id, writer).await?,
            Request::Wait { namespace, key } => {
                let (agent, uid) = (Arc::clone(self.agent()), self.peer.uid);
                return self.wait(id, timeout_ms, until_put(agent, uid, namespace, key)).await;
            }
            Request::Fetch { namespace, key, url } => {
                let (target, place) = (self.target(namespace, key), self.at_url(url));
                return self.fetch(id, timeout_ms, target, place).await;
            }
            Request::FetchFile { namespace, key, path } => {
                let (target, place) = (self.target(namespace, key), self.at_file(path));
                return self.fetch(id, timeout_ms, target, place).await;
            }
            Request::OpenObject { namespace, key, url } => {
                let (target, place) = (self.target(namespace, key), self.at_url(url));
                return self.open_object(id, timeout_ms, target, place).await;
            }
            Request::OpenObjectFile { namespace, key, path } => {
                let (target, place) = (self.target(namespace, key), self.at_file(path));
                return self.open_object(id, timeout_ms, target, place).await;
            }
            Request::Chunk { namespace, key, version, index } => {
                let target = self.target(namespace, key);
                return self.chunk(id, timeout_ms, &target, version, index).await;
            }
            Request::PrefetchChunks { namespace, key, version, index, count } => {
                let target = self.target(namespace, key);
                self.prefetch_chunks(&target, version, index..index.saturating_add(count.into()));
                return self.answer(id, Reply::Done).await;
            }
            Request::Prefetch { namespace, items } => {
                self.prefetch(namespace, items);
                return self.answer(id, Reply::Done).await;
            }
            Request::FileFollows => return self.file_follows(),
            Request::Sync { namespace } => {
                let (agent, uid) = (Arc::clone(self.agent()), self.peer.uid);
                return self.wait(id, timeout_ms, sync(agent, uid, namespace)).await;
            }
            Request::PutBegin { namespace, key, len } => {
                return match self.put_begin(id, namespace, &key, len, now_ns).await {
                    Ok(()) => Ok(()),
                    Err(refusal) => self.answer(id, Reply::Refused(refusal)).await,
                };
            }
            Request::Abandon { put } => {
                self.give_up(put);
                return Ok(());
            }
            other => {
                let reply = self.answer_to(other).unwrap_or_else(Reply::Refused);
                self.answer(id, reply).await?;
            }
        }
        if self.agent().cache().wants_upkeep(self.peer.uid) {
            self.agent().keeper.notify_one();
        }
        Ok(())
    }

    /// Requests that have one answer and need nothing but the cache.
    fn answer_to(&mut self, request: Request) -> Result<Reply, Refusal> {
        let uid = self.peer.uid;
        let agent = Arc::clone(self.agent());
        Ok(match request {
            Request::Mapped { memory } => self.mapped(memory)?,
            Request::Credential { prefix, keys } => self.credential(&prefix, keys)?,
            Request::Ping => Reply::Pong(self.agent_info(&agent.cache())),
            Request::PutChunk { put, staged } => self.put_chunk(put, staged)?,
            Request::Stat => Reply::Stat(Box::new(self.stat())),
            Request::Pins => Reply::Pins(agent.cache().pin_holders(uid)),
            Request::Resize { capacity } => self.resize(capacity)?,
            _ => return Err(Refusal::Invalid("the request does not belong here".into())),
        })
    }

    async fn lend_table(&mut self, id: u64) -> io::Result<()> {
        let lent = self.may_send_descriptors().and_then(|()| self.agent().cache().table(self.peer.uid));
        match lent {
            Ok((descriptor, len)) => self.answer_with(id, Reply::Table { len }, &[descriptor]).await,
            Err(refusal) => self.answer(id, Reply::Refused(refusal)).await,
        }
    }

    async fn lend_segment(&mut self, id: u64, segment: u32) -> io::Result<()> {
        let lent = self.may_send_descriptors().and_then(|()| self.agent().cache().segment(self.peer.uid, segment));
        match lent {
            Ok((descriptor, len)) => self.answer_with(id, Reply::Segment { len }, &[descriptor]).await,
            Err(refusal) => self.answer(id, Reply::Refused(refusal)).await,
        }
    }

    /// Answers when what is waited for has happened, or the caller's time is over, in a task of its own so that the
    /// session goes on meanwhile.
    pub(super) async fn wait(
        &mut self,
        id: u64,
        timeout_ms: u64,
        waiting: impl Future<Output = Result<Reply, Refusal>> + Send + 'static,
    ) -> io::Result<()> {
        if self.waits.len() >= WAITS_MAX {
            let refusal =
                Refusal::TooMany(format!("{WAITS_MAX} requests of this session are waiting; wait for fewer at once"));
            return self.answer(id, Reply::Refused(refusal)).await;
        }
        let (agent, connection, uid) = (Arc::clone(self.agent()), Arc::clone(&self.connection), self.peer.uid);
        self.waits.spawn(async move {
            let outcome = match time_left(timeout_ms) {
                Some(left) => tokio::time::timeout(left, waiting).await.unwrap_or(Err(Refusal::Deadline)),
                None => waiting.await,
            };
            agent.cache().prune_waiters(uid);
            let _ = send(&connection, id, outcome.unwrap_or_else(Reply::Refused), &[]).await;
        });
        Ok(())
    }

    fn named(&self, name: String) -> Named {
        Named { agent: Arc::clone(self.agent()), uid: self.peer.uid, name }
    }

    fn stat(&self) -> AgentStat {
        let agent = self.agent();
        let mut cache = agent.cache();
        let (memory_bytes, retired_bytes, spare_bytes, index_bytes, orphans) = cache.node_figures();
        AgentStat {
            uptime_s: agent.started.elapsed().as_secs(),
            capacity_bytes: cache.capacity_bytes(),
            memory_bytes,
            retired_bytes,
            spare_bytes,
            index_bytes,
            sessions: agent.session_count() as u64,
            orphans,
            store_under_way: agent.store.as_ref().map_or(0, |store| store.under_way() as u64),
            disk: agent.tier.as_ref().map_or_else(DiskStat::default, |tier| tier.stat()),
            descriptors: fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64),
            heap_bytes: anonymous_bytes().unwrap_or(0),
            tenant: cache.tenant_stat(self.peer.uid),
        }
    }

    fn resize(&self, capacity: u64) -> Result<Reply, Refusal> {
        let agent = self.agent();
        if self.peer.uid != 0 && self.peer.uid != agent.own_uid {
            return Err(Refusal::Denied("only root and the agent's own user may resize it".into()));
        }
        if capacity < CAPACITY_MIN_BYTES {
            return Err(Refusal::Invalid(format!(
                "a capacity of {capacity} bytes is too small; at least {CAPACITY_MIN_BYTES} are needed"
            )));
        }
        if capacity > agent.limits.capacity_max_bytes {
            return Err(Refusal::Invalid(format!(
                "a capacity of {capacity} bytes is more than this machine can give; {} is the most",
                agent.limits.capacity_max_bytes
            )));
        }
        agent.cache().resize(capacity);
        agent.keeper.notify_one();
        tracing::info!(capacity, uid = self.peer.uid, "resized");
        Ok(Reply::Done)
    }
}

/// Whether a request may have to wait for the store, or for fresh memory.
fn may_ask_store(request: &Request) -> bool {
    matches!(
        request,
        Request::OpenNamespace { .. }
            | Request::ShowNamespace { .. }
            | Request::SetNamespace { .. }
            | Request::ListNamespaces { .. }
            | Request::RemoveNamespace { .. }
            | Request::Clear { .. }
            | Request::Get { .. }
            | Request::Delete { .. }
            | Request::List { .. }
            | Request::Sync { .. }
            | Request::Fetch { .. }
            | Request::FetchFile { .. }
            | Request::OpenObject { .. }
            | Request::OpenObjectFile { .. }
            | Request::Chunk { .. }
            | Request::PrefetchChunks { .. }
            | Request::Prefetch { .. }
            | Request::Put { .. }
            | Request::PutMany { .. }
            | Request::PutEnd { .. }
            | Request::Commit { .. }
            | Request::Wait { .. }
    )
}

/// Makes a block resident, from the store if need be.
async fn get(agent: Arc<Agent>, uid: u32, namespace: u64, key: String) -> Result<Reply, Refusal> {
    let now_ns = clock::coarse_ns();
    let look = |cache: &mut Cache| {
        let found = cache.look_up(uid, namespace, &key, now_ns);
        cache.figures(uid).hits_asked += u64::from(found.is_ok());
        found
    };
    let mut found = agent.with_memory(look).await;
    if found == Err(Refusal::NotFound)
        && let Some(stored) = Stored::of(&agent, uid, namespace)?
    {
        found = stored.load(key).await;
    }
    if found == Err(Refusal::NotFound) {
        agent.cache().figures(uid).misses += 1;
    }
    found.map(|()| Reply::Resident)
}

async fn delete(agent: Arc<Agent>, uid: u32, namespace: u64, key: String) -> Result<Reply, Refusal> {
    if let Some(stored) = Stored::of(&agent, uid, namespace)? {
        return stored.delete(key).await;
    }
    let now_ns = clock::coarse_ns();
    agent.with_memory(|cache| cache.delete(uid, namespace, &key, now_ns)).await?;
    Ok(Reply::Done)
}

/// Waits until a key is there.
async fn until_put(agent: Arc<Agent>, uid: u32, namespace: u64, key: String) -> Result<Reply, Refusal> {
    let stored = Stored::of(&agent, uid, namespace)?;
    loop {
        let (waker, woken) = oneshot::channel();
        let mut waker = Some(waker);
        let now_ns = clock::coarse_ns();
        let waits = agent.with_memory(|cache| cache.wait(uid, namespace, &key, now_ns, &mut waker)).await?;
        if !waits {
            return Ok(Reply::Resident);
        }
        if let Some(stored) = &stored {
            // In a task of its own: this one ends with its session, and a load must not.
            let load = visiting(&agent, uid, stored.clone().load(key.clone()));
            match tokio::spawn(load).await {
                Ok(Err(Refusal::NotFound)) => {}
                Ok(loaded) => return loaded.map(|()| Reply::Resident),
                Err(error) => return Err(Refusal::Failed(error.to_string())),
            }
        }
        // Woken by a put, a clear, or the agent's end: look again.
        let _ = woken.await;
    }
}

/// Waits until the store has all that was put into a namespace before.
async fn sync(agent: Arc<Agent>, uid: u32, namespace: u64) -> Result<Reply, Refusal> {
    let Some(stored) = Stored::of(&agent, uid, namespace)? else {
        let why = "a scratch namespace has nothing to sync: its blocks are never in a store";
        return Err(Refusal::Invalid(why.into()));
    };
    stored.sync().await
}

/// A page of the names of a user's namespaces.
async fn namespace_names(agent: Arc<Agent>, uid: u32, after: String) -> Result<Reply, Refusal> {
    const MOST: usize = PAGE_BYTES / 256;
    let mut names = agent.cache().namespace_names(uid, &after, MOST);
    if let Some(store) = &agent.store {
        let lane = store.lane(uid).await;
        let stored = store.namespaces(uid).await.map_err(|error| store_failed(&agent, uid, &error))?;
        drop(lane);
        names.extend(stored.into_iter().filter(|name| **name > *after));
        names.sort_unstable();
        names.dedup();
        names.truncate(MOST);
    }
    let cursor = u64::from(!names.is_empty());
    Ok(Reply::Names { names, cursor })
}

/// A list that a client asks for.
struct List {
    agent: Arc<Agent>,
    uid: u32,
    namespace: u64,
    prefix: String,
    children: bool,
}

impl List {
    /// The first page, or the one at `cursor`.
    async fn page(self, lists: Arc<Mutex<Lists>>, cursor: u64) -> Result<Reply, Refusal> {
        let lists = || lists.lock().unwrap_or_else(PoisonError::into_inner);
        if cursor != 0 {
            let (names, cursor) = lists().next(cursor, PAGE_BYTES)?;
            return Ok(Reply::Names { names, cursor });
        }
        let List { agent, uid, namespace, prefix, children } = self;
        let group = if children && !prefix.is_empty() { format!("{prefix}/") } else { prefix };
        let now_ns = clock::coarse_ns();
        let keys = match Stored::of(&agent, uid, namespace)? {
            Some(stored) => stored.keys(&group, now_ns).await?,
            None => agent.cache().keys(uid, namespace, &group, now_ns)?,
        };
        let names = if children { direct_children(&group, &keys) } else { sorted(keys) };
        let (names, cursor) = lists().begin(&agent, uid, names, PAGE_BYTES)?;
        Ok(Reply::Names { names, cursor })
    }
}

fn sorted(mut keys: Vec<String>) -> Vec<String> {
    keys.sort_unstable();
    keys
}

/// Names of the blocks directly in a group, relative to it.
fn direct_children(group: &str, keys: &[String]) -> Vec<String> {
    let names = keys.iter().filter_map(|key| key.strip_prefix(group)).filter(|name| !name.contains('/'));
    sorted(names.map(str::to_owned).collect())
}

/// Anonymous memory of this process: its heap and stacks, without the region.
fn anonymous_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("RssAnon:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}
