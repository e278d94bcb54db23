//! Objects in an object store: S3, Google Cloud Storage, Azure Blob Storage, or the agent's own memory.
//!
//! All requests are made by threads that do nothing else. That is for two reasons: signing and encrypting eight megabytes
//! takes a while, in which a session must not wait; and a connection is driven by the runtime that opened it, so that a
//! store which two runtimes use hangs. What was begun goes on whether or not anybody still waits for it, and ends by the
//! time limits of the client.
//!
//! Whoever can write to the bucket could put up entries of their own, which a checksum does not tell: the bucket must be
//! the agents' alone.

mod buffers;
mod connect;
pub(crate) mod credentials;
pub(crate) mod failure;
pub(crate) mod limits;
mod link;
mod list;
mod orphans;
mod publish;
mod read;
#[cfg(test)]
mod tests;
mod version;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::runtime::{Builder, Handle, Runtime};
use tracing::warn;

use super::backend::{Backend, Memory, Mode, Object, Pending, Published, Start, StoreError};
use crate::config::{StoreOptions, StoreUrl};
use buffers::Buffers;
use failure::failure;
use limits::Limits;
use list::Order;

/// Threads for all requests: they copy, sign and encrypt, and never block.
const THREADS: usize = 2;

/// Further tries at least of what the library does not try again: a lost answer is no reason to fail.
const RETRIES_MIN: u32 = 3;

/// Before the first of these, and before the last.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// How soon to look for what crashed publishers left.
const ORPHANS_AFTER: Duration = Duration::from_secs(60);

/// A store that speaks one of the protocols.
#[derive(Debug)]
pub(crate) struct Remote {
    place: Arc<Place>,
    threads: Threads,
}

/// The store as its requests see it.
#[derive(Debug)]
struct Place {
    /// For answers that may be long: patient as long as something comes.
    reads: Arc<dyn ObjectStore>,
    /// For requests that may be long: patient for a fixed time.
    writes: Arc<dyn ObjectStore>,
    /// Begins every key: empty, or ends with `/`.
    prefix: String,
    /// For messages.
    url: StoreUrl,
    limits: Limits,
    retries: u32,
    buffers: Buffers,
    order: Order,
}

/// The threads. They end with the store, and nobody waits for what they are in the middle of.
#[derive(Debug)]
struct Threads(Option<Runtime>);

impl Remote {
    /// Opens a store. Asks it for one thing, so that a wrong address or key is told at once and as what it is.
    pub(crate) async fn open(url: &StoreUrl, options: &StoreOptions) -> Result<Remote, StoreError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("larder-store")
            .enable_all()
            .build()
            .map_err(|error| StoreError::Failed(format!("the threads for {url} cannot be started: {error}")))?;
        let threads = Threads(Some(runtime));
        if *url == StoreUrl::Memory {
            warn!("the store is in the agent's own memory: nothing in it outlives the agent");
        }
        let (opened, options) = (url.clone(), options.clone());
        // Reads files: credentials, and the certificates of the system.
        let connecting = threads.handle().spawn_blocking(move || connect::connect(&opened, &options));
        let connected = joined(connecting.await, url)??;
        let first = connected.first.clone();
        let place = Arc::new(connected.place);
        let remote = Remote { place: Arc::clone(&place), threads };
        remote.run(async move { place.contact(first.as_ref()).await }).await?;
        let place = Arc::clone(&remote.place);
        drop(remote.threads.handle().spawn(async move {
            tokio::time::sleep(ORPHANS_AFTER).await;
            place.remove_orphans().await;
        }));
        Ok(remote)
    }

    /// Does `work` on the store's threads, to its end.
    fn run<'a, T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Pending<'a, T> {
        let (handle, url) = (self.threads.handle().clone(), self.place.url.clone());
        Box::pin(async move { joined(handle.spawn(work).await, &url)? })
    }
}

