//! Objects in buckets: S3, Google Cloud Storage, Azure Blob Storage.

mod connect;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use futures_util::StreamExt;
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, GetResult, ObjectMeta, ObjectStore};

use super::failure::{OriginError, Stop};
use super::policy::{Keys, Right};
use super::retry::Budget;
use super::route::Route;
use super::url::{OriginUrl, Scheme};
use super::version::Version;
use super::{Asker, Inner, Validity};
use crate::config::{Bucket, Service, StoreUrl};
use crate::store::remote::failure;
use crate::store::{Memory, StoreError};
use connect::{KeysFrom, connect};
pub(super) use connect::{check_keys, endpoint_host};

/// Most clients of buckets that are kept, for buckets that nobody listed.
const STORES_MAX: usize = 64;

/// A bucket that a caller may read, and the key of an object in it.
#[derive(Clone)]
struct Found {
    store: Arc<dyn ObjectStore>,
    key: Path,
    route: Arc<Route>,
    url: OriginUrl,
    is_public: bool,
}

/// An object that was found.
#[derive(Debug)]
pub(super) struct Object {
    found: Found,
    meta: ObjectMeta,
    pub(super) version: Version,
    pub(super) is_public: bool,
}

/// Looks an object up and reads its first bytes.
pub(super) async fn open(
    inner: &Inner,
    asker: &Asker,
    url: OriginUrl,
    first_most: usize,
) -> Result<Option<(Object, Vec<u8>)>, OriginError> {
    let found = find(inner, asker, url).await?;
    let mut budget = Budget::new(&found.route.options, first_most as u64);
    loop {
        let stop = match budget.within(&found.url, found.first_bytes(first_most)).await {
            Ok(None) => return Ok(None),
            Ok(Some((meta, first))) => {
                let version = version_of(&meta);
                let is_public = found.is_public;
                return Ok(Some((Object { found, meta, version, is_public }, first)));
            }
            Err(stop) => stop,
        };
        budget.again(stop).await?;
    }
}

/// Asks whether an object is still what it was.
pub(super) async fn check(
    inner: &Inner,
    asker: &Asker,
    url: OriginUrl,
    version: &Version,
) -> Result<Validity, OriginError> {
    let found = find(inner, asker, url).await?;
    let budget = Budget::new(&found.route.options, 0);
    match budget.within(&found.url, found.check(version)).await {
        Ok(validity) => Ok(validity),
        Err(Stop::Final(error) | Stop::Again(error, _)) => Err(error),
    }
}

/// The bucket of a URL, if the caller may read it.
async fn find(inner: &Inner, asker: &Asker, url: OriginUrl) -> Result<Found, OriginError> {
    let key = url.key().and_then(|key| Path::parse(key).ok()).filter(|key| !key.as_ref().is_empty());
    let key = key.ok_or_else(|| {
        OriginError::Invalid(format!("{url} names no object: a key is parts between single slashes, in UTF-8"))
    })?;
    let right = inner.policy.right(asker.caller(), &url)?;
    let (route, keys, is_public) = match right {
        Right::Listed(rule) => {
            let route = Arc::clone(&inner.routes[rule]);
            let keys = if route.is_anonymous {
                KeysFrom::Nobody
            } else if route.options.credentials_file.is_some() {
                KeysFrom::File
            } else {
                KeysFrom::Environment
            };
            (route, keys, inner.policy.is_public(rule))
        }
        Right::Session(own, rule) => {
            // What the site or the environment opens is not for a server that the session names.
            let route = match (&own.keys, rule) {
                (Keys::S3 { endpoint: Some(_), .. }, _) => &inner.anywhere,
                (_, Some(rule)) => &inner.routes[rule],
                (_, None) => &inner.buckets,
            };
            (Arc::clone(route), KeysFrom::Session(own.keys.clone()), false)
        }
        Right::Own => (Arc::clone(&inner.buckets), KeysFrom::Environment, false),
    };
    let store = match &keys {
        KeysFrom::Session(_) => make(&url, &route, keys).await?,
        _ => kept(&url, &route, keys).await?,
    };
    Ok(Found { store, key, route, url, is_public })
}

