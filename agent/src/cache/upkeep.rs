//! What the cache does besides answering: expiring, sweeping limbo, noticing what nobody maps any more, growing tables
//! and populating segments ahead of need, and getting down to a lowered capacity.

use std::time::Instant;

use larder_protocol::memory::Others;
use larder_protocol::stat::{PinHolder, TenantStat};

use super::Cache;
use super::memory::Need;

/// A segment that has been unused for this long goes back to the node, but for one of each tenant.
const UNUSED_KEPT_NS: u64 = 10_000_000_000;

/// What a pass of upkeep left to do.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Upkeep {
    /// When the next block expires or the next segment has been unused for long, in nanoseconds of the coarse monotonic
    /// clock.
    pub(crate) next_due_ns: Option<u64>,
    /// Something waits for a client to let go of it: look again soon, less and less often.
    pub(crate) waits_for_clients: bool,
    /// There is more to do at once, which was left only to let others have the cache.
    pub(crate) unfinished: bool,
    /// Memory to make now, already charged.
    pub(crate) need: Option<Need>,
}

impl Cache {
    /// One pass. `populate_all` asks for spares until the capacity is populated, else one is kept ahead.
    pub(crate) fn upkeep(&mut self, now_ns: u64, populate_all: bool) -> Upkeep {
        let platform = self.settings.material.platform;
        let mut result = Upkeep::default();
        let uids: Vec<u32> = self.tenants.keys().copied().collect();
        for uid in uids {
            let tenant = self.known(uid);
            let next = tenant.expire(now_ns);
            result.next_due_ns = [result.next_due_ns, next].into_iter().flatten().min();
            if tenant.limbo_len() > 0 {
                tenant.look_for_figures();
            }
            result.unfinished |= tenant.index.advance_unasked(&tenant.blocks);
            let orphaned = tenant.pins.drop_orphans(&platform);
            tenant.session_bytes -= orphaned;
            let tables = tenant.index.drop_old(&platform, tenant.sessions == 0);
            result.waits_for_clients |= tenant.limbo_len() > 0 || tenant.pins.orphans() > 0 || tenant.index.has_old();
            self.budget.refund(orphaned + tables);
            let next = self.retire_long_unused(uid, now_ns);
            result.next_due_ns = [result.next_due_ns, next].into_iter().flatten().min();
        }
        self.drop_retired();
        self.drop_idle_tenants();
        self.shrink_to_capacity();
        result.waits_for_clients |= !self.retired.is_empty() || self.budget.excess_bytes() > 0;
        result.need = self.need_ahead(populate_all);
        result
    }

    /// Whether a pass is due now rather than at its time.
    pub(crate) fn wants_upkeep(&mut self, uid: u32) -> bool {
        let spare_wanted = self.spares.is_empty() && self.budget.free_for_segments() >= self.settings.segment_bytes;
        let tenant = self.known(uid);
        tenant.limbo_len() > 0
            || (!tenant.awaits_table && tenant.index.wanted_capacity(super::TABLE_SMALLEST).is_some())
            || spare_wanted
    }

    /// Retires segments that have been unused for long; returns when the next one will have been.
    fn retire_long_unused(&mut self, uid: u32, now_ns: u64) -> Option<u64> {
        let tenant = self.known(uid);
        let unused = tenant.segments.unused();
        let used: Vec<u32> = tenant.segments.iter().map(|(id, _)| id).filter(|id| !unused.contains(id)).collect();
        for id in used {
            if let Some(segment) = tenant.segments.get_mut(id) {
                segment.unused_since_ns = None;
            }
        }
        let mut next_due_ns: Option<u64> = None;
        let mut over = Vec::new();
        for id in unused {
            let Some(segment) = tenant.segments.get_mut(id) else {
                continue;
            };
            let since = *segment.unused_since_ns.get_or_insert(now_ns);
            if now_ns.saturating_sub(since) >= UNUSED_KEPT_NS || segment.immutable {
                over.push(id);
            } else {
                let due_ns = since + UNUSED_KEPT_NS;
                next_due_ns = Some(next_due_ns.map_or(due_ns, |next| next.min(due_ns)));
            }
        }
        // One standard segment stays for the next put, while there is anybody to make it.
        let kept = over.iter().position(|id| tenant.segments.get(*id).is_some_and(|segment| !segment.dedicated));
        if let Some(kept) = kept.filter(|_| next_due_ns.is_none() && tenant.sessions > 0) {
            over.remove(kept);
        }
        over.into_iter().for_each(|id| self.retire(uid, id));
        next_due_ns
    }

