//! The cache itself: plain synchronous code that is told the time and what clients ask.
//!
//! [`Cache`] owns every tenant and the node's budget. A put goes [`Cache::reserve`] (room in a segment), copy (by the
//! caller, outside the lock), [`Cache::commit`] (checks, header, publication). When room needs fresh memory, which takes
//! time to make, the cache answers with a [`Need`]; the caller makes it and calls [`Cache::supply`], then tries again.

mod admit;
mod blocks;
mod budget;
mod dirty;
pub(crate) mod eviction;
mod extents;
mod fetched;
mod header;
mod index;
mod lending;
mod lent;
mod memory;
mod namespaces;
mod pins;
mod put;
mod reclaim;
mod room;
mod segments;
mod tenant;
mod upkeep;
mod writer;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use larder_protocol::layout::control;
use larder_protocol::memory::{Mapping, Memfd};
use larder_protocol::message::Refusal;
use larder_protocol::namespace::{NamespaceInfo, NamespaceOptions};
use larder_protocol::words::MappedWords;

use blocks::State;
use budget::Budget;
pub(crate) use dirty::{Due, Line, Written};
use index::Index;
pub(crate) use lending::seal_for_client;
pub(crate) use lent::Lent;
pub use memory::Material;
pub(crate) use memory::{Need, Prepared, for_client, prepare};
pub(crate) use namespaces::{Stored, check_options};
pub(crate) use put::{CommitError, Held, How, Reservation, Times};
pub(crate) use room::Stop;
pub(crate) use tenant::Waker;
use tenant::{Limits, Tenant};
pub(crate) use writer::{Sealed, WriterMemory};

/// Entries of a tenant's first table.
const TABLE_SMALLEST: usize = 4096;

/// What the largest block leaves of a tenant's quota.
const LARGEST_BLOCK_MARGIN_BYTES: u64 = 4 << 20;

/// What the cache is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Shared memory of the node in bytes.
    pub capacity_bytes: u64,
    /// Size of a segment in bytes.
    pub segment_bytes: u64,
    /// Most bytes of a tenant without a line of its own.
    pub tenant_quota_bytes: u64,
    /// (uid, quota, guaranteed) of tenants with a line of their own.
    pub tenants: Vec<(u32, u64, u64)>,
    /// Most bytes that a tenant's readers may pin before its puts are refused.
    pub pinned_bytes: u64,
    /// Most slots of a session.
    pub session_slots_max: usize,
    /// Size of a session's staging in bytes.
    pub staging_bytes: u64,
    /// How memory is made.
    pub material: Material,
    /// Number of this run.
    pub instance: u64,
}

/// Memory that has served and that somebody may still have mapped. It stays on the account of its tenant until then.
#[derive(Debug)]
struct Retired {
    uid: u32,
    memfd: Memfd,
}

/// The node's cache.
#[derive(Debug)]
pub(crate) struct Cache {
    settings: Settings,
    budget: Budget,
    tenants: HashMap<u32, Tenant>,
    spares: Vec<Prepared>,
    retired: Vec<Retired>,
    last_generation: u64,
    last_segment: u32,
    last_namespace: u64,
}

impl Cache {
    pub(crate) fn new(settings: Settings) -> Cache {
        Cache {
            budget: Budget::new(settings.capacity_bytes),
            settings,
            tenants: HashMap::new(),
            spares: Vec::new(),
            retired: Vec::new(),
            last_generation: 0,
            last_segment: 0,
            last_namespace: 0,
        }
    }

    pub(crate) fn capacity_bytes(&self) -> u64 {
        self.budget.capacity_bytes()
    }

    /// Longest block that tenant `uid` may put.
    pub(crate) fn block_len_max(&self, uid: u32) -> u64 {
        // What a tenant's tables, slots and staging and the rounding of large segments take is not to be had for blocks.
        self.quota_of(uid).min(self.budget.most_for_segments()).saturating_sub(LARGEST_BLOCK_MARGIN_BYTES)
    }

    fn quota_of(&self, uid: u32) -> u64 {
        self.limits(uid).quota_bytes.min(self.budget.capacity_bytes())
    }

    fn limits(&self, uid: u32) -> Limits {
        let own = self.settings.tenants.iter().find(|(tenant, _, _)| *tenant == uid);
        Limits {
            quota_bytes: own.map_or(self.settings.tenant_quota_bytes, |(_, quota, _)| *quota),
            guaranteed_bytes: own.map_or(0, |(_, _, guaranteed)| *guaranteed),
            pinned_bytes: self.settings.pinned_bytes,
        }
    }

    /// The tenant, made at its first session.
    pub(crate) fn tenant(&mut self, uid: u32) -> Result<&mut Tenant, Refusal> {
        if !self.tenants.contains_key(&uid) {
            let tenant = self.new_tenant(uid)?;
            self.tenants.insert(uid, tenant);
        }
        Ok(self.tenants.get_mut(&uid).unwrap_or_else(|| unreachable!("just inserted")))
    }

