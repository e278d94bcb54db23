//! From what was given to what is in effect: defaults, parsing and every check, with all problems in one pass.
//!
//! A value that cannot be used is reported and its default taken in its place, so that the checks after it still run
//! and find the other problems. Nothing of that reaches a caller: one problem is enough for no configuration.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use larder_protocol::units::ByteSize;

use super::args::Args;
use super::cpu_list::{CpuListError, parse_cpu_list};
use super::file::{self, GivenByFile, GivenTenant};
use super::machine::Machine;
use super::origins::OriginsConfig;
use super::problem::{ConfigError, Problem};
use super::source::{Given, Origin, Sources, from_environment};
use super::store_options::{GivenStoreOptions, StoreOptions};
use super::value::{
    ValueError, parse_bool, parse_capacity, parse_disk_capacity, parse_huge_pages, parse_log, parse_numa, parse_number,
    parse_populate,
};
use super::{
    CAPACITY_MIN, Config, DISK_CAPACITY_MIN, DiskCapacity, HUGE_PAGE, HugePages, MEMORY_LEFT_TO_SYSTEM, Numa, Populate,
    SEGMENT_SIZE_DEFAULT_MAX, SEGMENT_SIZE_MAX, SESSIONS_PER_UID_DEFAULT, SESSIONS_PER_UID_MAX,
    SLOTS_PER_SESSION_DEFAULT, SLOTS_PER_SESSION_MAX, STAGING_DEFAULT, STAGING_MAX, STAGING_MIN,
    STORE_TIMEOUT_DEFAULT_S, STORE_TIMEOUT_MAX_S, StoreUrl, TenantLimits,
};

/// The longest path that the address of a Unix socket holds, without the zero byte at its end.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// The user id that stands for "no user" in system calls; no tenant can have it.
pub(super) const UID_NONE: u32 = u32::MAX;
/// A quota that holds no segment would be a tenant that can keep nothing.
const QUOTA_MIN: ByteSize = HUGE_PAGE;

pub(super) fn load(
    args: &Args,
    env: &dyn Fn(&str) -> Option<OsString>,
    machine: &Machine,
) -> Result<Config, ConfigError> {
    let mut problems = Vec::new();
    let (config, config_origin) = match (&args.config, from_environment(env, "config")) {
        (Some(path), _) => (Some(path.clone()), Origin::Flag),
        (None, Some(path)) => (Some(PathBuf::from(path)), Origin::Environment),
        (None, None) => (None, Origin::Default),
    };
    let read = config.as_ref().map(|path| file::read(path, &mut problems));
    let file_is_lost = matches!(read, Some(None));
    let GivenByFile { scalars, tenants, store_options, origins } = read.flatten().unwrap_or_default();
    let sources = BTreeMap::from([("config", config_origin.name())]);
    let mut resolver = Resolver { given: Sources::new(args, env, scalars), machine, problems, sources };

    let capacity = resolver.capacity(file_is_lost);
    // Checks against a capacity that is not known would only report its absence again.
    let bound = capacity.unwrap_or(ByteSize(u64::MAX));
    let huge_pages = resolver.huge_pages(capacity);
    let segment_size = resolver.segment_size(bound, huge_pages);
    let tenant_quota = resolver.share_of_capacity("tenant_quota", bound, QUOTA_MIN, bound);
    let pinned_quota = resolver.share_of_capacity("pinned_quota", ByteSize(bound.bytes() / 2), ByteSize(1), bound);
    let tenants = resolver.tenants(config.as_deref(), tenants, tenant_quota, bound);
    let store = resolver.value("store", str::parse::<StoreUrl>).map(|(url, _)| url);
    let store_keys = store_options.iter().flat_map(|table| &table.keys).map(|given| given.key).collect();
    let store_options = resolver.store_options(config.as_deref(), store_options, store.as_ref());
    let origins = OriginsConfig::resolve(config.as_deref(), &origins, &args.allow_origin, &mut resolver.problems);
    let settings = Config {
        capacity: bound,
        socket: resolver.socket(env),
        config,
        check_config: args.check_config,
        huge_pages,
        numa: resolver.numa(),
        cpus: resolver.cpus(),
        spin: resolver.value_or("spin", false, parse_bool),
        populate: resolver.value_or("populate", Populate::default(), parse_populate),
        segment_size,
        tenant_quota,
        tenants,
        pinned_quota,
        max_sessions_per_uid: resolver.count("max_sessions_per_uid", SESSIONS_PER_UID_DEFAULT, SESSIONS_PER_UID_MAX),
        max_slots_per_session: resolver.count(
            "max_slots_per_session",
            SLOTS_PER_SESSION_DEFAULT,
            SLOTS_PER_SESSION_MAX,
        ),
        staging: resolver.staging(),
        store,
        store_timeout: Duration::from_secs(
            resolver.count("store_timeout", STORE_TIMEOUT_DEFAULT_S, STORE_TIMEOUT_MAX_S).into(),
        ),
        store_options,
        store_keys,
        origins,
        disk: resolver.disk(),
        log: resolver.value_or("log", "info".to_owned(), parse_log),
        sources: BTreeMap::new(),
    };
    match ConfigError::of(resolver.problems) {
        Some(error) => Err(error),
        None => Ok(Config { sources: resolver.sources, ..settings }),
    }
}

