//! Lists that a session is reading page by page: snapshots in the agent's heap, of which each user may have only so much.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use larder_protocol::message::Refusal;

use crate::server::Agent;

/// Snapshots of a session that may be read page by page at once. A client that stops reading one does not say so: the
/// oldest makes room.
const SNAPSHOTS_MAX: usize = 4;
/// Bytes of names that the snapshots of one user may have together. A single one may have more.
const SNAPSHOT_BYTES_MAX: u64 = 64 << 20;
/// What a name costs beside its bytes.
const NAME_OVERHEAD_BYTES: usize = 32;

/// Bytes of snapshots, by user.
#[derive(Debug, Default)]
pub(crate) struct SnapshotBytes(Mutex<HashMap<u32, u64>>);

/// A snapshot on its user's account.
#[derive(Debug)]
struct Snapshot {
    names: std::vec::IntoIter<String>,
    agent: Arc<Agent>,
    uid: u32,
    bytes: u64,
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let mut all = self.agent.snapshot_bytes.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = all.get_mut(&self.uid) {
            *bytes -= self.bytes;
            if *bytes == 0 {
                all.remove(&self.uid);
            }
        }
    }
}

/// The snapshots of a session.
#[derive(Debug, Default)]
pub(super) struct Lists {
    open: HashMap<u64, Snapshot>,
    last: u64,
}

impl Lists {
    /// Begins a list of sorted names. Returns its first page and the cursor of the next, 0 for none.
    pub(super) fn begin(
        &mut self,
        agent: &Arc<Agent>,
        uid: u32,
        names: Vec<String>,
        page_bytes: usize,
    ) -> Result<(Vec<String>, u64), Refusal> {
        let bytes: usize = names.iter().map(|name| name.len() + NAME_OVERHEAD_BYTES).sum();
        let bytes = bytes as u64;
        if self.open.len() >= SNAPSHOTS_MAX
            && let Some(oldest) = self.open.keys().min().copied()
        {
            self.open.remove(&oldest);
        }
        {
            let mut all = agent.snapshot_bytes.0.lock().unwrap_or_else(PoisonError::into_inner);
            let used = all.entry(uid).or_default();
            if *used > 0 && *used + bytes > SNAPSHOT_BYTES_MAX {
                return Err(Refusal::TooMany(format!(
                    "lists of {used} bytes are being read by this user, and one of {bytes} more is too much; read those to their end"
                )));
            }
            *used += bytes;
        }
        Ok(self.page(Snapshot { names: names.into_iter(), agent: Arc::clone(agent), uid, bytes }, page_bytes))
    }

    /// The page at `cursor`, which is good for one page.
    pub(super) fn next(&mut self, cursor: u64, page_bytes: usize) -> Result<(Vec<String>, u64), Refusal> {
        let snapshot = self.open.remove(&cursor);
        let snapshot = snapshot.ok_or_else(|| Refusal::Invalid(format!("no list {cursor} is being read")))?;
        Ok(self.page(snapshot, page_bytes))
    }

    fn page(&mut self, mut snapshot: Snapshot, page_bytes: usize) -> (Vec<String>, u64) {
        let mut page = Vec::new();
        let mut bytes = 0;
        while bytes < page_bytes {
            let Some(name) = snapshot.names.next() else { break };
            bytes += name.len() + 8;
            page.push(name);
        }
        if snapshot.names.len() == 0 {
            return (page, 0);
        }
        self.last += 1;
        self.open.insert(self.last, snapshot);
        (page, self.last)
    }
}
