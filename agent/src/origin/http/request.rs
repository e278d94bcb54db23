//! One question to an origin, through all redirects.
//!
//! A redirect is looked at as if its target had been asked for: scheme, rights, addresses. Keys go to the place that the
//! URL names and to no other, and not back there either once another place has had its say.

use std::ops::Range;
use std::sync::Arc;

use reqwest::header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE, RANGE};
use reqwest::{Response, StatusCode};
use tokio::sync::OwnedSemaphorePermit;

use super::super::answer::{self, Offer, Part};
use super::super::failure::{OriginError, Stop, of_request};
use super::super::policy::Keys;
use super::super::route::Route;
use super::super::url::{OriginUrl, Scheme};
use super::super::version::Version;
use super::super::{Asker, Inner};
use super::body::Body;

/// Redirects that are followed.
const REDIRECTS_MAX: usize = 5;

/// What is asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Ask<'a> {
    /// These bytes; all if `None`.
    pub(super) range: Option<Range<u64>>,
    pub(super) condition: Condition<'a>,
}

/// When there shall be an answer with bytes.
#[derive(Clone, Debug, Default)]
pub(super) enum Condition<'a> {
    #[default]
    Always,
    /// While it is this version.
    IsStill(&'a Version),
    /// When it is not this version any more.
    IsOther(&'a Version),
}

/// A URL to be asked, with what it takes.
#[derive(Clone, Debug)]
pub(super) struct Hop {
    pub(super) url: OriginUrl,
    pub(super) route: Arc<Route>,
    keys: Option<Keys>,
    /// Whether all of the way here is public.
    pub(super) is_public: bool,
    /// Whether this is not what was asked for, but where that led.
    pub(super) is_redirected: bool,
    /// Whether all of the way here was one place, so that its keys may be sent.
    is_one_place: bool,
}

/// An answer that is no redirect, its body not yet read.
pub(super) struct Answer {
    pub(super) offer: Offer,
    status: StatusCode,
    response: Response,
    hop: Hop,
    permit: OwnedSemaphorePermit,
}

impl Hop {
    /// What was asked for, if the caller may.
    pub(super) async fn first(inner: &Inner, asker: &Asker, url: OriginUrl) -> Result<Hop, OriginError> {
        let access = inner.http_access(asker, &url).await?;
        Ok(Hop {
            url,
            route: access.route,
            keys: access.keys,
            is_public: access.is_public,
            is_redirected: false,
            is_one_place: true,
        })
    }

    /// Where this one leads, if the caller may.
    async fn next(&self, inner: &Inner, asker: &Asker, location: &str) -> Result<Hop, OriginError> {
        let failed = |why: String| OriginError::Failed(format!("cannot fetch {}: {why}", self.url));
        let url =
            self.url.join(location).map_err(|why| failed(format!("it redirects to what cannot be read: {why}")))?;
        let scheme = url.place().scheme;
        if scheme.is_bucket() {
            return Err(failed(format!("it redirects to {url}, which is not HTTP")));
        }
        if self.url.place().scheme == Scheme::Https && scheme == Scheme::Http {
            return Err(OriginError::Denied(format!(
                "cannot fetch {}: it redirects to {url}, which is not encrypted",
                self.url
            )));
        }
        let access = inner.http_access(asker, &url).await.map_err(|why| match why {
            OriginError::Denied(why) => OriginError::Denied(format!("{} redirects to {url}: {why}", self.url)),
            other => other,
        })?;
        let is_one_place = self.is_one_place && self.url.place() == url.place();
        Ok(Hop {
            url,
            route: access.route,
            keys: access.keys.filter(|_| is_one_place),
            is_public: self.is_public && access.is_public,
            is_redirected: true,
            is_one_place,
        })
    }

    async fn send(&self, ask: &Ask<'_>) -> Result<Response, Stop> {
        self.route.reach.check_host(&self.url.place().host).map_err(OriginError::from)?;
        let mut request = self.route.client()?.get(self.url.url().clone());
        request = match &self.keys {
            Some(Keys::Bearer(token)) => request.bearer_auth(token.reveal()),
            Some(Keys::Basic { user, password }) => request.basic_auth(user, Some(password.reveal())),
            // The others are not for servers, which was checked where they were given.
            _ => request,
        };
        if let Some(range) = &ask.range {
            request = request.header(RANGE, format!("bytes={}-{}", range.start, range.end.saturating_sub(1)));
        }
        request = match ask.condition {
            Condition::Always => request,
            Condition::IsStill(version) => match (version.strong_etag(), &version.modified) {
                (Some(etag), _) => request.header(IF_MATCH, etag),
                (None, Some(modified)) => request.header(IF_UNMODIFIED_SINCE, modified),
                // Nothing that the server could compare; the answer is.
                (None, None) => request,
            },
            Condition::IsOther(version) => match (&version.etag, &version.modified) {
                (Some(etag), _) => request.header(IF_NONE_MATCH, etag),
                (None, Some(modified)) => request.header(IF_MODIFIED_SINCE, modified),
                (None, None) => request,
            },
        };
        request.send().await.map_err(|error| of_request(error, &self.url))
    }
}

/// Asks, and follows redirects.
pub(super) async fn answer(inner: &Inner, asker: &Asker, from: &Hop, ask: &Ask<'_>) -> Result<Answer, Stop> {
    let mut hop = from.clone();
    for _ in 0..=REDIRECTS_MAX {
        let permit = hop.route.turn(hop.url.place()).await;
        let response = hop.send(ask).await?;
        let (status, headers) = (response.status(), response.headers());
        if let Some(location) = answer::redirect(&hop.url, status, headers)? {
            hop = hop.next(inner, asker, location).await?;
            continue;
        }
        let offer = answer::offer(&hop.url, status, headers, response.content_length())?;
        return Ok(Answer { offer, status, response, hop, permit });
    }
    Err(Stop::Final(OriginError::Failed(format!(
        "cannot fetch {}: it redirects more than {REDIRECTS_MAX} times",
        from.url
    ))))
}

impl Answer {
    pub(super) fn hop(&self) -> &Hop {
        &self.hop
    }

    /// Whether the answer has the bytes that were asked for, all and only these.
    pub(super) fn check_part(&self, part: &Part, wanted: &Range<u64>) -> Result<(), Stop> {
        if part.range == *wanted {
            return Ok(());
        }
        Err(Stop::Final(OriginError::Failed(format!(
            "cannot fetch {}: the origin answers with other bytes than were asked for",
            self.hop.url
        ))))
    }

    /// The error for an answer that nothing was asked for that would explain it.
    pub(super) fn unexpected(&self) -> Stop {
        Stop::Final(OriginError::Failed(format!(
            "cannot fetch {}: the origin answers with status {} where that means nothing",
            self.hop.url,
            self.status.as_u16()
        )))
    }

    /// The bytes of the answer, which are these of the object, and where they come from.
    pub(super) fn into_body(self, range: Range<u64>) -> (Body, Hop) {
        (Body::new(self.response, range, self.hop.url.clone(), self.permit), self.hop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ListedOrigin, OriginsConfig, StoreOptions};
    use crate::origin::Origins;

    /// Where `from` leads with that in its answer.
    async fn next(from: &str, location: &str) -> Result<Hop, OriginError> {
        let listed = ["https://h/", "http://h/", "https://other/"].map(ListedOrigin::everybody).to_vec();
        let origins = Origins::new(&OriginsConfig { listed, unlisted: StoreOptions::default() }, 1).unwrap();
        let asker = Asker { uid: 2, credentials: [].into() };
        let hop = Hop::first(&origins.inner, &asker, OriginUrl::parse(from).unwrap()).await.unwrap();
        hop.next(&origins.inner, &asker, location).await
    }

    #[tokio::test]
    async fn what_was_encrypted_stays_so() {
        for location in ["http://h/b?sig=geheim", "HTTP://H:80/b"] {
            let error = next("https://h/a", location).await.unwrap_err();
            let said = "cannot fetch https://h/a: it redirects to http://h/b, which is not encrypted".to_owned();
            assert_eq!(error, OriginError::Denied(said));
        }
        for (from, location, to) in [
            ("https://h/a", "b", "https://h/b"),
            ("https://h/a", "//other/b", "https://other/b"),
            ("http://h/a", "https://h/b", "https://h/b"),
        ] {
            let hop = next(from, location).await.unwrap();
            assert_eq!((hop.url.to_string().as_str(), hop.is_redirected), (to, true));
        }
    }
}
