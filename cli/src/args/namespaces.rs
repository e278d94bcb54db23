//! What `larder ns` takes.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use larder_protocol::units::{ByteSize, ByteSizeError, DurationError, parse_duration};

/// The verbs for namespaces.
#[derive(Debug, Subcommand)]
pub(crate) enum NsCommand {
    /// Create a namespace
    ///
    /// Creating one that is there with the same options changes nothing; other options are refused.
    ///
    /// Example: larder ns create results --eviction keep --quota 2GiB
    Create {
        /// Namespace
        #[arg(value_name = "NS")]
        namespace: OsString,
        #[command(flatten)]
        options: NsOptions,
    },
    /// Change options of a namespace
    ///
    /// Options that are not given stay as they are. `none` takes a quota or a time to live away.
    ///
    /// Example: larder ns set results --quota 4GiB --ttl none
    Set {
        /// Namespace
        #[arg(value_name = "NS")]
        namespace: OsString,
        #[command(flatten)]
        options: NsOptions,
    },
    /// List your namespaces
    ///
    /// Example: larder ns ls --json
    Ls,
    /// Show the options and the contents of a namespace
    ///
    /// Example: larder ns show results
    Show {
        /// Namespace
        #[arg(value_name = "NS")]
        namespace: OsString,
    },
    /// Remove a namespace with all its blocks
    ///
    /// Example: larder ns rm results
    Rm {
        /// Namespace
        #[arg(value_name = "NS")]
        namespace: OsString,
    },
}

/// Options of a namespace.
#[derive(Debug, Args)]
pub(crate) struct NsOptions {
    /// What a completed put promises [default: through where the agent has a store, else scratch]
    #[arg(long, value_name = "KIND")]
    pub(crate) durability: Option<DurabilityArg>,
    /// When room is needed: evict the least useful blocks, or keep them all and refuse puts [default: evict]
    #[arg(long, value_name = "HOW")]
    pub(crate) eviction: Option<EvictionArg>,
    /// When what `larder fetch` brought is compared with its origin [default: namespace]
    #[arg(long, value_name = "WHEN")]
    pub(crate) validate: Option<ValidateArg>,
    /// Let a key be put again with other bytes [default: false]
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) overwrite: Option<bool>,
    /// Most payload bytes, or `none` [default: none]
    #[arg(long, value_name = "SIZE|none", value_parser = limit_size)]
    pub(crate) quota: Option<Limit<ByteSize>>,
    /// How long a block stays after its put, or `none` [default: none]
    #[arg(long, value_name = "TIME|none", value_parser = limit_duration)]
    pub(crate) ttl: Option<Limit<Duration>>,
}

/// A limit or its absence, which is not the same as no mention of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit<T> {
    /// No limit.
    None,
    /// This much.
    Of(T),
}

fn limit_size(text: &str) -> Result<Limit<ByteSize>, ByteSizeError> {
    if text == "none" { Ok(Limit::None) } else { text.parse().map(Limit::Of) }
}

fn limit_duration(text: &str) -> Result<Limit<Duration>, DurationError> {
    if text == "none" { Ok(Limit::None) } else { parse_duration(text).map(Limit::Of) }
}

/// What a completed put promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DurabilityArg {
    /// The block lasts as long as the agent, and no longer than eviction lets it
    Scratch,
    /// The block is in memory when the put returns and in the store soon after; `larder sync` waits for that
    Back,
    /// The block is in the store when the put returns; the default where the agent has a store
    Through,
}

/// When what was fetched is compared with its origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ValidateArg {
    /// A URL stands for the version that was first seen; what has to be fetched again and is another by then is an error
    Namespace,
    /// At each fetch: what has changed is fetched anew, what is gone is not found
    Always,
    /// Never: what has to be fetched again is what the origin has then
    Never,
}

/// What happens when room is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum EvictionArg {
    /// The least useful blocks go
    Evict,
    /// They stay; puts are refused instead
    Keep,
}
