//! Objects that are read chunk by chunk. Each chunk is a block of its own, fetched, shared and evicted like any other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use larder_protocol::key;
use larder_protocol::message::Refusal;

use super::version::{Looking, origin};
use super::{Fetches, Flight, Place, Target, Wanted};
use crate::origin::Source;
use crate::server::Agent;

/// Objects that a user may have open; of more the one that was used longest ago is closed, and opened again at its next use.
const OPEN_MAX: usize = 128;
/// Longest chunk.
const CHUNK_BYTES_MAX: u64 = 8 << 20;

/// An object that is open.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(super) source: Arc<Source>,
    /// For messages.
    pub(super) name: String,
    number: u128,
    version: String,
}

impl Opened {
    /// Stands for the bytes of a chunk.
    pub(super) fn origin(&self, from: u64) -> u128 {
        // Not the number of the whole, nor that of a part of another length: chunks of one agent have one length.
        origin(self.number ^ u128::MAX, &self.version, from)
    }
}

/// One version of an object of a user's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Id {
    namespace: u64,
    key: String,
    version: u64,
}

/// What a user has open, each with the time of its last use.
type OfUser = HashMap<Id, (Arc<Opened>, u64)>;

/// Objects that are open, by user.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    open: Mutex<HashMap<u32, OfUser>>,
}

/// What a client is told of an object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About {
    pub(crate) len_bytes: u64,
    pub(crate) version: u64,
    pub(crate) chunk_bytes: u64,
}

impl Objects {
    fn lock(&self) -> MutexGuard<'_, HashMap<u32, OfUser>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens an object for a user's namespace.
    pub(crate) async fn open(agent: &Arc<Agent>, target: Target, place: Place) -> Result<About, Refusal> {
        let Target { uid, namespace, key } = target;
        let looking = Looking { agent: Arc::clone(agent), uid, namespace, place };
        let source = looking.open().await?;
        let name = looking.place.name().to_owned();
        let text = source.version.clone().filter(|_| source.is_ranged).ok_or_else(|| {
            Refusal::Origin(format!(
                "{name} can only be read as a whole: its server does not say which version a part is of"
            ))
        })?;
        looking.saw(&source)?;
        let version = (key::digest(text.as_bytes()) >> 64) as u64;
        let about = About { len_bytes: source.len_bytes, version, chunk_bytes: chunk_bytes(agent) };
        let opened = Opened { source, name, number: looking.place.number(), version: text };
        let mut open = agent.objects.lock();
        let of_user = open.entry(uid).or_default();
        let now = of_user.values().map(|(_, used)| *used).max().unwrap_or(0) + 1;
        of_user.insert(Id { namespace, key, version }, (Arc::new(opened), now));
        if of_user.len() > OPEN_MAX
            && let Some(oldest) = of_user.iter().min_by_key(|(_, (_, used))| *used).map(|(id, _)| id.clone())
        {
            of_user.remove(&oldest);
        }
        Ok(about)
    }

    fn find(&self, target: &Target, version: u64) -> Option<Arc<Opened>> {
        let Target { uid, namespace, key } = target.clone();
        let mut open = self.lock();
        let of_user = open.get_mut(&uid)?;
        let now = of_user.values().map(|(_, used)| *used).max().unwrap_or(0) + 1;
        let (opened, used) = of_user.get_mut(&Id { namespace, key, version })?;
        *used = now;
        Some(Arc::clone(opened))
    }

    /// Closes what a user has open, who has no session any more.
    pub(crate) fn close_all_of(&self, uid: u32) {
        self.lock().remove(&uid);
    }

    /// The flight of a chunk of an object, whose key and user `target` names; `None` when it is not open, or has no such chunk.
    pub(crate) fn chunk(agent: &Arc<Agent>, target: &Target, version: u64, index: u64) -> Option<Flight> {
        let object = agent.objects.find(target, version)?;
        let from = index.checked_mul(chunk_bytes(agent)).filter(|from| *from < object.source.len_bytes)?;
        let len = (object.source.len_bytes - from).min(chunk_bytes(agent));
        let chunk = Target { key: key::chunk(&target.key, version, index), ..target.clone() };
        Some(Fetches::join(agent, &chunk, Wanted::Part { object, from, len }))
    }
}

/// Length of each chunk but the last: so that one does not need a segment of its own.
fn chunk_bytes(agent: &Agent) -> u64 {
    // Less than a quarter of a segment, since head and checksums come on top.
    let most = (agent.settings.segment_bytes / 8).max(64 << 10);
    (1 << most.ilog2()).min(CHUNK_BYTES_MAX)
}
