//! Making room: where a block goes, what is evicted for it, and who gives memory up when the node is full.

use larder_protocol::layout::BlockShape;
use larder_protocol::memory::Others;
use larder_protocol::message::Refusal;

use super::extents::Extent;
use super::memory::{HUGE_PAGE_BYTES, Need, Prepared};
use super::{Cache, Retired};

/// Least bytes evicted at a time, so that the scans of a batch are shared by many small puts.
const BATCH_BYTES: u64 = 1 << 20;
/// How often eviction is tried before whole segments are emptied: enough for any order of small holes.
const ROUNDS: u32 = 6;

/// Why a request cannot go on now.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It will not.
    Refused(Refusal),
    /// It will not unless the store takes some of what it is owed first; try again when it has.
    Dirty(Refusal),
    /// It needs memory first, which is already charged to the budget: make it, [`Cache::supply`] it, try again.
    Need(Need),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Stop {
        Stop::Refused(refusal)
    }
}

impl Cache {
    /// Finds room for a block of tenant `uid`.
    pub(super) fn find_room(&mut self, uid: u32, shape: &BlockShape) -> Result<(u32, Extent), Stop> {
        let segment_bytes = self.settings.segment_bytes;
        let dedicated = shape.total_len > segment_bytes / 4;
        if let Some(found) = self.known(uid).segments.allocate(shape, dedicated) {
            return Ok(found);
        }
        let len = if dedicated { shape.total_len.next_multiple_of(HUGE_PAGE_BYTES) } else { segment_bytes };
        if let Some(found) = self.grow(uid, len, dedicated, shape)? {
            return Ok(found);
        }
        if dedicated {
            return Err(self.no_room(uid, shape));
        }
        let batch = shape.total_len.max(BATCH_BYTES.min(self.budget.capacity_bytes() / 64));
        for round in 0..ROUNDS {
            let tenant = self.known(uid);
            let evicted = tenant.evict(batch << round, None);
            if let Some(found) = tenant.segments.allocate(shape, false) {
                return Ok(found);
            }
            if evicted == 0 {
                break;
            }
        }
        // Enough may be free in pieces. Empty whole segments, those with the least in them first.
        let tenant = self.known(uid);
        for id in tenant.emptiable() {
            if tenant.segments.get(id).is_some_and(|segment| !segment.dedicated)
                && tenant.clean(id)
                && let Some(found) = tenant.segments.allocate(shape, false)
            {
                return Ok(found);
            }
        }
        Err(self.no_room(uid, shape))
    }

    /// Why a block finds no room: for good, or until the store has taken what it is owed.
    fn no_room(&mut self, uid: u32, shape: &BlockShape) -> Stop {
        let refusal = self.no_space(uid, shape.total_len);
        if self.dirty().0 > 0 { Stop::Dirty(refusal) } else { Stop::Refused(refusal) }
    }

