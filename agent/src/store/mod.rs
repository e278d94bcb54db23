//! The store behind the memory: where durable namespaces keep their blocks.
//!
//! A [`Store`] knows what lies where (`names`), what a block looks like there (`entry`) and what it knows of a namespace
//! (`record`); a [`Backend`] only moves bytes under names. Nothing in here knows of the cache: a session asks the cache
//! for room, the store to fill it, and the cache again to publish it.

mod backend;
mod directory;
pub(crate) mod entry;
pub(crate) mod lanes;
mod locks;
pub(crate) mod names;
mod probe;
mod record;
pub(crate) mod remote;
#[cfg(test)]
pub(crate) mod samples;
mod suspects;

use std::sync::Arc;
use std::time::Duration;

use larder_protocol::checksum::Checksums;
use larder_protocol::clock;
use larder_protocol::namespace::NamespaceOptions;
use tokio::sync::OwnedMutexGuard;

use backend::{Backend, Mode, Object, Published};
pub(crate) use backend::{Memory, StoreError};
use directory::Directory;
pub(crate) use entry::Entry;
use entry::{HEAD_BYTES_MAX, Read, START_BYTES};
use lanes::{Lane, Lanes};
use locks::Locks;
use names::Named;
pub(crate) use record::Record;
use remote::Remote;
use suspects::Suspects;

use crate::config::{StoreOptions, StoreUrl};

/// Most bytes of a namespace's record.
const RECORD_BYTES_MAX: usize = 64 * 1024;
/// Names that one step of a list asks for.
const LIST_STEP: usize = 1000;

/// A store that has been tried.
#[derive(Debug)]
pub struct Store {
    backend: Box<dyn Backend>,
    locks: Locks,
    lanes: Lanes,
    suspects: Suspects,
    timeout: Duration,
    url: StoreUrl,
}

/// A block as a store has it, not read yet.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) entry: Entry,
    name: String,
    version: String,
    head_len_bytes: u64,
}

/// What lies under a block's name.
#[derive(Debug)]
pub(crate) enum Lookup {
    Found(Box<Found>),
    Absent,
    /// An object that is no entry of this version, or of another key. As good as absent, and may be replaced.
    Unreadable(String),
}

/// How a block came into the store.
#[derive(Debug)]
pub(crate) enum Kept {
    Stored,
    /// The key holds a block already.
    Held(Box<Entry>),
}

impl Store {
    /// Opens a store and tries whether it can do what it must.
    ///
    /// # Errors
    /// One sentence that says what is wrong and what to do.
    pub async fn open(url: &StoreUrl, options: &StoreOptions, timeout: Duration) -> Result<Store, String> {
        let trying = async {
            let store = Store {
                backend: open_backend(url, options).await?,
                locks: Locks::default(),
                lanes: Lanes::default(),
                suspects: Suspects::default(),
                timeout,
                url: url.clone(),
            };
            probe::probe(store.backend.as_ref()).await?;
            Ok(store)
        };
        match tokio::time::timeout(timeout, trying).await {
            Ok(tried) => tried.map_err(|why: StoreError| why.to_string()),
            Err(_) => Err(format!("it gave no answer within {} s", timeout.as_secs())),
        }
    }

    /// How long a caller waits for a request. The request itself is never given up: what it reads into or writes from is
    /// not free before it has ended.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// What a caller is told who has waited that long.
    pub(crate) fn no_answer(&self) -> StoreError {
        let seconds = self.timeout.as_secs();
        StoreError::Unavailable(format!("{} gave no answer within {seconds} s; it may have hung", self.url))
    }

    /// Calls to the store that are under way.
    pub(crate) fn under_way(&self) -> usize {
        self.backend.under_way()
    }

    /// The turn of a key: whoever changes what memory or store hold under it has it meanwhile.
    pub(crate) async fn turn(&self, incarnation: &str, key: &str) -> OwnedMutexGuard<()> {
        self.locks.lock(&names::block(incarnation, key)).await
    }

    /// A place among the calls that a user may have under way. To be taken after turns, never before.
    pub(crate) async fn lane(&self, uid: u32) -> Lane {
        self.lanes.enter(uid).await
    }

    /// The turn of a namespace's record.
    pub(crate) async fn namespace_turn(&self, uid: u32, name: &str) -> OwnedMutexGuard<()> {
        self.locks.lock(&names::options(uid, name)).await
    }

    /// The name of what was fetched from an origin.
    pub(crate) fn origin_name(uid: u32, origin: u128) -> String {
        names::origin(uid, origin)
    }

