//! What each request does.

use std::fs;
use std::io;
use std::sync::Arc;

use larder_protocol::clock;
use larder_protocol::message::{Envelope, Refusal, Reply, Request};
use larder_protocol::socket::MESSAGE_LEN_MAX;
use larder_protocol::stat::AgentStat;
use tokio::sync::oneshot;

use super::{Session, WAITS_MAX, send, time_left};

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
            Request::Wait { namespace, key } => return self.wait(id, timeout_ms, namespace, key).await,
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
                let reply = self.answer_to(other, now_ns).await.unwrap_or_else(Reply::Refused);
                self.answer(id, reply).await?;
            }
        }
        if self.agent().cache().wants_upkeep(self.peer.uid) {
            self.agent().keeper.notify_one();
        }
        Ok(())
    }

    /// Requests that have one answer and need nothing but the cache.
    async fn answer_to(&mut self, request: Request, now_ns: u64) -> Result<Reply, Refusal> {
        let uid = self.peer.uid;
        let agent = Arc::clone(self.agent());
        Ok(match request {
            Request::Mapped { memory } => self.mapped(memory)?,
            Request::Ping => Reply::Pong(self.agent_info(&agent.cache())),
            Request::OpenNamespace { name, options } => {
                Reply::Namespace(agent.cache().open_namespace(uid, &name, options.as_ref())?)
            }
            Request::SetNamespace { name, options } => {
                Reply::Namespace(agent.cache().set_namespace(uid, &name, options)?)
            }
            Request::ShowNamespace { name } => Reply::Namespace(agent.cache().namespace_info(uid, &name)?),
            Request::ListNamespaces { after } => {
                let names = agent.cache().namespace_names(uid, &after, PAGE_BYTES / 256);
                let cursor = u64::from(!names.is_empty());
                Reply::Names { names, cursor }
            }
            Request::RemoveNamespace { name } => Reply::Count(agent.cache().remove_namespace(uid, &name)?),
            Request::Clear { name } => Reply::Count(agent.cache().clear(uid, &name)?),
            Request::Get { namespace, key } => {
                agent.with_memory(|cache| cache.get(uid, namespace, &key, now_ns)).await?;
                Reply::Resident
            }
            Request::Delete { namespace, key } => {
                agent.with_memory(|cache| cache.delete(uid, namespace, &key, now_ns)).await?;
                Reply::Done
            }
            Request::Put { namespace, item } => Reply::Put(self.put(namespace, &item, now_ns).await?),
            Request::PutMany { namespace, items } => Reply::PutMany(self.put_many(namespace, &items, now_ns).await),
            Request::PutChunk { put, staged } => self.put_chunk(put, staged)?,
            Request::PutEnd { put } => Reply::Put(self.put_end(put, now_ns).await?),
            Request::Commit { writer } => Reply::Put(self.commit_writer(writer, now_ns).await?),
            Request::List { namespace, prefix, children, cursor } => {
                self.list(namespace, &prefix, children, cursor, now_ns)?
            }
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

    /// Answers when the key is there, in a task of its own so that the session goes on meanwhile.
    async fn wait(&mut self, id: u64, timeout_ms: u64, namespace: u64, key: String) -> io::Result<()> {
        if self.waits.len() >= WAITS_MAX {
            let refusal = Refusal::TooMany(format!(
                "{WAITS_MAX} requests of this session are waiting; wait for fewer keys at once"
            ));
            return self.answer(id, Reply::Refused(refusal)).await;
        }
        let (agent, connection, uid) = (Arc::clone(self.agent()), Arc::clone(&self.connection), self.peer.uid);
        self.waits.spawn(async move {
            let waiting = async {
                loop {
                    let (waker, woken) = oneshot::channel();
                    let mut waker = Some(waker);
                    let now_ns = clock::coarse_ns();
                    let waits = agent.with_memory(|cache| cache.wait(uid, namespace, &key, now_ns, &mut waker)).await?;
                    if !waits {
                        return Ok(Reply::Resident);
                    }
                    // Woken by a put, a clear, or the agent's end: look again.
                    let _ = woken.await;
                }
            };
            let outcome = match time_left(timeout_ms) {
                Some(left) => tokio::time::timeout(left, waiting).await.unwrap_or(Err(Refusal::Deadline)),
                None => waiting.await,
            };
            agent.cache().prune_waiters(uid);
            let _ = send(&connection, id, outcome.unwrap_or_else(Reply::Refused), &[]).await;
        });
        Ok(())
    }

    fn list(
        &mut self,
        namespace: u64,
        prefix: &str,
        children: bool,
        cursor: u64,
        now_ns: u64,
    ) -> Result<Reply, Refusal> {
        let (names, cursor) = if cursor == 0 {
            let group = if children && !prefix.is_empty() { format!("{prefix}/") } else { prefix.to_owned() };
            let agent = Arc::clone(self.agent());
            let keys = agent.cache().keys(self.peer.uid, namespace, &group, now_ns)?;
            let names = if children { direct_children(&group, &keys) } else { sorted(keys) };
            self.lists.begin(&agent, self.peer.uid, names, PAGE_BYTES)?
        } else {
            self.lists.next(cursor, PAGE_BYTES)?
        };
        Ok(Reply::Names { names, cursor })
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
