//! The URL of a store.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use thiserror::Error;

/// A store by its URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreUrl {
    /// A directory on a mounted file system, by its absolute path.
    Directory(PathBuf),
}

/// Why a URL names no store.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum StoreUrlError {
    /// There is no scheme.
    #[error("a store is given as a URL, such as file:///lustre/larder")]
    NoScheme,
    /// The scheme is another.
    #[error("this release has no store of the kind {0}://; a directory is file:///absolute/path")]
    Scheme(String),
    /// The path does not begin at the root.
    #[error("a directory is given by its absolute path, with three slashes: file:///lustre/larder")]
    NotAbsolute,
    /// `..` and the like.
    #[error("the path of a store may not contain . or .. or be / itself")]
    Path,
}

impl FromStr for StoreUrl {
    type Err = StoreUrlError;

    fn from_str(text: &str) -> Result<StoreUrl, StoreUrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(StoreUrlError::NoScheme)?;
        if scheme != "file" {
            return Err(StoreUrlError::Scheme(scheme.to_owned()));
        }
        if !rest.starts_with('/') {
            return Err(StoreUrlError::NotAbsolute);
        }
        let path = rest.trim_end_matches('/');
        if path.is_empty() || path.split('/').any(|part| part == "." || part == "..") {
            return Err(StoreUrlError::Path);
        }
        Ok(StoreUrl::Directory(Path::new(path).to_owned()))
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreUrl::Directory(path) => write!(f, "file://{}", path.display()),
        }
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
    fn each_mistake_has_its_own_sentence() {
        let parse = |text: &str| text.parse::<StoreUrl>().unwrap_err();
        assert_eq!(parse("/a/b"), StoreUrlError::NoScheme);
        assert_eq!(parse("s3://bucket"), StoreUrlError::Scheme("s3".into()));
        assert_eq!(parse("file://a/b"), StoreUrlError::NotAbsolute);
        for text in ["file:///", "file:///a/../b", "file:///."] {
            assert_eq!(parse(text), StoreUrlError::Path, "{text}");
        }
    }
}