    /// The name of a block.
    pub(crate) fn block_name(incarnation: &str, key: &str) -> String {
        names::block(incarnation, key)
    }

    /// Where the blocks of a namespace's incarnation lie.
    pub(crate) fn incarnation(uid: u32, name: &str, record: &Record) -> Arc<str> {
        names::incarnation(uid, name, record.incarnation).into()
    }

    /// What is known of a namespace, if there is one.
    pub(crate) async fn namespace(&self, uid: u32, name: &str) -> Result<Option<Record>, StoreError> {
        let record = self.record_at(&names::options(uid, name)).await?;
        // A name that is too long to be written out is hashed, and two might meet.
        Ok(record.filter(|record| record.name == name))
    }

    async fn record_at(&self, path: &str) -> Result<Option<Record>, StoreError> {
        let Some(start) = self.backend.start(path, RECORD_BYTES_MAX).await? else {
            return Ok(None);
        };
        match Record::from_text(&String::from_utf8_lossy(&start.bytes)) {
            Ok(record) => Ok(Some(record)),
            Err(why) => Err(StoreError::Failed(format!("the record {path} in {} cannot be read: {why}", self.url))),
        }
    }

    /// Makes a namespace, and says whether it was made now. Where another agent was quicker its record counts.
    pub(crate) async fn create_namespace(
        &self,
        uid: u32,
        name: &str,
        options: &NamespaceOptions,
    ) -> Result<(Record, bool), StoreError> {
        let record = fresh(name, options)?;
        match self.write_record(uid, name, &record, Mode::Create).await? {
            Published::Done => Ok((record, true)),
            Published::Exists => {
                let there = self.namespace(uid, name).await?;
                Ok((there.ok_or_else(|| StoreError::Changed(names::options(uid, name)))?, false))
            }
        }
    }

    /// Changes a namespace's options.
    pub(crate) async fn set_namespace(&self, uid: u32, name: &str, record: &Record) -> Result<(), StoreError> {
        self.write_record(uid, name, record, Mode::Replace).await.map(|_| ())
    }

    /// Begins another incarnation of a namespace: its blocks are gone when this returns, their objects some time later.
    pub(crate) async fn clear_namespace(
        &self,
        uid: u32,
        name: &str,
        options: &NamespaceOptions,
    ) -> Result<Record, StoreError> {
        let record = fresh(name, options)?;
        self.set_namespace(uid, name, &record).await?;
        Ok(record)
    }

    /// Removes a namespace: it is gone when this returns, its objects some time later.
    pub(crate) async fn remove_namespace(&self, uid: u32, name: &str) -> Result<bool, StoreError> {
        self.backend.remove(&names::options(uid, name)).await
    }

    /// Removes the blocks of incarnations that have ended. Returns how many.
    ///
    /// Blocks are only written under an incarnation that the record has named, and none comes back. So what was there
    /// *before* the record was read, and is not the record's incarnation, is one that has ended, whatever other agents do
    /// meanwhile.
    pub(crate) async fn sweep(&self, uid: u32, name: &str) -> Result<u64, StoreError> {
        let all = names::namespace(uid, name);
        let there = self.backend.groups(&all).await?;
        let present = self.namespace(uid, name).await?.map(|record| Store::incarnation(uid, name, &record));
        let mut gone = 0;
        for group in there {
            let ended = format!("{all}{group}/");
            if present.as_deref() == Some(&*ended) {
                continue;
            }
            let mut after = String::new();
            loop {
                let listed = self.backend.list(&ended, &after, LIST_STEP).await?;
                let Some(last) = listed.last() else { break };
                after.clone_from(last);
                for old in &listed {
                    gone += u64::from(self.backend.remove(old).await?);
                }
            }
        }
        Ok(gone)
    }

    /// Names of a tenant's namespaces that have a record here.
    pub(crate) async fn namespaces(&self, uid: u32) -> Result<Vec<String>, StoreError> {
        let tenant = names::tenant(uid);
        let mut found = Vec::new();
        let mut waiting = vec![tenant.clone()];
        while let Some(prefix) = waiting.pop() {
            for group in self.backend.groups(&prefix).await? {
                let below = format!("{prefix}{group}/");
                // Nothing below a namespace is another's.
                let Some(record) = names::options_below(&below) else {
                    waiting.push(below);
                    continue;
                };
                if self.backend.start(&record, 1).await?.is_none() {
                    continue;
                }
                match names::namespace_of(&tenant, &record) {
                    Some(Named::Key(name)) => found.push(name),
                    Some(Named::Hashed) => found.extend(self.record_at(&record).await?.map(|record| record.name)),
                    None => {}
                }
            }
        }
        Ok(found)
    }

