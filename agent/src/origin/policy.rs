//! Who may fetch what.
//!
//! Three things open a URL, looked at in this order: a credential of the caller's own session, a prefix that the site has
//! listed, and being the user that the agent runs as. Of the listed prefixes the longest that covers the URL decides
//! alone, so that a table for a part of a place can also take rights away.

use std::fmt;

use larder_protocol::origin::OriginKeys;

use super::failure::OriginError;
use super::url::{OriginUrl, Prefix};

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller<'a> {
    /// The user, as the kernel reports it.
    pub(crate) uid: u32,
    /// What the user's session brought.
    pub(crate) credentials: &'a [SessionCredential],
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

/// Keys to an origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Keys {
    /// Sent as `Authorization: Bearer`: HTTP, Google Cloud Storage and Azure.
    Bearer(Secret),
    /// Sent as `Authorization: Basic`: HTTP.
    Basic { user: String, password: Secret },
    /// S3, with the region and the endpoint that they are for, where these are not the site's.
    S3 { key_id: String, secret_key: Secret, token: Option<Secret>, region: Option<String>, endpoint: Option<String> },
    /// The key of a storage account: Azure.
    AzureKey(Secret),
    /// A shared access signature: Azure.
    AzureSas(Secret),
}

/// What a client's session brought: keys for the URLs that a prefix covers. For that session only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SessionCredential {
    pub(super) prefix: Prefix,
    pub(super) keys: Keys,
}

/// What a site lists: a table `[[origin]]`, or `--allow-origin`.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) prefix: Prefix,
    /// `None` for everybody.
    pub(super) users: Option<Vec<u32>>,
    /// Whether what is named by its digest may be shared by all tenants.
    pub(super) is_public: bool,
}

/// What opens a URL to a caller. Rules are named by their place in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Right<'a> {
    /// The session's own keys, over the way that the site has described, if it has.
    Session(&'a SessionCredential, Option<usize>),
    /// The site's list.
    Listed(usize),
    /// The caller is the agent's user.
    Own,
}

/// What a site lists, and the user that the agent runs as.
#[derive(Debug)]
pub(super) struct Policy {
    own_uid: u32,
    rules: Vec<Rule>,
}

/// Which listed prefix decides about a URL.
enum Decides {
    Nobody,
    /// These rules, all of one prefix.
    Rules(Vec<usize>),
    /// It depends on how the server reads the path.
    Unclear,
}

impl Secret {
    pub(crate) fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text, to be sent to where it belongs.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("...")
    }
}

impl SessionCredential {
    /// Keys for all URLs that begin with `prefix`, by whole segments of the path.
    pub(crate) fn new(prefix: &str, keys: Keys) -> Result<SessionCredential, OriginError> {
        let invalid = |why: &dyn fmt::Display| OriginError::Invalid(format!("the prefix of a credential: {why}"));
        let prefix = Prefix::parse(prefix).map_err(|why| invalid(&why))?;
        let scheme = prefix.place().scheme;
        if keys.fit(scheme) {
            Ok(SessionCredential { prefix, keys })
        } else {
            Err(invalid(&format!("keys of this kind are not for {prefix}")))
        }
    }
}

impl Keys {
    /// As a client sent them.
    pub(crate) fn of(sent: OriginKeys) -> Keys {
        match sent {
            OriginKeys::Bearer(token) => Keys::Bearer(Secret::new(token)),
            OriginKeys::Basic { user, password } => Keys::Basic { user, password: Secret::new(password) },
            OriginKeys::S3 { key_id, secret_key, token, region, endpoint } => Keys::S3 {
                key_id,
                secret_key: Secret::new(secret_key),
                token: token.map(Secret::new),
                region,
                endpoint,
            },
            OriginKeys::AzureKey(key) => Keys::AzureKey(Secret::new(key)),
            OriginKeys::AzureSas(signature) => Keys::AzureSas(Secret::new(signature)),
        }
    }

