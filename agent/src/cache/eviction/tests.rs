//! One test for each promise of `S3Fifo` that reads better as an example.

use super::*;

const KIB: u64 = 1024;

/// Nothing is pinned.
fn victim(fifo: &mut S3Fifo) -> Option<u32> {
    fifo.next_victim(&mut |_| false)
}

/// `ids` in the main queue, in this order, none of them read since.
fn in_main(ids: std::ops::Range<u32>) -> S3Fifo {
    let mut fifo = S3Fifo::new();
    for id in ids {
        fifo.reinsert(id, KIB, u64::from(id));
    }
    fifo
}

#[test]
fn blocks_nobody_reads_leave_in_order() {
    let mut fifo = S3Fifo::new();
    for id in 0..5 {
        fifo.insert(id, KIB, u64::from(id));
    }
    assert_eq!((fifo.len(), fifo.bytes()), (5, 5 * KIB));
    let victims: Vec<_> = std::iter::from_fn(|| victim(&mut fifo)).collect();
    assert_eq!(victims, [0, 1, 2, 3, 4]);
    assert_eq!((fifo.len(), fifo.bytes()), (0, 0));
}

#[test]
fn one_read_does_not_promote_and_two_do() {
    let mut fifo = S3Fifo::new();
    for id in 0..3 {
        fifo.insert(id, KIB, u64::from(id));
    }
    fifo.touch(0);
    fifo.touch(1);
    fifo.touch(1);
    assert_eq!(victim(&mut fifo), Some(0));
    assert_eq!(victim(&mut fifo), Some(2));
    assert_eq!(fifo.main.len, 1);
    assert_eq!(victim(&mut fifo), Some(1));
}

#[test]
fn a_remembered_block_skips_its_probation() {
    let mut fifo = S3Fifo::new();
    fifo.insert(0, KIB, 77);
    assert_eq!(victim(&mut fifo), Some(0));
    fifo.insert(0, KIB, 77);
    assert_eq!((fifo.small.len, fifo.main.len), (0, 1));
    // It was taken out of memory, and eviction from the main queue does not put it there.
    assert_eq!(victim(&mut fifo), Some(0));
    fifo.insert(0, KIB, 77);
    assert_eq!((fifo.small.len, fifo.main.len), (1, 0));
}

#[test]
fn a_deleted_block_is_not_remembered() {
    let mut fifo = S3Fifo::new();
    fifo.insert(0, KIB, 77);
    fifo.remove(0);
    fifo.remove(0);
    assert!(!fifo.contains(0));
    fifo.insert(0, KIB, 77);
    assert_eq!((fifo.small.len, fifo.main.len), (1, 0));
}

#[test]
fn a_victim_put_back_is_in_main_and_no_longer_remembered() {
    let mut fifo = S3Fifo::new();
    fifo.insert(0, KIB, 77);
    assert_eq!(victim(&mut fifo), Some(0));
    fifo.reinsert(0, KIB, 77);
    assert_eq!(fifo.main.len, 1);
    fifo.remove(0);
    fifo.insert(0, KIB, 77);
    assert_eq!((fifo.small.len, fifo.main.len), (1, 0));
}

#[test]
fn reads_in_main_buy_one_round_each() {
    let mut fifo = in_main(0..4);
    for _ in 0..100 {
        fifo.touch(0);
    }
    for _ in 0..3 {
        fifo.touch(1);
    }
    fifo.touch(2);
    let victims: Vec<_> = std::iter::from_fn(|| victim(&mut fifo)).collect();
    // Reads beyond the third were not counted, so 0 is not kept longer than 1.
    assert_eq!(victims, [3, 2, 0, 1]);
}

#[test]
fn the_share_of_small_is_counted_in_bytes() {
    // One block in the small queue of nineteen in all, but most of the bytes.
    let mut fifo = in_main(0..18);
    fifo.insert(18, 100 * KIB, 18);
    assert_eq!(victim(&mut fifo), Some(18));
    // Exactly a tenth of the bytes is enough, and a little less is not.
    fifo.insert(19, 2 * KIB, 19);
    assert_eq!(victim(&mut fifo), Some(19));
    fifo.insert(20, 2 * KIB - 1, 20);
    assert_eq!(victim(&mut fifo), Some(0));
}

#[test]
fn a_scan_leaves_the_hot_set_alone() {
    let mut fifo = in_main(0..90);
    let mut evicted = Vec::new();
    for round in 0..2000u32 {
        let id = 100 + round;
        fifo.insert(id, KIB, u64::from(id));
        fifo.touch(id);
        while fifo.bytes() > 100 * KIB {
            evicted.extend(victim(&mut fifo));
        }
    }
    assert!(evicted.iter().all(|&id| id >= 100), "hot blocks were evicted");
    assert_eq!(evicted.len(), 1990);
}

#[test]
fn pinned_blocks_stay_and_the_rest_goes() {
    let mut fifo = in_main(0..10);
    for id in 10..20 {
        fifo.insert(id, KIB, u64::from(id));
    }
    let mut pinned_even = |id: u32| id.is_multiple_of(2);
    let mut victims = Vec::new();
    while let Some(id) = fifo.next_victim(&mut pinned_even) {
        victims.push(id);
    }
    victims.sort_unstable();
    assert_eq!(victims, [1, 3, 5, 7, 9, 11, 13, 15, 17, 19]);
    assert_eq!((fifo.len(), fifo.small.len), (10, 0));
}

#[test]
fn all_pinned_ends_after_a_bounded_number_of_questions() {
    let mut fifo = in_main(0..500);
    for id in 500..1000 {
        fifo.insert(id, KIB, u64::from(id));
    }
    for id in 0..1000 {
        for _ in 0..id % 5 {
            fifo.touch(id);
        }
    }
    let mut ask_all = || {
        let mut questions = 0;
        let victim = fifo.next_victim(&mut |_| {
            questions += 1;
            true
        });
        assert_eq!(victim, None);
        questions
    };
    assert!(ask_all() <= 6 * 1000);
    // Every read is used up, and one round asks about each block.
    assert_eq!(ask_all(), 1000);
    assert_eq!((fifo.len(), fifo.bytes()), (1000, 1000 * KIB));
    fifo.validate();
}

#[test]
fn a_promoted_block_is_found_behind_a_pinned_main() {
    // Far below its share, so that the main queue is asked first and the small one at the end.
    let mut fifo = in_main(0..100);
    fifo.insert(100, 1, 100);
    fifo.touch(100);
    fifo.touch(100);
    assert_eq!(fifo.next_victim(&mut |id| id < 100), Some(100));
}

#[test]
fn nothing_queued_gives_nothing() {
    let mut fifo = S3Fifo::new();
    assert_eq!(victim(&mut fifo), None);
    fifo.touch(0);
    fifo.touch(NIL);
    fifo.remove(NIL);
    assert!(!fifo.contains(NIL));
}

#[test]
#[should_panic(expected = "id 4 is queued already")]
fn queueing_an_id_twice_stops_the_agent() {
    let mut fifo = S3Fifo::new();
    fifo.insert(4, KIB, 1);
    fifo.insert(4, KIB, 2);
}
