//! URLs of origins, normalised so that the spellings of one place are one, and whether a prefix covers a URL.
//!
//! A server may read a path more freely than its bytes say: it may decode escapes, also twice, merge slashes, or drop
//! what follows a semicolon. So every path is kept in two views. The *literal* one is what is asked for; the *folded* one
//! is what the freest server could make of it. A rule holds for a URL only when it holds in both, and a path whose folded
//! view would climb up is refused.

use std::fmt;
use std::net::IpAddr;

use thiserror::Error;
use url::Url;

use super::address::canonical;

/// Longest URL. Signed ones have two to four thousand bytes.
const URL_BYTES_MAX: usize = 16 << 10;

/// Escapes within escapes that are followed.
const DECODINGS_MAX: usize = 4;

/// Most characters of a URL in a message.
const SHOWN_CHARS_MAX: usize = 300;

/// Why a text is no URL of an origin.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum UrlError {
    #[error("the URL is longer than {URL_BYTES_MAX} bytes")]
    TooLong,
    #[error("the URL has control characters, spaces or backslashes in it; escape them with %")]
    Characters,
    #[error("a URL begins with http://, https://, s3://, gs:// or az:// and a host or bucket")]
    Form,
    #[error("there is no origin of the kind {0}://; use http, https, s3, gs or az, and open files yourself")]
    Scheme(String),
    #[error("the URL has a user or password before its host; give credentials to the session instead")]
    UserInfo,
    #[error("the URL has a fragment (#...), which no server is ever sent; leave it out, or write %23")]
    Fragment,
    #[error("the host of the URL cannot be read")]
    Host,
    #[error("the bucket of the URL must consist of letters, digits, dots, dashes and underscores")]
    Bucket,
    #[error("the URL of an object has no port and no query; write %3F for a question mark in its key")]
    BucketExtras,
    #[error("the path of the URL hides a . or .. behind escapes or a semicolon")]
    HiddenDots,
    #[error("the prefix has a query (?...); end it before that")]
    PrefixQuery,
}

/// How an origin is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scheme {
    Http,
    Https,
    S3,
    Gcs,
    Azure,
}

/// Where a URL leads, without the path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Host {
    Address(IpAddr),
    /// Lower case, without a dot at its end.
    Name(String),
    Bucket(String),
}

/// What must be equal for two URLs to be of one origin.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) scheme: Scheme,
    pub(crate) host: Host,
    pub(crate) port: u16,
}

/// A URL of an origin. It prints without its query, which may be a secret.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct OriginUrl {
    url: Url,
    place: Place,
    path: Path,
}

/// A path in its two views.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Path {
    literal: Vec<String>,
    folded: Vec<Vec<u8>>,
}

/// The beginning of URLs: all of one place whose paths begin with the same whole segments.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Prefix(OriginUrl);

/// How many segments of a path a prefix has, in each view in which it covers a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Covered {
    pub(crate) literal: Option<usize>,
    pub(crate) folded: Option<usize>,
}

impl OriginUrl {
    pub(crate) fn parse(text: &str) -> Result<OriginUrl, UrlError> {
        if text.len() > URL_BYTES_MAX {
            return Err(UrlError::TooLong);
        }
        // Parsers drop or turn these silently.
        if text.chars().any(|character| character.is_control() || character.is_whitespace() || character == '\\') {
            return Err(UrlError::Characters);
        }
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::Form)?;
        let scheme = Scheme::from_text(scheme)?;
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.contains('@') {
            return Err(UrlError::UserInfo);
        }
        if text.contains('#') {
            return Err(UrlError::Fragment);
        }
        if authority.is_empty() {
            return Err(UrlError::Form);
        }
        let mut url = Url::parse(text).map_err(|_| UrlError::Host)?;
        let place = if scheme.is_bucket() { bucket_place(scheme, &url)? } else { host_place(scheme, &mut url)? };
        let path = Path::of(url.path())?;
        Ok(OriginUrl { url, place, path })
    }

    /// Where an answer that redirects leads.
    pub(crate) fn join(&self, location: &str) -> Result<OriginUrl, UrlError> {
        // A fragment is for whoever asked, and never sent.
        let location = location.split('#').next().unwrap_or_default();
        if location.contains('\\') || location.chars().any(|character| character.is_control()) {
            return Err(UrlError::Characters);
        }
        let joined = self.url.join(location).map_err(|_| UrlError::Host)?;
        OriginUrl::parse(joined.as_str())
    }

    /// As it is asked for, its query as it was given.
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// The key of an object in a bucket: its path, unescaped once.
    pub(crate) fn key(&self) -> Option<String> {
        let path = self.url.path();
        String::from_utf8(decoded(path.strip_prefix('/').unwrap_or(path).as_bytes())).ok()
    }

    /// The directory that the URL is in: what an administrator would list.
    pub(crate) fn suggested_prefix(&self) -> String {
        let mut prefix = self.url.clone();
        prefix.set_query(None);
        let directory = prefix.path().rfind('/').map_or(0, |end| end + 1);
        let directory = prefix.path()[..directory].to_owned();
        prefix.set_path(&directory);
        excerpt(prefix.as_str())
    }
}

impl Scheme {
    fn from_text(text: &str) -> Result<Scheme, UrlError> {
        match text.to_ascii_lowercase().as_str() {
            "http" => Ok(Scheme::Http),
            "https" => Ok(Scheme::Https),
            "s3" => Ok(Scheme::S3),
            "gs" => Ok(Scheme::Gcs),
            "az" => Ok(Scheme::Azure),
            other => Err(UrlError::Scheme(excerpt(other))),
        }
    }

