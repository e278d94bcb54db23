//! Reading: the first bytes of an object, and the rest straight to where it will lie.

use std::ops::Range;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use larder_protocol::memory::Mapping;
use object_store::{Error, GetOptions, GetRange, GetResult, ObjectMeta};

use super::link::{LINK_BYTES_MAX, Link};
use super::version::Version;
use super::{Memory, Place, Start, StoreError, failure};

/// What one request asks for.
const PIECE_BYTES: u64 = 8 << 20;

/// Requests of one read that may be under way at once.
const PIECES_AT_ONCE: usize = 8;

/// How often a piece that stopped coming is asked for from where it stopped, as long as each try brings something.
const TRIES_MAX: usize = 16;

/// The most that one try of a piece may take, whatever trickles in: some 50 KiB a second.
const PIECE_TIMEOUT: Duration = Duration::from_secs(180);

/// The same for the start of an object, retries included, whose end is the client's retry limit.
const START_TIMEOUT: Duration = Duration::from_secs(600);

/// How often an object may be replaced while its start is looked for.
const REPLACED_MAX: usize = 8;

/// Why a try of a piece ended.
enum Stop {
    /// Something came, or might the next time.
    Again(StoreError),
    /// Another try would end the same way.
    Final(StoreError),
}

impl Place {
    /// The start of an object, or of the large one that it leads to.
    pub(super) async fn start(&self, name: &str, most: usize) -> Result<Option<Start>, StoreError> {
        let mut last_target = None;
        for _ in 0..REPLACED_MAX {
            let Some((mut bytes, meta)) = self.first_bytes(name, most.max(LINK_BYTES_MAX) as u64).await? else {
                return Ok(None);
            };
            let Some(link) = whole_link(&bytes, &meta) else {
                bytes.truncate(most);
                let version = Version::of(&meta, None).to_text();
                return Ok(Some(Start { bytes, len_bytes: meta.size, version }));
            };
            if let Some(start) = self.start_of_target(&link, most).await? {
                return Ok(Some(start));
            }
            // Replaced meanwhile; or it leads nowhere, which is damage and no absence: a create would find it there.
            if last_target.as_ref() == Some(&link.target) {
                bytes.truncate(most);
                let version = Version::of(&meta, None).to_text();
                return Ok(Some(Start { bytes, len_bytes: meta.size, version }));
            }
            last_target = Some(link.target);
        }
        Err(self.changed(name))
    }

    /// `None` when the target is not there, or not what the link says.
    async fn start_of_target(&self, link: &Link, most: usize) -> Result<Option<Start>, StoreError> {
        let Some((mut bytes, meta)) = self.first_bytes(&link.target, most.max(1) as u64).await? else {
            return Ok(None);
        };
        // Its tag may be another than when it was written: a copy in another bucket has one of its own. The name is used once,
        // and the checksums tell whether it is what was written.
        if meta.size != link.len_bytes {
            return Ok(None);
        }
        bytes.truncate(most);
        let version = Version::of(&meta, Some(link.target.clone())).to_text();
        Ok(Some(Start { bytes, len_bytes: meta.size, version }))
    }

    /// The link that an object is, if it is one.
    pub(super) async fn link_at(&self, name: &str) -> Result<Option<Link>, StoreError> {
        let found = self.first_bytes(name, LINK_BYTES_MAX as u64).await?;
        Ok(found.and_then(|(bytes, meta)| whole_link(&bytes, &meta)))
    }

    /// Up to `most` bytes from the start of an object, and what the server says of it.
    pub(super) async fn first_bytes(&self, name: &str, most: u64) -> Result<Option<(Vec<u8>, ObjectMeta)>, StoreError> {
        let read = tokio::time::timeout(START_TIMEOUT, self.try_first_bytes(name, most));
        read.await.unwrap_or_else(|_| Err(self.too_slow(name)))
    }

