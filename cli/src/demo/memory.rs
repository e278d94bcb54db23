//! How much physical memory the blocks take, by the kernel's own account.

use std::fs;
use std::io;
use std::ops::AddAssign;

/// What the mappings of a process's segments hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// Resident pages, counted in full in every process that maps them.
    pub(super) rss_bytes: u64,
    /// Resident pages, each divided by the number of mappings: over all processes the sum is what is really there.
    pub(super) pss_bytes: u64,
}

impl AddAssign for Held {
    fn add_assign(&mut self, other: Held) {
        self.rss_bytes += other.rss_bytes;
        self.pss_bytes += other.pss_bytes;
    }
}

/// How the kernel names the memory that holds blocks; the rest of the name tells how it was filled.
const SEGMENT_NAMES: [&str; 2] = ["/memfd:larder-segment", "/memfd:larder-writer"];

/// What a process's segments hold. The kernel lets only those ask who may trace the process.
pub(super) fn held_by(pid: u32) -> io::Result<Held> {
    Ok(parse(&fs::read_to_string(format!("/proc/{pid}/smaps"))?))
}

fn parse(smaps: &str) -> Held {
    let mut held = Held::default();
    let mut in_segment = false;
    for line in smaps.lines() {
        let (first, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match first {
            "Rss:" if in_segment => held.rss_bytes += kilobytes(rest),
            "Pss:" if in_segment => held.pss_bytes += kilobytes(rest),
            // A line that begins a mapping begins with its addresses.
            _ if !first.ends_with(':') => in_segment = SEGMENT_NAMES.iter().any(|name| rest.contains(name)),
            _ => {}
        }
    }
    held
}

fn kilobytes(text: &str) -> u64 {
    let count: u64 = text.trim().trim_end_matches("kB").trim_end().parse().unwrap_or(0);
    count * 1_024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_segments_count() {
        let smaps = "\
7f0000000000-7f0000200000 r--s 00000000 00:01 1029   /memfd:larder-segment (deleted)
Size:               2048 kB
Rss:                1024 kB
Pss:                 512 kB
Pss_Dirty:           512 kB
VmFlags: rd mr me ms dd
7f0000200000-7f0000300000 rw-p 00000000 00:00 0
Rss:                 100 kB
Pss:                 100 kB
7f0000300000-7f0000400000 r--s 00000000 00:01 1030   /memfd:larder-writer (deleted)
Rss:                   8 kB
Pss:                   4 kB
7f0000400000-7f0000500000 r--s 00000000 00:01 1031   /memfd:larder-index (deleted)
Rss:                  64 kB
Pss:                  64 kB
";
        assert_eq!(parse(smaps), Held { rss_bytes: 1_032 << 10, pss_bytes: 516 << 10 });
    }
}
