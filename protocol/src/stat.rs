//! The agent's figures, as `larder stat` shows them.

use bincode::{Decode, Encode};

/// Figures of the whole agent. The caller sees node-wide memory and counts, and the namespaces of its own tenant only.
///
/// Hits and misses of mapped reads are what clients claim in their own pages, drained when asked: a statistic, not an
/// account.
#[derive(Clone, Debug, PartialEq, Default, Encode, Decode)]
pub struct AgentStat {
    /// Seconds since the agent started.
    pub uptime_s: u64,
    /// The node's capacity in bytes.
    pub capacity_bytes: u64,
    /// Shared memory in existence: segments, tables, slot pages, staging, retired but still mapped segments.
    pub memory_bytes: u64,
    /// Of it, segments that were retired and that somebody still has mapped.
    pub retired_bytes: u64,
    /// Of it, segments that are populated and wait for use.
    pub spare_bytes: u64,
    /// Of it, index tables, old ones that are still mapped included.
    pub index_bytes: u64,
    /// Sessions.
    pub sessions: u64,
    /// Slot pages whose session ended and that another process still has mapped.
    pub orphans: u64,
    /// Calls to the store that are under way, hung ones among them.
    pub store_under_way: u64,
    /// The disk between memory and store; all 0 where there is none.
    pub disk: DiskStat,
    /// Open descriptors of the agent.
    pub descriptors: u64,
    /// Anonymous memory of the agent's process in bytes: its private heap, without the region.
    pub heap_bytes: u64,
    /// Figures of the caller's tenant.
    pub tenant: TenantStat,
}

/// Figures of the disk between memory and store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Encode, Decode)]
pub struct DiskStat {
    /// The most that it may take.
    pub capacity_bytes: u64,
    /// What its files take, and those that are being written or removed.
    pub used_bytes: u64,
    /// Blocks.
    pub blocks: u64,
    /// Blocks that were kept.
    pub writes: u64,
    /// Their payload bytes.
    pub write_bytes: u64,
    /// Blocks that were offered and not kept.
    pub not_admitted: u64,
    /// Blocks that went to make room.
    pub evictions: u64,
    /// Files that were not what they should be.
    pub damaged: u64,
    /// Calls to the file system that failed or did not return in time.
    pub failures: u64,
    /// Calls to the file system that are under way, hung ones among them.
    pub under_way: u64,
}

/// Figures of a tenant.
#[derive(Clone, Debug, PartialEq, Default, Encode, Decode)]
pub struct TenantStat {
    /// User.
    pub uid: u32,
    /// Most bytes it may use.
    pub quota_bytes: u64,
    /// Segments it owns, in bytes.
    pub segment_bytes: u64,
    /// Segments it owns.
    pub segments: u64,
    /// Blocks in the index.
    pub blocks: u64,
    /// Their payload in bytes.
    pub payload_bytes: u64,
    /// Entries the index has room for.
    pub index_capacity: u64,
    /// Blocks that are out of the index and wait for their readers.
    pub limbo_blocks: u64,
    /// Bytes of blocks that some slot named at the last scan.
    pub pinned_bytes: u64,
    /// Hits served from the map, without the agent.
    pub hits_mapped: u64,
    /// Their payload bytes.
    pub hit_bytes: u64,
    /// Hits that needed a message.
    pub hits_asked: u64,
    /// Look-ups that found nothing.
    pub misses: u64,
    /// Of the look-ups that asked: the entry was not in the table.
    pub asked_absent: u64,
    /// The entry kept changing.
    pub asked_raced: u64,
    /// A table or segment was not mapped yet.
    pub asked_unmapped: u64,
    /// The entry had expired.
    pub asked_expired: u64,
    /// No slot was free.
    pub asked_no_slot: u64,
    /// Puts that stored a block.
    pub puts: u64,
    /// Their payload bytes.
    pub put_bytes: u64,
    /// Blocks evicted for room.
    pub evictions: u64,
    /// Blocks that expired.
    pub expirations: u64,
    /// Blocks read from the store.
    pub loads: u64,
    /// Their payload bytes.
    pub load_bytes: u64,
    /// Blocks written to the store.
    pub stored: u64,
    /// Their payload bytes.
    pub stored_bytes: u64,
    /// Objects in the store that were damaged, and so misses.
    pub store_damaged: u64,
    /// Requests to the store that failed.
    pub store_failures: u64,
    /// Blocks in memory that the store is to have and has not yet.
    pub dirty_blocks: u64,
    /// The room that they take.
    pub dirty_bytes: u64,
    /// Puts that had to wait until the store had taken earlier ones.
    pub put_waits: u64,
    /// Blocks read from the disk between memory and store, or memory and origin.
    pub disk_loads: u64,
    /// Their payload bytes.
    pub disk_load_bytes: u64,
    /// Blocks fetched from origins.
    pub fetches: u64,
    /// Their payload bytes.
    pub fetch_bytes: u64,
    /// Blocks that were fetched already under another key, and copied.
    pub fetch_copies: u64,
    /// Fetches that failed, without those of what the origin has not.
    pub fetch_failures: u64,
}

/// A session that holds pins.
#[derive(Clone, Debug, PartialEq, Eq, Default, Encode, Decode)]
pub struct PinHolder {
    /// Process id at the time of its connection.
    pub pid: i32,
    /// User.
    pub uid: u32,
    /// Whether the session has ended and its memory lives on in another process.
    pub orphan: bool,
    /// Slots that name a block.
    pub slots: u64,
    /// Bytes of the blocks they name.
    pub bytes: u64,
}
