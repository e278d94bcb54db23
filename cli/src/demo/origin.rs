//! Where files are fetched from: a directory of this machine, or a URL.

use std::path::Path;

/// What stands before each name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    prefix: String,
    /// Whether names are escaped in it; in paths they are not.
    is_url: bool,
}

impl Origin {
    /// A directory, or `None` if its name cannot be part of a URL.
    pub(super) fn of_directory(directory: &Path) -> Option<Origin> {
        let prefix = directory.to_str()?.trim_end_matches('/').to_owned();
        Some(Origin { prefix, is_url: false })
    }

    /// A URL or a path.
    pub(super) fn of_text(text: &str) -> Origin {
        Origin {
            prefix: text.trim_end_matches('/').to_owned(),
            is_url: text.contains("://") && !text.starts_with("file://"),
        }
    }

    /// Whether it is no directory.
    pub(super) fn is_url(&self) -> bool {
        self.is_url
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The URL of a name.
    pub(super) fn url(&self, name: &str) -> String {
        if self.is_url { format!("{}/{}", self.prefix, escaped(name)) } else { format!("{}/{name}", self.prefix) }
    }

    /// The prefix that the agent has to be told of before it fetches from there. Buckets it asks with the keys of the
    /// environment and at the server named there, both of which a listed prefix would not have.
    pub(super) fn to_allow(&self) -> Option<String> {
        let is_web = self.prefix.starts_with("http://") || self.prefix.starts_with("https://");
        is_web.then(|| format!("{}/", self.prefix))
    }
}

/// A name as part of a URL: everything but the plainest characters and the slashes between its parts is escaped.
fn escaped(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_in_urls_and_left_in_paths() {
        assert_eq!(Origin::of_text("s3://b/p/").url("a/é b?#"), "s3://b/p/a/%C3%A9%20b%3F%23");
        assert_eq!(Origin::of_directory(Path::new("/usr/share")).unwrap().url("a/é b?#"), "/usr/share/a/é b?#");
        assert_eq!(Origin::of_text("/usr/share").url("a%"), "/usr/share/a%");
        assert_eq!(Origin::of_text("file:///usr/share").url("a b"), "file:///usr/share/a b");
        assert_eq!(Origin::of_directory(Path::new("/")).unwrap().url("etc/x"), "/etc/x");
    }

    #[test]
    fn only_web_servers_have_to_be_listed() {
        assert_eq!(Origin::of_text("http://127.0.0.1:80/data").to_allow().unwrap(), "http://127.0.0.1:80/data/");
        assert_eq!(Origin::of_text("s3://bucket/data").to_allow(), None);
        assert_eq!(Origin::of_text("/data").to_allow(), None);
    }
}
