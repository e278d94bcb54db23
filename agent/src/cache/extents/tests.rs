//! One test for each promise of `Extents` that reads better as an example.

use super::*;

const SEGMENT_BYTES: u64 = 1 << 20;

fn extent(offset_bytes: u64, len_bytes: u64) -> Extent {
    Extent { offset_bytes, len_bytes }
}

#[test]
fn rounding_follows_the_classes() {
    for (len_bytes, rounded) in [
        (0, 64),
        (1, 64),
        (64, 64),
        (65, 128),
        (512, 512),
        (513, 576),
        (1024, 1024),
        (1025, 1152),
        (4097, 4608),
        (65_535, 65_536),
        (65_536, 65_536),
        (65_537, 69_632),
        (u64::MAX, u64::MAX - 4095),
    ] {
        assert_eq!(rounded_len_bytes(len_bytes), rounded, "rounded {len_bytes}");
    }
}

#[test]
fn rounding_wastes_at_most_an_eighth_or_a_granule() {
    let mut last = 0;
    for len_bytes in 1..200_000 {
        let rounded = rounded_len_bytes(len_bytes);
        let waste = rounded - len_bytes;
        assert!(rounded >= len_bytes && rounded >= last, "{len_bytes} became {rounded} after {last}");
        assert!(waste < GRANULE_BYTES || waste * 8 < len_bytes, "{len_bytes} became {rounded}");
        assert_eq!(rounded_len_bytes(rounded), rounded, "a class is its own class");
        let step = if len_bytes < LARGE_BYTES { GRANULE_BYTES } else { PAGE_BYTES };
        assert!(rounded.is_multiple_of(step), "{len_bytes} became {rounded}");
        last = rounded;
    }
}

#[test]
fn alignment_padding_stays_free() {
    let mut extents = Extents::new(SEGMENT_BYTES);
    assert_eq!(extents.allocate(100, GRANULE_BYTES), Some(extent(0, 128)));
    assert_eq!(extents.allocate(70_000, PAGE_BYTES), Some(extent(4096, 73_728)));
    assert_eq!(extents.used_bytes(), 128 + 73_728);
    // The gap before the page boundary is the best fit for the next small block.
    assert_eq!(extents.allocate(3800, GRANULE_BYTES), Some(extent(128, 3840)));
    extents.validate();
}

#[test]
fn best_fit_prefers_the_smallest_hole() {
    let mut extents = Extents::new(SEGMENT_BYTES);
    let taken: Vec<_> = [1024, 64, 512, 64, 2048, 64]
        .iter()
        .filter_map(|&len_bytes| extents.allocate(len_bytes, GRANULE_BYTES))
        .collect();
    for hole in [0, 2, 4] {
        extents.free(taken[hole]);
    }
    assert_eq!(extents.allocate(400, GRANULE_BYTES), Some(extent(taken[2].offset_bytes, 448)));
    assert_eq!(extents.allocate(600, GRANULE_BYTES), Some(extent(taken[0].offset_bytes, 640)));
    extents.validate();
}

#[test]
fn an_aligned_hole_behind_many_misplaced_ones_is_found() {
    let mut extents = Extents::new(SEGMENT_BYTES);
    // Holes of one page each: all off the page boundary but the last.
    let mut holes = Vec::new();
    for _ in 0..40 {
        extents.allocate(64, GRANULE_BYTES).expect("room for a spacer");
        holes.push(extents.allocate(4096, GRANULE_BYTES).expect("room for a hole"));
    }
    holes.push(extents.allocate(4096, PAGE_BYTES).expect("room for an aligned hole"));
    while extents.allocate(64, GRANULE_BYTES).is_some() {}
    let aligned = *holes.last().expect("the aligned hole");
    for &hole in &holes {
        extents.free(hole);
    }
    assert_eq!(extents.allocate(4096, PAGE_BYTES), Some(aligned));
    assert_eq!(extents.allocate(4096, PAGE_BYTES), None);
    extents.validate();
}

#[test]
fn a_segment_fills_to_the_last_byte_and_empties_again() {
    let mut extents = Extents::new(SEGMENT_BYTES);
    let mut taken = Vec::new();
    while let Some(extent) = extents.allocate(64 * 1024, PAGE_BYTES) {
        taken.push(extent);
    }
    assert_eq!((taken.len(), extents.free_bytes(), extents.largest_free_bytes()), (16, 0, 0));
    assert_eq!(extents.allocate(0, GRANULE_BYTES), None);
    for extent in taken {
        extents.free(extent);
        extents.validate();
    }
    assert!(extents.is_unused());
    assert_eq!(extents.largest_free_bytes(), SEGMENT_BYTES);
}

#[test]
fn what_cannot_fit_is_refused() {
    let mut extents = Extents::new(SEGMENT_BYTES);
    for len_bytes in [SEGMENT_BYTES + 1, u64::MAX - 4096, u64::MAX] {
        assert_eq!(extents.allocate(len_bytes, GRANULE_BYTES), None);
        assert_eq!(extents.allocate(len_bytes, PAGE_BYTES), None);
    }
    assert_eq!(Extents::new(0).allocate(1, GRANULE_BYTES), None);
    assert!(extents.allocate(SEGMENT_BYTES, PAGE_BYTES).is_some());
}

#[test]
#[should_panic(expected = "overlaps the free")]
fn a_double_free_stops_the_agent() {
    let mut extents = Extents::new(SEGMENT_BYTES);
    let taken = extents.allocate(64, GRANULE_BYTES).expect("room for a granule");
    extents.free(taken);
    extents.free(taken);
}

#[test]
#[should_panic(expected = "overlaps the free 64 bytes at 64")]
fn freeing_around_a_hole_stops_the_agent() {
    let mut extents = Extents::new(SEGMENT_BYTES);
    let taken: Vec<_> = (0..3).filter_map(|_| extents.allocate(64, GRANULE_BYTES)).collect();
    extents.free(taken[1]);
    extents.free(extent(0, 192));
}

#[test]
#[should_panic(expected = "ends beyond the segment")]
fn freeing_beyond_the_segment_stops_the_agent() {
    Extents::new(SEGMENT_BYTES).free(extent(u64::MAX - 63, 64));
}

#[test]
#[should_panic(expected = "neither 64 nor 4096")]
fn an_unknown_alignment_stops_the_agent() {
    Extents::new(SEGMENT_BYTES).allocate(64, 128);
}
