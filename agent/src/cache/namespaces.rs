//! A tenant's namespaces.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use larder_protocol::message::Refusal;
use larder_protocol::namespace::{Durability, Eviction, NamespaceInfo, NamespaceOptions, Validate};

use super::eviction::S3Fifo;

/// Most namespaces of a tenant: their names and options lie in the agent's heap.
const NAMESPACES_MAX: usize = 10_000;

/// Most keys of an incarnation of which it is remembered that the store may have them: some megabytes.
const DEPARTED_MAX: usize = 200_000;

/// Most URLs whose versions an incarnation remembers: some tens of megabytes.
const VERSIONS_MAX: usize = 200_000;
/// Longest version that is remembered: no server's is near it.
const VERSION_LEN_MAX: usize = 1024;

/// The store's side of a durable namespace.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// Where its blocks lie.
    pub(crate) incarnation: Arc<str>,
    /// This agent has just begun it: nothing lies there yet.
    pub(crate) is_fresh: bool,
}

/// One incarnation of a namespace.
#[derive(Debug)]
pub(crate) struct Namespace {
    pub(crate) name: String,
    pub(crate) options: NamespaceOptions,
    pub(crate) blocks: u64,
    pub(crate) bytes: u64,
    /// Where the blocks of this incarnation lie in the store, if it is durable.
    pub(crate) stored: Option<Arc<str>>,
    /// Blocks that the store is to have and has not yet.
    pub(crate) dirty_blocks: u64,
    /// Hashes of the keys that the store may have and memory has not; `None` when that may be any.
    departed: Option<HashSet<u64>>,
    /// The versions of URLs that this incarnation has seen first.
    pub(super) versions: HashMap<u128, Box<str>>,
    /// The queue of a namespace with a quota, which makes room among its own blocks. The others share the tenant's.
    pub(crate) fifo: Option<S3Fifo>,
}

impl Namespace {
    fn new(name: String, options: NamespaceOptions, stored: Option<Stored>) -> Namespace {
        let fifo = Self::wants_fifo(&options).then(S3Fifo::new);
        let departed = stored.as_ref().is_some_and(|stored| stored.is_fresh).then(HashSet::new);
        let stored = stored.map(|stored| stored.incarnation);
        Namespace {
            name,
            options,
            blocks: 0,
            bytes: 0,
            stored,
            dirty_blocks: 0,
            departed,
            versions: HashMap::new(),
            fifo,
        }
    }

    /// Remembers which version of a URL it has seen last. False when it has seen another, and is to see one only.
    pub(super) fn note_version(&mut self, url: u128, version: &str) -> Result<bool, Refusal> {
        if self.options.validate == Validate::Never {
            return Ok(true);
        }
        if self.options.validate == Validate::Namespace
            && let Some(seen) = self.versions.get(&url)
        {
            return Ok(**seen == *version);
        }
        if version.len() > VERSION_LEN_MAX {
            return Err(Refusal::Origin(format!("the origin names a version of {} bytes", version.len())));
        }
        if self.versions.len() >= VERSIONS_MAX && !self.versions.contains_key(&url) {
            return Err(Refusal::TooMany(format!(
                "this namespace has seen {VERSIONS_MAX} URLs, and remembers the version of no more; use another, or create it with --validate never"
            )));
        }
        self.versions.insert(url, version.into());
        Ok(true)
    }

    /// Notes that the store may have what memory has no more.
    pub(crate) fn note_departed(&mut self, hash: u64) {
        if let Some(departed) = &mut self.departed {
            departed.insert(hash);
        }
        if self.departed.as_ref().is_some_and(|departed| departed.len() > DEPARTED_MAX) {
            self.departed = None;
        }
    }

    /// Whether the store may have a key that memory has not.
    pub(crate) fn may_be_stored(&self, hash: u64) -> bool {
        self.departed.as_ref().is_none_or(|departed| departed.contains(&hash))
    }

    /// Whether puts are acknowledged before the store has them.
    pub(crate) fn is_back(&self) -> bool {
        self.options.durability == Some(Durability::Back)
    }

    pub(crate) fn wants_fifo(options: &NamespaceOptions) -> bool {
        options.quota_bytes.is_some() && options.eviction == Eviction::Evict
    }

