//! What `larder demo` and its processes take.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use larder_protocol::units::ByteSize;

/// What the demo takes.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Directory to load; links are not followed and other file systems are not entered [default: /usr/share].
    /// With --origin: where the same files are, for their names and to compare with
    #[arg(value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
    /// Fetch the files from a URL (http://, https://, s3://, gs://, az://) or a directory instead of loading them; without
    /// DIR and --keys the list of them is at URL/manifest.txt
    #[arg(long, value_name = "URL")]
    pub(crate) origin: Option<String>,
    /// File with the list of what is at URL: on each line a length in bytes, a space, and a name below URL
    #[arg(long, value_name = "FILE", requires = "origin")]
    pub(crate) keys: Option<PathBuf>,
    /// Capacity of the agent; the files are then cut at half of it instead of at 1 GiB and 50,000 files
    /// [default: what the files need]
    #[arg(long, value_name = "SIZE")]
    pub(crate) capacity: Option<ByteSize>,
    /// Reader processes, 1 to 64 [default: one a processor, 2 to 4]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) readers: Option<u32>,
    /// Leave the agent running afterwards, to try things on, until Ctrl-C
    #[arg(long)]
    pub(crate) keep: bool,
}

/// What a process of the demo is told.
#[derive(Debug, Args)]
pub(crate) struct DemoProcessArgs {
    /// Process id of the demo, with which this process ends
    #[arg(long)]
    pub(crate) parent: i32,
    #[command(subcommand)]
    pub(crate) role: DemoRole,
}

/// What a process of the demo is.
#[derive(Debug, Subcommand)]
pub(crate) enum DemoRole {
    /// Becomes the given program
    Agent {
        /// Program and arguments
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Reads blocks and files as told on standard input
    Reader {
        /// Directory that has the same files
        #[arg(long)]
        root: Option<PathBuf>,
        /// What blocks are fetched from
        #[arg(long)]
        origin: Option<String>,
        /// File that has the keys, and digests of their blocks
        #[arg(long)]
        known: Option<PathBuf>,
        /// Namespace to read
        #[arg(long)]
        namespace: String,
        /// When loading began, in nanoseconds since 1970
        #[arg(long)]
        loaded_at_ns: i128,
    },
}