    async fn write_record(&self, uid: u32, name: &str, record: &Record, mode: Mode) -> Result<Published, StoreError> {
        let object = Object { head: record.to_text().into_bytes(), payload: None };
        self.backend.publish(&names::options(uid, name), object, mode).await
    }

    /// Writes a block, lastingly, unless its key holds one. What cannot be read is replaced; so is everything, if asked.
    pub(crate) async fn put(
        &self,
        incarnation: &str,
        entry: &Entry,
        payload: Memory,
        replace: bool,
    ) -> Result<Kept, StoreError> {
        let name = names::block(incarnation, &entry.key);
        let object = Object { head: entry.head(), payload: (payload.len_bytes > 0).then_some(payload) };
        let mut mode = if replace { Mode::Replace } else { Mode::Create };
        loop {
            if self.backend.publish(&name, object.clone(), mode).await? == Published::Done {
                return Ok(Kept::Stored);
            }
            match self.find(incarnation, &entry.key).await? {
                Lookup::Found(found) if !found.entry.is_expired() => {
                    let is_same = found.entry.len_bytes == entry.len_bytes && found.entry.checksums == entry.checksums;
                    if !(is_same && self.is_suspect(&found)) {
                        return Ok(Kept::Held(Box::new(found.entry)));
                    }
                    // It could not be read here, and what takes its place is the same.
                    mode = Mode::Replace;
                }
                Lookup::Absent => {}
                // Expired, or not to be read: nothing that anybody could still want.
                Lookup::Found(_) | Lookup::Unreadable(_) => mode = Mode::Replace,
            }
        }
    }

    /// Remembers that a block's payload is not what its entry says, as it came here.
    pub(crate) fn suspect(&self, found: &Found) {
        self.suspects.add(&found.name, &found.version);
    }

    /// Whether a block's payload was found wrong a short while ago.
    pub(crate) fn is_suspect(&self, found: &Found) -> bool {
        self.suspects.has(&found.name, &found.version)
    }

    /// Looks a block up, without its payload.
    pub(crate) async fn find(&self, incarnation: &str, key: &str) -> Result<Lookup, StoreError> {
        let name = names::block(incarnation, key);
        let Some((mut read, mut version)) = self.entry_at(&name).await? else {
            return Ok(Lookup::Absent);
        };
        if matches!(read, Read::Damaged(_)) {
            // It may have been damaged on its way, and what is judged so may be replaced.
            match self.entry_at(&name).await? {
                Some(again) => (read, version) = again,
                None => return Ok(Lookup::Absent),
            }
        }
        Ok(match read {
            Read::Whole { entry, .. } if entry.key != key => {
                Lookup::Unreadable(format!("{name} holds the key {:?}", entry.key))
            }
            Read::Whole { entry, head_len_bytes } => {
                Lookup::Found(Box::new(Found { entry, name, version, head_len_bytes }))
            }
            Read::NeedMore { .. } => Lookup::Unreadable(format!("{name} ends within its head")),
            Read::OtherVersion(version) => Lookup::Unreadable(format!("{name} is of version {version}")),
            Read::Damaged(why) => Lookup::Unreadable(format!("{name} is damaged: {why}")),
        })
    }

    /// Reads the head of an object, and which object it is of.
    async fn entry_at(&self, name: &str) -> Result<Option<(Read, String)>, StoreError> {
        let mut most = START_BYTES;
        loop {
            let Some(start) = self.backend.start(name, most).await? else { return Ok(None) };
            let read = entry::read(&start.bytes, start.len_bytes);
            match read {
                Read::NeedMore { head_len_bytes } if head_len_bytes > HEAD_BYTES_MAX => {
                    return Ok(Some((Read::Damaged("its head is longer than that of any block"), start.version)));
                }
                // Each time another object may have taken the name, so what is needed may have grown.
                Read::NeedMore { head_len_bytes } if head_len_bytes > most as u64 => {
                    most = usize::try_from(head_len_bytes).unwrap_or(usize::MAX);
                }
                read => return Ok(Some((read, start.version))),
            }
        }
    }

