//! Which object an answer is of.

use object_store::ObjectMeta;

/// What tells one object from the next under its name, and which object to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    /// Where a link leads. Such names are used once.
    pub(super) target: Option<String>,
    pub(super) len_bytes: u64,
    modified_ms: i64,
    etag: Option<String>,
}

impl Version {
    pub(super) fn of(meta: &ObjectMeta, target: Option<String>) -> Version {
        Version {
            target,
            len_bytes: meta.size,
            modified_ms: meta.last_modified.timestamp_millis(),
            etag: meta.e_tag.clone().filter(|etag| !etag.is_empty() && !etag.contains('\n')),
        }
    }

    /// What to ask the server to compare. A weak tag never compares equal there.
    pub(super) fn if_match(&self) -> Option<String> {
        self.etag.clone().filter(|etag| !etag.starts_with("W/"))
    }

    /// Whether an answer is of this object. Asked of every answer: some servers compare nothing themselves.
    pub(super) fn is_of(&self, meta: &ObjectMeta) -> bool {
        let found = Version::of(meta, None);
        // A time is not compared where there is a tag: servers behind one address may differ in it.
        let is_same = match &self.etag {
            Some(etag) => found.etag.as_ref() == Some(etag),
            None => found.modified_ms == self.modified_ms,
        };
        is_same && found.len_bytes == self.len_bytes
    }

    pub(super) fn to_text(&self) -> String {
        let Version { target, len_bytes, modified_ms, etag } = self;
        let (target, etag) = (target.as_deref().unwrap_or(""), etag.as_deref().unwrap_or(""));
        format!("{target}\n{len_bytes}\n{modified_ms}\n{etag}")
    }

    pub(super) fn from_text(text: &str) -> Option<Version> {
        let mut parts = text.splitn(4, '\n');
        let mut optional = || parts.next().map(|part| Some(part.to_owned()).filter(|part| !part.is_empty()));
        let target = optional()?;
        let len_bytes = optional()??.parse().ok()?;
        let modified_ms = optional()??.parse().ok()?;
        Some(Version { target, len_bytes, modified_ms, etag: optional()? })
    }
}
