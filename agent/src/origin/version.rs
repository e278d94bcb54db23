//! What tells one state of an object from the next.

/// Longest tag and longest date that are believed to be one.
const VALIDATOR_BYTES_MAX: usize = 1024;

/// A state of an object, as its origin names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) len_bytes: u64,
    /// With its quotes, and `W/` before it where it is weak.
    pub(super) etag: Option<String>,
    /// The time of the last change, in the words of the origin.
    pub(super) modified: Option<String>,
}

impl Version {
    /// `None` where there is nothing that would tell one state from the next. A length alone does not.
    pub(super) fn new(len_bytes: u64, etag: Option<&str>, modified: Option<&str>) -> Option<Version> {
        let usable = |text: &&str| {
            let is_plain = !text.chars().any(char::is_control);
            is_plain && !text.is_empty() && text.len() <= VALIDATOR_BYTES_MAX
        };
        let own = |text: Option<&str>| text.filter(usable).map(str::to_owned);
        let version = Version { len_bytes, etag: own(etag), modified: own(modified) };
        (version.etag.is_some() || version.modified.is_some()).then_some(version)
    }

    /// What the origin can be asked to compare exactly.
    pub(super) fn strong_etag(&self) -> Option<&str> {
        self.etag.as_deref().filter(|etag| !etag.starts_with("W/"))
    }

    /// Whether an answer is of this state.
    pub(super) fn is(&self, found: &Version) -> bool {
        if self.len_bytes != found.len_bytes {
            return false;
        }
        match (&self.etag, &found.etag) {
            // Servers behind one address may differ in the time.
            (Some(mine), Some(theirs)) if mine == theirs => true,
            // A server may call a tag weak while the object is fresh, and strong later.
            (Some(mine), Some(theirs)) => mine.strip_prefix("W/") == Some(theirs),
            (Some(_), None) | (None, Some(_)) => false,
            (None, None) => self.modified == found.modified,
        }
    }

    pub(super) fn to_text(&self) -> String {
        let text = |part: &Option<String>| part.clone().unwrap_or_default();
        format!("{}\n{}\n{}", self.len_bytes, text(&self.etag), text(&self.modified))
    }

    pub(super) fn from_text(text: &str) -> Option<Version> {
        let mut parts = text.splitn(3, '\n');
        let len_bytes = parts.next()?.parse().ok()?;
        Version::new(len_bytes, parts.next(), parts.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_survives_being_written_down() {
        for (etag, modified) in [(Some("\"a\""), None), (None, Some("Tue")), (Some("W/\"b\""), Some("Wed"))] {
            let version = Version::new(7, etag, modified).unwrap();
            assert_eq!(Version::from_text(&version.to_text()), Some(version));
        }
        assert_eq!(Version::new(7, None, None), None);
        assert_eq!(Version::new(7, Some(""), Some("a\nb")), None);
        for text in ["", "7", "x\n\"a\"\n", "7\n\n"] {
            assert_eq!(Version::from_text(text), None, "{text:?}");
        }
    }

    #[test]
    fn states_are_told_apart() {
        let of = |etag, modified| Version::new(7, etag, modified).unwrap();
        let strong = of(Some("\"a\""), Some("Tue"));
        assert!(strong.is(&of(Some("\"a\""), Some("Wed"))));
        assert!(!strong.is(&of(Some("\"b\""), Some("Tue"))));
        assert!(!strong.is(&of(None, Some("Tue"))));
        assert!(!strong.is(&of(Some("W/\"a\""), Some("Tue"))));
        assert!(!strong.is(&Version { len_bytes: 8, ..strong.clone() }));
        let weak = of(Some("W/\"a\""), None);
        assert!(weak.is(&weak.clone()) && weak.is(&of(Some("\"a\""), None)) && !weak.is(&of(Some("W/\"b\""), None)));
        let dated = of(None, Some("Tue"));
        assert!(dated.is(&dated.clone()) && !dated.is(&of(None, Some("Wed"))));
        assert!(!dated.is(&of(Some("\"a\""), Some("Tue"))));
        assert_eq!((strong.strong_etag(), weak.strong_etag()), (Some("\"a\""), None));
    }
}
