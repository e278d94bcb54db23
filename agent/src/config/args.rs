//! The command line of `larderd`.

use std::ffi::OsString;
use std::path::PathBuf;

use super::source::SCALAR_COUNT;

const AFTER_HELP: &str = "\
Sizes:
  Bytes (4096), or a number and KiB, MiB, GiB, TiB (powers of 1024) or KB, MB, GB, TB (powers of 1000).

Other ways to set the same:
  Every option but --config, --check-config and --allow-origin is a key of the file: segment_size = \"64MiB\".
  Every option but --check-config and --allow-origin is a variable of the environment: LARDER_SEGMENT_SIZE=64MiB.
  A flag wins over the environment, the environment over the file.
  Limits of single users are tables in the file: [[tenant]] with uid, quota and guaranteed.
  Origins with users, credentials and more are tables: [[origin]] with prefix and others (docs/origins.md).
  How to reach a store is one: [store_options] with endpoint, credentials_file and more (docs/stores.md).

Example:
  larderd --capacity 4GiB --socket /run/larder/larder.sock";

/// The flags of `larderd`. A value stays text here: it is read where values from the file and the environment are.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Parser)]
#[command(
    name = "larderd",
    version,
    about = "Keeps hot blocks in shared memory that every process on this node reads in place",
    override_usage = "larderd --capacity SIZE [OPTIONS]",
    after_help = AFTER_HELP,
    max_term_width = 120
)]
pub struct Args {
    /// Shared memory to use, as a size or as a share of the machine's memory (50%) [required here, in the environment
    /// or in the file; at least 32 MiB]
    #[arg(long, value_name = "SIZE|PERCENT", help_heading = "Memory")]
    pub capacity: Option<String>,

    /// What segments are made of: base pages, transparent huge pages, or the reserved pool of 2 MiB pages
    /// [default: off]
    #[arg(long, value_name = "MODE", help_heading = "Memory", value_parser = ["off", "thp", "hugetlb"])]
    pub huge_pages: Option<String>,

    /// What to populate before it is needed: whole segments ahead of a watermark, or the whole capacity in the
    /// background [default: ahead]
    #[arg(long, value_name = "WHAT", help_heading = "Memory", value_parser = ["ahead", "all"])]
    pub populate: Option<String>,

    /// Size of a segment, 2 MiB to 1 GiB, rounded down to 2 MiB [default: a sixteenth of the capacity, at most 256 MiB]
    #[arg(long, value_name = "SIZE", help_heading = "Memory")]
    pub segment_size: Option<String>,

    /// Staging memory of a session, 1 MiB to 256 MiB [default: 8 MiB]
    #[arg(long, value_name = "SIZE", help_heading = "Memory")]
    pub staging: Option<String>,

    /// NUMA placement of segments: none, interleave, or the number of a node [default: none]
    #[arg(long, value_name = "none|interleave|NODE", help_heading = "Placement")]
    pub numa: Option<String>,

    /// CPUs for the agent's threads, such as 0-3,8 [default: all]
    #[arg(long, value_name = "LIST", help_heading = "Placement")]
    pub cpus: Option<String>,

    /// Spin for requests instead of sleeping: quicker answers, for one busy CPU [default: false]
    #[arg(
        long,
        value_name = "true|false",
        help_heading = "Placement",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub spin: Option<String>,

    /// The most one tenant's blocks may take [default: the capacity]
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    pub tenant_quota: Option<String>,

    /// The most bytes one tenant may keep pinned [default: half of the capacity]
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    pub pinned_quota: Option<String>,

    /// The most sessions one user may have open, 1 to 65536 [default: 256]
    #[arg(long, value_name = "COUNT", help_heading = "Limits")]
    pub max_sessions_per_uid: Option<String>,

    /// The most blocks one session may keep pinned, 1 to 1048576 [default: 65536]
    #[arg(long, value_name = "COUNT", help_heading = "Limits")]
    pub max_slots_per_session: Option<String>,

    /// Where blocks of durable namespaces are kept, as a URL: file:///absolute/path of a directory on any mounted file
    /// system, s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, or memory:// for trials. How to reach it
    /// stands in the table store_options of the file [default: none, and all namespaces are scratch]
    #[arg(long, value_name = "URL", help_heading = "Store")]
    pub store: Option<String>,

    /// The most seconds that one request to the store may take, 1 to 3600 [default: 60]
    #[arg(long, value_name = "SECONDS", help_heading = "Store")]
    pub store_timeout: Option<String>,

    /// URLs that every user's tasks may have fetched, by how they begin: http://, https://, s3://, gs:// or az://, a host or
    /// bucket, and whole parts of a path. May be given several times [default: what the file lists, in tables of origins;
    /// whoever has the agent's own uid may fetch everything]
    #[arg(long, value_name = "PREFIX", help_heading = "Origins")]
    pub allow_origin: Vec<String>,

    /// Directory on a disk of this node for a cache of blocks between the memory and the store; larderd makes it, and
    /// fills and empties it as it likes [default: none]
    #[arg(long, value_name = "DIR", help_heading = "Disk")]
    pub disk: Option<PathBuf>,

    /// The most that the cache there may take, as a size or as a share of its file system (50%); at least 32 MiB
    /// [required with --disk]
    #[arg(long, value_name = "SIZE|PERCENT", help_heading = "Disk")]
    pub disk_capacity: Option<String>,

    /// Socket to listen on [default: /run/larder/larder.sock for root, else $XDG_RUNTIME_DIR/larder/larder.sock, else
    /// /tmp/larder-UID/larder.sock]
    #[arg(long, value_name = "PATH", help_heading = "Service")]
    pub socket: Option<PathBuf>,

    /// Configuration file to read, in TOML [default: none]
    #[arg(long, value_name = "PATH", help_heading = "Service")]
    pub config: Option<PathBuf>,

    /// Print the configuration in effect and where each value came from, or everything that is wrong with it, and exit
    #[arg(long, help_heading = "Service")]
    pub check_config: bool,

    /// What to log, such as warn or info,larder_agent=debug [default: info]
    #[arg(long, value_name = "FILTER", help_heading = "Service")]
    pub log: Option<String>,
}

impl Args {
    /// The flags that set a key, by key.
    pub(super) fn scalars(&self) -> [(&'static str, Option<OsString>); SCALAR_COUNT] {
        let text = |value: &Option<String>| value.as_ref().map(OsString::from);
        [
            ("capacity", text(&self.capacity)),
            ("huge_pages", text(&self.huge_pages)),
            ("populate", text(&self.populate)),
            ("segment_size", text(&self.segment_size)),
            ("staging", text(&self.staging)),
            ("numa", text(&self.numa)),
            ("cpus", text(&self.cpus)),
            ("spin", text(&self.spin)),
            ("tenant_quota", text(&self.tenant_quota)),
            ("pinned_quota", text(&self.pinned_quota)),
            ("max_sessions_per_uid", text(&self.max_sessions_per_uid)),
            ("max_slots_per_session", text(&self.max_slots_per_session)),
            ("store", text(&self.store)),
            ("store_timeout", text(&self.store_timeout)),
            ("disk", self.disk.as_ref().map(OsString::from)),
            ("disk_capacity", text(&self.disk_capacity)),
            ("socket", self.socket.as_ref().map(OsString::from)),
            ("log", text(&self.log)),
        ]
    }
}
