//! What a client is lent: slot pages, staging, a writer's memory, and read-only descriptors.

use std::io;
use std::sync::Arc;

use larder_protocol::layout::{LAYOUT_MAGIC, stripe};
use larder_protocol::memory::{Mapping, Memfd};
use larder_protocol::message::{AgentInfo, Refusal, Reply, Staged, VERSION, Welcome};

use super::Session;
use crate::cache::{Cache, WriterMemory, for_client, seal_for_client};
use crate::server::Agent;

/// Stripes of a slot page: the first one, and each that is asked for.
const STRIPES_FIRST: usize = 4;
const STRIPES_MORE: usize = 16;
/// Writers that a session may have open.
pub(super) const WRITERS_MAX: usize = 16;

/// A session's staging memory.
#[derive(Debug)]
pub(super) struct Staging {
    memory: u64,
    memfd: Memfd,
    mapping: Arc<Mapping>,
    sealed: bool,
}

impl Staging {
    pub(super) fn len(&self) -> u64 {
        self.memfd.len() as u64
    }

    /// The memory, taken back.
    pub(super) fn into_memfd(self) -> Memfd {
        self.memfd
    }
}

impl Session {
    pub(super) fn agent_info(&self, cache: &Cache) -> AgentInfo {
        AgentInfo {
            release: env!("CARGO_PKG_VERSION").to_owned(),
            instance: self.agent().settings.instance,
            pid: std::process::id(),
            capacity: cache.capacity_bytes(),
            block_len_max: cache.block_len_max(self.peer.uid),
            uid: self.peer.uid,
        }
    }

    /// Begins the session.
    pub(super) async fn hello(&mut self, id: u64, layout: u64, version: u32) -> io::Result<()> {
        if self.greeted {
            return self.answer(id, Reply::Refused(Refusal::Invalid("the session has begun already".into()))).await;
        }
        if layout != LAYOUT_MAGIC || version != VERSION {
            return self.answer(id, Reply::Refused(Refusal::version(version, layout))).await;
        }
        let agent = Arc::clone(self.agent());
        let started = self.make_page(&agent, STRIPES_FIRST).and_then(|(page, memory)| {
            let life = agent.beacon.description().map_err(failed)?;
            let mut cache = agent.cache();
            let sessions_max = agent.limits.sessions_per_uid;
            let start = cache.begin_session(self.peer.uid, self.id, self.peer.pid, page, memory, sessions_max)?;
            Ok((start, life, memory, self.agent_info(&cache)))
        });
        match started {
            Ok((start, life, memory, info)) => {
                self.greeted = true;
                let welcome = Welcome {
                    version: VERSION,
                    agent: info,
                    slots_memory: memory,
                    stripes: u32::try_from(STRIPES_FIRST).unwrap_or(u32::MAX),
                    future_write: agent.settings.material.platform.future_write_seal,
                };
                self.answer_with(id, Reply::Welcome(welcome), &[life, start.control, start.slots]).await
            }
            Err(refusal) => self.answer(id, Reply::Refused(refusal)).await,
        }
    }

    fn make_page(&mut self, agent: &Agent, stripes: usize) -> Result<(crate::cache::Prepared, u64), Refusal> {
        let bytes = (stripes * stripe::BYTES) as u64;
        let page = for_client(c"larder-slots", bytes, false, &agent.settings.material).map_err(failed)?;
        self.last_memory += 1;
        Ok((page, self.last_memory))
    }

    pub(super) async fn more_slots(&mut self, id: u64) -> io::Result<()> {
        let agent = Arc::clone(self.agent());
        let added = self.may_send_descriptors().and_then(|()| {
            let (page, memory) = self.make_page(&agent, STRIPES_MORE)?;
            let len = page.memfd.len() as u64;
            let descriptor = agent.cache().add_slots(self.peer.uid, self.id, self.peer.pid, page, memory)?;
            Ok((descriptor, memory, len))
        });
        match added {
            Ok((descriptor, memory, len)) => self.answer_with(id, Reply::Memory { memory, len }, &[descriptor]).await,
            Err(refusal) => self.answer(id, Reply::Refused(refusal)).await,
        }
    }

