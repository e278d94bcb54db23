//! Names in byte order, a page at a time.
//!
//! Most servers list in byte order and go on behind any name. SeaweedFS lists as a tree is walked, in which `a/b` comes
//! before `a-b`, and so do directory buckets; there "behind" means another thing, and a page would leave names out. Such
//! a server is known by its first list that is not in order, which the probe asks for before anything is trusted to it.
//! From then on each page is taken from all names, and what does not go into the page is kept for the next.

use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};

use super::link::LARGE;
use super::{Place, StoreError, failure};

/// Names that are kept for the next pages, at most, and their bytes.
const KEPT_MAX: usize = 50_000;
const KEPT_BYTES_MAX: usize = 8 << 20;

/// How long they are kept. Whoever goes through a list asks again at once.
const KEPT_FOR: Duration = Duration::from_secs(10);

/// Longest name, and longest part of one.
const NAME_BYTES_MAX: usize = 900;
const PART_BYTES_MAX: usize = 255;

/// What is known of the order in which a server lists.
#[derive(Debug, Default)]
pub(super) struct Order {
    is_other: AtomicBool,
    kept: Mutex<Option<Kept>>,
}

/// Names behind a page.
#[derive(Debug)]
struct Kept {
    prefix: String,
    after: String,
    names: Vec<String>,
    /// Whether these are all.
    is_all: bool,
    since: Instant,
}

impl Place {
    /// Up to `most` names that begin with `prefix` and lie behind `after`.
    pub(super) async fn list(&self, prefix: &str, after: &str, most: usize) -> Result<Vec<String>, StoreError> {
        if !prefix.is_empty() && !prefix.strip_suffix('/').is_some_and(is_name) {
            return Err(StoreError::Failed(format!("{prefix:?} is no prefix of names; please report it")));
        }
        if most == 0 {
            return Ok(Vec::new());
        }
        if !self.order.is_other.load(Ordering::Relaxed) {
            if let Some(names) = self.list_in_order(prefix, after, most).await? {
                return Ok(names);
            }
            self.order.is_other.store(true, Ordering::Relaxed);
        }
        if let Some(names) = self.order.take(prefix, after, most) {
            return Ok(names);
        }
        let (names, is_all) = self.list_all(prefix, after, most).await?;
        Ok(self.order.keep(prefix, names, is_all, most))
    }

    /// The parts of names that follow a prefix and lead further.
    pub(super) async fn groups(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let below = self.key(prefix.trim_end_matches('/'))?;
        let _request = self.limits.request().await;
        match self.reads.list_with_delimiter(Some(&below)).await {
            Ok(listed) => {
                let last = |path: &Path| path.filename().filter(|part| is_name(part)).map(str::to_owned);
                Ok(listed.common_prefixes.iter().filter_map(last).collect())
            }
            Err(error) if failure::is_absent(&error) => Ok(Vec::new()),
            Err(error) => Err(self.failure(&error, "list", prefix)),
        }
    }

    /// `None` when the server lists in another order.
    async fn list_in_order(&self, prefix: &str, after: &str, most: usize) -> Result<Option<Vec<String>>, StoreError> {
        let mut names: Vec<String> = Vec::new();
        let mut last: Option<String> = None;
        let _request = self.limits.request().await;
        let mut listed = self.listed(prefix, Some(after).filter(|after| !after.is_empty()))?;
        while let Some(found) = listed.next().await {
            let found = match found {
                // A server that knows no objects knows no prefix of their names either.
                Err(error) if failure::is_absent(&error) => break,
                found => found.map_err(|error| self.failure(&error, "list", prefix))?,
            };
            let Some(name) = self.name_of(&found) else { continue };
            if last.as_ref().is_some_and(|last| *last >= name) {
                return Ok(None);
            }
            last = Some(name.clone());
            // A server that does not know where to go on begins at the beginning.
            if name.as_str() > after && is_shown(prefix, &name) {
                names.push(name);
                if names.len() == most {
                    break;
                }
            }
        }
        Ok(Some(names))
    }

    /// The first of all names behind `after`, sorted: `most`, and as many more as can be kept. Whether these are all.
    async fn list_all(&self, prefix: &str, after: &str, most: usize) -> Result<(Vec<String>, bool), StoreError> {
        let mut smallest = BinaryHeap::new();
        let mut is_all = true;
        let mut bytes = 0;
        let _request = self.limits.request().await;
        let mut listed = self.listed(prefix, None)?;
        while let Some(found) = listed.next().await {
            let found = match found {
                Err(error) if failure::is_absent(&error) => break,
                found => found.map_err(|error| self.failure(&error, "list", prefix))?,
            };
            let Some(name) = self.name_of(&found).filter(|name| name.as_str() > after && is_shown(prefix, name)) else {
                continue;
            };
            bytes += name.len();
            smallest.push(name);
            while smallest.len() > most && (smallest.len() > KEPT_MAX || bytes > KEPT_BYTES_MAX) {
                bytes -= smallest.pop().map_or(0, |name| name.len());
                is_all = false;
            }
        }
        let mut names = smallest.into_sorted_vec();
        names.dedup();
        Ok((names, is_all))
    }

    /// All objects under a prefix, in the server's order.
    pub(super) fn listed(
        &self,
        prefix: &str,
        after: Option<&str>,
    ) -> Result<BoxStream<'static, object_store::Result<ObjectMeta>>, StoreError> {
        let below = self.key(prefix.trim_end_matches('/'))?;
        Ok(match after {
            Some(after) => self.reads.list_with_offset(Some(&below), &self.key(after)?),
            None => self.reads.list(Some(&below)),
        })
    }

    /// The name of an object that was listed. `None` when it is not one of ours.
    pub(super) fn name_of(&self, found: &ObjectMeta) -> Option<String> {
        let location: &Path = &found.location;
        location.as_ref().strip_prefix(&self.prefix).filter(|name| is_name(name)).map(str::to_owned)
    }
}

impl Order {
    /// What was kept for this page, if it is enough.
    fn take(&self, prefix: &str, after: &str, most: usize) -> Option<Vec<String>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let Kept { names, is_all, .. } = kept.take().filter(|kept| {
            let is_next = kept.prefix == prefix && kept.after == after && kept.since.elapsed() < KEPT_FOR;
            is_next && (kept.is_all || kept.names.len() >= most)
        })?;
        drop(kept);
        Some(self.keep(prefix, names, is_all, most))
    }

    /// Keeps all but the first `most`, which it returns.
    fn keep(&self, prefix: &str, mut names: Vec<String>, is_all: bool, most: usize) -> Vec<String> {
        let rest = names.split_off(most.min(names.len()));
        let Some(after) = names.last().filter(|_| !rest.is_empty()) else { return names };
        let kept = Kept { prefix: prefix.to_owned(), after: after.clone(), names: rest, is_all, since: Instant::now() };
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
        names
    }
}

/// Whether a name is to be listed under a prefix. Large objects are found through their links.
fn is_shown(prefix: &str, name: &str) -> bool {
    name.starts_with(prefix) && !name.starts_with(LARGE)
}

/// Whether a name keeps the rules of [`Backend`](super::Backend).
fn is_name(name: &str) -> bool {
    let is_part = |part: &str| {
        (1..=PART_BYTES_MAX).contains(&part.len())
            && !part.starts_with('.')
            && part.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
    };
    // A large object's name is longer than any other.
    let len_max = if name.starts_with(LARGE) { 1024 } else { NAME_BYTES_MAX };
    name.len() <= len_max && name.split('/').all(is_part)
}
