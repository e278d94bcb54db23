//! Writing: an object in one request, or a large one in parts under a name of its own with a link that leads there.

use bytes::Bytes;
use object_store::{MultipartUpload, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload};
use tokio::task::JoinSet;
use tracing::debug;

use super::buffers::Buffer;
use super::link::{self, Link};
use super::{Mode, Object, Place, Published, StoreError, failure};

/// Longest object that is written in one request: a payload of 8 MiB with its head.
const WHOLE_BYTES_MAX: usize = (8 << 20) + (64 << 10);

/// Length of a part, but for objects that would have too many of them.
const PART_BYTES: u64 = 8 << 20;

/// The most parts that every protocol allows.
const PARTS_MAX: u64 = 10_000;

/// Parts of one object that may be under way at once.
const PARTS_AT_ONCE: usize = 4;

/// What is compared of an object to know it again. An entry's head has a checksum of everything behind it.
const COMPARED_BYTES_MAX: u64 = 64 << 10;

/// What is there after a create of which nobody knows how it ended.
#[derive(Debug, PartialEq, Eq)]
enum Settled {
    Ours,
    Other,
    Absent,
}

impl Place {
    /// Publishes an object.
    pub(super) async fn publish(&self, name: &str, object: Object, mode: Mode) -> Result<Published, StoreError> {
        let len_bytes = object.len_bytes()?;
        let replaced = match mode {
            Mode::Replace => self.link_at(name).await?,
            Mode::Create => None,
        };
        let published = match usize::try_from(len_bytes) {
            Ok(len) if len <= WHOLE_BYTES_MAX => self.publish_whole(name, &object, len, mode).await?,
            _ => self.publish_large(name, &object, len_bytes, mode).await?,
        };
        if let (Published::Done, Some(link)) = (published, replaced) {
            self.discard(&link.target).await;
        }
        Ok(published)
    }

    async fn publish_whole(
        &self,
        name: &str,
        object: &Object,
        len: usize,
        mode: Mode,
    ) -> Result<Published, StoreError> {
        let buffer = self.buffers.take(len).await;
        let published = self.put(name, object.copy(&buffer, 0)?, mode).await;
        drop(buffer);
        published
    }

    async fn publish_large(
        &self,
        name: &str,
        object: &Object,
        len_bytes: u64,
        mode: Mode,
    ) -> Result<Published, StoreError> {
        // Spares the writing of what would be thrown away. The create of the link decides.
        if mode == Mode::Create && self.first_bytes(name, 1).await?.is_some() {
            return Ok(Published::Exists);
        }
        let target = link::target_of(name, random()?);
        let etag = self.upload(&target, object, len_bytes).await?;
        let link = Link { target, len_bytes, etag };
        // After an error nobody knows whether the link stands, so its target stays: `orphans` finds out.
        let published = self.put(name, Bytes::from(link.to_bytes()).into(), mode).await?;
        if published == Published::Exists {
            self.discard(&link.target).await;
        }
        Ok(published)
    }

    /// Writes an object in one request.
    async fn put(&self, name: &str, payload: PutPayload, mode: Mode) -> Result<Published, StoreError> {
        let key = self.key(name)?;
        let what = if mode == Mode::Create { "create" } else { "write" };
        let mut pauses = self.pauses();
        loop {
            let mode = if mode == Mode::Create { PutMode::Create } else { PutMode::Overwrite };
            let is_create = mode == PutMode::Create;
            let error = {
                let _request = self.limits.request().await;
                match self.writes.put_opts(&key, payload.clone(), PutOptions::from(mode)).await {
                    Ok(_) => return Ok(Published::Done),
                    Err(error) => error,
                }
            };
            if !is_create || failure::is_refusal(&error) {
                return Err(self.failure(&error, what, name));
            }
            // The answer may have been lost, and "exists already" may be the answer to a second try of the same create.
            match self.settle(name, &payload).await? {
                Settled::Ours => return Ok(Published::Done),
                Settled::Other => return Ok(Published::Exists),
                Settled::Absent => {}
            }
            match pauses.next() {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(self.failure(&error, what, name)),
            }
        }
    }

    /// Whether the object under a name is the one that was sent.
    async fn settle(&self, name: &str, sent: &PutPayload) -> Result<Settled, StoreError> {
        let Some((found, meta)) = self.first_bytes(name, COMPARED_BYTES_MAX).await? else {
            return Ok(Settled::Absent);
        };
        let is_ours = meta.size == sent.content_length() as u64 && sent.iter().flatten().take(found.len()).eq(&found);
        Ok(if is_ours { Settled::Ours } else { Settled::Other })
    }

    /// Writes a large object in parts. Returns its tag.
    async fn upload(&self, target: &str, object: &Object, len_bytes: u64) -> Result<String, StoreError> {
        let key = self.key(target)?;
        let begun = {
            let _request = self.limits.request().await;
            self.writes.put_multipart_opts(&key, PutMultipartOptions::default()).await
        };
        let mut upload = begun.map_err(|error| self.failure(&error, "write", target))?;
        let written = match self.upload_parts(upload.as_mut(), target, object, len_bytes).await {
            Ok(()) => self.complete(upload.as_mut(), target, len_bytes).await,
            Err(error) => Err(error),
        };
        if written.is_err() {
            let _request = self.limits.request().await;
            if let Err(error) = upload.abort().await {
                debug!(%error, target, "parts may be left of an upload that failed");
            }
        }
        written
    }

