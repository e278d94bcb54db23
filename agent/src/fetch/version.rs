//! Which version of what an origin has: a namespace sees one, unless it is told to look again.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use larder_protocol::key;
use larder_protocol::message::Refusal;
use larder_protocol::namespace::Validate;

use super::{Place, refusal};
use crate::origin::{Caller, OriginError, Source, Validity};
use crate::server::Agent;

/// Bytes that the first request to an origin brings: all of most objects.
const FIRST_BYTES: usize = 1 << 20;

/// A place, as a namespace sees it.
pub(super) struct Looking {
    pub(super) agent: Arc<Agent>,
    pub(super) uid: u32,
    pub(super) namespace: u64,
    pub(super) place: Place,
}

impl Looking {
    /// The version that the namespace has seen, if any.
    fn seen(&self) -> Result<Option<Box<str>>, Refusal> {
        self.agent.cache().version(self.uid, self.namespace, self.place.number())
    }

    fn validate(&self) -> Result<Validate, Refusal> {
        Ok(self.agent.cache().options(self.uid, self.namespace)?.validate)
    }

    /// Whether what the namespace has is what the origin has, as far as it wants to know.
    pub(super) async fn compare(&self) -> Result<Validity, Refusal> {
        let seen = self.seen()?;
        // What was put under a key, and not fetched from there, is nobody's to compare.
        let Some(seen) = seen.filter(|_| self.validate() == Ok(Validate::Always)) else { return Ok(Validity::Same) };
        match &self.place {
            Place::Url { url, credentials } => {
                let caller = Caller { uid: self.uid, credentials };
                let compared = self.agent.origins.check(&caller, url, &seen).await;
                compared.map_err(|error| self.refusal(error))
            }
            Place::File { file, .. } => {
                let now = self.open_file(file, 0).await?;
                Ok(if now.version.as_deref() == Some(&*seen) { Validity::Same } else { Validity::Changed })
            }
        }
    }

    async fn open_file(&self, file: &OwnedFd, first_most: usize) -> Result<Source, Refusal> {
        let file = file.try_clone().map_err(|error| {
            Refusal::Failed(format!("the agent has no descriptor left for {}: {error}", self.place.name()))
        })?;
        let opened = self.agent.origins.open_file(self.uid, file, first_most).await;
        opened.map_err(|error| self.refusal(error))
    }

    /// Opens what the origin has, if it is the version that the namespace may see.
    pub(super) async fn open(&self) -> Result<Arc<Source>, Refusal> {
        let source = match &self.place {
            Place::Url { url, credentials } => {
                let caller = Caller { uid: self.uid, credentials };
                let opened = self.agent.origins.open(&caller, url, FIRST_BYTES).await;
                opened.map_err(|error| self.refusal(error))?.ok_or(Refusal::NotFound)?
            }
            Place::File { file, .. } => self.open_file(file, FIRST_BYTES).await?,
        };
        let seen = self.seen()?;
        // An origin that names no version is taken at its word each time: there is nothing to compare.
        if self.validate()? == Validate::Namespace
            && let (Some(seen), Some(version)) = (seen, &source.version)
            && *seen != **version
        {
            return Err(Refusal::Changed(self.place.name().to_owned()));
        }
        Ok(Arc::new(source))
    }

    /// The namespace sees the version that a source is of; an error when it has seen another meanwhile.
    pub(super) fn saw(&self, source: &Source) -> Result<(), Refusal> {
        let Some(version) = &source.version else { return Ok(()) };
        let is_first = self.agent.cache().note_version(self.uid, self.namespace, self.place.number(), version)?;
        if is_first { Ok(()) } else { Err(Refusal::Changed(self.place.name().to_owned())) }
    }

    /// Stands for the bytes of a source from an offset on.
    pub(super) fn origin(&self, source: &Source, from: u64) -> Option<u128> {
        Some(origin(self.place.number(), source.version.as_deref()?, from))
    }

    fn refusal(&self, error: OriginError) -> Refusal {
        refusal(error, self.place.name(), self.uid)
    }
}

/// Stands for the bytes of a version of a place from an offset on.
pub(super) fn origin(number: u128, version: &str, from: u64) -> u128 {
    key::digest(format!("{number:x} {from:x} {version}").as_bytes())
}