    /// Another segment of `len` bytes, if the tenant's quota and the node's budget have room for it or can be given some.
    fn grow(&mut self, uid: u32, len: u64, dedicated: bool, shape: &BlockShape) -> Result<Option<(u32, Extent)>, Stop> {
        if !self.known(uid).segments.has_place() {
            return Ok(None);
        }
        let quota = self.quota_of(uid);
        let enough =
            |cache: &Cache| cache.budget.free_for_segments().saturating_sub(cache.promised_to_others(uid)) >= len;
        let fits = |cache: &Cache| cache.tenants.get(&uid).is_some_and(|tenant| tenant.used_bytes() + len <= quota);
        if !fits(self) {
            // What it has given up and what it does not use may be all that stands in the way.
            self.retire_unused(uid);
        }
        if dedicated && !(fits(self) && (enough(self) || self.reclaim_idle(enough))) {
            // In the place of another large block: that serves at once, while memory that goes back to the node is room
            // only when the last reader has unmapped it.
            let tenant = self.known(uid);
            for id in tenant.segments.dedicated_for(shape) {
                if tenant.clean(id)
                    && let Some(found) = tenant.segments.allocate(shape, true)
                {
                    return Ok(Some(found));
                }
            }
        }
        if self.known(uid).used_bytes() + len > quota {
            // A large block pushes the tenant's own blocks out, segment by segment.
            if !dedicated || !self.shrink_tenant(uid, quota.saturating_sub(len)) {
                return Ok(None);
            }
        }
        let standard = len == self.settings.segment_bytes && !dedicated;
        // A spare may be all that is left for those who have a promise.
        let unpromised = self.budget.free_bytes() >= self.promised_to_others(uid);
        if let Some(spare) = self.spares.pop_if(|_| standard && unpromised) {
            self.add_segment(uid, spare, false);
            return Ok(self.known(uid).segments.allocate(shape, false));
        }
        let may_take = dedicated || self.is_under_share(uid, len);
        let found = enough(self)
            || self.reclaim_idle(enough)
            || (may_take && self.take_from_others(uid, len, enough))
            || (dedicated && self.shrink(uid, len, enough));
        if !found || !self.budget.charge_segment(len) {
            return Ok(None);
        }
        let need = Need::Segment { uid, len, dedicated };
        self.known(uid).awaits(need);
        Err(Stop::Need(need))
    }

    /// What others are guaranteed and do not use yet: it is never lent.
    fn promised_to_others(&self, uid: u32) -> u64 {
        let others = self.settings.tenants.iter().filter(|(other, _, _)| *other != uid);
        others
            .map(|(other, _, guaranteed)| {
                let used = self.tenants.get(other).map_or(0, super::Tenant::used_bytes);
                guaranteed.saturating_sub(used)
            })
            .sum()
    }

    /// Makes budget for something small that a tenant needs: a table, slots, staging. Charged when true.
    pub(super) fn make_budget(&mut self, uid: u32, bytes: u64) -> bool {
        let quota = self.quota_of(uid);
        if !self.shrink_tenant(uid, quota.saturating_sub(bytes)) {
            return false;
        }
        let enough = |cache: &Cache| cache.budget.free_bytes().saturating_sub(cache.promised_to_others(uid)) >= bytes;
        let found = enough(self)
            || self.reclaim_idle(enough)
            || self.take_from_others(uid, bytes, enough)
            || self.shrink(uid, bytes, enough);
        found && self.budget.charge(bytes)
    }

    /// The need for a larger table, charged; or the refusal when there is no budget for it.
    pub(super) fn need_table(&mut self, uid: u32) -> Stop {
        let Some(capacity) = self.known(uid).index.larger_capacity() else {
            return Stop::Refused(Refusal::TooMany(
                "too many of this user's keys want the same place in its index; use other keys".into(),
            ));
        };
        let need = Need::Table { uid, capacity };
        if self.make_budget(uid, need.bytes()) {
            self.known(uid).awaits(need);
            Stop::Need(need)
        } else {
            Stop::Refused(self.no_space(uid, need.bytes()))
        }
    }

    /// Takes memory that was made for a need. What it was made for may be satisfied by now; then it becomes a spare or
    /// goes.
    pub(crate) fn supply(&mut self, need: Need, prepared: Prepared) {
        self.awaits_no_more(need);
        match need {
            Need::Spare { .. } => self.spares.push(prepared),
            Need::Segment { uid, len, dedicated } => {
                // Others may have taken the last place in the directory meanwhile.
                if self.tenants.get(&uid).is_some_and(|tenant| tenant.segments.has_place()) {
                    self.add_segment(uid, prepared, dedicated);
                } else {
                    drop(prepared);
                    self.budget.refund(len);
                }
            }
            Need::Table { uid, capacity } => {
                let unused = match self.tenants.get_mut(&uid) {
                    Some(tenant) => tenant.index.begin_next(prepared, capacity).err(),
                    None => Some(prepared),
                };
                if unused.is_some() {
                    self.budget.refund(need.bytes());
                }
            }
        }
    }

