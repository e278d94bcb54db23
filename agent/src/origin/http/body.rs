//! The bytes of an answer, piece by piece, and no more of them than were announced.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use reqwest::Response;
use tokio::sync::OwnedSemaphorePermit;

use super::super::failure::{OriginError, Stop, of_request};
use super::super::url::OriginUrl;

/// A body that is being read.
pub(super) struct Body {
    response: Response,
    /// Which bytes of the object are still to come, those of `held` among them.
    range: Range<u64>,
    /// What came and nobody has taken yet.
    held: Bytes,
    url: OriginUrl,
    /// The request is under way until its body has been read.
    _permit: OwnedSemaphorePermit,
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The answer would print its URL, with the query.
        f.debug_struct("Body").field("url", &self.url).field("range", &self.range).finish_non_exhaustive()
    }
}

impl Body {
    pub(super) fn new(response: Response, range: Range<u64>, url: OriginUrl, permit: OwnedSemaphorePermit) -> Body {
        Body { response, range, held: Bytes::new(), url, _permit: permit }
    }

    /// Place in the object of the next byte.
    pub(super) fn at_bytes(&self) -> u64 {
        self.range.start
    }

    /// Bytes that are still to come.
    pub(super) fn left_bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// The next piece: at least one byte, at most `most`, which is not zero and not more than is to come.
    pub(super) async fn next(&mut self, most: u64) -> Result<Bytes, Stop> {
        while self.held.is_empty() {
            let piece = self.response.chunk().await.map_err(|error| of_request(error, &self.url))?;
            self.held = piece.ok_or_else(|| {
                let why = format!("cannot fetch {} now: its answer ended too early", self.url);
                Stop::Again(OriginError::Unavailable(why), None)
            })?;
            if self.held.len() as u64 > self.left_bytes() {
                return Err(Stop::Final(OriginError::Failed(format!(
                    "cannot fetch {}: the origin sends more than it announced",
                    self.url
                ))));
            }
        }
        let take = usize::try_from(most).unwrap_or(usize::MAX).min(self.held.len());
        self.range.start += take as u64;
        Ok(self.held.split_to(take))
    }

    /// A copy of the next `len` bytes.
    pub(super) async fn take(&mut self, len: usize) -> Result<Vec<u8>, Stop> {
        // A length is a claim; memory is made for what comes.
        let mut bytes = Vec::with_capacity(len.min(64 << 10));
        while bytes.len() < len {
            let piece = self.next((len - bytes.len()) as u64).await?;
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    /// Reads up to a place in the object and forgets it.
    pub(super) async fn skip_to(&mut self, at_bytes: u64) -> Result<(), Stop> {
        while self.range.start < at_bytes {
            self.next(at_bytes - self.range.start).await?;
        }
        Ok(())
    }
}
