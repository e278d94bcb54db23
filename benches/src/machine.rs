//! What the figures were measured on: without it a figure says nothing.

use std::fs;
use std::process::Command;

use serde::Serialize;

/// The machine, its kernel and the versions of everything that was measured.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) l2_l3_cache: String,
    pub(crate) hypervisor: bool,
    pub(crate) memory_bytes: u64,
    pub(crate) kernel: String,
    pub(crate) page_bytes: i64,
    pub(crate) huge_pages_private: String,
    pub(crate) huge_pages_shmem: String,
    pub(crate) clock: String,
    pub(crate) load_averages: String,
    pub(crate) versions: Vec<String>,
}

impl Machine {
    pub(crate) fn describe() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let lmdb = heed::lmdb_version();
        Self {
            cpu: field(&cpuinfo, "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: cores(),
            l2_l3_cache: format!("{} / {}", cache_size(2), cache_size(3)),
            hypervisor: field(&cpuinfo, "flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            memory_bytes: meminfo_bytes("MemTotal"),
            kernel: one_line("/proc/sys/kernel/osrelease"),
            page_bytes: page_bytes(),
            huge_pages_private: one_line("/sys/kernel/mm/transparent_hugepage/enabled"),
            huge_pages_shmem: one_line("/sys/kernel/mm/transparent_hugepage/shmem_enabled"),
            clock: one_line("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            load_averages: load_averages(),
            versions: vec![
                format!("larder {}", env!("CARGO_PKG_VERSION")),
                format!("LMDB {}.{}.{} (heed 0.22)", lmdb.major, lmdb.minor, lmdb.patch),
                version_of("redis-server", "--version", |text| {
                    text.split_whitespace().find_map(|word| word.strip_prefix("v=").map(|v| format!("redis {v}")))
                }),
                version_of("memcached", "--version", |text| text.lines().next().map(str::to_owned)),
                "crate shared_memory 0.12.4".to_owned(),
            ],
        }
    }

    /// Adds the load averages of the end of a run.
    pub(crate) fn end_of_run(&mut self) {
        self.load_averages = format!("{} / {}", self.load_averages, load_averages());
    }

    /// A folder name for results of this kind of machine.
    pub(crate) fn folder(&self) -> String {
        let gib = self.memory_bytes.div_ceil(1 << 30);
        let name = format!("{} {}c {gib}gib", self.cpu.replace("(R)", "").replace("(TM)", ""), self.cores);
        let mut folder = String::new();
        for letter in name.to_lowercase().chars() {
            if letter.is_ascii_alphanumeric() {
                folder.push(letter);
            } else if !folder.ends_with('-') {
                folder.push('-');
            }
        }
        folder.trim_matches('-').to_owned()
    }

    /// The lines of the report's "Machine" part.
    pub(crate) fn lines(&self) -> Vec<String> {
        vec![
            format!(
                "CPU: {}, {} cores{}, L2 / L3 {}",
                self.cpu,
                self.cores,
                if self.hypervisor { " (virtual machine)" } else { "" },
                self.l2_l3_cache
            ),
            format!(
                "memory: {:.1} GiB, pages of {} bytes",
                self.memory_bytes as f64 / (1u64 << 30) as f64,
                self.page_bytes
            ),
            format!("kernel: Linux {}, clock {}", self.kernel, self.clock),
            format!(
                "transparent huge pages: private `{}`, shared memory `{}`",
                self.huge_pages_private, self.huge_pages_shmem
            ),
            format!("load averages before and after the run (other work beside it): {}", self.load_averages),
            format!("versions: {}", self.versions.join(", ")),
        ]
    }
}

/// How many cores this process may run on.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A field of /proc/meminfo in bytes, 0 where there is none.
pub(crate) fn meminfo_bytes(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib =
        field(&text, name).and_then(|value| value.split(' ').next().and_then(|number| number.parse::<u64>().ok()));
    kib.unwrap_or(0) * 1024
}

pub(crate) fn page_bytes() -> i64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096)
}

fn field(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

fn one_line(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// The load averages over 1, 5 and 15 minutes.
fn load_averages() -> String {
    one_line("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn cache_size(level: u32) -> String {
    let caches = fs::read_dir("/sys/devices/system/cpu/cpu0/cache").into_iter().flatten().flatten();
    for cache in caches {
        let path = cache.path();
        if fs::read_to_string(path.join("level")).is_ok_and(|text| text.trim() == level.to_string()) {
            return fs::read_to_string(path.join("size"))
                .map_or_else(|_| "?".to_owned(), |text| text.trim().to_owned());
        }
    }
    "?".to_owned()
}

fn version_of(program: &str, argument: &str, find: impl Fn(&str) -> Option<String>) -> String {
    let output = Command::new(program).arg(argument).output();
    let text = output.ok().map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.and_then(|text| find(&text)).unwrap_or_else(|| format!("{program}: not installed"))
}