struct Resolver<'a> {
    given: Sources,
    machine: &'a Machine,
    problems: Vec<Problem>,
    sources: BTreeMap<&'static str, &'static str>,
}

impl Resolver<'_> {
    fn report(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// What was given for a key, which is from now on described as its source.
    fn find(&mut self, key: &'static str) -> Option<Given> {
        let given = self.given.find(key)?;
        self.sources.insert(key, given.origin.name());
        Some(given)
    }

    /// What was given for a key, read; `None` where nothing was, or nothing readable.
    fn value<T, E>(&mut self, key: &'static str, parse: impl FnOnce(&str) -> Result<T, E>) -> Option<(T, Given)>
    where
        ValueError: From<E>,
    {
        let given = self.find(key)?;
        let value = self.read(&given, parse)?;
        Some((value, given))
    }

    fn value_or<T>(&mut self, key: &'static str, default: T, parse: impl FnOnce(&str) -> Result<T, ValueError>) -> T {
        self.value(key, parse).map_or(default, |(value, _)| value)
    }

    fn read<T, E>(&mut self, given: &Given, parse: impl FnOnce(&str) -> Result<T, E>) -> Option<T>
    where
        ValueError: From<E>,
    {
        let text = given.text.to_str().ok_or(ValueError::NotUtf8);
        match text.and_then(|text| Ok(parse(text.trim())?)) {
            Ok(value) => Some(value),
            Err(error) => {
                self.report(Problem::value(given, error));
                None
            }
        }
    }

    fn capacity(&mut self, file_is_lost: bool) -> Option<ByteSize> {
        let mem_total = ByteSize(self.machine.mem_total_bytes);
        let limit = ByteSize(mem_total.bytes().saturating_sub(MEMORY_LEFT_TO_SYSTEM.bytes()));
        if limit < CAPACITY_MIN {
            self.report(Problem::MachineTooSmall { mem_total });
            return None;
        }
        let Some(given) = self.find("capacity") else {
            // The file that cannot be read may well set it.
            if !file_is_lost {
                self.report(Problem::CapacityMissing);
            }
            return None;
        };
        let capacity = self.read(&given, |text| parse_capacity(text, mem_total))?;
        if capacity < CAPACITY_MIN {
            self.report(Problem::CapacityTooSmall { given, capacity });
        } else if capacity > limit {
            self.report(Problem::CapacityTooLarge { given, capacity, mem_total, limit });
        }
        Some(capacity)
    }

    fn huge_pages(&mut self, capacity: Option<ByteSize>) -> HugePages {
        let Some((huge_pages, given)) = self.value("huge_pages", parse_huge_pages) else {
            return HugePages::default();
        };
        if let (HugePages::Hugetlb, Some(capacity)) = (huge_pages, capacity) {
            let pages = self.machine.huge_page_pool_bytes / HUGE_PAGE.bytes();
            let pages_needed = capacity.bytes().div_ceil(HUGE_PAGE.bytes());
            if pages < pages_needed {
                self.report(Problem::HugePagePoolTooSmall { given, capacity, pages_needed, pages });
            }
        }
        huge_pages
    }

    fn segment_size(&mut self, capacity: ByteSize, huge_pages: HugePages) -> ByteSize {
        let whole = |size: ByteSize| ByteSize(size.bytes() / HUGE_PAGE.bytes() * HUGE_PAGE.bytes());
        let sixteenth = ByteSize(capacity.bytes() / 16);
        let default = whole(sixteenth.min(SEGMENT_SIZE_DEFAULT_MAX)).max(HUGE_PAGE);
        let Some((size, given)) = self.value("segment_size", str::parse::<ByteSize>) else {
            return default;
        };
        if size < HUGE_PAGE || size > SEGMENT_SIZE_MAX {
            self.report(out_of_range(given, HUGE_PAGE, SEGMENT_SIZE_MAX));
            return default;
        }
        let rounded_down = whole(size);
        if rounded_down != size && huge_pages != HugePages::Off {
            self.report(Problem::SegmentSizeNotHuge { given, huge_pages, rounded_down });
        } else if rounded_down > capacity {
            self.report(Problem::AboveCapacity { given, capacity });
        }
        rounded_down
    }

    /// A size between a least one and the capacity.
    fn share_of_capacity(
        &mut self,
        key: &'static str,
        default: ByteSize,
        min: ByteSize,
        capacity: ByteSize,
    ) -> ByteSize {
        let Some((size, given)) = self.value(key, str::parse::<ByteSize>) else {
            return default;
        };
        self.check_share(given, size, min, capacity);
        size
    }

    fn check_share(&mut self, given: Given, size: ByteSize, min: ByteSize, capacity: ByteSize) {
        if size > capacity {
            self.report(Problem::AboveCapacity { given, capacity });
        } else if size < min {
            self.report(Problem::OutOfRange { given, min: min.to_string(), max: "the capacity".to_owned() });
        }
    }

    fn tenants(
        &mut self,
        path: Option<&Path>,
        tables: Vec<GivenTenant>,
        default_quota: ByteSize,
        capacity: ByteSize,
    ) -> Vec<TenantLimits> {
        let mut lines = BTreeMap::new();
        let mut tenants = Vec::new();
        for table in tables {
            let limits = self.tenant(path, &table, default_quota, capacity, &mut lines);
            tenants.extend(limits);
        }
        let total = tenants.iter().fold(0_u64, |sum, tenant| sum.saturating_add(tenant.guaranteed.bytes()));
        if let (Some(path), true) = (path, total > capacity.bytes()) {
            let path = path.to_owned();
            self.report(Problem::GuaranteedAboveCapacity { path, total: ByteSize(total), capacity });
        }
        tenants.sort_by_key(|tenant| tenant.uid);
        tenants
    }

    /// One table, checked; `lines` holds where each uid was seen first.
    fn tenant(
        &mut self,
        path: Option<&Path>,
        table: &GivenTenant,
        default_quota: ByteSize,
        capacity: ByteSize,
        lines: &mut BTreeMap<u32, usize>,
    ) -> Option<TenantLimits> {
        let mut quota = default_quota;
        if let Some(given) = &table.quota
            && let Some(size) = self.read(given, str::parse::<ByteSize>)
        {
            self.check_share(given.clone(), size, QUOTA_MIN, capacity);
            quota = size;
        }
        let guaranteed = table.guaranteed.as_ref().and_then(|given| self.read(given, str::parse::<ByteSize>));
        let guaranteed = guaranteed.unwrap_or_default();
        let Some(given_uid) = &table.uid else {
            let path = path.map(Path::to_owned).unwrap_or_default();
            self.report(Problem::TenantWithoutUid { path, line: table.line });
            return None;
        };
        let uid = self.read(given_uid, |text| parse_number(text, 0, UID_NONE - 1))?;
        if let Some(&first_line) = lines.get(&uid) {
            self.report(Problem::TenantTwice { given: given_uid.clone(), first_line });
            return None;
        }
        lines.insert(uid, table.line);
        if let (Some(given), true) = (&table.guaranteed, guaranteed > quota) {
            self.report(Problem::GuaranteedAboveQuota { given: given.clone(), uid, quota });
        }
        Some(TenantLimits { uid, quota, guaranteed })
    }

    fn store_options(
        &mut self,
        path: Option<&Path>,
        table: Option<GivenStoreOptions>,
        store: Option<&StoreUrl>,
    ) -> StoreOptions {
        let Some(table) = table else { return StoreOptions::default() };
        if let Some(url) = store {
            return StoreOptions::resolve(&table.keys, url.kind(), &mut self.problems);
        }
        // A URL that cannot be read was reported already.
        if self.given.find("store").is_none() {
            let path = path.map(Path::to_owned).unwrap_or_default();
            self.report(Problem::StoreOptionsWithoutStore { path, line: table.line });
        }
        StoreOptions::default()
    }

    fn staging(&mut self) -> ByteSize {
        let Some((size, given)) = self.value("staging", str::parse::<ByteSize>) else {
            return STAGING_DEFAULT;
        };
        if size < STAGING_MIN || size > STAGING_MAX {
            self.report(out_of_range(given, STAGING_MIN, STAGING_MAX));
            return STAGING_DEFAULT;
        }
        ByteSize(size.bytes().next_multiple_of(self.machine.page_bytes))
    }

    fn numa(&mut self) -> Numa {
        let Some((numa, given)) = self.value("numa", parse_numa) else {
            return Numa::default();
        };
        if let Numa::Node(node) = numa
            && !self.machine.numa_nodes.contains(&node)
        {
            self.report(Problem::NumaNodeAbsent { given, present: self.machine.numa_nodes.clone() });
        }
        numa
    }

    fn cpus(&mut self) -> Vec<usize> {
        let Some((cpus, given)) = self.value::<_, CpuListError>("cpus", parse_cpu_list) else {
            return Vec::new();
        };
        let is_absent = |cpu: &usize| !self.machine.cpus.contains(cpu);
        let absent: Vec<usize> = cpus.iter().copied().filter(is_absent).collect();
        if !absent.is_empty() {
            self.report(Problem::CpusAbsent { given, absent, present: self.machine.cpus.clone() });
        }
        cpus
    }

    fn count(&mut self, key: &'static str, default: u32, max: u32) -> u32 {
        self.value(key, |text| parse_number(text, 1, max)).map_or(default, |(count, _)| count)
    }

    /// The directory and the capacity, which make sense together only.
    fn disk(&mut self) -> Option<(PathBuf, DiskCapacity)> {
        let path = self.find("disk");
        let capacity = self.find("disk_capacity");
        let (path, capacity) = match (path, capacity) {
            (None, None) => return None,
            (Some(given), None) => {
                self.report(Problem::DiskCapacityMissing { given });
                return None;
            }
            (None, Some(given)) => {
                self.report(Problem::DiskMissing { given });
                return None;
            }
            (Some(path), Some(capacity)) => (path, capacity),
        };
        let directory = PathBuf::from(&path.text);
        if !directory.is_absolute() || directory.parent().is_none() || path.text.as_bytes().contains(&0) {
            self.report(Problem::DiskPathInvalid { given: path });
        }
        let bytes = self.read(&capacity, parse_disk_capacity)?;
        if let DiskCapacity::Size(size) = bytes
            && size < DISK_CAPACITY_MIN
        {
            let (min, max) = (DISK_CAPACITY_MIN.to_string(), "the size of its file system".to_owned());
            self.report(Problem::OutOfRange { given: capacity, min, max });
        }
        Some((directory, bytes))
    }

    fn socket(&mut self, env: &dyn Fn(&str) -> Option<OsString>) -> PathBuf {
        let path = match self.find("socket") {
            Some(given) => PathBuf::from(given.text),
            None => default_socket(env, self.machine.euid),
        };
        let bytes = path.as_os_str().as_bytes();
        if path.file_name().is_none() || bytes.ends_with(b"/") || bytes.contains(&0) {
            self.report(Problem::SocketPathInvalid { path: path.clone() });
        } else if bytes.len() > SOCKET_PATH_BYTES_MAX {
            let (len_bytes, max_bytes) = (bytes.len(), SOCKET_PATH_BYTES_MAX);
            self.report(Problem::SocketPathTooLong { path: path.clone(), len_bytes, max_bytes });
        }
        path
    }
}

fn out_of_range(given: Given, min: ByteSize, max: ByteSize) -> Problem {
    Problem::OutOfRange { given, min: min.to_string(), max: max.to_string() }
}

/// Where clients look when nobody tells them. A relative runtime directory is ignored, as its specification asks.
fn default_socket(env: &dyn Fn(&str) -> Option<OsString>, euid: u32) -> PathBuf {
    if euid == 0 {
        return PathBuf::from("/run/larder/larder.sock");
    }
    match env("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|directory| directory.is_absolute()) {
        Some(directory) => directory.join("larder/larder.sock"),
        None => PathBuf::from(format!("/tmp/larder-{euid}/larder.sock")),
    }
}
