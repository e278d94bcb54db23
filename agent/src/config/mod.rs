//! The agent's configuration: one typed, validated struct, built from a file, the environment and the flags.
//!
//! A flag wins over the environment, the environment over the file, the file over the default. Every source is read
//! as text and goes through one parser per field, so that the same mistake reads the same wherever it was made, and
//! all mistakes are found in one pass.

mod args;
mod cpu_list;
mod disk_capacity;
mod file;
mod machine;
mod origins;
mod problem;
mod resolve;
mod source;
mod store_options;
mod store_url;
mod value;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use larder_protocol::units::ByteSize;

pub use args::Args;
pub use cpu_list::{CPU_NUMBER_MAX, CpuListError, format_cpu_list, parse_cpu_list};
pub use disk_capacity::DiskCapacity;
pub use file::{FileConfig, OriginTable, Scalar, StoreOptionsTable, TenantTable};
pub use machine::{Machine, MachineError};
pub use origins::{ListedOrigin, OriginsConfig};
pub use problem::{ConfigError, Problem};
pub use source::{Given, Origin};
pub use store_options::StoreOptions;
pub use store_url::{Bucket, PREFIX_BYTES_MAX, Service, StoreKind, StoreUrl, StoreUrlError};
pub use value::ValueError;

/// Segments, and the huge pages they may be made of, come in this unit.
pub const HUGE_PAGE: ByteSize = ByteSize::mib(2);
/// The least capacity an agent starts with.
pub const CAPACITY_MIN: ByteSize = ByteSize::mib(32);
/// What a capacity must leave of the machine's memory to everything else.
pub const MEMORY_LEFT_TO_SYSTEM: ByteSize = ByteSize::mib(256);
/// The largest segment.
pub const SEGMENT_SIZE_MAX: ByteSize = ByteSize::gib(1);
/// The largest segment that is chosen unasked.
const SEGMENT_SIZE_DEFAULT_MAX: ByteSize = ByteSize::mib(256);
/// The smallest and the largest staging memory of a session, and the one chosen unasked.
const STAGING_MIN: ByteSize = ByteSize::mib(1);
const STAGING_MAX: ByteSize = ByteSize::mib(256);
const STAGING_DEFAULT: ByteSize = ByteSize::mib(8);
/// Sessions that one user may have open, at most and unasked.
const SESSIONS_PER_UID_MAX: u32 = 65_536;
const SESSIONS_PER_UID_DEFAULT: u32 = 256;
/// Pins that one session may hold, at most and unasked.
const SLOTS_PER_SESSION_MAX: u32 = 1 << 20;
const SLOTS_PER_SESSION_DEFAULT: u32 = 65_536;
/// The least capacity of a disk tier.
const DISK_CAPACITY_MIN: ByteSize = ByteSize::mib(32);
/// Seconds that one request to the store may take, at most and unasked.
const STORE_TIMEOUT_MAX_S: u32 = 3600;
const STORE_TIMEOUT_DEFAULT_S: u32 = 60;

/// What memory segments are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// Pages of the machine's base size.
    #[default]
    Off,
    /// Transparent huge pages where the kernel finds them.
    Thp,
    /// Huge pages from the pool that the administrator reserved.
    Hugetlb,
}

/// Which NUMA node segments are placed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Numa {
    /// Wherever the kernel puts them.
    #[default]
    None,
    /// Page by page over all nodes.
    Interleave,
    /// All on one node.
    Node(usize),
}

/// How much of the capacity is populated before it is needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Populate {
    /// Whole segments, ahead of a watermark.
    #[default]
    Ahead,
    /// The whole capacity, in the background, from the start.
    All,
}

/// The limits of one user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantLimits {
    /// The user.
    pub uid: u32,
    /// The most the user's blocks may take, guaranteed bytes included.
    pub quota: ByteSize,
    /// What is kept for the user and never lent to others.
    pub guaranteed: ByteSize,
}

/// The configuration in effect: complete and checked against the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The node-wide budget of shared memory. At least [`CAPACITY_MIN`].
    pub capacity: ByteSize,
    /// The socket to listen on.
    pub socket: PathBuf,
    /// The file that was read, if any.
    pub config: Option<PathBuf>,
    /// Whether only to check and print the configuration.
    pub check_config: bool,
    /// What segments are made of.
    pub huge_pages: HugePages,
    /// Where segments are placed.
    pub numa: Numa,
    /// The CPUs the agent's threads may use, ascending; empty means all that the kernel allows.
    pub cpus: Vec<usize>,
    /// Whether the agent spins for requests instead of sleeping.
    pub spin: bool,
    /// What is populated before it is needed.
    pub populate: Populate,
    /// The size of a segment: a multiple of [`HUGE_PAGE`], at most the capacity and [`SEGMENT_SIZE_MAX`].
    pub segment_size: ByteSize,
    /// The quota of a tenant that has none of its own in `tenants`.
    pub tenant_quota: ByteSize,
    /// Users with limits of their own, ascending by uid.
    pub tenants: Vec<TenantLimits>,
    /// The most bytes one tenant may keep pinned.
    pub pinned_quota: ByteSize,
    /// The most sessions one user may have open.
    pub max_sessions_per_uid: u32,
    /// The most pins one session may hold.
    pub max_slots_per_session: u32,
    /// The staging memory of a session: whole pages.
    pub staging: ByteSize,
    /// Where blocks of durable namespaces are kept, if anywhere.
    pub store: Option<StoreUrl>,
    /// The most that one request to the store may take.
    pub store_timeout: Duration,
    /// Where blocks are kept between the memory and the store, if anywhere, and how much of them.
    pub disk: Option<(PathBuf, DiskCapacity)>,
    /// How the store is reached.
    pub store_options: StoreOptions,
    /// Which of these the file gave.
    store_keys: Vec<&'static str>,
    /// Where what tasks ask for by URL may come from.
    pub origins: OriginsConfig,
    /// The filter of the log, in the syntax of `tracing`.
    pub log: String,
    /// For each key, where its value came from: file, environment, flag or default.
    sources: BTreeMap<&'static str, &'static str>,
}