    fn fit(&self, scheme: super::url::Scheme) -> bool {
        use super::url::Scheme;
        match self {
            Keys::Bearer(_) => scheme != Scheme::S3,
            Keys::Basic { .. } => matches!(scheme, Scheme::Http | Scheme::Https),
            Keys::S3 { .. } => scheme == Scheme::S3,
            Keys::AzureKey(_) | Keys::AzureSas(_) => scheme == Scheme::Azure,
        }
    }
}

impl Rule {
    fn lists(&self, uid: u32) -> bool {
        self.users.as_ref().is_none_or(|users| users.contains(&uid))
    }
}

impl Policy {
    pub(super) fn new(own_uid: u32, rules: Vec<Rule>) -> Policy {
        Policy { own_uid, rules }
    }

    pub(super) fn is_public(&self, rule: usize) -> bool {
        self.rules.get(rule).is_some_and(|rule| rule.is_public)
    }

    /// What opens a URL to a caller, or one sentence why nothing does.
    pub(super) fn right<'a>(&self, caller: Caller<'a>, url: &OriginUrl) -> Result<Right<'a>, OriginError> {
        let Caller { uid, credentials } = caller;
        let decides = decides(self.rules.iter().map(|rule| &rule.prefix), url);
        let listed = match &decides {
            Decides::Rules(rules) => rules.iter().copied().find(|rule| self.rules[*rule].lists(uid)),
            Decides::Nobody | Decides::Unclear => None,
        };
        if let Decides::Rules(found) = self::decides(credentials.iter().map(|own| &own.prefix), url)
            && let Some(own) = found.last()
        {
            // The newest of several for one prefix.
            return Ok(Right::Session(&credentials[*own], listed));
        }
        if let Some(rule) = listed {
            return Ok(Right::Listed(rule));
        }
        if uid == self.own_uid {
            return Ok(Right::Own);
        }
        let prefix = url.suggested_prefix();
        Err(OriginError::Denied(match decides {
            Decides::Unclear => format!(
                "user {uid} may not fetch {url}: its path has escapes that could lead out of the prefix that is listed; \
                 write it without them"
            ),
            Decides::Rules(rules) => {
                let listed = rules.first().map(|rule| self.rules[*rule].prefix.to_string()).unwrap_or_default();
                format!(
                    "user {uid} may not fetch {url}: {listed} is listed for others; ask for user {uid} to be added to the \
                     users of [[origin]] prefix = \"{listed}\""
                )
            }
            Decides::Nobody => format!(
                "user {uid} may not fetch {url}: it is not listed; ask for [[origin]] prefix = \"{prefix}\" in the agent's \
                 configuration, or give the session credentials of its own for it"
            ),
        }))
    }
}

/// The longest of some prefixes that covers a URL, as the places of all that are equal to it.
fn decides<'a>(prefixes: impl Iterator<Item = &'a Prefix>, url: &OriginUrl) -> Decides {
    let covered: Vec<_> = prefixes.map(|prefix| prefix.covers(url)).collect();
    let Some(folded) = covered.iter().filter_map(|covered| covered.folded).max() else {
        return if covered.iter().any(|covered| covered.literal.is_some()) {
            Decides::Unclear
        } else {
            Decides::Nobody
        };
    };
    let Some(literal) = covered.iter().filter_map(|covered| covered.literal).max() else { return Decides::Unclear };
    let longest_of = |view: fn(&super::url::Covered) -> Option<usize>, most| -> Vec<usize> {
        let is_longest = |at: &usize| view(&covered[*at]) == Some(most);
        (0..covered.len()).filter(is_longest).collect()
    };
    let in_literal = longest_of(|covered| covered.literal, literal);
    if in_literal == longest_of(|covered| covered.folded, folded) {
        Decides::Rules(in_literal)
    } else {
        Decides::Unclear
    }
}
