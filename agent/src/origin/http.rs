//! Objects over HTTP.
//!
//! An object is read in ranges of one version. Each request names the version, and each answer is checked as if the
//! server had not understood: many have not. A server that does not know ranges is read as one stream; where it does not
//! tell versions apart either, a stream that breaks cannot be continued.

mod body;
mod request;

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::answer::{Offer, Part};
use super::failure::{OriginError, Stop};
use super::retry::Budget;
use super::url::OriginUrl;
use super::version::Version;
use super::{Asker, Inner, Validity};
use crate::store::Memory;
use body::Body;
use request::{Answer, Ask, Condition, Hop};

/// An object that was found.
#[derive(Debug)]
pub(super) struct Object {
    asker: Asker,
    inner: Arc<Inner>,
    asked: OriginUrl,
    /// Where the last answer came from: behind all redirects.
    last: Mutex<Hop>,
    pub(super) len_bytes: u64,
    pub(super) version: Option<Version>,
    pub(super) is_ranged: bool,
    pub(super) is_public: bool,
    /// The answer that is being read, where the server knows no ranges.
    stream: tokio::sync::Mutex<Option<Body>>,
}

/// Looks an object up and reads its first bytes.
pub(super) async fn open(
    inner: &Arc<Inner>,
    asker: Asker,
    asked: OriginUrl,
    first_most: usize,
) -> Result<Option<(Object, Vec<u8>)>, OriginError> {
    let hop = Hop::first(inner, &asker, asked.clone()).await?;
    let mut budget = Budget::new(&hop.route.options, first_most as u64);
    loop {
        let one = try_open(inner, &asker, &hop, first_most);
        let stop = match budget.within(&asked, one).await {
            Ok(None) => return Ok(None),
            Ok(Some(found)) => return Ok(Some(found.into_object(inner, asker, asked))),
            Err(stop) => stop,
        };
        budget.again(stop).await?;
    }
}

/// What a try of `open` found.
struct Found {
    hop: Hop,
    len_bytes: u64,
    version: Option<Version>,
    first: Vec<u8>,
    /// The rest of the answer, where it is the only one.
    stream: Option<Body>,
    is_ranged: bool,
}

impl Found {
    fn into_object(self, inner: &Arc<Inner>, asker: Asker, asked: OriginUrl) -> (Object, Vec<u8>) {
        let is_public = self.hop.is_public;
        let object = Object {
            asker,
            inner: Arc::clone(inner),
            asked,
            last: Mutex::new(self.hop),
            len_bytes: self.len_bytes,
            version: self.version,
            is_ranged: self.is_ranged,
            is_public,
            stream: tokio::sync::Mutex::new(self.stream),
        };
        (object, self.first)
    }
}

async fn try_open(inner: &Arc<Inner>, asker: &Asker, hop: &Hop, most: usize) -> Result<Option<Found>, Stop> {
    // There is no way to ask for no bytes.
    let wanted = 0..most.max(1) as u64;
    let answer = request::answer(inner, asker, hop, &Ask { range: Some(wanted.clone()), ..Ask::default() }).await?;
    match answer.offer.clone() {
        Offer::Absent => Ok(None),
        Offer::Part { part, version } => {
            answer.check_part(&part, &(0..wanted.end.min(part.total_bytes)))?;
            let len_bytes = part.total_bytes;
            if version.is_none() && part.range.end < len_bytes {
                // Two answers could be of two states.
                return whole(inner, asker, hop, most).await;
            }
            let (mut body, hop) = answer.into_body(part.range);
            let mut first = body.take(usize::try_from(wanted.end.min(len_bytes)).unwrap_or(usize::MAX)).await?;
            first.truncate(most);
            Ok(Some(Found { hop, len_bytes, is_ranged: true, version, first, stream: None }))
        }
        Offer::Whole { .. } => from_whole(answer, most).await,
        // An empty object has no first byte. What it has is told by an answer without a range.
        Offer::NoSuchBytes => {
            drop(answer);
            whole(inner, asker, hop, most).await
        }
        Offer::Unchanged | Offer::OtherState => Err(answer.unexpected()),
    }
}