/// The client of a bucket, which stays for whoever asks next.
async fn kept(url: &OriginUrl, route: &Arc<Route>, keys: KeysFrom) -> Result<Arc<dyn ObjectStore>, OriginError> {
    let mut stores = route.stores.lock().await;
    if let Some(store) = stores.get(url.place()) {
        return Ok(Arc::clone(store));
    }
    let store = make(url, route, keys).await?;
    if stores.len() >= STORES_MAX {
        stores.clear();
    }
    stores.insert(url.place().clone(), Arc::clone(&store));
    Ok(store)
}

async fn make(url: &OriginUrl, route: &Arc<Route>, keys: KeysFrom) -> Result<Arc<dyn ObjectStore>, OriginError> {
    let (place, route) = (url.place().clone(), Arc::clone(route));
    // Reads files: credentials, and the certificates of the system.
    let made = tokio::task::spawn_blocking(move || connect(&place, &route, &keys)).await;
    let made = made.map_err(|error| OriginError::Failed(format!("cannot use {url}: {error}; please report it")))?;
    made.map_err(|why| match why {
        OriginError::Failed(why) => OriginError::Failed(format!("cannot use {url}: {why}")),
        other => other,
    })
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The client would print its keys.
        f.debug_struct("Found").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Found {
    /// Up to `most` bytes from the start, and what the server says of the object.
    async fn first_bytes(&self, most: usize) -> Result<Option<(ObjectMeta, Vec<u8>)>, Stop> {
        let _turn = self.route.turn(self.url.place()).await;
        // There is no way to ask for no bytes.
        let range = Some(GetRange::Bounded(0..most.max(1) as u64));
        let got = match self.store.get_opts(&self.key, GetOptions { range, ..GetOptions::default() }).await {
            Ok(got) => got,
            Err(error) if failure::is_absent(&error) => return Ok(None),
            Err(error) if failure::is_other(&error) => return self.empty(&error).await,
            Err(error) => return Err(self.stop(&error)),
        };
        let meta = got.meta.clone();
        let mut range = 0..meta.size.min(most.max(1) as u64);
        if got.range != range {
            return Err(self.other_bytes());
        }
        let mut first = Vec::new();
        self.each_piece(got, &mut range, |piece| first.extend_from_slice(piece)).await?;
        first.truncate(most);
        Ok(Some((meta, first)))
    }

    /// An empty object has no first byte, which some servers refuse to send.
    async fn empty(&self, error: &Error) -> Result<Option<(ObjectMeta, Vec<u8>)>, Stop> {
        match self.store.get_opts(&self.key, GetOptions { head: true, ..GetOptions::default() }).await {
            Ok(found) if found.meta.size == 0 => Ok(Some((found.meta, Vec::new()))),
            Err(error) if failure::is_absent(&error) => Ok(None),
            _ => Err(self.stop(error)),
        }
    }

    async fn check(&self, version: &Version) -> Result<Validity, Stop> {
        let _turn = self.route.turn(self.url.place()).await;
        let options = GetOptions { head: true, if_none_match: version.etag.clone(), ..GetOptions::default() };
        match self.store.get_opts(&self.key, options).await {
            Ok(found) if version.is(&version_of(&found.meta)) => Ok(Validity::Same),
            Ok(_) => Ok(Validity::Changed),
            Err(Error::NotModified { .. }) => Ok(Validity::Same),
            Err(error) if failure::is_absent(&error) => Ok(Validity::Gone),
            Err(error) => Err(self.stop(&error)),
        }
    }

    /// Gives each piece of an answer to `take` as it comes, and moves the start of `range` behind it.
    async fn each_piece(
        &self,
        got: GetResult,
        range: &mut Range<u64>,
        mut take: impl FnMut(&[u8]),
    ) -> Result<(), Stop> {
        let mut body = got.into_stream();
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|error| match &error {
                Error::NotFound { .. } | Error::Precondition { .. } => Stop::Final(self.changed()),
                error => Stop::Again(self.said(error), None),
            })?;
            if piece.len() as u64 > range.end - range.start {
                return Err(self.other_bytes());
            }
            take(&piece);
            range.start += piece.len() as u64;
        }
        if range.is_empty() {
            return Ok(());
        }
        let why = format!("cannot fetch {} now: its answer ended too early", self.url);
        Err(Stop::Again(OriginError::Unavailable(why), None))
    }

    /// The library has tried again where that could help.
    fn stop(&self, error: &Error) -> Stop {
        Stop::Final(self.said(error))
    }

    fn said(&self, error: &Error) -> OriginError {
        if let Some(refused) = super::failure::refused(error) {
            return refused;
        }
        let place = self.url.place();
        let service = match place.scheme {
            Scheme::Gcs => Service::Gcs,
            Scheme::Azure => Service::Azure,
            Scheme::S3 | Scheme::Http | Scheme::Https => Service::S3,
        };
        let bucket = Bucket { service, name: place.host.to_string(), prefix: String::new() };
        let url = StoreUrl::Bucket(bucket);
        let for_origins = |why: String| why.replace("[store_options]", "[[origin]]");
        match failure::failure(error, "fetch", self.key.as_ref(), &url) {
            StoreError::Unavailable(why) => OriginError::Unavailable(for_origins(why)),
            StoreError::Denied(why) => OriginError::Denied(for_origins(why)),
            StoreError::Changed(_) => self.changed(),
            StoreError::Full(why) | StoreError::Failed(why) => OriginError::Failed(for_origins(why)),
        }
    }

    fn changed(&self) -> OriginError {
        OriginError::Changed(self.url.to_string())
    }

    fn other_bytes(&self) -> Stop {
        Stop::Final(OriginError::Failed(format!(
            "cannot fetch {}: the origin answers with other bytes than were asked for",
            self.url
        )))
    }
}

