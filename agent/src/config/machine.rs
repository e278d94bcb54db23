//! What the configuration is checked against: the machine and the user the agent runs as.

use std::fs;
use std::io;
use std::path::Path;

use larder_protocol::units::ByteSize;
use nix::unistd::{SysconfVar, geteuid, sysconf};

use super::HUGE_PAGE;
use super::cpu_list::{CpuListError, parse_cpu_list};
use super::source::excerpt;

const MEMINFO: &str = "/proc/meminfo";
const STATUS: &str = "/proc/self/status";
const CPUS_ONLINE: &str = "/sys/devices/system/cpu/online";
const NODES_WITH_MEMORY: &str = "/sys/devices/system/node/has_memory";
const HUGE_PAGE_POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

/// The facts about a machine that limit a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// All memory that the kernel manages.
    pub mem_total_bytes: u64,
    /// The CPUs that are online and that this process may use, ascending.
    pub cpus: Vec<usize>,
    /// The NUMA nodes that have memory and that this process may use, ascending.
    pub numa_nodes: Vec<usize>,
    /// The size of a base page.
    pub page_bytes: u64,
    /// The effective user id of this process.
    pub euid: u32,
    /// The memory in the pool of 2 MiB pages, used or not.
    pub huge_page_pool_bytes: u64,
}

/// Why the machine could not be described.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// A file of the kernel cannot be read.
    #[error("cannot read {path}, which describes the machine: {source}")]
    Unreadable {
        /// The file.
        path: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A file of the kernel lacks a line.
    #[error("{path} has no usable line {field}, which describes the machine")]
    FieldMissing {
        /// The file.
        path: &'static str,
        /// The name of the line.
        field: &'static str,
    },
    /// A file of the kernel holds something else than a list of numbers.
    #[error("{path} holds {text:?} where a list of numbers belongs: {source}")]
    ListMalformed {
        /// The file.
        path: &'static str,
        /// What it holds, shortened.
        text: String,
        /// What is wrong with it.
        source: CpuListError,
    },
    /// The kernel does not say how large a page is.
    #[error("the kernel does not say how large a page is (sysconf _SC_PAGESIZE)")]
    PageSizeUnknown,
}

impl Machine {
    /// Describes the machine and user that this process runs on and as.
    ///
    /// # Errors
    /// A [`MachineError`] where the kernel's files are absent or not understood.
    pub fn detect() -> Result<Self, MachineError> {
        let meminfo = read(MEMINFO)?;
        let status = read(STATUS)?;
        let page_bytes = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|bytes| u64::try_from(bytes).ok());
        Ok(Self {
            mem_total_bytes: mem_total_bytes(&meminfo)?,
            cpus: allowed(&status, "Cpus_allowed_list", CPUS_ONLINE)?,
            numa_nodes: allowed(&status, "Mems_allowed_list", NODES_WITH_MEMORY)?,
            page_bytes: page_bytes.filter(|&bytes| bytes > 0).ok_or(MachineError::PageSizeUnknown)?,
            euid: geteuid().as_raw(),
            huge_page_pool_bytes: huge_page_pool_bytes(&meminfo, fs::read_to_string(HUGE_PAGE_POOL).ok().as_deref()),
        })
    }
}

fn read(path: &'static str) -> Result<String, MachineError> {
    fs::read_to_string(Path::new(path)).map_err(|source| MachineError::Unreadable { path, source })
}

/// The rest of the line `field: rest`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// A line of meminfo in bytes; the kernel's `kB` are 1,024 bytes.
fn kilobytes(meminfo: &str, name: &str) -> Option<u64> {
    let count: u64 = field(meminfo, name)?.strip_suffix("kB")?.trim().parse().ok()?;
    count.checked_mul(1_024)
}

fn mem_total_bytes(meminfo: &str) -> Result<u64, MachineError> {
    kilobytes(meminfo, "MemTotal").ok_or(MachineError::FieldMissing { path: MEMINFO, field: "MemTotal" })
}

/// The pool from its own file, else from meminfo where that speaks of pages of this size. A kernel without the feature
/// has neither, and an empty pool.
fn huge_page_pool_bytes(meminfo: &str, pool_pages: Option<&str>) -> u64 {
    let from_meminfo = || {
        (kilobytes(meminfo, "Hugepagesize").map(ByteSize) == Some(HUGE_PAGE))
            .then_some(field(meminfo, "HugePages_Total")?)
    };
    let pages: u64 = pool_pages.or_else(from_meminfo).and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    pages.saturating_mul(HUGE_PAGE.bytes())
}

/// What the status of the process allows of what the machine has: the first may name what is not there, the second
/// what is not for us. Without the second (a kernel without NUMA, a container without /sys) the first decides.
fn allowed(status: &str, name: &'static str, present_path: &'static str) -> Result<Vec<usize>, MachineError> {
    let text = field(status, name).ok_or(MachineError::FieldMissing { path: STATUS, field: name })?;
    let allowed = list(STATUS, text)?;
    let Ok(text) = fs::read_to_string(present_path) else {
        return Ok(allowed);
    };
    let present = list(present_path, &text)?;
    Ok(allowed.into_iter().filter(|number| present.binary_search(number).is_ok()).collect())
}

fn list(path: &'static str, text: &str) -> Result<Vec<usize>, MachineError> {
    parse_cpu_list(text).map_err(|source| MachineError::ListMalformed { path, text: excerpt(text), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO_TEXT: &str = "\
MemTotal:       24684092 kB
MemFree:        24196244 kB
HugePages_Total:      12
Hugepagesize:       2048 kB
";

    #[test]
    fn this_machine_is_described() {
        let machine = Machine::detect().expect("the kernel describes the machine");
        assert!(machine.mem_total_bytes > 1 << 24);
        assert!(!machine.cpus.is_empty());
        assert!(!machine.numa_nodes.is_empty());
        assert!(machine.page_bytes.is_power_of_two() && machine.page_bytes >= 4_096);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        assert_eq!(mem_total_bytes(MEMINFO_TEXT).expect("there is such a line"), 24_684_092 * 1_024);
        let error = mem_total_bytes("MemFree: 1 kB\n").expect_err("there is no such line");
        assert_eq!(error.to_string(), "/proc/meminfo has no usable line MemTotal, which describes the machine");
    }

    #[test]
    fn the_pool_of_2_mib_pages_is_found_or_empty() {
        assert_eq!(huge_page_pool_bytes(MEMINFO_TEXT, Some("7\n")), 14 << 20);
        assert_eq!(huge_page_pool_bytes(MEMINFO_TEXT, None), 24 << 20);
        assert_eq!(huge_page_pool_bytes(&MEMINFO_TEXT.replace("2048 kB", "1048576 kB"), None), 0);
        assert_eq!(huge_page_pool_bytes("", None), 0);
    }

    #[test]
    fn what_is_allowed_is_cut_to_what_is_present() {
        let status = "Name:\tlarderd\nCpus_allowed_list:\t0-8191\nMems_allowed_list:\t0\n";
        let cpus = allowed(status, "Cpus_allowed_list", CPUS_ONLINE).expect("both lists are readable");
        assert!(!cpus.is_empty() && cpus.len() < 8_192);
        let absent = "/proc/self/there-is-no-such-file";
        assert_eq!(allowed(status, "Mems_allowed_list", absent).expect("the first list decides"), [0]);
        let error = allowed("Cpus_allowed_list:\tmany\n", "Cpus_allowed_list", absent).expect_err("no list");
        assert!(error.to_string().starts_with("/proc/self/status holds \"many\" where a list"), "{error}");
    }
}
