//! The URL of a store.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use thiserror::Error;

use super::source::excerpt;

/// Longest prefix in a bucket. A key has at most 1,024 bytes with every provider; the rest is for the longest name of an
/// object, with the place of a large one in front and 32 digits behind.
pub const PREFIX_BYTES_MAX: usize = 75;

/// A store by its URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreUrl {
    /// A directory on a mounted file system, by its absolute path.
    Directory(PathBuf),
    /// A bucket, or a part of one.
    Bucket(Bucket),
    /// The agent's own memory: for trials and tests.
    Memory,
}

/// A place in an object store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Whose protocol it speaks.
    pub service: Service,
    /// The bucket, or the container.
    pub name: String,
    /// What all names begin with: empty, or components between `/` without one at either end.
    pub prefix: String,
}

/// Whose protocol an object store speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// S3, of Amazon or of anybody else.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
}

/// The part of a URL that says which kind of store it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// `file://`
    Directory,
    /// `s3://`, `gs://` or `az://`
    Bucket(Service),
    /// `memory://`
    Memory,
}

/// Why a URL names no store.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum StoreUrlError {
    /// There is no scheme.
    #[error("a store is given as a URL, such as file:///lustre/larder or s3://bucket/prefix")]
    NoScheme,
    /// The scheme is another.
    #[error(
        "this release has no store of the kind {0}://; it has file:///absolute/path, s3://bucket/prefix, \
         gs://bucket/prefix, az://container/prefix and memory://"
    )]
    Scheme(String),
    /// The path does not begin at the root.
    #[error("a directory is given by its absolute path, with three slashes: file:///lustre/larder")]
    NotAbsolute,
    /// `..` and the like.
    #[error("the path of a store may not contain . or .. or be / itself")]
    Path,
    /// A query or fragment. Not repeated: it may hold a secret.
    #[error(
        "the URL of a store takes no ? or #: options stand in the table [store_options] of the configuration file, \
         credentials in the environment or in a file"
    )]
    Query,
    /// A user or password. Not repeated.
    #[error(
        "the URL of a store takes no user or password, which every user of the node could see: give credentials in \
         the environment or in a file named by credentials_file in [store_options]"
    )]
    Credentials,
    /// There is no bucket, or it has an impossible name.
    #[error("a bucket or container is named by 3 to 222 of a-z, 0-9, - . _, with a letter or digit first and last")]
    Bucket,
    /// The prefix is no prefix.
    #[error("a prefix is parts of A-Z a-z 0-9 - _ . = + , @ between single slashes, none of which begins with a dot")]
    Prefix,
    /// The prefix is too long.
    #[error("a prefix has at most {PREFIX_BYTES_MAX} bytes, so that the longest name of an object fits behind it")]
    PrefixTooLong,
    /// Something behind `memory://`.
    #[error("a store in the agent's memory is memory://, with nothing behind it")]
    Memory,
}

impl FromStr for StoreUrl {
    type Err = StoreUrlError;

    fn from_str(text: &str) -> Result<StoreUrl, StoreUrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(StoreUrlError::NoScheme)?;
        let service = match scheme {
            "file" => return directory(rest),
            "memory" if rest.is_empty() => return Ok(StoreUrl::Memory),
            "memory" => return Err(StoreUrlError::Memory),
            "s3" => Service::S3,
            "gs" => Service::Gcs,
            "az" => Service::Azure,
            _ => return Err(StoreUrlError::Scheme(excerpt(scheme))),
        };
        bucket(service, rest).map(StoreUrl::Bucket)
    }
}

fn directory(rest: &str) -> Result<StoreUrl, StoreUrlError> {
    if !rest.starts_with('/') {
        return Err(StoreUrlError::NotAbsolute);
    }
    let path = rest.trim_end_matches('/');
    if path.is_empty() || path.split('/').any(|part| part == "." || part == "..") {
        return Err(StoreUrlError::Path);
    }
    Ok(StoreUrl::Directory(Path::new(path).to_owned()))
}

fn bucket(service: Service, rest: &str) -> Result<Bucket, StoreUrlError> {
    if rest.contains(['?', '#']) {
        return Err(StoreUrlError::Query);
    }
    let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if name.contains(['@', ':']) {
        return Err(StoreUrlError::Credentials);
    }
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    let is_end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._".contains(&byte);
    let bytes = name.as_bytes();
    if !(3..=222).contains(&bytes.len())
        || !bytes.iter().all(|&byte| is_plain(byte))
        || !is_end(bytes.first())
        || !is_end(bytes.last())
    {
        return Err(StoreUrlError::Bucket);
    }
    if !prefix.is_empty() && !prefix.split('/').all(is_prefix_part) {
        return Err(StoreUrlError::Prefix);
    }
    if prefix.len() > PREFIX_BYTES_MAX {
        return Err(StoreUrlError::PrefixTooLong);
    }
    Ok(Bucket { service, name: name.to_owned(), prefix: prefix.to_owned() })
}