impl Object {
    pub(super) fn len_bytes(&self) -> u64 {
        self.meta.size
    }

    /// Fills memory with the bytes from `offset_bytes` on.
    pub(super) async fn read(&self, offset_bytes: u64, into: &Memory) -> Result<(), OriginError> {
        let (mut at, _) = into.range().map_err(|error| OriginError::Failed(error.to_string()))?;
        let end = offset_bytes.checked_add(into.len_bytes).filter(|end| *end <= self.meta.size);
        let Some(end) = end else {
            return Err(OriginError::Invalid(format!("{} has only {} bytes", self.found.url, self.meta.size)));
        };
        let mut range = offset_bytes..end;
        let mut budget = Budget::new(&self.found.route.options, into.len_bytes);
        while !range.is_empty() {
            let begun_at = range.start;
            let one = self.try_range(&mut range, |piece| {
                into.mapping.copy_in(at, piece);
                at += piece.len();
            });
            let stop = match budget.within(&self.found.url, one).await {
                Ok(()) => continue,
                Err(stop) => stop,
            };
            if range.start > begun_at {
                budget.progress();
            }
            budget.again(stop).await?;
        }
        Ok(())
    }

    async fn try_range(&self, range: &mut Range<u64>, take: impl FnMut(&[u8])) -> Result<(), Stop> {
        let _turn = self.found.route.turn(self.found.url.place()).await;
        let strong = self.version.strong_etag().map(str::to_owned);
        let options = GetOptions {
            range: Some(GetRange::Bounded(range.clone())),
            if_unmodified_since: strong.is_none().then_some(self.meta.last_modified),
            if_match: strong,
            ..GetOptions::default()
        };
        let got = self.found.store.get_opts(&self.found.key, options).await.map_err(|error| {
            if failure::is_absent(&error) || failure::is_other(&error) {
                Stop::Final(self.found.changed())
            } else {
                self.found.stop(&error)
            }
        })?;
        if !self.version.is(&version_of(&got.meta)) {
            return Err(Stop::Final(self.found.changed()));
        }
        if got.range != *range {
            return Err(self.found.other_bytes());
        }
        self.found.each_piece(got, range, take).await
    }
}

fn version_of(meta: &ObjectMeta) -> Version {
    let modified = meta.last_modified.timestamp_millis().to_string();
    let version = Version::new(meta.size, meta.e_tag.as_deref(), Some(&modified));
    version.unwrap_or(Version { len_bytes: meta.size, etag: None, modified: Some(modified) })
}