/// Asks for the whole of an object.
async fn whole(inner: &Arc<Inner>, asker: &Asker, hop: &Hop, most: usize) -> Result<Option<Found>, Stop> {
    let answer = request::answer(inner, asker, hop, &Ask::default()).await?;
    match answer.offer {
        Offer::Absent => Ok(None),
        Offer::Whole { .. } => from_whole(answer, most).await,
        _ => Err(answer.unexpected()),
    }
}

async fn from_whole(answer: Answer, most: usize) -> Result<Option<Found>, Stop> {
    let Offer::Whole { len_bytes, version } = answer.offer.clone() else { return Err(answer.unexpected()) };
    let (mut body, hop) = answer.into_body(0..len_bytes);
    let first = body.take(usize::try_from(len_bytes).unwrap_or(usize::MAX).min(most)).await?;
    let stream = (body.left_bytes() > 0).then_some(body);
    Ok(Some(Found { hop, len_bytes, is_ranged: false, version, first, stream }))
}

impl Object {
    /// Fills memory with the bytes from `offset_bytes` on.
    pub(super) async fn read(&self, offset_bytes: u64, into: &Memory) -> Result<(), OriginError> {
        let (at, _) = into.range().map_err(|error| OriginError::Failed(error.to_string()))?;
        let end = offset_bytes.checked_add(into.len_bytes).filter(|end| *end <= self.len_bytes);
        let Some(end) = end else {
            return Err(OriginError::Invalid(format!("{} has only {} bytes", self.asked, self.len_bytes)));
        };
        if offset_bytes == end {
            return Ok(());
        }
        let target = Target { memory: into, at };
        if self.is_ranged {
            self.read_range(offset_bytes..end, target).await
        } else {
            self.read_stream(offset_bytes..end, target).await
        }
    }

    async fn read_range(&self, mut range: Range<u64>, mut target: Target<'_>) -> Result<(), OriginError> {
        let mut budget = Budget::new(&self.hop().route.options, range.end - range.start);
        loop {
            let begun_at = range.start;
            let one = self.try_range(&mut range, &mut target);
            let stop = match budget.within(&self.asked, one).await {
                Ok(()) => return Ok(()),
                Err(stop) => stop,
            };
            if range.start > begun_at {
                budget.progress();
            }
            budget.again(stop).await?;
        }
    }

    async fn try_range(&self, range: &mut Range<u64>, target: &mut Target<'_>) -> Result<(), Stop> {
        let Some(version) = &self.version else {
            return Err(Stop::Final(OriginError::Failed(format!("{} cannot be read in parts", self.asked))));
        };
        let ask = Ask { range: Some(range.clone()), condition: Condition::IsStill(version) };
        let answer = self.ask(&ask).await?;
        match answer.offer.clone() {
            Offer::Part { part, version: found } => {
                if found.is_none_or(|found| !version.is(&found)) {
                    return Err(self.changed().into());
                }
                answer.check_part(&part, range)?;
            }
            Offer::Whole { version: found, .. } => {
                if found.is_some_and(|found| version.is(&found)) {
                    return Err(Stop::Final(OriginError::Failed(format!(
                        "cannot fetch {}: the origin answers a request for a part with the whole",
                        self.asked
                    ))));
                }
                return Err(self.changed().into());
            }
            Offer::Absent | Offer::OtherState | Offer::NoSuchBytes => return Err(self.changed().into()),
            Offer::Unchanged => return Err(answer.unexpected()),
        }
        let (mut body, hop) = answer.into_body(range.clone());
        self.remember(hop);
        target.fill(&mut body, range).await
    }

    /// Reads on in the one answer, or in another one of the same version if need be.
    async fn read_stream(&self, mut range: Range<u64>, mut target: Target<'_>) -> Result<(), OriginError> {
        let mut stream = self.stream.lock().await;
        let mut budget = Budget::new(&self.hop().route.options, range.end);
        loop {
            let begun_at = range.start;
            let one = self.try_stream(&mut stream, &mut range, &mut target);
            let stop = match budget.within(&self.asked, one).await {
                Ok(()) => return Ok(()),
                Err(stop) => stop,
            };
            *stream = None;
            if range.start > begun_at {
                budget.progress();
            }
            budget.again(stop).await?;
        }
    }

