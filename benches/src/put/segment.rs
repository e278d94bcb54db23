//! Puts into the hand-made segment: a hash, a copy, no second party.

use std::path::Path;

use crate::BenchResult;
use crate::put::{PutStore, Shape};
use crate::rivals::segment::{Segment, segment_name};

struct SegmentPut {
    segment: Segment,
}

pub(crate) fn start(scratch: &Path, shape: &Shape) -> BenchResult<Box<dyn PutStore>> {
    Ok(Box::new(SegmentPut { segment: Segment::create(&segment_name(scratch)?, shape.window(), shape.len_bytes)? }))
}

impl PutStore for SegmentPut {
    fn put(&mut self, key: &str, block: &[u8]) -> BenchResult<()> {
        self.segment.put(key, block)
    }
}