    fn known(&mut self, uid: u32) -> &mut Tenant {
        self.tenants.get_mut(&uid).unwrap_or_else(|| unreachable!("tenant {uid} has no session"))
    }

    fn new_tenant(&mut self, uid: u32) -> Result<Tenant, Refusal> {
        let table = Need::Table { uid, capacity: TABLE_SMALLEST };
        let bytes = control::BYTES as u64 + table.bytes();
        if !self.make_budget(uid, bytes) {
            return Err(self.no_space(uid, bytes));
        }
        let made = (|| {
            let area = memory::small(c"larder-control", control::BYTES as u64, &self.settings.material)?;
            Ok((area, prepare(table, &self.settings.material)?))
        })();
        let (area, table) = made.map_err(|error: io::Error| {
            self.budget.refund(bytes);
            Refusal::Failed(format!("shared memory for user {uid}: {error}"))
        })?;
        // Of the tenant's own, so that nothing about one tenant's index tells about another's.
        let seed = getrandom::u64().map_err(|error| {
            self.budget.refund(bytes);
            Refusal::Failed(format!("the kernel gave no random bytes: {error}"))
        })?;
        let words = MappedWords::new(area.mapping, 0, control::BYTES / 8);
        index::begin_control(&words, seed, self.settings.instance);
        let index = Index::new(words, table, TABLE_SMALLEST);
        Ok(Tenant::new(uid, self.limits(uid), seed, area.memfd, index))
    }

    fn fresh_generation(&mut self) -> u64 {
        self.last_generation += 1;
        self.last_generation
    }

    /// Opens a namespace, creating it at its first use with these options, which name its durability.
    pub(crate) fn open_namespace(
        &mut self,
        uid: u32,
        name: &str,
        options: NamespaceOptions,
        stored: Option<Stored>,
    ) -> Result<NamespaceInfo, Refusal> {
        let fresh = self.last_namespace + 1;
        let tenant = self.known(uid);
        let id = tenant.namespaces.open(name, options, stored, || fresh)?;
        if id == fresh {
            self.last_namespace = fresh;
        }
        self.namespace_info(uid, name)
    }

    /// Describes a namespace.
    pub(crate) fn namespace_info(&mut self, uid: u32, name: &str) -> Result<NamespaceInfo, Refusal> {
        let tenant = self.known(uid);
        let id = tenant.namespaces.id(name)?;
        Ok(tenant.namespaces.current(id)?.info(id))
    }

    /// Where the blocks of a namespace's incarnation lie in the store, if it is durable.
    pub(crate) fn stored(&mut self, uid: u32, namespace: u64) -> Result<Option<Arc<str>>, Refusal> {
        Ok(self.known(uid).namespaces.current(namespace)?.stored.clone())
    }

    /// Whether the store may have a key that is not in memory.
    pub(crate) fn may_be_stored(&mut self, uid: u32, namespace: u64, key: &str) -> bool {
        let tenant = self.known(uid);
        let hash = tenant.hash(namespace, key)[1];
        tenant.namespaces.get(namespace).is_none_or(|namespace| namespace.may_be_stored(hash))
    }

    /// The options of a namespace's incarnation.
    pub(crate) fn options(&mut self, uid: u32, namespace: u64) -> Result<NamespaceOptions, Refusal> {
        Ok(self.known(uid).namespaces.current(namespace)?.options.clone())
    }

    /// What a tenant has done.
    pub(crate) fn figures(&mut self, uid: u32) -> &mut tenant::Figures {
        &mut self.known(uid).figures
    }

    /// Changes the options of a namespace.
    pub(crate) fn set_namespace(
        &mut self,
        uid: u32,
        name: &str,
        options: NamespaceOptions,
    ) -> Result<NamespaceInfo, Refusal> {
        let tenant = self.known(uid);
        let id = tenant.namespaces.id(name)?;
        let namespace = tenant.namespaces.get_mut(id).ok_or(Refusal::NotFound)?;
        namespace.options = options;
        let fifo = namespaces::Namespace::wants_fifo(&namespace.options).then(eviction::S3Fifo::new);
        let old = std::mem::replace(&mut namespace.fifo, fifo);
        tenant.requeue(id, old);
        self.namespace_info(uid, name)
    }

    /// Names of a tenant's namespaces after `after`, sorted.
    pub(crate) fn namespace_names(&mut self, uid: u32, after: &str, most: usize) -> Vec<String> {
        self.known(uid).namespaces.names_after(after).take(most).cloned().collect()
    }