    /// The memory for a need could not be made.
    pub(crate) fn supply_failed(&mut self, need: Need) {
        self.awaits_no_more(need);
        self.budget.refund(need.bytes());
    }

    fn awaits_no_more(&mut self, need: Need) {
        let (Need::Segment { uid, .. } | Need::Table { uid, .. }) = need else { return };
        if let Some(tenant) = self.tenants.get_mut(&uid) {
            tenant.awaited_bytes -= need.bytes();
            tenant.awaits_table &= !matches!(need, Need::Table { .. });
        }
    }

    fn add_segment(&mut self, uid: u32, prepared: Prepared, dedicated: bool) {
        self.last_segment += 1;
        let id = self.last_segment;
        self.known(uid).segments.add(id, prepared.memfd, prepared.mapping, dedicated);
    }

    /// Adds memory that was sealed for ever, with one block in it. Returns its number.
    pub(super) fn add_immutable(
        &mut self,
        uid: u32,
        memfd: larder_protocol::memory::Memfd,
        mapping: std::sync::Arc<larder_protocol::memory::Mapping>,
    ) -> u32 {
        self.last_segment += 1;
        let id = self.last_segment;
        let segments = &mut self.known(uid).segments;
        segments.add(id, memfd, mapping, true);
        if let Some(segment) = segments.get_mut(id) {
            segment.immutable = true;
        }
        id
    }

    /// Memory that serves nobody goes first: spares, unused segments, retired ones that nobody has mapped any more.
    fn reclaim_idle(&mut self, enough: impl Fn(&Cache) -> bool) -> bool {
        self.drop_retired();
        while !enough(self) {
            let Some(spare) = self.spares.pop() else { break };
            self.budget.refund(spare.memfd.len() as u64);
        }
        if !enough(self) {
            let uids: Vec<u32> = self.tenants.keys().copied().collect();
            uids.into_iter().for_each(|uid| self.retire_unused(uid));
        }
        enough(self)
    }

    /// Retires all unused segments of a tenant.
    fn retire_unused(&mut self, uid: u32) {
        for id in self.known(uid).segments.unused() {
            self.retire(uid, id);
        }
        self.drop_retired();
    }

    pub(super) fn retire(&mut self, uid: u32, id: u32) {
        let tenant = self.known(uid);
        if let Some(memfd) = tenant.segments.retire(id) {
            tenant.index.bump_epoch();
            tenant.retired_bytes += memfd.len() as u64;
            self.retired.push(Retired { uid, memfd });
        }
    }

    /// Gives retired memory that nobody has mapped any more back to the node.
    pub(super) fn drop_retired(&mut self) {
        let platform = self.settings.material.platform;
        let (tenants, budget) = (&mut self.tenants, &mut self.budget);
        self.retired.retain(|retired| {
            let gone = match retired.memfd.others(&platform) {
                Others::None => true,
                Others::Some => false,
                Others::Unknown => tenants.get(&retired.uid).is_none_or(|tenant| tenant.sessions == 0),
            };
            if gone {
                budget.refund(retired.memfd.len() as u64);
                if let Some(tenant) = tenants.get_mut(&retired.uid) {
                    tenant.retired_bytes -= retired.memfd.len() as u64;
                }
            }
            !gone
        });
    }

    /// Memory that was retired and that somebody still has mapped.
    pub(super) fn retired_bytes(&self) -> u64 {
        self.retired.iter().map(|retired| retired.memfd.len() as u64).sum()
    }

    /// What a tenant may count on when the node is full: its guarantee, or an equal part if that is more.
    fn share_of(&self, uid: u32) -> u64 {
        let active = self.tenants.values().filter(|tenant| tenant.segments.len() > 0 || tenant.uid == uid).count();
        let equal = self.budget.capacity_bytes() / active.max(1) as u64;
        let guaranteed = self.tenants.get(&uid).map_or(0, |tenant| tenant.guaranteed_bytes);
        guaranteed.max(equal).min(self.quota_of(uid))
    }