    async fn try_stream(
        &self,
        stream: &mut Option<Body>,
        range: &mut Range<u64>,
        target: &mut Target<'_>,
    ) -> Result<(), Stop> {
        if stream.as_ref().is_none_or(|body| body.at_bytes() > range.start) {
            *stream = Some(self.another_stream().await?);
        }
        let Some(body) = stream else { return Err(self.changed().into()) };
        body.skip_to(range.start).await?;
        target.fill(body, range).await?;
        if body.left_bytes() == 0 {
            *stream = None;
        }
        Ok(())
    }

    async fn another_stream(&self) -> Result<Body, Stop> {
        let Some(version) = &self.version else {
            return Err(Stop::Final(OriginError::Unavailable(format!(
                "cannot fetch {} now: its bytes stopped coming, and the origin names no version (ETag or Last-Modified) by \
                 which the rest could be known to be of the same object; fetch it again",
                self.asked
            ))));
        };
        let answer = self.ask(&Ask { range: None, condition: Condition::IsStill(version) }).await?;
        match answer.offer.clone() {
            Offer::Whole { version: Some(found), len_bytes } if version.is(&found) => {
                let (body, hop) = answer.into_body(0..len_bytes);
                self.remember(hop);
                Ok(body)
            }
            Offer::Whole { .. } | Offer::Absent | Offer::OtherState => Err(self.changed().into()),
            _ => Err(answer.unexpected()),
        }
    }

    /// Asks where the last answer came from; where that has stopped answering, from the beginning of the redirects.
    async fn ask(&self, ask: &Ask<'_>) -> Result<Answer, Stop> {
        let hop = self.hop();
        if hop.is_redirected {
            match request::answer(&self.inner, &self.asker, &hop, ask).await {
                Ok(answer) if answer.offer != Offer::Absent => return Ok(answer),
                // A signed URL has an end.
                Ok(_) | Err(_) => {}
            }
        }
        let first = Hop::first(&self.inner, &self.asker, self.asked.clone()).await?;
        let answer = request::answer(&self.inner, &self.asker, &first, ask).await?;
        if self.is_public && !answer.hop().is_public {
            // What was opened as public would become so with bytes from elsewhere.
            return Err(self.changed().into());
        }
        Ok(answer)
    }

    fn hop(&self) -> Hop {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remember(&self, hop: Hop) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = hop;
    }

    fn changed(&self) -> OriginError {
        OriginError::Changed(self.asked.to_string())
    }
}

/// The part of memory that is yet to be filled.
struct Target<'a> {
    memory: &'a Memory,
    at: usize,
}

impl Target<'_> {
    /// Copies each piece as it comes, and moves the start of `range` behind it.
    async fn fill(&mut self, body: &mut Body, range: &mut Range<u64>) -> Result<(), Stop> {
        while range.start < range.end {
            let piece = body.next(range.end - range.start).await?;
            self.memory.mapping.copy_in(self.at, &piece);
            self.at += piece.len();
            range.start += piece.len() as u64;
        }
        Ok(())
    }
}

/// Asks whether an object is still what it was.
pub(super) async fn check(
    inner: &Arc<Inner>,
    asker: &Asker,
    asked: &OriginUrl,
    version: &Version,
) -> Result<Validity, OriginError> {
    let hop = Hop::first(inner, asker, asked.clone()).await?;
    let mut budget = Budget::new(&hop.route.options, 0);
    loop {
        let stop = match budget.within(asked, try_check(inner, asker, &hop, version)).await {
            Ok(validity) => return Ok(validity),
            Err(stop) => stop,
        };
        budget.again(stop).await?;
    }
}

async fn try_check(inner: &Arc<Inner>, asker: &Asker, hop: &Hop, version: &Version) -> Result<Validity, Stop> {
    // One byte is asked for, and none where there is none: a server that ignores the condition shall not send it all.
    let range = (version.len_bytes > 0).then_some(0..1);
    let answer = request::answer(inner, asker, hop, &Ask { range, condition: Condition::IsOther(version) }).await?;
    match &answer.offer {
        Offer::Unchanged => Ok(Validity::Same),
        Offer::Absent => Ok(Validity::Gone),
        Offer::Part { part: Part { .. }, version: found } | Offer::Whole { version: found, .. } => {
            let is_same = found.as_ref().is_some_and(|found| version.is(found));
            Ok(if is_same { Validity::Same } else { Validity::Changed })
        }
        Offer::OtherState | Offer::NoSuchBytes => Ok(Validity::Changed),
    }
}