    pub(crate) fn is_bucket(self) -> bool {
        matches!(self, Scheme::S3 | Scheme::Gcs | Scheme::Azure)
    }
}

fn host_place(scheme: Scheme, url: &mut Url) -> Result<Place, UrlError> {
    let host = match url.host().ok_or(UrlError::Host)? {
        url::Host::Ipv4(address) => Host::Address(address.into()),
        url::Host::Ipv6(address) => Host::Address(canonical(address.into())),
        url::Host::Domain(name) => Host::Name(name.strip_suffix('.').unwrap_or(name).to_owned()),
    };
    match &host {
        Host::Address(address) => url.set_ip_host(*address).map_err(|()| UrlError::Host)?,
        Host::Name(name) | Host::Bucket(name) => {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            let is_label = |label: &str| !label.is_empty() && label.bytes().all(is_plain);
            if name.len() > 253 || !name.split('.').all(is_label) {
                return Err(UrlError::Host);
            }
            url.set_host(Some(name)).map_err(|_| UrlError::Host)?;
        }
    }
    let port = url.port_or_known_default().filter(|port| *port != 0).ok_or(UrlError::Host)?;
    Ok(Place { scheme, host, port })
}

fn bucket_place(scheme: Scheme, url: &Url) -> Result<Place, UrlError> {
    if url.port().is_some() || url.query().is_some() {
        return Err(UrlError::BucketExtras);
    }
    let name = url.host_str().ok_or(UrlError::Bucket)?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > 255 || name.starts_with('.') || !name.bytes().all(is_plain) {
        return Err(UrlError::Bucket);
    }
    Ok(Place { scheme, host: Host::Bucket(name.to_owned()), port: 0 })
}

impl Path {
    /// Of a path whose plain dot segments are resolved.
    fn of(path: &str) -> Result<Path, UrlError> {
        let literal =
            path.strip_prefix('/').unwrap_or(path).split('/').map(|segment| spelt(segment.as_bytes())).collect();
        let mut folded = path.as_bytes().to_vec();
        let mut rounds = 0;
        loop {
            let next = decoded(&folded);
            if next == folded {
                break;
            }
            folded = next;
            rounds += 1;
            if rounds > DECODINGS_MAX {
                return Err(UrlError::HiddenDots);
            }
        }
        if folded.iter().any(u8::is_ascii_control) {
            return Err(UrlError::Characters);
        }
        let mut segments = Vec::new();
        for segment in folded.split(|byte| b"/\\".contains(byte)) {
            // Some servers take what follows a semicolon for parameters.
            let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
            if name == b"." || name == b".." {
                return Err(UrlError::HiddenDots);
            }
            if !name.is_empty() {
                segments.push(name.to_vec());
            }
        }
        Ok(Path { literal, folded: segments })
    }
}

/// A segment in one spelling: letters and the like bare, all other escapes in capitals.
fn spelt(segment: &[u8]) -> String {
    let mut out = String::with_capacity(segment.len());
    let mut rest = segment;
    while let Some((&byte, after)) = rest.split_first() {
        match escape_at(rest) {
            Some(value) => {
                if value.is_ascii_alphanumeric() || b"-._~".contains(&value) {
                    out.push(char::from(value));
                } else {
                    out.push_str(&format!("%{value:02X}"));
                }
                rest = &rest[3..];
            }
            None => {
                out.push(char::from(byte));
                rest = after;
            }
        }
    }
    out
}

/// Bytes with their escapes decoded once. What is no escape stays.
fn decoded(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, after)) = rest.split_first() {
        match escape_at(rest) {
            Some(value) => {
                out.push(value);
                rest = &rest[3..];
            }
            None => {
                out.push(byte);
                rest = after;
            }
        }
    }
    out
}

fn escape_at(bytes: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    match bytes {
        [b'%', high, low, ..] => u8::try_from(digit(*high)? * 16 + digit(*low)?).ok(),
        _ => None,
    }
}

impl Prefix {
    pub(crate) fn parse(text: &str) -> Result<Prefix, UrlError> {
        let mut url = OriginUrl::parse(text)?;
        if url.url.query().is_some() {
            return Err(UrlError::PrefixQuery);
        }
        // `/data/` and `/data` are the same directory.
        while url.path.literal.last().is_some_and(String::is_empty) {
            url.path.literal.pop();
        }
        Ok(Prefix(url))
    }

    pub(crate) fn place(&self) -> &Place {
        &self.0.place
    }

    /// In which views the prefix covers a URL, and by how much of its path.
    pub(crate) fn covers(&self, url: &OriginUrl) -> Covered {
        if self.0.place != url.place {
            return Covered { literal: None, folded: None };
        }
        let (mine, theirs) = (&self.0.path, &url.path);
        Covered {
            literal: theirs.literal.starts_with(&mine.literal).then_some(mine.literal.len()),
            folded: theirs.folded.starts_with(&mine.folded).then_some(mine.folded.len()),
        }
    }
}

impl fmt::Display for OriginUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.url.as_str();
        f.write_str(&excerpt(text.split('?').next().unwrap_or_default()))
    }
}

impl fmt::Debug for OriginUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OriginUrl({self})")
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Prefix({self})")
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Address(address) => address.fmt(f),
            Host::Name(name) | Host::Bucket(name) => f.write_str(name),
        }
    }
}

fn excerpt(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        shown.push_str("...");
    }
    shown
}