impl Threads {
    fn handle(&self) -> &Handle {
        self.0.as_ref().expect("the threads are there until the store is dropped").handle()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

fn joined<T>(outcome: Result<T, tokio::task::JoinError>, url: &StoreUrl) -> Result<T, StoreError> {
    outcome.map_err(|error| {
        if error.is_panic() {
            StoreError::Failed(format!("a request to the store {url} panicked; please report it"))
        } else {
            StoreError::Unavailable(format!("the agent stops and asks the store {url} for nothing more"))
        }
    })
}

impl Backend for Remote {
    fn under_way(&self) -> usize {
        self.place.limits.under_way()
    }

    fn publish<'a>(&'a self, name: &'a str, object: Object, mode: Mode) -> Pending<'a, Published> {
        let (place, name) = (Arc::clone(&self.place), name.to_owned());
        self.run(async move { place.publish(&name, object, mode).await })
    }

    fn start<'a>(&'a self, name: &'a str, most: usize) -> Pending<'a, Option<Start>> {
        let (place, name) = (Arc::clone(&self.place), name.to_owned());
        self.run(async move { place.start(&name, most).await })
    }

    fn read<'a>(&'a self, name: &'a str, version: &'a str, offset_bytes: u64, into: Memory) -> Pending<'a, ()> {
        let (place, name, version) = (Arc::clone(&self.place), name.to_owned(), version.to_owned());
        self.run(async move { place.read(&name, &version, offset_bytes, &into).await })
    }

    fn remove<'a>(&'a self, name: &'a str) -> Pending<'a, bool> {
        let (place, name) = (Arc::clone(&self.place), name.to_owned());
        self.run(async move { place.remove(&name).await })
    }

    fn groups<'a>(&'a self, prefix: &'a str) -> Pending<'a, Vec<String>> {
        let (place, prefix) = (Arc::clone(&self.place), prefix.to_owned());
        self.run(async move { place.groups(&prefix).await })
    }

    fn list<'a>(&'a self, prefix: &'a str, after: &'a str, most: usize) -> Pending<'a, Vec<String>> {
        let (place, prefix, after) = (Arc::clone(&self.place), prefix.to_owned(), after.to_owned());
        self.run(async move { place.list(&prefix, &after, most).await })
    }
}

impl Place {
    /// The key of an object.
    fn key(&self, name: &str) -> Result<Path, StoreError> {
        let key = format!("{}{name}", self.prefix);
        Path::parse(&key).map_err(|_| StoreError::Failed(format!("{name:?} is no name of an object; please report it")))
    }

    /// An object for a message.
    fn shown(&self, name: &str) -> String {
        format!("{name} in {}", self.url)
    }

    fn failure(&self, error: &object_store::Error, what: &str, name: &str) -> StoreError {
        failure(error, what, name, &self.url)
    }

    fn changed(&self, name: &str) -> StoreError {
        StoreError::Changed(self.shown(name))
    }

    /// Asks for an object that is not there, which an answering store says soon.
    async fn contact(&self, first: &dyn ObjectStore) -> Result<(), StoreError> {
        const NAME: &str = "larder-1/probe/contact";
        // With its body: the answer to a HEAD does not tell a missing bucket from a missing object.
        match first.get(&self.key(NAME)?).await {
            Ok(_) => Ok(()),
            Err(error) if failure::is_absent(&error) => Ok(()),
            Err(error) => Err(self.failure(&error, "look for", NAME)),
        }
    }

    /// Takes an object away: the link first, so that nobody follows it to nothing.
    async fn remove(&self, name: &str) -> Result<bool, StoreError> {
        // Most stores say "done" whether or not there was anything.
        let Some((link, _)) = self.first_bytes(name, link::LINK_BYTES_MAX as u64).await? else { return Ok(false) };
        if !self.delete(name).await? {
            return Ok(false);
        }
        if let Some(link) = link::Link::read(&link) {
            self.delete(&link.target).await?;
        }
        Ok(true)
    }

    /// Deletes one object. `false` where the store says that there was none.
    async fn delete(&self, name: &str) -> Result<bool, StoreError> {
        let key = self.key(name)?;
        let mut pauses = self.pauses();
        let mut was_tried = false;
        loop {
            let deleted = {
                let _request = self.limits.request().await;
                self.writes.delete(&key).await
            };
            let error = match deleted {
                Ok(()) => return Ok(true),
                // Gone at a further try: it may have been there at the first.
                Err(error) if failure::is_absent(&error) => return Ok(was_tried),
                Err(error) => error,
            };
            // The library takes a delete for something that may not be done twice.
            match pauses.next().filter(|_| failure::is_transport(&error)) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(self.failure(&error, "remove", name)),
            }
            was_tried = true;
        }
    }

    /// How long to wait before each further try of what the library does not try again by itself.
    fn pauses(&self) -> impl Iterator<Item = Duration> + use<> {
        (0..self.retries.max(RETRIES_MIN)).map(|number| (PAUSE * 2_u32.pow(number.min(10))).min(PAUSE_MAX))
    }
}
