//! What was fetched: the version of each URL that a namespace has seen, and which block has which origin's bytes, so that
//! they are fetched once for all namespaces of a tenant.

use std::collections::HashMap;

use larder_protocol::message::Refusal;

use super::Cache;
use super::blocks::State;
use super::lent::Lent;
use super::put::{How, Reservation};
use super::tenant::Tenant;

/// Most origins of which it is remembered that a block has their bytes: some megabytes.
const REMEMBERED_MAX: usize = 100_000;

/// Blocks by what was fetched into them. A block that is another by now is told by its generation.
#[derive(Debug, Default)]
pub(super) struct Fetched(HashMap<u128, Whose>);

/// The hash of a block's key, and its generation.
#[derive(Clone, Copy, Debug)]
struct Whose {
    hash: [u64; 2],
    generation: u64,
}

impl Tenant {
    /// Remembers that a block, which was just published, has an origin's bytes.
    pub(super) fn note_fetched(&mut self, origin: u128, hash: [u64; 2], generation: u64) {
        if self.fetched.0.len() >= REMEMBERED_MAX {
            // A cache of a hint: what is forgotten is fetched again.
            self.fetched.0.clear();
        }
        self.fetched.0.insert(origin, Whose { hash, generation });
    }
}

impl Cache {
    /// The memory of a block that has the bytes which a reservation is to be filled with.
    pub(crate) fn borrow_fetched(&mut self, reservation: &Reservation) -> Option<Lent> {
        let How::Fetch { origin: Some(origin), .. } = reservation.how else { return None };
        let tenant = self.known(reservation.uid);
        let whose = *tenant.fetched.0.get(&origin)?;
        let at = tenant.blocks.with_hash(whose.hash).find(|at| {
            let block = tenant.blocks.get(*at);
            (block.state, block.generation, block.len) == (State::Published, whose.generation, reservation.len)
        })?;
        tenant.figures.fetch_copies += 1;
        Some(tenant.borrow(at))
    }

    /// The version of a URL that a namespace has seen first.
    pub(crate) fn version(&mut self, uid: u32, namespace: u64, url: u128) -> Result<Option<Box<str>>, Refusal> {
        Ok(self.known(uid).namespaces.current(namespace)?.versions.get(&url).cloned())
    }

    /// Remembers which version of a URL a namespace has seen. False when it has seen another, and is to see one only.
    pub(crate) fn note_version(&mut self, uid: u32, namespace: u64, url: u128, version: &str) -> Result<bool, Refusal> {
        let tenant = self.known(uid);
        let id = namespace;
        tenant.namespaces.current(id)?;
        let Some(namespace) = tenant.namespaces.get_mut(id) else { return Ok(true) };
        namespace.note_version(url, version)
    }
}
