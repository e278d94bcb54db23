//! Shared memory as the cache gets it: made, placed, populated and sealed before the cache sees it.
//!
//! Making memory takes time (a gigabyte of fresh pages takes about a second), so it happens outside the cache's lock: the
//! cache says what it [`Need`]s, somebody [`prepare`]s it on a thread that may block, and gives it to the cache.

use std::io;
use std::sync::Arc;

use larder_protocol::layout::table;
use larder_protocol::memory::{HugePages, Mapping, Memfd, Platform, Seals};

/// Alignment of segment sizes, that of a huge page.
pub(crate) const HUGE_PAGE_BYTES: u64 = 2 << 20;

/// Where and of what the memory is made.
#[derive(Clone, Copy, Debug)]
pub struct Material {
    /// What this kernel can do.
    pub platform: Platform,
    /// Page size of segments.
    pub huge_pages: HugePages,
    /// NUMA nodes for segments as a mask, and whether to interleave over them; none to leave it to the kernel.
    pub numa: Option<(u64, bool)>,
}

/// Memory that the cache needs before it can go on. Already charged to the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// A segment of `len` bytes for tenant `uid`; `dedicated` to one large block or not.
    Segment { uid: u32, len: u64, dedicated: bool },
    /// A segment of `len` bytes ahead of need.
    Spare { len: u64 },
    /// An index table of `capacity` entries for tenant `uid`.
    Table { uid: u32, capacity: usize },
}

impl Need {
    pub(crate) fn bytes(self) -> u64 {
        match self {
            Need::Segment { len, .. } | Need::Spare { len } => len,
            Need::Table { capacity, .. } => table_bytes(capacity),
        }
    }
}

/// Bytes of the memory of a table with `capacity` entries.
pub(crate) fn table_bytes(capacity: usize) -> u64 {
    (table::bytes(capacity) as u64).next_multiple_of(4096)
}

/// Memory that is mapped here for writing, populated, and sealed so that nobody else can ever write it.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) memfd: Memfd,
    pub(crate) mapping: Arc<Mapping>,
}

/// Makes memory for `need`.
pub(crate) fn prepare(need: Need, material: &Material) -> io::Result<Prepared> {
    match need {
        Need::Segment { len, .. } | Need::Spare { len } => segment(len, material),
        Need::Table { capacity, .. } => small(c"larder-index", table_bytes(capacity), material),
    }
}

/// Makes a segment.
pub(crate) fn segment(len: u64, material: &Material) -> io::Result<Prepared> {
    let huge = if len.is_multiple_of(HUGE_PAGE_BYTES) { material.huge_pages } else { HugePages::Off };
    let (memfd, mapping) = populated(c"larder-segment", len, huge, material)?;
    memfd.seal(Seals::Final, &material.platform)?;
    Ok(Prepared { memfd, mapping: Arc::new(mapping) })
}

/// Makes memory of 4 KiB pages that only the agent writes: control areas and tables.
pub(crate) fn small(name: &std::ffi::CStr, len: u64, material: &Material) -> io::Result<Prepared> {
    let (memfd, mapping) = populated(name, len, HugePages::Off, material)?;
    memfd.seal(Seals::Final, &material.platform)?;
    Ok(Prepared { memfd, mapping: Arc::new(mapping) })
}

/// Makes memory that a client will write, with its size sealed only when `fixed`: slot pages and staging are sealed
/// after the client has mapped them, a writer's memory at its commit.
pub(crate) fn for_client(name: &std::ffi::CStr, len: u64, fixed: bool, material: &Material) -> io::Result<Prepared> {
    let (memfd, mapping) = populated(name, len, HugePages::Off, material)?;
    if fixed {
        memfd.seal(Seals::Size, &material.platform)?;
    }
    Ok(Prepared { memfd, mapping: Arc::new(mapping) })
}

fn populated(name: &std::ffi::CStr, len: u64, huge: HugePages, material: &Material) -> io::Result<(Memfd, Mapping)> {
    let len = usize::try_from(len).map_err(|_| io::Error::other("length over the address space"))?;
    let memfd = Memfd::create(name, len, huge, &material.platform)?;
    let mapping = Mapping::read_write(&memfd, len)?;
    if huge == HugePages::Transparent {
        mapping.prefer_huge_pages();
    }
    if let Some((mask, interleave)) = material.numa {
        mapping.place(mask, interleave)?;
    }
    if material.platform.populate_write {
        mapping.populate(0, len)?;
    } else {
        mapping.populate_by_touch(0, len);
    }
    Ok((memfd, mapping))
}