    /// Forgets tenants who left nothing behind, not even a namespace.
    fn drop_idle_tenants(&mut self) {
        let platform = self.settings.material.platform;
        let (tenants, budget) = (&mut self.tenants, &mut self.budget);
        tenants.retain(|_, tenant| {
            let idle = tenant.sessions == 0
                && tenant.guests == 0
                && tenant.namespaces.is_empty()
                && tenant.segments.len() == 0
                && tenant.pins.orphans() == 0
                && tenant.session_bytes == 0
                && tenant.retired_bytes == 0
                && tenant.awaited_bytes == 0
                // Memory that somebody still has mapped stays on the account, and its tenant with it.
                && !tenant.index.has_old()
                && tenant.index.memory().0.others(&platform) != Others::Some
                && tenant.control.others(&platform) != Others::Some;
            if idle {
                budget.refund(tenant.used_bytes());
            }
            !idle
        });
    }

    fn need_ahead(&mut self, populate_all: bool) -> Option<Need> {
        let uids: Vec<u32> = self.tenants.keys().copied().collect();
        for uid in uids {
            let tenant = self.known(uid);
            if tenant.awaits_table {
                continue;
            }
            if let Some(capacity) = tenant.index.wanted_capacity(super::TABLE_SMALLEST) {
                let need = Need::Table { uid, capacity };
                if self.make_budget(uid, need.bytes()) {
                    self.known(uid).awaits(need);
                    return Some(need);
                }
            }
        }
        let len = self.settings.segment_bytes;
        if (populate_all || self.spares.is_empty()) && self.budget.charge_segment(len) {
            return Some(Need::Spare { len });
        }
        None
    }

    /// Changes the node's capacity. What is over it goes as fast as readers let it.
    pub(crate) fn resize(&mut self, capacity_bytes: u64) {
        self.budget.set_capacity(capacity_bytes);
        self.shrink_to_capacity();
    }

    /// Figures of a tenant.
    pub(crate) fn tenant_stat(&mut self, uid: u32) -> TenantStat {
        let quota_bytes = self.quota_of(uid);
        let tenant = self.known(uid);
        tenant.look_for_figures();
        let claimed = tenant.pins.claimed();
        let (blocks, payload_bytes) = tenant
            .namespaces
            .iter()
            .fold((0, 0), |(blocks, bytes), (_, namespace)| (blocks + namespace.blocks, bytes + namespace.bytes));
        TenantStat {
            uid,
            quota_bytes,
            segment_bytes: tenant.segments.bytes(),
            segments: tenant.segments.len() as u64,
            blocks,
            payload_bytes,
            index_capacity: tenant.index.capacity() as u64,
            limbo_blocks: tenant.limbo_len() as u64,
            pinned_bytes: tenant.pinned_bytes,
            hits_mapped: claimed.hits,
            hit_bytes: claimed.hit_bytes,
            hits_asked: tenant.figures.hits_asked,
            misses: tenant.figures.misses,
            asked_absent: claimed.asked_absent,
            asked_raced: claimed.asked_raced,
            asked_unmapped: claimed.asked_unmapped,
            asked_expired: claimed.asked_expired,
            asked_no_slot: claimed.asked_no_slot,
            puts: tenant.figures.puts,
            put_bytes: tenant.figures.put_bytes,
            evictions: tenant.figures.evictions,
            expirations: tenant.figures.expirations,
            loads: tenant.figures.loads,
            load_bytes: tenant.figures.load_bytes,
            stored: tenant.figures.stored,
            stored_bytes: tenant.figures.stored_bytes,
            store_damaged: tenant.figures.store_damaged,
            store_failures: tenant.figures.store_failures,
            dirty_blocks: tenant.dirty.blocks(),
            dirty_bytes: tenant.dirty.bytes(),
            put_waits: tenant.figures.put_waits,
            disk_loads: tenant.figures.disk_loads,
            disk_load_bytes: tenant.figures.disk_load_bytes,
            fetches: tenant.figures.fetches,
            fetch_bytes: tenant.figures.fetch_bytes,
            fetch_copies: tenant.figures.fetch_copies,
            fetch_failures: tenant.figures.fetch_failures,
        }
    }

    /// (memory, retired, spare, index, orphans) of the node.
    pub(crate) fn node_figures(&self) -> (u64, u64, u64, u64, u64) {
        let len = |memfd: &larder_protocol::memory::Memfd| memfd.len() as u64;
        (
            self.budget.used_bytes(),
            self.retired_bytes(),
            self.spares.iter().map(|spare| len(&spare.memfd)).sum(),
            self.tenants.values().map(|tenant| tenant.index.bytes()).sum(),
            self.tenants.values().map(|tenant| tenant.pins.orphans() as u64).sum(),
        )
    }

    /// Who of a tenant pins how much.
    pub(crate) fn pin_holders(&mut self, uid: u32) -> Vec<PinHolder> {
        let tenant = self.known(uid);
        let blocks = &tenant.blocks;
        let bytes_of = |id| blocks.with_id(id).map_or(0, |at| blocks.get(at).len);
        let holders = tenant.pins.holders(Instant::now(), bytes_of).iter();
        holders
            .map(|holder| PinHolder {
                pid: holder.pid,
                uid,
                orphan: holder.orphan,
                slots: holder.slots,
                bytes: holder.bytes,
            })
            .collect()
    }
}
