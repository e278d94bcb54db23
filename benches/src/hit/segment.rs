//! The hand-made segment as a store of blocks: the floor of what a lookup in shared memory costs.

use std::path::Path;

use crate::BenchResult;
use crate::harness::Reader;
use crate::hit::{DEPENDENT, HitStore, INDEPENDENT, Way};
use crate::rivals::segment::{Segment, SegmentView, segment_name};
use crate::workload::{Access, BlockSet, Walk, for_each_block, walk_each};

struct SegmentStore {
    segment: Segment,
}

pub(crate) fn load(scratch: &Path, set: &BlockSet) -> BenchResult<Box<dyn HitStore>> {
    let name = segment_name(scratch)?;
    let mut segment = Segment::create(&name, set.blocks as usize, set.len_bytes)?;
    for_each_block(set, |key, block| segment.put(key, block))?;
    Ok(Box::new(SegmentStore { segment }))
}

impl HitStore for SegmentStore {
    fn ways(&self) -> &'static [Way] {
        &[DEPENDENT, INDEPENDENT]
    }

    fn reader(&self, _way: Way) -> BenchResult<Box<dyn Reader + '_>> {
        Ok(Box::new(SegmentReader { view: self.segment.view() }))
    }
}

struct SegmentReader<'s> {
    view: SegmentView<'s>,
}

impl Reader for SegmentReader<'_> {
    fn batch(&mut self, walk: &mut Walk<'_>, access: Access, ops: usize) -> BenchResult<()> {
        walk_each(walk, access, ops, |key| Ok(self.view.get(key).ok_or("a key is not found")?[0]))
    }
}
