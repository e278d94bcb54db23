//! The command line: what can be typed, and the help for it.

mod demo;
mod namespaces;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use larder_protocol::units::{ByteSize, DurationError, parse_duration};

pub(crate) use self::demo::{DemoArgs, DemoProcessArgs, DemoRole};
pub(crate) use self::namespaces::{DurabilityArg, EvictionArg, Limit, NsCommand, NsOptions, ValidateArg};

/// clap lists subcommands in one run; people look for a verb by what it acts on.
const HELP_TEMPLATE: &str = "\
{about}

{usage-heading} {usage}

{before-help}Options:
{options}{after-help}
";

/// The verbs by what they act on. A test compares it with the subcommands that there are.
const VERBS: &str = "\
The node:
  ping     Ask whether the agent answers, and who it is
  stat     Show memory, blocks, and hits by path
  pins     Show which processes keep blocks pinned
  resize   Change the node's capacity

Blocks:
  put      Store a file or standard input under a key
  get      Write a block to standard output or to a file
  fetch    Make a key hold what a URL or file has, unless it is there
  wait     Wait until somebody has put a key
  ls       List keys, sorted, one a line
  rm       Delete a key
  sync     Wait until the store has all that was put into a namespace
  clear    Delete every block of a namespace

Namespaces:
  ns       Create, change, list, show and remove namespaces

A trial:
  demo     Load a directory, read it from several processes, measure, clean up

`larder VERB --help` says more, with an example.";

const AFTER_HELP: &str = "\
NS is the name of a namespace; `-` stands for the one in LARDER_NAMESPACE.
Sizes: 4096, 64KiB, 1.5GiB, 10MB. Durations: 500ms, 2s, 1h30m.
Exit status: 0 done, 1 failed, 2 usage, 3 not found, 4 no agent, 5 deadline passed,
6 exists with other bytes, 7 denied.";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "larder",
    version,
    about = "Puts blocks into the shared memory of this node's Larder agent, and gets them out",
    help_template = HELP_TEMPLATE,
    before_help = VERBS,
    after_help = AFTER_HELP,
    max_term_width = 120,
    disable_help_subcommand = false,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every verb takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// The agent's socket [default: /run/larder/larder.sock, else the user's own]
    #[arg(long, global = true, value_name = "PATH", env = "LARDER_SOCKET", hide_env_values = true)]
    pub(crate) socket: Option<PathBuf>,

    /// Give up when an answer takes longer than this
    #[arg(long, global = true, value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,

    /// Print one JSON document instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Print no more than what was asked for: no confirmations, no progress
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