    fn is_under_share(&self, uid: u32, more: u64) -> bool {
        self.tenants.get(&uid).is_some_and(|tenant| tenant.used_bytes() + more <= self.share_of(uid))
    }

    /// Tenants that use more than their share give segments up, the largest first.
    fn take_from_others(&mut self, uid: u32, bytes: u64, enough: impl Fn(&Cache) -> bool + Copy) -> bool {
        let mut over: Vec<(u64, u32)> = self
            .tenants
            .values()
            .filter(|tenant| tenant.uid != uid)
            .map(|tenant| (tenant.used_bytes().saturating_sub(self.share_of(tenant.uid)), tenant.uid))
            .filter(|(excess, _)| *excess > 0)
            .collect();
        over.sort_unstable_by(|a, b| b.cmp(a));
        over.into_iter().any(|(_, other)| self.shrink(other, bytes, enough))
    }

    /// Empties and retires segments of a tenant until it uses at most `bytes`.
    fn shrink_tenant(&mut self, uid: u32, bytes: u64) -> bool {
        let fits = |cache: &Cache| cache.tenants.get(&uid).is_none_or(|tenant| tenant.used_bytes() <= bytes);
        self.shrink(uid, 0, fits)
    }

    /// Empties and retires segments of a tenant until it is `enough`, or until readers have `bytes`, or an eighth of
    /// the capacity, to unmap: that will be room as soon as they do, and to go on would only empty the cache.
    fn shrink(&mut self, uid: u32, bytes: u64, enough: impl Fn(&Cache) -> bool) -> bool {
        if enough(self) || !self.tenants.contains_key(&uid) {
            return enough(self);
        }
        let mapped_most = self.retired_bytes().saturating_add(bytes.max(self.budget.capacity_bytes() / 8));
        self.retire_unused(uid);
        // Those first that are room at once, because no reader has them mapped.
        let platform = self.settings.material.platform;
        let tenant = self.known(uid);
        let emptiable = tenant.emptiable();
        let is_mapped =
            |id: &u32| tenant.segments.get(*id).is_some_and(|segment| segment.memfd.others(&platform) != Others::None);
        let (mapped, unmapped): (Vec<u32>, Vec<u32>) = emptiable.into_iter().partition(is_mapped);
        for id in unmapped.into_iter().chain(mapped) {
            if enough(self) || self.retired_bytes() >= mapped_most {
                break;
            }
            if self.known(uid).clean(id) {
                self.retire(uid, id);
                self.drop_retired();
            }
        }
        enough(self)
    }

    /// Lowers what is in use to the capacity, as far as readers let it. To be called again later while it is not there.
    pub(super) fn shrink_to_capacity(&mut self) {
        // What readers have yet to unmap is as good as gone.
        let enough = |cache: &Cache| cache.budget.excess_bytes() <= cache.retired_bytes();
        if enough(self) || self.reclaim_idle(enough) {
            return;
        }
        let mut uids: Vec<(u64, u32)> = self.tenants.values().map(|tenant| (tenant.used_bytes(), tenant.uid)).collect();
        uids.sort_unstable_by(|a, b| b.cmp(a));
        for (_, uid) in uids {
            if self.shrink(uid, u64::MAX, enough) {
                return;
            }
        }
    }

    /// The refusal for want of room, with the numbers.
    pub(super) fn no_space(&mut self, uid: u32, needed: u64) -> Refusal {
        let quota = self.quota_of(uid);
        match self.tenants.get_mut(&uid) {
            Some(tenant) => {
                tenant.look_for_figures();
                Refusal::NoSpace {
                    needed,
                    quota,
                    used: tenant.used_bytes(),
                    pinned: tenant.pinned_bytes,
                    kept: tenant.kept_bytes(),
                }
            }
            None => Refusal::NoSpace { needed, quota, used: 0, pinned: 0, kept: 0 },
        }
    }
}
