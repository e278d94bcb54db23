//! Whether a block may come in, and room for it: puts, what comes back from the store, and what is fetched differ in what
//! stands in their way.

use larder_protocol::layout::BlockShape;
use larder_protocol::message::Refusal;

use super::Cache;
use super::blocks::State;
use super::put::{How, Reservation};
use super::room::Stop;

impl Cache {
    /// Finds room for a block of `len` bytes.
    pub(crate) fn reserve(
        &mut self,
        uid: u32,
        namespace: u64,
        key: &str,
        len: u64,
        now_ns: u64,
    ) -> Result<Reservation, Stop> {
        self.admit(uid, namespace, key, len, now_ns)?;
        self.reserve_admitted(uid, namespace, key, len, How::Put)
    }

    /// The same for a block that is fetched: what its key holds is not in the way.
    pub(crate) fn reserve_for_fetch(
        &mut self,
        uid: u32,
        namespace: u64,
        key: &str,
        len: u64,
        how: How,
    ) -> Result<Reservation, Stop> {
        self.admit_len(uid, len)?;
        let held = self.known(uid).find(namespace, key).map(|at| self.known(uid).blocks.get(at).len);
        self.admit_to_quota(uid, namespace, len, held.unwrap_or(0))?;
        self.reserve_admitted(uid, namespace, key, len, how)
    }

    /// The same for a block that comes back: what a namespace may put is of no concern then.
    pub(crate) fn reserve_for_load(
        &mut self,
        uid: u32,
        namespace: u64,
        key: &str,
        len: u64,
        how: How,
    ) -> Result<Reservation, Stop> {
        let limit = self.block_len_max(uid);
        if len > limit {
            return Err(Refusal::TooLarge { len, limit }.into());
        }
        let tenant = self.known(uid);
        let present = tenant.namespaces.current(namespace)?;
        let over = present.options.quota_bytes.map_or(0, |quota| (present.bytes + len).saturating_sub(quota));
        if over > 0 {
            tenant.evict(over, Some(namespace));
        }
        self.reserve_admitted(uid, namespace, key, len, how)
    }

    fn reserve_admitted(
        &mut self,
        uid: u32,
        namespace: u64,
        key: &str,
        len: u64,
        how: How,
    ) -> Result<Reservation, Stop> {
        let shape = BlockShape::new(key.len(), len);
        let (segment, extent) = self.find_room(uid, &shape)?;
        let mapping = self.mapping(uid, segment).unwrap_or_else(|| unreachable!("segment {segment} was just used"));
        let namespace_there = self.known(uid).namespaces.current(namespace)?;
        Ok(Reservation {
            uid,
            namespace,
            key: key.into(),
            len,
            segment,
            extent,
            mapping,
            sealed_ms: None,
            times: None,
            how,
            stored: namespace_there.stored.clone(),
            back: namespace_there.is_back(),
            dirty: false,
        })
    }

    /// Refuses a put that cannot end well, before any room is made for it.
    pub(super) fn admit(&mut self, uid: u32, namespace: u64, key: &str, len: u64, now_ns: u64) -> Result<(), Stop> {
        self.known(uid).namespaces.current(namespace)?;
        self.admit_len(uid, len)?;
        let tenant = self.known(uid);
        let existing = tenant.find(namespace, key).map(|at| tenant.blocks.get(at));
        let options = tenant.namespaces.current(namespace)?.options.clone();
        let held = existing
            .filter(|block| block.state == State::Published && (block.expiry_ns == 0 || now_ns < block.expiry_ns));
        if let Some(block) = held.filter(|block| block.len != len && !options.overwrite) {
            return Err(Refusal::Exists { held: block.len, offered: len }.into());
        }
        let replaces = held.map_or(0, |block| block.len);
        self.admit_to_quota(uid, namespace, len, replaces)
    }

    fn admit_len(&mut self, uid: u32, len: u64) -> Result<(), Stop> {
        let limit = self.block_len_max(uid);
        if len > limit {
            return Err(Refusal::TooLarge { len, limit }.into());
        }
        let tenant = self.known(uid);
        if tenant.pinned_bytes > tenant.pinned_limit_bytes {
            tenant.look_for_figures();
            if tenant.pinned_bytes > tenant.pinned_limit_bytes {
                return Err(Refusal::Pinned { pinned: tenant.pinned_bytes, limit: tenant.pinned_limit_bytes }.into());
            }
        }
        Ok(())
    }

    /// Makes room under a namespace's own quota for a block of `len` bytes in the place of `replaces`.
    fn admit_to_quota(&mut self, uid: u32, namespace: u64, len: u64, replaces: u64) -> Result<(), Stop> {
        let tenant = self.known(uid);
        if let Some(quota) = tenant.namespaces.current(namespace)?.options.quota_bytes {
            let over = |tenant: &super::Tenant| {
                let used = tenant.namespaces.get(namespace).map_or(0, |namespace| namespace.bytes);
                (used.saturating_sub(replaces) + len > quota).then_some(used)
            };
            if let Some(used) = over(tenant).filter(|_| len <= quota) {
                tenant.evict((used + len).saturating_sub(quota), Some(namespace));
            }
            if let Some(used) = over(tenant) {
                let name = tenant.namespaces.current(namespace)?.name.clone();
                let owes = tenant.namespaces.current(namespace)?.dirty_blocks > 0;
                let refusal = Refusal::Quota { name, needed: len, used, quota };
                return Err(if owes { Stop::Dirty(refusal) } else { refusal.into() });
            }
        }
        Ok(())
    }
}
