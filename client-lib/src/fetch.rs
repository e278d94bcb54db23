//! Blocks that come from elsewhere: from a URL or a file, once for all who ask.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::path::PathBuf;

use larder_protocol::hit::Lookup;
use larder_protocol::{file, key};

use crate::session::{Ask, ROUNDS};
use crate::{Block, Error, Namespace};

impl Namespace {
    /// The block under `key`, or else what `url` has, which is then under `key`: fetched once, however many ask.
    ///
    /// `url` is `http://`, `https://`, `s3://`, `gs://`, `az://`, or a file: `file:///path` or an absolute path, which is
    /// opened by this process, with its rights. Which URLs the agent fetches for whom is its site's to say. When the
    /// namespace is to validate always, the agent asks the origin at each call; else a key that is there is a hit like any
    /// other. What was fetched is not written to the agent's store: it can be fetched again.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the origin has no such object, which is not remembered. [`Error::OriginChanged`] when what has to be
    /// fetched again is another version by now. [`Error::Origin`] when it could not be fetched, [`Error::Denied`] when this user
    /// may not.
    #[inline]
    pub fn get_or_fetch(&self, key: &str, url: &str) -> Result<Block, Error> {
        if self.binding.look().validates {
            return self.fetch_by_asking(key, url, Some(Lookup::AskAgent));
        }
        match self.get_mapped(key) {
            Some(block) => Ok(block),
            None => self.fetch_by_asking(key, url, None),
        }
    }

    /// As [`Namespace::get_or_fetch`] under the key that stands for the URL, [`url_key`].
    pub fn fetch(&self, url: &str) -> Result<Block, Error> {
        self.get_or_fetch(&url_key(url), url)
    }

    #[cold]
    fn fetch_by_asking(&self, key: &str, url: &str, mut first: Option<Lookup>) -> Result<Block, Error> {
        key::check_key(key)?;
        let deadline = self.deadline()?;
        let file = match file_of(url) {
            Err(Error::NotFound) if self.binding.look().validates => {
                // Gone from where it came from, so it goes here too.
                self.delete(key)?;
                return Err(Error::NotFound);
            }
            file => file?,
        };
        let ask = match &file {
            Some((path, file)) => Ask::FetchFile { path, file: file.as_fd() },
            None => Ask::Fetch { url },
        };
        let found = self.with_session(deadline, ROUNDS, |session, bound| {
            session.find(bound.incarnation, key, first.take(), ask, deadline)
        })?;
        // Without an agent nothing is kept, and nothing is fetched either.
        found.map(Block::new).ok_or(Error::NotFound)
    }
}

/// The path that a URL or an absolute path names on this machine.
fn local_path(url: &str) -> Option<PathBuf> {
    let path = url.strip_prefix("file://").unwrap_or(url);
    path.starts_with('/').then(|| PathBuf::from(path))
}

/// The file that a URL names, opened with this process's rights, and its path.
pub(crate) fn file_of(url: &str) -> Result<Option<(String, File)>, Error> {
    let Some(path) = local_path(url) else { return Ok(None) };
    let opened = file::open_regular(&path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::NotFound,
        ErrorKind::PermissionDenied => Error::Denied(format!("{} may not be read: {error}", path.display())),
        ErrorKind::InvalidInput => Error::Invalid(format!("{} is {error}", path.display())),
        _ => Error::Origin(format!("{} cannot be opened: {error}", path.display())),
    })?;
    Ok(Some((path.to_string_lossy().into_owned(), opened)))
}

/// The key that stands for a URL: the URL as it is, with `:/` for `://` (`s3://bucket/a/b` is `s3:/bucket/a/b`, `/data/x` is
/// `file:/data/x`). Where that is no legal key, or there is a query, which may hold a secret, `url/` and 32 hexadecimal digits of
/// the URL's XXH3-128.
pub fn url_key(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("file", url));
    let plain = format!("{scheme}:/{}", rest.strip_prefix('/').unwrap_or(rest));
    match key::check_key(&plain) {
        Ok(()) if !url.contains('?') => plain,
        _ => format!("url/{:032x}", key::digest(url.as_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_its_own_key_where_it_can_be() {
        for (url, key) in [
            ("s3://bucket/a/b", "s3:/bucket/a/b"),
            ("http://host:8080/a", "http:/host:8080/a"),
            ("file:///data/x", "file:/data/x"),
            ("/data/x", "file:/data/x"),
        ] {
            assert_eq!(url_key(url), key);
        }
        for url in [
            "s3://bucket//a",
            "http://host/",
            "/data/../x",
            "http://a/b?token=c",
            &format!("s3://b/{}", "a".repeat(2000)),
        ] {
            let key = url_key(url);
            assert!(key.starts_with("url/") && key.len() == 36 && key::check_key(&key).is_ok(), "{key}");
        }
        assert_ne!(url_key("s3://bucket//a"), url_key("s3://bucket//b"));
    }

    #[test]
    fn paths_and_urls_are_told_apart() {
        assert_eq!(local_path("/a/b"), Some("/a/b".into()));
        assert_eq!(local_path("file:///a/b"), Some("/a/b".into()));
        for url in ["s3://a/b", "http://a/b", "a/b", "file://host/b"] {
            assert_eq!(local_path(url), None, "{url}");
        }
    }
}