    /// Drops all that a namespace holds; its handles learn of the new incarnation. Returns how many blocks went.
    pub(crate) fn clear(&mut self, uid: u32, name: &str, stored: Option<Stored>) -> Result<u64, Refusal> {
        let fresh = self.last_namespace + 1;
        let tenant = self.known(uid);
        let old = tenant.namespaces.id(name)?;
        let gone = drop_blocks(tenant, old);
        tenant.namespaces.renew(name, fresh, stored)?;
        tenant.wake_all();
        self.last_namespace = fresh;
        Ok(gone)
    }

    /// Removes a namespace with all it holds.
    pub(crate) fn remove_namespace(&mut self, uid: u32, name: &str) -> Result<u64, Refusal> {
        let tenant = self.known(uid);
        let old = tenant.namespaces.id(name)?;
        let gone = drop_blocks(tenant, old);
        tenant.namespaces.remove(name)?;
        tenant.wake_all();
        Ok(gone)
    }

    /// Whether a key is in memory. An evicted block that is still there is taken back.
    pub(crate) fn look_up(&mut self, uid: u32, namespace: u64, key: &str, now_ns: u64) -> Result<(), Stop> {
        let generation = self.last_generation + 1;
        let tenant = self.known(uid);
        tenant.namespaces.current(namespace)?;
        let at = tenant.find(namespace, key).ok_or(Refusal::NotFound)?;
        let block = tenant.blocks.get(at);
        if block.expiry_ns != 0 && now_ns >= block.expiry_ns {
            tenant.figures.expirations += u64::from(block.state == State::Published);
            tenant.remove(at);
            return Err(Refusal::NotFound.into());
        }
        if block.state == State::Evicted {
            self.last_generation = generation;
            if self.known(uid).republish(at, generation).is_err() {
                return Err(self.need_table(uid));
            }
        }
        Ok(())
    }

    /// Tells `waker` when the key is put or its namespace cleared. False, without taking it, when the key is there.
    pub(crate) fn wait(
        &mut self,
        uid: u32,
        namespace: u64,
        key: &str,
        now_ns: u64,
        waker: &mut Option<Waker>,
    ) -> Result<bool, Stop> {
        match self.look_up(uid, namespace, key, now_ns) {
            Ok(()) => Ok(false),
            Err(Stop::Refused(Refusal::NotFound)) => {
                let tenant = self.known(uid);
                let hash = tenant.hash(namespace, key);
                tenant.waiters.entry(hash).or_default().extend(waker.take());
                Ok(true)
            }
            Err(other) => Err(other),
        }
    }

    /// Forgets who does not wait any more.
    pub(crate) fn prune_waiters(&mut self, uid: u32) {
        self.known(uid).prune_waiters();
    }

    /// Takes a key out. Whoever has it pinned keeps reading it.
    pub(crate) fn delete(&mut self, uid: u32, namespace: u64, key: &str, now_ns: u64) -> Result<(), Stop> {
        self.look_up(uid, namespace, key, now_ns)?;
        let tenant = self.known(uid);
        let at = tenant.find(namespace, key).ok_or(Refusal::NotFound)?;
        tenant.remove(at);
        Ok(())
    }

    /// Takes a key out if it is there, and says nothing of it.
    pub(crate) fn forget(&mut self, uid: u32, namespace: u64, key: &str) {
        let tenant = self.known(uid);
        if let Some(at) = tenant.find(namespace, key) {
            tenant.remove(at);
        }
    }

    /// All keys of a namespace that begin with `prefix`, unsorted.
    pub(crate) fn keys(&mut self, uid: u32, namespace: u64, prefix: &str, now_ns: u64) -> Result<Vec<String>, Refusal> {
        let tenant = self.known(uid);
        tenant.namespaces.current(namespace)?;
        let live = tenant.blocks.iter().filter(|(_, block)| {
            block.namespace == namespace
                && block.state == State::Published
                && (block.expiry_ns == 0 || now_ns < block.expiry_ns)
        });
        let keys = live.filter_map(|(_, block)| String::from_utf8(tenant.key_of(block)).ok());
        Ok(keys.filter(|key| key.starts_with(prefix)).collect())
    }

    fn mapping(&self, uid: u32, segment: u32) -> Option<Arc<Mapping>> {
        Some(Arc::clone(&self.tenants.get(&uid)?.segments.get(segment)?.mapping))
    }
}

fn drop_blocks(tenant: &mut Tenant, namespace: u64) -> u64 {
    let there: Vec<(u32, State)> = tenant
        .blocks
        .iter()
        .filter(|(_, block)| block.namespace == namespace)
        .map(|(at, block)| (at, block.state))
        .collect();
    let published = there.iter().filter(|(_, state)| *state == State::Published).count();
    there.into_iter().for_each(|(at, _)| tenant.remove(at));
    tenant.sweep();
    published as u64
}