impl Config {
    /// Reads all sources and checks the result against the machine; `env` looks an environment variable up.
    ///
    /// # Errors
    /// Everything that is wrong, not only the first thing.
    pub fn load(args: Args, env: &dyn Fn(&str) -> Option<OsString>, machine: &Machine) -> Result<Self, ConfigError> {
        resolve::load(&args, env, machine)
    }

    /// The directory of the socket: `.` for a bare file name.
    pub fn socket_dir(&self) -> &Path {
        match self.socket.parent() {
            Some(directory) if !directory.as_os_str().is_empty() => directory,
            _ => Path::new("."),
        }
    }

    /// The limits of a user: the user's own, or the defaults.
    pub fn limits_of(&self, uid: u32) -> TenantLimits {
        match self.tenants.binary_search_by_key(&uid, |tenant| tenant.uid) {
            Ok(at) => self.tenants[at],
            Err(_) => TenantLimits { uid, quota: self.tenant_quota, guaranteed: ByteSize(0) },
        }
    }

    /// One of the quotas in bytes, as the cache takes it: no limit where nobody set one, so that a tenant may use the
    /// whole of a capacity that is raised later.
    pub fn quota_bytes(&self, quota: ByteSize) -> u64 {
        let is_default = !self.sources.contains_key("tenant_quota") && quota == self.tenant_quota;
        if is_default { u64::MAX } else { quota.bytes() }
    }

    /// Every setting in effect as key, value and where it came from: `file`, `environment`, `flag` or `default`.
    pub fn describe(&self) -> Vec<(String, String, &'static str)> {
        let cpus = if self.cpus.is_empty() { "all".to_owned() } else { format_cpu_list(&self.cpus) };
        let config = self.config.as_ref().map_or_else(|| "none".to_owned(), |path| path.display().to_string());
        let none = || "none".to_owned();
        let shown = |capacity| match capacity {
            DiskCapacity::Size(size) => exact(size),
            DiskCapacity::Percent(_) => format!("{capacity} of its file system"),
        };
        let values = [
            ("capacity", exact(self.capacity)),
            ("huge_pages", self.huge_pages.to_string()),
            ("populate", self.populate.to_string()),
            ("segment_size", exact(self.segment_size)),
            ("staging", exact(self.staging)),
            ("numa", self.numa.to_string()),
            ("cpus", cpus),
            ("spin", self.spin.to_string()),
            ("tenant_quota", exact(self.tenant_quota)),
            ("pinned_quota", exact(self.pinned_quota)),
            ("max_sessions_per_uid", self.max_sessions_per_uid.to_string()),
            ("max_slots_per_session", self.max_slots_per_session.to_string()),
            ("store", self.store.as_ref().map_or_else(|| "none".to_owned(), StoreUrl::to_string)),
            ("store_timeout", self.store_timeout.as_secs().to_string()),
            ("disk", self.disk.as_ref().map_or_else(none, |(path, _)| path.display().to_string())),
            ("disk_capacity", self.disk.as_ref().map_or_else(none, |(_, capacity)| shown(*capacity))),
            ("socket", self.socket.display().to_string()),
            ("config", config),
            ("log", self.log.clone()),
        ];
        let settings = values.map(|(key, value)| {
            let source = self.sources.get(key).copied().unwrap_or(Origin::Default.name());
            (key.to_owned(), value, source)
        });
        // Tables of tenants exist in the file only.
        let tenants = self.tenants.iter().map(|tenant| {
            let limits = format!("quota {}, guaranteed {}", exact(tenant.quota), exact(tenant.guaranteed));
            (format!("tenant.{}", tenant.uid), limits, "file")
        });
        let options = self.store.iter().flat_map(|url| self.store_options.describe(url.kind())).map(|(key, value)| {
            let source = if self.store_keys.contains(&key) { "file" } else { Origin::Default.name() };
            (format!("store_options.{key}"), value, source)
        });
        settings.into_iter().chain(tenants).chain(options).chain(self.origins.describe()).collect()
    }
}

/// A size as it prints, with the bytes beside it where that form is rounded.
fn exact(size: ByteSize) -> String {
    let text = size.to_string();
    if text.parse() == Ok(size) { text } else { format!("{text} ({} bytes)", size.bytes()) }
}

impl fmt::Display for HugePages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Off => "off",
            Self::Thp => "thp",
            Self::Hugetlb => "hugetlb",
        })
    }
}

impl fmt::Display for Numa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.pad("none"),
            Self::Interleave => f.pad("interleave"),
            Self::Node(node) => f.pad(&node.to_string()),
        }
    }
}

impl fmt::Display for Populate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ahead => "ahead",
            Self::All => "all",
        })
    }
}
