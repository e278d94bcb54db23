//! Requests for what origins have.

use std::io;
use std::sync::Arc;

use larder_protocol::message::{PrefetchItem, Refusal, Reply};
use larder_protocol::origin::OriginKeys;
use tokio::task::JoinSet;

use super::Session;
use super::stored::Stored;
use crate::fetch::{Fetches, Flight, Objects, Place, Target, Wanted};
use crate::origin::{Keys, SessionCredential};

/// Descriptors that a client may have announced and not sent yet.
const ANNOUNCED_MAX: u32 = 64;
/// Keys that a session may bring.
const CREDENTIALS_MAX: usize = 16;
/// Longest URL or path.
const NAME_LEN_MAX: usize = 8 * 1024;
/// What a session may have brought ahead of need at once; more is not begun.
const AHEAD_MAX: usize = 64;

impl Session {
    /// Looks for a descriptor beside one more of the next messages.
    pub(super) fn file_follows(&mut self) -> io::Result<()> {
        if self.files_announced >= ANNOUNCED_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "too many descriptors announced and not sent"));
        }
        self.files_announced += 1;
        Ok(())
    }

    /// Remembers keys of the client's own, for as long as the session lasts.
    pub(super) fn credential(&mut self, prefix: &str, keys: OriginKeys) -> Result<Reply, Refusal> {
        if self.credentials.len() >= CREDENTIALS_MAX {
            return Err(Refusal::TooMany(format!("a session may bring {CREDENTIALS_MAX} keys at most")));
        }
        let credential =
            SessionCredential::new(prefix, Keys::of(keys)).map_err(|error| Refusal::Invalid(error.to_string()))?;
        self.credentials = self.credentials.iter().cloned().chain([credential]).collect();
        Ok(Reply::Done)
    }

    pub(super) fn target(&self, namespace: u64, key: String) -> Target {
        Target { uid: self.peer.uid, namespace, key }
    }

    pub(super) fn at_url(&self, url: String) -> Result<Place, Refusal> {
        checked(Place::Url { url, credentials: Arc::clone(&self.credentials) })
    }

    /// The file that came beside the request.
    pub(super) fn at_file(&mut self, path: String) -> Result<Place, Refusal> {
        let Some(file) = self.file.take() else {
            return Err(Refusal::Invalid("a fetch from a file needs the file's descriptor beside it".into()));
        };
        checked(Place::File { path, file: Arc::new(file) })
    }

    /// Answers when the key is there, fetched if need be.
    pub(super) async fn fetch(
        &mut self,
        id: u64,
        timeout_ms: u64,
        target: Target,
        place: Result<Place, Refusal>,
    ) -> io::Result<()> {
        match place {
            Ok(place) => {
                let flight = Fetches::join(self.agent(), &target, Wanted::Whole(place));
                self.land(id, timeout_ms, flight).await
            }
            Err(refusal) => self.answer(id, Reply::Refused(refusal)).await,
        }
    }

    async fn land(&mut self, id: u64, timeout_ms: u64, flight: Flight) -> io::Result<()> {
        self.wait(id, timeout_ms, async move { flight.ended().await.map(|()| Reply::Resident) }).await
    }

    /// Answers with the length of an object.
    pub(super) async fn open_object(
        &mut self,
        id: u64,
        timeout_ms: u64,
        target: Target,
        place: Result<Place, Refusal>,
    ) -> io::Result<()> {
        let agent = Arc::clone(self.agent());
        self.wait(id, timeout_ms, async move {
            let about = Objects::open(&agent, target, place?).await?;
            Ok(Reply::Object { len: about.len_bytes, version: about.version, chunk_len: about.chunk_bytes })
        })
        .await
    }

    /// Answers when a chunk of an object is there.
    pub(super) async fn chunk(
        &mut self,
        id: u64,
        timeout_ms: u64,
        target: &Target,
        version: u64,
        index: u64,
    ) -> io::Result<()> {
        match Objects::chunk(self.agent(), target, version, index) {
            Some(flight) => self.land(id, timeout_ms, flight).await,
            None => self.answer(id, Reply::Refused(Refusal::NotFound)).await,
        }
    }

    /// Begins to fetch chunks that will be asked for.
    pub(super) fn prefetch_chunks(&mut self, target: &Target, version: u64, indexes: std::ops::Range<u64>) {
        for index in indexes {
            if is_full(&mut self.ahead) {
                return;
            }
            let Some(flight) = Objects::chunk(self.agent(), target, version, index) else { return };
            self.ahead.spawn(async move { drop(flight.ended().await) });
        }
    }

    /// Begins to fetch or load keys that will be asked for.
    pub(super) fn prefetch(&mut self, namespace: u64, items: Vec<PrefetchItem>) {
        for PrefetchItem { key, url } in items {
            if is_full(&mut self.ahead) {
                return;
            }
            let target = self.target(namespace, key);
            match url.map(|url| self.at_url(url)) {
                Some(Ok(place)) => {
                    let flight = Fetches::join(self.agent(), &target, Wanted::Whole(place));
                    self.ahead.spawn(async move { drop(flight.ended().await) });
                }
                Some(Err(_)) => {}
                None => {
                    let Ok(Some(stored)) = Stored::of(self.agent(), target.uid, namespace) else { return };
                    // In a task of its own: this one ends with its session, and a load must not.
                    let load = tokio::spawn(super::visiting(self.agent(), target.uid, stored.load(target.key)));
                    self.ahead.spawn(async move { drop(load.await) });
                }
            }
        }
    }
}

fn checked(place: Place) -> Result<Place, Refusal> {
    if place.name().len() > NAME_LEN_MAX {
        return Err(Refusal::Invalid(format!("a URL or path may have {NAME_LEN_MAX} bytes at most")));
    }
    Ok(place)
}

/// Whether so much is brought ahead already that no more should be.
fn is_full(ahead: &mut JoinSet<()>) -> bool {
    while ahead.try_join_next().is_some() {}
    ahead.len() >= AHEAD_MAX
}