fn is_prefix_part(part: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.=+,@".contains(&byte);
    !part.is_empty() && !part.starts_with('.') && part.bytes().all(is_plain)
}

impl StoreUrl {
    /// Which kind of store it is.
    pub fn kind(&self) -> StoreKind {
        match self {
            StoreUrl::Directory(_) => StoreKind::Directory,
            StoreUrl::Bucket(bucket) => StoreKind::Bucket(bucket.service),
            StoreUrl::Memory => StoreKind::Memory,
        }
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreUrl::Directory(path) => write!(f, "file://{}", path.display()),
            StoreUrl::Bucket(bucket) => {
                write!(f, "{}{}", self.kind(), bucket.name)?;
                if bucket.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", bucket.prefix) }
            }
            StoreUrl::Memory => write!(f, "{}", self.kind()),
        }
    }
}

impl fmt::Display for StoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            StoreKind::Directory => "file://",
            StoreKind::Bucket(Service::S3) => "s3://",
            StoreKind::Bucket(Service::Gcs) => "gs://",
            StoreKind::Bucket(Service::Azure) => "az://",
            StoreKind::Memory => "memory://",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_read_and_printed() {
        for (text, path) in [("file:///a/b", "/a/b"), ("file:///a/b/", "/a/b"), ("file:///a b/%20", "/a b/%20")] {
            let url: StoreUrl = text.parse().unwrap();
            assert_eq!(url, StoreUrl::Directory(path.into()));
            assert_eq!(url.to_string().parse(), Ok(url));
        }
    }

    #[test]
    fn a_bucket_is_read_and_printed() {
        for (text, service, name, prefix) in [
            ("s3://bucket", Service::S3, "bucket", ""),
            ("s3://bucket/", Service::S3, "bucket", ""),
            ("gs://my.bucket_1/a/b-c=1", Service::Gcs, "my.bucket_1", "a/b-c=1"),
            ("az://container/a/", Service::Azure, "container", "a"),
        ] {
            let url: StoreUrl = text.parse().unwrap();
            assert_eq!(url, StoreUrl::Bucket(Bucket { service, name: name.into(), prefix: prefix.into() }), "{text}");
            assert_eq!(url.to_string(), text.strip_suffix('/').unwrap_or(text));
            assert_eq!(url.to_string().parse(), Ok(url));
        }
        assert_eq!("memory://".parse(), Ok(StoreUrl::Memory));
        assert_eq!(StoreUrl::Memory.to_string(), "memory://");
    }

    #[test]
    fn each_mistake_has_its_own_sentence() {
        let parse = |text: &str| text.parse::<StoreUrl>().unwrap_err();
        assert_eq!(parse("/a/b"), StoreUrlError::NoScheme);
        assert_eq!(parse("http://host/bucket"), StoreUrlError::Scheme("http".into()));
        assert_eq!(parse("file://a/b"), StoreUrlError::NotAbsolute);
        for text in ["file:///", "file:///a/../b", "file:///."] {
            assert_eq!(parse(text), StoreUrlError::Path, "{text}");
        }
        for text in ["s3://", "s3:///a", "s3://ab", "s3://Bucket", "s3://bucket-/a", "s3://buc ket", "s3://.bucket"] {
            assert_eq!(parse(text), StoreUrlError::Bucket, "{text}");
        }
        for text in ["s3://bucket//a", "s3://bucket/a//b", "s3://bucket/../a", "s3://bucket/.a", "s3://bucket/a%20"] {
            assert_eq!(parse(text), StoreUrlError::Prefix, "{text}");
        }
        let longest = format!("s3://bucket/{}", "x".repeat(PREFIX_BYTES_MAX));
        assert!(longest.parse::<StoreUrl>().is_ok());
        assert_eq!(parse(&format!("{longest}x")), StoreUrlError::PrefixTooLong);
        assert_eq!(parse("memory://x"), StoreUrlError::Memory);
    }

    #[test]
    fn a_secret_in_a_url_is_refused_and_not_repeated() {
        for text in [
            "s3://id:geheim@bucket/a",
            "s3://geheim@bucket",
            "az://container/a?sig=geheim",
            "gs://bucket/a#geheim",
            "s3://bucket?secret=geheim",
        ] {
            let error = text.parse::<StoreUrl>().unwrap_err();
            assert!(matches!(error, StoreUrlError::Query | StoreUrlError::Credentials), "{text}: {error}");
            assert!(!error.to_string().contains("geheim"), "{error}");
        }
    }
}
