//! Where a value was given, and which of several givings wins.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use super::args::Args;

/// Every key that one value belongs to; the file knows the tables `tenant` besides.
pub(super) const SCALAR_KEYS: [&str; SCALAR_COUNT] = [
    "capacity",
    "huge_pages",
    "populate",
    "segment_size",
    "staging",
    "numa",
    "cpus",
    "spin",
    "tenant_quota",
    "pinned_quota",
    "max_sessions_per_uid",
    "max_slots_per_session",
    "store",
    "store_timeout",
    "disk",
    "disk_capacity",
    "socket",
    "log",
];
pub(super) const SCALAR_COUNT: usize = 18;

/// A message repeats what was given, but no more than this many characters of it.
const EXCERPT_CHARS_MAX: usize = 80;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody gave it.
    Default,
    /// A line of the configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// The environment.
    Environment,
    /// The command line.
    Flag,
}

impl Origin {
    /// `default`, `file`, `environment` or `flag`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File { .. } => "file",
            Self::Environment => "environment",
            Self::Flag => "flag",
        }
    }
}

/// A value as somebody gave it. It prints as it was written there: `--numa 7`, `LARDER_NUMA=7`,
/// `numa = 7 (line 3 of larder.toml)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// The key it belongs to, as in the file.
    pub key: &'static str,
    /// The text.
    pub text: OsString,
    /// Where it was given.
    pub origin: Origin,
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = excerpt(&self.text.to_string_lossy());
        match &self.origin {
            Origin::Default => write!(f, "the default {} {text}", self.key),
            Origin::File { path, line } => write!(f, "{} = {text} (line {line} of {})", self.key, shown_path(path)),
            Origin::Environment => write!(f, "{}={text}", variable(self.key)),
            Origin::Flag => write!(f, "--{} {text}", self.key.replace('_', "-")),
        }
    }
}

/// The environment variable of a key.
fn variable(key: &str) -> String {
    format!("LARDER_{}", key.to_ascii_uppercase())
}

/// Looks a key up in the environment. A variable that is set to nothing counts as not set.
pub(super) fn from_environment(env: &dyn Fn(&str) -> Option<OsString>, key: &str) -> Option<OsString> {
    env(&variable(key)).filter(|text| !text.is_empty())
}

/// The one value of each key that counts, by precedence.
#[derive(Debug)]
pub(super) struct Sources {
    winners: Vec<Given>,
}

impl Sources {
    pub(super) fn new(args: &Args, env: &dyn Fn(&str) -> Option<OsString>, file: Vec<Given>) -> Self {
        let flags = args.scalars().into_iter().filter_map(|(key, text)| {
            let text = text?;
            Some(Given { key, text, origin: Origin::Flag })
        });
        let variables = SCALAR_KEYS.into_iter().filter_map(|key| {
            let text = from_environment(env, key)?;
            Some(Given { key, text, origin: Origin::Environment })
        });
        // The first of a key is found first, so the order here is the precedence.
        Self { winners: flags.chain(variables).chain(file).collect() }
    }

    pub(super) fn find(&self, key: &'static str) -> Option<Given> {
        self.winners.iter().find(|given| given.key == key).cloned()
    }
}

/// The start of a text, for a message; control characters become visible, so that a message stays one line.
pub(super) fn excerpt(text: &str) -> String {
    let mut shown: String = text.chars().take(EXCERPT_CHARS_MAX).flat_map(visible).collect();
    if text.chars().nth(EXCERPT_CHARS_MAX).is_some() {
        shown.push_str("...");
    }
    shown
}

fn visible(character: char) -> Vec<char> {
    if character.is_control() { character.escape_default().collect() } else { vec![character] }
}

/// A path for a message; an empty one in quotes, or nobody would see it.
pub(super) fn shown_path(path: &Path) -> String {
    if path.as_os_str().is_empty() { "\"\"".to_owned() } else { excerpt(&path.to_string_lossy()) }
}