    async fn upload_parts(
        &self,
        upload: &mut dyn MultipartUpload,
        target: &str,
        object: &Object,
        len_bytes: u64,
    ) -> Result<(), StoreError> {
        let part_bytes = part_bytes(len_bytes);
        // Each part is a task of its own: they must go on while the next one waits for its buffer.
        let mut parts = JoinSet::new();
        let mut from = 0;
        while from < len_bytes || !parts.is_empty() {
            if from < len_bytes && parts.len() < PARTS_AT_ONCE {
                let len = usize::try_from(part_bytes.min(len_bytes - from)).unwrap_or(usize::MAX);
                let buffer = self.buffers.take(len).await;
                let part = upload.put_part(object.copy(&buffer, from)?);
                let limits = self.limits.clone();
                parts.spawn(async move {
                    let request = limits.request().await;
                    let written = part.await;
                    drop((buffer, request));
                    written
                });
                from += len as u64;
                continue;
            }
            match parts.join_next().await {
                Some(Ok(Err(error))) => return Err(self.failure(&error, "write a part of", target)),
                Some(Err(error)) => {
                    return Err(StoreError::Failed(format!("a write to {} ended early: {error}", self.url)));
                }
                Some(Ok(Ok(()))) | None => {}
            }
        }
        Ok(())
    }

    /// Puts the parts together, and looks at what came of it.
    async fn complete(
        &self,
        upload: &mut dyn MultipartUpload,
        target: &str,
        len_bytes: u64,
    ) -> Result<String, StoreError> {
        let key = self.key(target)?;
        let completed = {
            let _request = self.limits.request().await;
            upload.complete().await
        };
        let found = {
            let _request = self.limits.request().await;
            self.reads.head(&key).await
        };
        match (completed, found) {
            // Also after an error: its answer may have been lost. The name is ours alone.
            (_, Ok(meta)) if meta.size == len_bytes => Ok(meta.e_tag.unwrap_or_default()),
            (Err(error), _) | (Ok(_), Err(error)) => Err(self.failure(&error, "write", target)),
            (Ok(_), Ok(meta)) => Err(StoreError::Failed(format!(
                "{} has {} bytes where {len_bytes} were written, so that the store cannot be used",
                self.shown(target),
                meta.size
            ))),
        }
    }

    /// Deletes a large object to which no link leads any more. What fails here is found later by `orphans`.
    async fn discard(&self, target: &str) {
        if let Err(error) = self.delete(target).await {
            debug!(%error, target, "a large object stays until it is found again");
        }
    }
}

impl Object {
    fn len_bytes(&self) -> Result<u64, StoreError> {
        if let Some(payload) = &self.payload {
            payload.range()?;
        }
        Ok(self.head.len() as u64 + self.payload.as_ref().map_or(0, |payload| payload.len_bytes))
    }

    /// A copy of the object's bytes from an offset on, as many as the buffer has room for.
    fn copy(&self, buffer: &Buffer, from: u64) -> Result<PutPayload, StoreError> {
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        let payload = self.payload.as_ref().map(|payload| Ok((payload, payload.range()?.0))).transpose()?;
        let pieces = buffer.fill(|start, piece| {
            let head = self.head.get(from + start..).unwrap_or_default();
            let of_head = head.len().min(piece.len());
            let (in_head, behind) = piece.split_at_mut(of_head);
            in_head.copy_from_slice(&head[..of_head]);
            if let Some((payload, at)) = payload.filter(|_| !behind.is_empty()) {
                payload.mapping.copy_out(at + (from + start + of_head - self.head.len()), behind);
            }
        });
        Ok(pieces.into_iter().collect())
    }
}

/// Length of the parts of an object, the last of which may be shorter.
fn part_bytes(len_bytes: u64) -> u64 {
    len_bytes.div_ceil(PARTS_MAX).next_multiple_of(1 << 20).max(PART_BYTES)
}

fn random() -> Result<u128, StoreError> {
    let mut number = [0; 16];
    getrandom::fill(&mut number)
        .map_err(|error| StoreError::Failed(format!("the system has no random numbers: {error}")))?;
    Ok(u128::from_ne_bytes(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_object_has_too_many_parts() {
        assert_eq!(part_bytes(1), 8 << 20);
        assert_eq!(part_bytes(PARTS_MAX * PART_BYTES), 8 << 20);
        assert_eq!(part_bytes(PARTS_MAX * PART_BYTES + 1), 9 << 20);
        for len_bytes in [1_u64 << 36, 1 << 38, 1 << 40, (1 << 42) + 1] {
            assert!(len_bytes.div_ceil(part_bytes(len_bytes)) <= PARTS_MAX, "{len_bytes}");
        }
    }
}
