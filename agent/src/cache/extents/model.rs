//! `Extents` beside a bitmap of granules that is too simple to be wrong.

use proptest::prelude::*;

use super::{Extent, Extents, GRANULE_BYTES, PAGE_BYTES, rounded_len_bytes};

/// Small enough to fill and to fragment within one run, large enough for lengths of either
/// rounding.
const SEGMENT_BYTES: u64 = 512 * 1024;

/// One granule of the segment each; true is taken.
struct Bitmap(Vec<bool>);

impl Bitmap {
    fn new() -> Self {
        Self(vec![false; to_index(SEGMENT_BYTES)])
    }

    /// Flips every granule of `extent`, each of which must have been in the other state.
    fn flip(&mut self, extent: Extent, taken: bool) {
        let first = to_index(extent.offset_bytes);
        for granule in &mut self.0[first..first + to_index(extent.len_bytes)] {
            assert_ne!(*granule, taken, "granule of {extent:?} is in that state already");
            *granule = taken;
        }
    }

    /// (offset, length) of each maximal free run.
    fn holes(&self) -> Vec<(u64, u64)> {
        let mut holes: Vec<(u64, u64)> = Vec::new();
        let mut offset_bytes = 0;
        for run in self.0.chunk_by(|left, right| left == right) {
            let len_bytes = run.len() as u64 * GRANULE_BYTES;
            if !run[0] {
                holes.push((offset_bytes, len_bytes));
            }
            offset_bytes += len_bytes;
        }
        holes
    }

    /// Among the free runs, the least length from an aligned start that still holds `len_bytes`.
    fn best_fit_bytes(&self, len_bytes: u64, align_bytes: u64) -> Option<u64> {
        self.holes()
            .into_iter()
            .filter_map(|(offset, hole_len)| (offset + hole_len).checked_sub(offset.next_multiple_of(align_bytes)))
            .filter(|&aligned_len| aligned_len >= len_bytes)
            .min()
    }

    /// How long the free run that begins at `offset_bytes` is, whatever lies before it.
    fn run_bytes(&self, offset_bytes: u64) -> u64 {
        let run = self.0[to_index(offset_bytes)..].iter().take_while(|taken| !**taken);
        run.count() as u64 * GRANULE_BYTES
    }
}

fn to_index(bytes: u64) -> usize {
    usize::try_from(bytes / GRANULE_BYTES).expect("a test segment is small")
}

#[derive(Clone, Debug)]
enum Step {
    Allocate { len_bytes: u64, align_bytes: u64 },
    Free(prop::sample::Index),
}

fn lengths() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0..=2048u64,
        3 => 2048..=20_000u64,
        2 => 60_000..=140_000u64,
        1 => 0..=SEGMENT_BYTES + 1,
        1 => Just(u64::MAX),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let alignments = prop_oneof![2 => Just(GRANULE_BYTES), 1 => Just(PAGE_BYTES)];
    let allocate =
        (lengths(), alignments).prop_map(|(len_bytes, align_bytes)| Step::Allocate { len_bytes, align_bytes });
    let free = any::<prop::sample::Index>().prop_map(Step::Free);
    prop::collection::vec(prop_oneof![3 => allocate, 2 => free], 1..250)
}

fn run(steps: Vec<Step>) {
    let mut extents = Extents::new(SEGMENT_BYTES);
    let mut bitmap = Bitmap::new();
    let mut taken: Vec<Extent> = Vec::new();
    for step in steps {
        match step {
            Step::Allocate { len_bytes, align_bytes } => {
                let rounded = rounded_len_bytes(len_bytes);
                let best_fit = bitmap.best_fit_bytes(rounded, align_bytes);
                let extent = extents.allocate(len_bytes, align_bytes);
                assert_eq!(extent.is_some(), best_fit.is_some(), "{len_bytes} bytes at {align_bytes}");
                if let Some(extent) = extent {
                    assert_eq!(extent.len_bytes, rounded);
                    assert_eq!(extent.offset_bytes % align_bytes, 0);
                    assert_eq!(Some(bitmap.run_bytes(extent.offset_bytes)), best_fit, "{extent:?} is not the best fit");
                    bitmap.flip(extent, true);
                    taken.push(extent);
                }
            }
            Step::Free(index) if !taken.is_empty() => {
                let extent = taken.swap_remove(index.index(taken.len()));
                bitmap.flip(extent, false);
                extents.free(extent);
            }
            Step::Free(_) => {}
        }
        compare(&extents, &bitmap);
    }
    for extent in taken {
        extents.free(extent);
    }
    extents.validate();
    assert!(extents.is_unused());
    assert_eq!(extents.largest_free_bytes(), SEGMENT_BYTES);
}

fn compare(extents: &Extents, bitmap: &Bitmap) {
    extents.validate();
    let holes = bitmap.holes();
    let seen: Vec<_> = extents.by_offset.iter().map(|(&offset, &len)| (offset, len)).collect();
    assert_eq!(seen, holes, "holes, fully merged");
    let free_bytes: u64 = holes.iter().map(|&(_, len)| len).sum();
    assert_eq!(extents.free_bytes(), free_bytes);
    assert_eq!(extents.used_bytes(), SEGMENT_BYTES - free_bytes);
    assert_eq!(extents.largest_free_bytes(), holes.iter().map(|&(_, len)| len).max().unwrap_or(0));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_a_bitmap(steps in steps()) {
        run(steps);
    }
}