    async fn try_first_bytes(&self, name: &str, most: u64) -> Result<Option<(Vec<u8>, ObjectMeta)>, StoreError> {
        let key = self.key(name)?;
        let _request = self.limits.request().await;
        let range = Some(GetRange::Bounded(0..most));
        let found = match self.reads.get_opts(&key, GetOptions { range, ..GetOptions::default() }).await {
            Ok(found) => found,
            Err(error) if failure::is_absent(&error) => return Ok(None),
            Err(error) if failure::is_transport(&error) => return Err(self.failure(&error, "read", name)),
            // An empty object has no first byte, which some servers say so and some so.
            Err(error) => match self.reads.get_opts(&key, GetOptions { head: true, ..GetOptions::default() }).await {
                Ok(found) if found.meta.size == 0 => return Ok(Some((Vec::new(), found.meta))),
                _ => return Err(self.failure(&error, "read", name)),
            },
        };
        let meta = found.meta.clone();
        let want = meta.size.min(most);
        if found.range != (0..want) {
            return Err(self.other_range(name));
        }
        // No more than was asked for, whatever comes.
        let mut bytes = Vec::with_capacity(usize::try_from(want).unwrap_or(0));
        let mut body = found.into_stream();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| self.failure(&error, "read", name))?;
            if (bytes.len() + chunk.len()) as u64 > want {
                return Err(self.other_range(name));
            }
            bytes.extend_from_slice(&chunk);
        }
        if bytes.len() as u64 == want { Ok(Some((bytes, meta))) } else { Err(self.other_range(name)) }
    }

    /// Fills memory with the bytes of an object, several pieces at once.
    pub(super) async fn read(
        &self,
        name: &str,
        version: &str,
        offset_bytes: u64,
        into: &Memory,
    ) -> Result<(), StoreError> {
        let (at, _) = into.range()?;
        let version = Version::from_text(version)
            .ok_or_else(|| StoreError::Failed(format!("{version:?} is no version of an object; please report it")))?;
        let end = offset_bytes.checked_add(into.len_bytes).filter(|end| *end <= version.len_bytes);
        let end = end.ok_or_else(|| self.changed(name))?;
        let starts = (offset_bytes..end).step_by(usize::try_from(PIECE_BYTES).unwrap_or(usize::MAX));
        // Nobody but these futures writes into the memory: when one fails the others are dropped, and nothing is written
        // any more.
        let pieces = starts.map(|start| {
            let piece = start..end.min(start + PIECE_BYTES);
            let at = at + usize::try_from(start - offset_bytes).unwrap_or(usize::MAX);
            self.read_piece(name, &version, piece, &into.mapping, at)
        });
        stream::iter(pieces).buffer_unordered(PIECES_AT_ONCE).try_collect::<()>().await
    }

    async fn read_piece(
        &self,
        name: &str,
        version: &Version,
        mut piece: Range<u64>,
        mapping: &Mapping,
        mut at: usize,
    ) -> Result<(), StoreError> {
        let mut tries = 0;
        while !piece.is_empty() {
            let begun_at = piece.start;
            let tried = self.try_piece(name, version, &mut piece, mapping, &mut at);
            let stop = match tokio::time::timeout(PIECE_TIMEOUT, tried).await {
                Ok(Ok(())) => continue,
                Ok(Err(stop)) => stop,
                Err(_) => Stop::Again(self.too_slow(name)),
            };
            tries += 1;
            match stop {
                Stop::Again(_) if piece.start > begun_at && tries < TRIES_MAX => {}
                Stop::Again(error) | Stop::Final(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads as much of a piece as comes, and moves its start behind that.
    async fn try_piece(
        &self,
        name: &str,
        version: &Version,
        piece: &mut Range<u64>,
        mapping: &Mapping,
        at: &mut usize,
    ) -> Result<(), Stop> {
        let key = self.key(version.target.as_deref().unwrap_or(name)).map_err(Stop::Final)?;
        let _request = self.limits.request().await;
        let options = GetOptions {
            range: Some(GetRange::Bounded(piece.clone())),
            if_match: version.if_match(),
            ..GetOptions::default()
        };
        let found = self.reads.get_opts(&key, options).await.map_err(|error| {
            Stop::Final(match &error {
                error if failure::is_absent(error) || failure::is_other(error) => self.changed(name),
                error => self.failure(error, "read", name),
            })
        })?;
        self.check(name, version, piece, &found).map_err(Stop::Final)?;
        let mut body = found.into_stream();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| match &error {
                Error::NotFound { .. } | Error::Precondition { .. } => Stop::Final(self.changed(name)),
                error => Stop::Again(self.failure(error, "read", name)),
            })?;
            if chunk.len() as u64 > piece.end - piece.start {
                return Err(Stop::Final(self.other_range(name)));
            }
            mapping.copy_in(*at, &chunk);
            *at += chunk.len();
            piece.start += chunk.len() as u64;
        }
        if piece.is_empty() {
            return Ok(());
        }
        Err(Stop::Again(StoreError::Unavailable(format!(
            "cannot read {} now: an answer was cut off",
            self.shown(name)
        ))))
    }

    /// Whether an answer is of the object and of the part that was asked for.
    fn check(&self, name: &str, version: &Version, piece: &Range<u64>, found: &GetResult) -> Result<(), StoreError> {
        if !version.is_of(&found.meta) {
            return Err(self.changed(name));
        }
        if found.range == *piece { Ok(()) } else { Err(self.other_range(name)) }
    }

    fn too_slow(&self, name: &str) -> StoreError {
        StoreError::Unavailable(format!("cannot read {} now: its bytes come too slowly", self.shown(name)))
    }

    fn other_range(&self, name: &str) -> StoreError {
        StoreError::Failed(format!(
            "cannot read {}: the server answers with other bytes than were asked for, so that it cannot be used",
            self.shown(name)
        ))
    }
}

/// The link that the first bytes of an object are, if they are all of it.
fn whole_link(bytes: &[u8], meta: &ObjectMeta) -> Option<Link> {
    (bytes.len() as u64 == meta.size).then(|| Link::read(bytes)).flatten()
}
