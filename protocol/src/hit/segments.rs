//! A process's maps of a tenant's segments.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::layout::control;
use crate::memory::Mapping;
use crate::sync::Ordering;
use crate::words::Words;

/// The mapped segments of one region, shared by all threads and by every block that is still in use.
///
/// A segment leaves this map only after the agent has taken it out of the directory, and the agent does so only when no
/// slot of anybody names a block in it. So an address inside a segment stays good for as long as a pin in it does.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    maps: HashMap<u32, Arc<Mapping>>,
    cleaned_epoch: u64,
}

/// Where a mapped segment is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentRef {
    pub(crate) id: u32,
    pub(crate) start: *const u8,
    pub(crate) len: u64,
}

impl Segments {
    pub(crate) fn add(&self, id: u32, mapping: Arc<Mapping>) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).maps.entry(id).or_insert(mapping);
    }

    pub(crate) fn find(&self, id: u32) -> Option<SegmentRef> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mapping = inner.maps.get(&id)?;
        let len = mapping.len() as u64;
        Some(SegmentRef { id, start: mapping.bytes_at(0, len)?, len })
    }

    /// Unmaps what the directory no longer names, once per epoch.
    pub(crate) fn drop_retired<C: Words>(&self, epoch: u64, control_words: &C) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.cleaned_epoch == epoch {
            return;
        }
        inner.cleaned_epoch = epoch;
        let used =
            usize::try_from(control_words.load(control::DIRECTORY_USED, Ordering::Relaxed)).unwrap_or(usize::MAX);
        let live: std::collections::HashSet<u64> = (0..used.min(control::DIRECTORY_LEN))
            .map(|place| control_words.load(control::DIRECTORY + place, Ordering::Relaxed))
            .collect();
        inner.maps.retain(|id, _| live.contains(&u64::from(*id)));
    }
}