fn duration(text: &str) -> Result<Duration, DurationError> {
    parse_duration(text)
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Ask whether the agent answers, and who it is
    ///
    /// Prints the agent's release, process id, capacity and the time of one exchange. Status 4 when there is none.
    ///
    /// Example: larder ping --timeout 1s
    Ping,

    /// Show memory, blocks, and hits by path
    ///
    /// Memory is that of the whole node; blocks, hits, misses and puts are those of your own user. A hit `mapped` was
    /// served from shared memory without the agent; the rest are the look-ups that had to ask it, by reason.
    ///
    /// Example: larder stat --json
    Stat,

    /// Show which processes keep blocks pinned
    ///
    /// A pinned block stays readable and in memory until its readers let go of it.
    ///
    /// Example: larder pins
    Pins,

    /// Change the node's capacity
    ///
    /// For the agent's own user and for root. A smaller capacity takes effect as blocks are evicted and their readers
    /// let go of the memory.
    ///
    /// Example: larder resize 8GiB
    Resize {
        /// The new capacity
        #[arg(value_name = "BYTES")]
        capacity: ByteSize,
    },

    /// Store a file or standard input under a key
    ///
    /// A block never changes: putting the same bytes again is fine, other bytes are refused with status 6 unless the
    /// namespace was created with --overwrite. A file goes straight into shared memory; standard input is collected
    /// first, since the length of a block must be known.
    ///
    /// Example: larder put scratch climate/2026/t2m t2m.nc
    Put {
        #[command(flatten)]
        at: BlockArgs,
        /// File to store, or `-` for standard input
        file: PathBuf,
    },

    /// Write a block to standard output or to a file
    ///
    /// With -o the file is written whole or not at all: under another name, then renamed. Status 3 when the key is not
    /// there.
    ///
    /// Example: larder get scratch climate/2026/t2m -o t2m.nc
    Get {
        #[command(flatten)]
        at: BlockArgs,
        /// File to write, or `-` for standard output
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },

    /// Make a key hold what a URL or file has, unless it is there
    ///
    /// Fetched once, however many ask: http://, https://, s3://, gs://, az:// by the agent, as far as its site lets this user;
    /// a path or file:// is opened by this command, with your rights. KEY may be `-`: then it is made of the URL. Status 3
    /// when there is no such object.
    ///
    /// Example: larder fetch job/1234 - s3://era5/2026/t2m.nc -o t2m.nc
    Fetch {
        #[command(flatten)]
        at: BlockArgs,
        /// Where the bytes are
        url: OsString,
        /// File to write, or `-` for standard output [default: none]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },

    /// Wait until somebody has put a key
    ///
    /// Returns at once when it is there already. Waits without end, or as long as --timeout says; then the status is 5.
    ///
    /// Example: larder wait scratch step/17 --timeout 10m
    Wait {
        #[command(flatten)]
        at: BlockArgs,
    },

    /// List keys, sorted, one a line
    ///
    /// With -d PREFIX is the name of a group, and only the keys directly in it are listed, relative to it; without
    /// PREFIX those in no group.
    ///
    /// Example: larder ls scratch climate/2026/
    Ls {
        /// Namespace
        #[arg(value_name = "NS")]
        namespace: OsString,
        /// What the keys start with [default: every key]
        prefix: Option<OsString>,
        /// List only keys directly in the group
        #[arg(short = 'd', long = "direct")]
        direct: bool,
    },

    /// Delete a key
    ///
    /// Whoever reads the block keeps reading it; the memory is used again when they are done. Status 3 when the key is
    /// not there.
    ///
    /// Example: larder rm scratch climate/2026/t2m
    Rm {
        #[command(flatten)]
        at: BlockArgs,
    },

    /// Wait until the store has all that was put into a namespace
    ///
    /// For namespaces of durability `back`, whose puts return before the store has the blocks. Status 1 when a block could
    /// not be written: it stays in memory and is tried again. Waits without end, or as long as --timeout says.
    ///
    /// Example: larder sync results
    Sync {
        /// Namespace
        #[arg(value_name = "NS")]
        namespace: OsString,
    },

    /// Delete every block of a namespace
    ///
    /// The namespace and its options stay.
    ///
    /// Example: larder clear scratch
    Clear {
        /// Namespace
        #[arg(value_name = "NS")]
        namespace: OsString,
    },

    /// Create, change, list, show and remove namespaces
    ///
    /// A namespace is a named set of keys of one user. The first use of a name creates it with default options:
    /// blocks are evicted when room is needed, a key is not put twice with other bytes, no quota, no expiry.
    ///
    /// Example: larder ns create results --eviction keep --quota 2GiB
    #[command(subcommand)]
    Ns(NsCommand),

    /// Load a directory, read it from several processes, measure, clean up
    ///
    /// Starts an agent of its own on a private socket, stores every file under DIR as a block, starts reader processes
    /// that compare each block with its file byte for byte, measures hits, reads and memory beside the same reads from
    /// files, prints a table, and stops and removes everything. Status 1 when any byte differs.
    ///
    /// Example: larder demo /usr/share/doc --readers 4
    Demo(DemoArgs),

    /// A process of the demo: its agent or one of its readers. Started by `demo` only.
    #[command(hide = true)]
    DemoProcess(DemoProcessArgs),
}

/// A key in a namespace.
#[derive(Debug, Args)]
pub(crate) struct BlockArgs {
    /// Namespace
    #[arg(value_name = "NS")]
    pub(crate) namespace: OsString,
    /// Key: 1 to 1,024 bytes of UTF-8; `/` makes groups
    pub(crate) key: OsString,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_grouped_list_of_verbs_names_each_with_its_own_words() {
        let command = Cli::command();
        let listed: Vec<&str> = VERBS.lines().filter(|line| line.starts_with("  ")).map(str::trim).collect();
        let real: Vec<_> = command.get_subcommands().filter(|verb| !verb.is_hide_set()).collect();
        assert_eq!(listed.len(), real.len());
        for verb in real {
            let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
            let line = listed
                .iter()
                .find(|line| line.split_whitespace().next() == Some(verb.get_name()))
                .unwrap_or_else(|| panic!("{} is not listed", verb.get_name()));
            assert!(line.ends_with(&about), "{line:?} should end in {about:?}");
        }
    }

    #[test]
    fn each_verb_has_an_example() {
        fn check(command: &clap::Command) {
            for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
                let about = verb.get_long_about().map(ToString::to_string).unwrap_or_default();
                assert!(about.contains("Example: larder "), "{} has no example", verb.get_name());
                check(verb);
            }
        }
        check(&Cli::command());
    }
}
