//! What an answer's status and headers say, as far as a read needs it. All of it is a claim.

use std::ops::Range;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{
    CONTENT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, LAST_MODIFIED, LOCATION, RETRY_AFTER,
};

use super::failure::{OriginError, Stop};
use super::url::OriginUrl;
use super::version::Version;

/// The bytes that an answer has, and of how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) range: Range<u64>,
    pub(super) total_bytes: u64,
}

/// What an answer has to give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// The whole object.
    Whole { len_bytes: u64, version: Option<Version> },
    /// A part of it.
    Part { part: Part, version: Option<Version> },
    /// Nothing: there is no such object.
    Absent,
    /// Nothing: it is the state that the caller has.
    Unchanged,
    /// Nothing: it is not the state that was asked for.
    OtherState,
    /// Nothing: it has no such bytes.
    NoSuchBytes,
}

/// What an answer that is no redirect offers, or why it is of no use.
pub(super) fn offer(
    url: &OriginUrl,
    status: StatusCode,
    headers: &HeaderMap,
    body_len_bytes: Option<u64>,
) -> Result<Offer, Stop> {
    let failed = |why: &str| Stop::Final(OriginError::Failed(format!("cannot fetch {url}: {why}")));
    match status.as_u16() {
        200 | 206 => {}
        304 => return Ok(Offer::Unchanged),
        404 | 410 => return Ok(Offer::Absent),
        412 => return Ok(Offer::OtherState),
        416 => return Ok(Offer::NoSuchBytes),
        _ => return Err(refusal(url, status, headers)),
    }
    if let Some(encoding) = text(headers, CONTENT_ENCODING)
        && !encoding.eq_ignore_ascii_case("identity")
    {
        return Err(failed("the origin sends it compressed though it was asked not to; have that switched off there"));
    }
    let (etag, modified) = (text(headers, ETAG), text(headers, LAST_MODIFIED));
    if status == StatusCode::OK {
        let Some(len_bytes) = body_len_bytes else {
            return Err(failed("the origin does not say how long it is (no Content-Length)"));
        };
        return Ok(Offer::Whole { len_bytes, version: Version::new(len_bytes, etag, modified) });
    }
    let Some(part) = text(headers, CONTENT_RANGE).and_then(Part::parse) else {
        return Err(failed("the origin answers with a part of it and does not say which (Content-Range)"));
    };
    if body_len_bytes.is_some_and(|len_bytes| len_bytes != part.range.end - part.range.start) {
        return Err(failed("the origin's Content-Length and Content-Range contradict each other"));
    }
    let version = Version::new(part.total_bytes, etag, modified);
    Ok(Offer::Part { part, version })
}

/// Where a redirect leads; `None` when the answer is none.
pub(super) fn redirect<'a>(
    url: &OriginUrl,
    status: StatusCode,
    headers: &'a HeaderMap,
) -> Result<Option<&'a str>, OriginError> {
    if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let target = text(headers, LOCATION)
        .ok_or_else(|| OriginError::Failed(format!("cannot fetch {url}: the origin redirects to nowhere")))?;
    Ok(Some(target))
}

fn refusal(url: &OriginUrl, status: StatusCode, headers: &HeaderMap) -> Stop {
    let code = status.as_u16();
    match code {
        401 | 403 | 407 => Stop::Final(OriginError::Denied(format!(
            "cannot fetch {url}: the origin refuses it (status {code}); check the credentials and what they may do"
        ))),
        408 | 425 | 429 | 500 | 502..=504 | 509 | 520..=599 => {
            let asked = text(headers, RETRY_AFTER).and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
            Stop::Again(
                OriginError::Unavailable(format!("cannot fetch {url} now: the origin answers with status {code}")),
                asked,
            )
        }
        _ => Stop::Final(OriginError::Failed(format!("cannot fetch {url}: the origin answers with status {code}"))),
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

impl Part {
    /// Reads `bytes FIRST-LAST/TOTAL`. A total of `*` says too little.
    fn parse(text: &str) -> Option<Part> {
        let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last, total_bytes) = (number(first)?, number(last)?, number(total)?);
        (first <= last && last < total_bytes).then(|| Part { range: first..last + 1, total_bytes })
    }
}

fn number(text: &str) -> Option<u64> {
    // `parse` alone would take a sign.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn a_range_is_read_or_refused() {
        let part = |first, end, total_bytes| Some(Part { range: first..end, total_bytes });
        assert_eq!(Part::parse("bytes 0-0/1"), part(0, 1, 1));
        assert_eq!(Part::parse(" bytes 5-9/18446744073709551615"), part(5, 10, u64::MAX));
        for text in [
            "",
            "bytes */5",
            "bytes 0-4/*",
            "bytes 4-3/5",
            "bytes 0-5/5",
            "bytes -5/5",
            "bytes +0-4/5",
            "items 0-4/5",
            "bytes 0-18446744073709551615/18446744073709551615",
            "bytes 0-18446744073709551616/5",
        ] {
            assert_eq!(Part::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn each_answer_means_one_thing() {
        let url = OriginUrl::parse("https://h/a?sig=geheim").unwrap();
        let of = |code: u16, headers: &[(HeaderName, &'static str)], len| {
            let headers = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect();
            offer(&url, StatusCode::from_u16(code).unwrap(), &headers, len)
        };
        assert_eq!(of(404, &[], None).unwrap(), Offer::Absent);
        assert_eq!(of(412, &[], None).unwrap(), Offer::OtherState);
        assert_eq!(of(200, &[], Some(3)).unwrap(), Offer::Whole { len_bytes: 3, version: None });
        let version = Version::new(9, Some("\"e\""), None);
        let part = Part { range: 0..3, total_bytes: 9 };
        assert_eq!(
            of(206, &[(CONTENT_RANGE, "bytes 0-2/9"), (ETAG, "\"e\"")], Some(3)).unwrap(),
            Offer::Part { part, version }
        );
        let stop = |code, headers: &[_], len| of(code, headers, len).unwrap_err();
        for stopped in [
            stop(200, &[], None),
            stop(200, &[(CONTENT_ENCODING, "gzip")], Some(3)),
            stop(206, &[], Some(3)),
            stop(206, &[(CONTENT_RANGE, "bytes 0-2/9")], Some(4)),
            stop(204, &[], Some(0)),
            stop(400, &[], Some(0)),
            stop(501, &[], Some(0)),
        ] {
            let Stop::Final(OriginError::Failed(why)) = stopped else { panic!("{stopped:?}") };
            assert!(why.starts_with("cannot fetch https://h/a: ") && !why.contains("geheim"), "{why}");
        }
        assert!(matches!(stop(403, &[], None), Stop::Final(OriginError::Denied(_))));
        let again = stop(503, &[(RETRY_AFTER, "2")], None);
        assert!(matches!(again, Stop::Again(OriginError::Unavailable(_), Some(wait)) if wait.as_secs() == 2));
    }
}
