//! What the kernel says about processes, as opposed to what they say about themselves.

use std::fs;

use nix::unistd::Pid;

/// One map of a process, with the path of what is mapped and the kernel's flags for it.
#[derive(Debug)]
pub(crate) struct Map {
    pub(crate) line: String,
    pub(crate) flags: Vec<String>,
}

/// The maps of Larder's memory in a process.
pub(crate) fn larder_maps(pid: Pid) -> Vec<Map> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("the maps of one's own child can be read");
    let mut maps = Vec::new();
    for line in text.lines() {
        if line.contains("/memfd:larder") {
            maps.push(Map { line: line.to_owned(), flags: Vec::new() });
        } else if let Some(flags) = line.strip_prefix("VmFlags:")
            && let Some(map) = maps.last_mut().filter(|map: &&mut Map| map.flags.is_empty())
        {
            map.flags = flags.split_whitespace().map(str::to_owned).collect();
        }
    }
    maps
}

/// A line of /proc/PID/status in bytes.
fn status_bytes(pid: Pid, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or_else(|| panic!("no {name} in the status of {pid}")) * 1024
}

/// Shared memory that is resident in a process.
pub(crate) fn shared_bytes(pid: Pid) -> u64 {
    status_bytes(pid, "RssShmem")
}

/// Memory that this machine could give to programs now.
pub(crate) fn available_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").expect("the kernel tells about its memory");
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

/// Descriptors that a process has open. Nobody but root may look at an agent's.
pub(crate) fn descriptors(pid: Pid) -> Option<usize> {
    fs::read_dir(format!("/proc/{pid}/fd")).ok().map(Iterator::count)
}
