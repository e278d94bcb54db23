//! Blocks whose memory the agent itself reads outside the lock: it is not used again before it is given back, whatever
//! becomes of the block.

use larder_protocol::checksum::Checksums;
use larder_protocol::layout::BlockId;

use super::Cache;
use super::blocks::State;
use super::tenant::Tenant;
use crate::store::Memory;

/// A block whose memory is borrowed, to be copied.
#[derive(Debug)]
pub(crate) struct Lent {
    pub(crate) payload: Memory,
    pub(crate) checksums: Checksums,
    id: BlockId,
}

impl Tenant {
    /// Keeps a block's memory as it is until it is given back.
    pub(super) fn lend(&mut self, id: BlockId) {
        *self.lent.entry(id).or_default() += 1;
    }

    pub(super) fn take_back_lent(&mut self, id: BlockId) {
        if let Some(times) = self.lent.get_mut(&id) {
            *times -= 1;
            if *times == 0 {
                self.lent.remove(&id);
            }
        }
    }

    pub(super) fn borrow(&mut self, at: u32) -> Lent {
        let block = self.blocks.get(at);
        let lent = Lent { payload: self.payload_of(block), checksums: self.checksums_of(block), id: block.id };
        self.lend(lent.id);
        lent
    }
}

impl Cache {
    /// Borrows the memory of the block under a key, if it is there.
    pub(crate) fn borrow(&mut self, uid: u32, namespace: u64, key: &str) -> Option<Lent> {
        let tenant = self.tenants.get_mut(&uid)?;
        let at = tenant.find(namespace, key)?;
        (tenant.blocks.get(at).state == State::Published).then(|| tenant.borrow(at))
    }

    /// Gives back what was borrowed.
    pub(crate) fn end_borrow(&mut self, uid: u32, lent: &Lent) {
        if let Some(tenant) = self.tenants.get_mut(&uid) {
            tenant.take_back_lent(lent.id);
        }
    }
}