    pub(crate) fn info(&self, id: u64) -> NamespaceInfo {
        NamespaceInfo {
            name: self.name.clone(),
            namespace: id,
            options: self.options.clone(),
            blocks: self.blocks,
            bytes: self.bytes,
        }
    }
}

/// Refuses options that differ from those that a namespace has. A durability that was not named is any.
pub(crate) fn check_options(name: &str, given: &NamespaceOptions, present: &NamespaceOptions) -> Result<(), Refusal> {
    let given = NamespaceOptions { durability: given.durability.or(present.durability), ..given.clone() };
    if given == *present {
        return Ok(());
    }
    Err(Refusal::Invalid(format!(
        "namespace {name:?} exists with other options; `larder ns show {name}` prints them, `larder ns set` changes them"
    )))
}

/// A tenant's namespaces, by name and by the number of their present incarnation.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    by_name: BTreeMap<String, u64>,
    by_id: BTreeMap<u64, Namespace>,
    /// Names of incarnations that a clear has ended, so that a stale handle can be told the new one.
    former: HashMap<u64, String>,
}

impl Namespaces {
    /// Opens a namespace, making it if need be with these options, which name its durability.
    pub(crate) fn open(
        &mut self,
        name: &str,
        options: NamespaceOptions,
        stored: Option<Stored>,
        fresh_id: impl FnOnce() -> u64,
    ) -> Result<u64, Refusal> {
        if let Some(id) = self.by_name.get(name) {
            check_options(name, &options, &self.by_id[id].options)?;
            return Ok(*id);
        }
        if self.by_name.len() >= NAMESPACES_MAX {
            return Err(Refusal::TooMany(format!(
                "{NAMESPACES_MAX} namespaces are the most a user may have; `larder ns rm` removes one"
            )));
        }
        let id = fresh_id();
        self.by_name.insert(name.to_owned(), id);
        self.by_id.insert(id, Namespace::new(name.to_owned(), options, stored));
        Ok(id)
    }

    pub(crate) fn id(&self, name: &str) -> Result<u64, Refusal> {
        self.by_name.get(name).copied().ok_or_else(|| Refusal::NoNamespace(name.to_owned()))
    }

    pub(crate) fn get(&self, id: u64) -> Option<&Namespace> {
        self.by_id.get(&id)
    }

    /// The namespace, or what its handle must be told.
    pub(crate) fn current(&self, id: u64) -> Result<&Namespace, Refusal> {
        self.by_id.get(&id).ok_or_else(|| self.stale(id))
    }

    fn stale(&self, id: u64) -> Refusal {
        let now = self.former.get(&id).and_then(|name| self.by_name.get(name));
        Refusal::Cleared { namespace: now.copied().unwrap_or(0) }
    }

    pub(crate) fn get_mut(&mut self, id: u64) -> Option<&mut Namespace> {
        self.by_id.get_mut(&id)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&u64, &mut Namespace)> {
        self.by_id.iter_mut()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&u64, &Namespace)> {
        self.by_id.iter()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    pub(crate) fn names_after(&self, after: &str) -> impl Iterator<Item = &String> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.by_name.range::<str, _>((Excluded(after), Unbounded)).map(|(name, _)| name)
    }

    /// Ends an incarnation and begins the next.
    pub(crate) fn renew(&mut self, name: &str, fresh_id: u64, stored: Option<Stored>) -> Result<u64, Refusal> {
        let old = self.id(name)?;
        let options = self.by_id.remove(&old).map(|namespace| namespace.options).unwrap_or_default();
        self.by_id.insert(fresh_id, Namespace::new(name.to_owned(), options, stored));
        self.by_name.insert(name.to_owned(), fresh_id);
        self.note_former(old, name);
        Ok(old)
    }

    pub(crate) fn remove(&mut self, name: &str) -> Result<u64, Refusal> {
        let old = self.id(name)?;
        self.by_name.remove(name);
        self.by_id.remove(&old);
        self.note_former(old, name);
        Ok(old)
    }

    fn note_former(&mut self, old: u64, name: &str) {
        // Bounded: a handle that is older than a thousand clears opens its namespace by name again.
        if self.former.len() >= 1000 {
            self.former.clear();
        }
        self.former.insert(old, name.to_owned());
    }
}