    /// Reads a block's payload into memory. The caller compares it with the entry's checksums.
    pub(crate) async fn load(&self, found: &Found, into: Memory) -> Result<(), StoreError> {
        if into.len_bytes == 0 {
            return Ok(());
        }
        self.backend.read(&found.name, &found.version, found.head_len_bytes, into).await
    }

    /// Takes a block away, lastingly. Whether it was there.
    pub(crate) async fn remove(&self, incarnation: &str, key: &str) -> Result<bool, StoreError> {
        self.backend.remove(&names::block(incarnation, key)).await
    }

    /// Keys of an incarnation that begin with `prefix`, in no order. Expired ones are among them.
    pub(crate) async fn keys(&self, incarnation: &str, prefix: &str) -> Result<Vec<String>, StoreError> {
        let mut found = Vec::new();
        let mut unnamed = Vec::new();
        let (group, hashed) = (names::group(incarnation, prefix), names::hashed(incarnation));
        // One may lie inside the other, and is then listed with it.
        let apart = Some(hashed).filter(|hashed| !hashed.starts_with(&group));
        for names in [Some(group), apart].into_iter().flatten() {
            self.for_each_name(&names, |name| match names::key_of(incarnation, name) {
                Some(Named::Key(key)) => found.push(key),
                Some(Named::Hashed) => unnamed.push(name.to_owned()),
                None => {}
            })
            .await?;
        }
        for name in unnamed {
            // Only the object itself knows its key.
            if let Some((Read::Whole { entry, .. }, _)) = self.entry_at(&name).await?
                && names::block(incarnation, &entry.key) == name
            {
                found.push(entry.key);
            }
        }
        found.retain(|key| key.starts_with(prefix));
        Ok(found)
    }

    async fn for_each_name(&self, prefix: &str, mut each: impl FnMut(&str)) -> Result<(), StoreError> {
        let mut after = String::new();
        loop {
            let names = self.backend.list(prefix, &after, LIST_STEP).await?;
            let Some(last) = names.last() else { return Ok(()) };
            after.clone_from(last);
            names.iter().for_each(|name| each(name));
        }
    }
}

async fn open_backend(url: &StoreUrl, options: &StoreOptions) -> Result<Box<dyn Backend>, StoreError> {
    let StoreUrl::Directory(path) = url.clone() else {
        return Ok(Box::new(Remote::open(url, options).await?));
    };
    let opening = tokio::task::spawn_blocking(move || Directory::open(&path)).await;
    Ok(Box::new(opening.map_err(|error| StoreError::Failed(error.to_string()))??))
}

fn fresh(name: &str, options: &NamespaceOptions) -> Result<Record, StoreError> {
    Record::new(name, options.clone())
        .map_err(|error| StoreError::Failed(format!("the kernel gave no random bytes: {error}")))
}

/// Whether what lies in memory is what an entry says.
pub(crate) fn is_intact(entry: &Entry, memory: &Memory) -> bool {
    memory.checksums() == entry.checksums
}

impl Entry {
    /// A block that is put now.
    pub(crate) fn now(key: &str, len_bytes: u64, ttl_ms: Option<u64>, checksums: Checksums) -> Entry {
        let created_ms = clock::wall_ms();
        let expires_ms = ttl_ms.map_or(0, |ttl_ms| created_ms.saturating_add(ttl_ms));
        Entry { key: key.to_owned(), len_bytes, created_ms, expires_ms, checksums }
    }

    /// Whether its time is over.
    pub(crate) fn is_expired(&self) -> bool {
        self.left_ms() == Some(0)
    }

    /// How much of its time is left, if it has an end.
    pub(crate) fn left_ms(&self) -> Option<u64> {
        (self.expires_ms != 0).then(|| self.expires_ms.saturating_sub(clock::wall_ms()))
    }
}

impl Memory {
    /// The checksums of what lies there.
    pub(crate) fn checksums(&self) -> Checksums {
        let mut chunked = larder_protocol::checksum::Chunked::default();
        self.each_piece(|piece| chunked.update(piece));
        chunked.finish()
    }

    /// Shows all that lies there, piece by piece.
    pub(crate) fn each_piece(&self, mut show: impl FnMut(&[u8])) {
        let mut piece = [0; 4096];
        let mut done = 0;
        while done < self.len_bytes {
            let len = usize::try_from((self.len_bytes - done).min(piece.len() as u64)).unwrap_or(piece.len());
            let at = usize::try_from(self.offset_bytes + done).unwrap_or(usize::MAX);
            self.mapping.copy_out(at, &mut piece[..len]);
            show(&piece[..len]);
            done += len as u64;
        }
    }
}