    pub(super) async fn lend_staging(&mut self, id: u64) -> io::Result<()> {
        let agent = Arc::clone(self.agent());
        let made = self.may_send_descriptors().and_then(|()| {
            if self.staging.is_some() {
                return Err(Refusal::Invalid("the session has its staging already".into()));
            }
            let bytes = agent.settings.staging_bytes;
            agent.cache().charge_staging(self.peer.uid, bytes)?;
            let made = for_client(c"larder-staging", bytes, false, &agent.settings.material)
                .and_then(|prepared| Ok((prepared.memfd.description(true)?, prepared)));
            made.map_err(|error| {
                agent.cache().refund_session(self.peer.uid, bytes);
                failed(error)
            })
        });
        match made {
            Ok((descriptor, prepared)) => {
                self.last_memory += 1;
                let memory = self.last_memory;
                let len = prepared.memfd.len() as u64;
                self.staging =
                    Some(Staging { memory, memfd: prepared.memfd, mapping: prepared.mapping, sealed: false });
                self.answer_with(id, Reply::Memory { memory, len }, &[descriptor]).await
            }
            Err(refusal) => self.answer(id, Reply::Refused(refusal)).await,
        }
    }

    /// The client has mapped memory that it may write: seal it, and use it from now on.
    pub(super) fn mapped(&mut self, memory: u64) -> Result<Reply, Refusal> {
        let agent = Arc::clone(self.agent());
        let platform = agent.settings.material.platform;
        if let Some(staging) = self.staging.as_mut().filter(|staging| staging.memory == memory) {
            if !staging.sealed {
                seal_for_client(&staging.memfd, &platform)?;
                staging.sealed = true;
            }
            return Ok(Reply::Done);
        }
        if self.open_rings(memory)? {
            return Ok(Reply::Done);
        }
        if agent.cache().seal_slots(self.peer.uid, self.id, memory)? {
            return Ok(Reply::Done);
        }
        Err(Refusal::Invalid(format!("the session was lent no memory with number {memory}")))
    }

    /// A range of staging that a client names, if it lies inside.
    pub(super) fn staged(&self, staged: Staged) -> Result<&Arc<Mapping>, Refusal> {
        let Some(staging) = self.staging.as_ref().filter(|staging| staging.sealed) else {
            return Err(Refusal::Invalid("the session has no staging memory yet".into()));
        };
        let inside = staged.offset.checked_add(staged.len).is_some_and(|end| end <= staging.len());
        if !inside {
            return Err(Refusal::Invalid(format!(
                "bytes {}+{} lie outside the staging memory of {} bytes",
                staged.offset,
                staged.len,
                staging.len()
            )));
        }
        Ok(&staging.mapping)
    }

    /// Lends memory for a writer.
    pub(super) async fn create(&mut self, id: u64, namespace: u64, key: &str, len: u64, now_ns: u64) -> io::Result<()> {
        let made = self.make_writer(id, namespace, key, len, now_ns).await;
        match made {
            Ok((descriptor, bytes, offset)) => {
                self.answer_with(id, Reply::WriterMemory { len: bytes, offset }, &[descriptor]).await
            }
            Err(refusal) => self.answer(id, Reply::Refused(refusal)).await,
        }
    }

    async fn make_writer(
        &mut self,
        id: u64,
        namespace: u64,
        key: &str,
        len: u64,
        now_ns: u64,
    ) -> Result<(std::os::fd::OwnedFd, u64, u64), Refusal> {
        self.may_send_descriptors()?;
        if self.writers.len() >= WRITERS_MAX || self.writers.contains_key(&id) {
            return Err(Refusal::TooMany(format!("{WRITERS_MAX} writers are open in this session; commit some first")));
        }
        let agent = Arc::clone(self.agent());
        let uid = self.peer.uid;
        let bytes = agent.with_memory(|cache| cache.begin_writer(uid, namespace, key, len, now_ns)).await?;
        let (material, key) = (agent.settings.material, key.to_owned());
        let made = tokio::task::spawn_blocking(move || {
            let writer = WriterMemory::make(uid, namespace, &key, len, &material)?;
            Ok((writer.memfd().description(true)?, writer))
        });
        match made.await.map_err(io::Error::other).flatten() {
            Ok((descriptor, writer)) => {
                let offset = writer.shape().payload_offset;
                self.writers.insert(id, writer);
                Ok((descriptor, bytes, offset))
            }
            Err(error) => {
                agent.cache().refund_session(uid, bytes);
                Err(failed(error))
            }
        }
    }
}

/// The refusal for a failure of the agent's own.
pub(super) fn failed(error: io::Error) -> Refusal {
    tracing::warn!(%error, "a session could not be served");
    Refusal::Failed(error.to_string())
}
