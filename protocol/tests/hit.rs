//! The hit path over real shared memory: what a look-up returns, and what it leaves in the slot page.
#![cfg(not(loom))]

#[path = "hit/region.rs"]
mod region;

use larder_protocol::clock::coarse_ns;
use larder_protocol::hit::{Lookup, PinnedBlock, Reader};
use larder_protocol::index::Entry;
use larder_protocol::layout::{BlockId, control, stripe};
use larder_protocol::memory::Others;
use larder_protocol::slot;
use larder_protocol::words::Words;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use region::{NAMESPACE, Region, SEGMENT, STRIPES};

/// A fork ends the sessions of the whole process, so tests that share one run one after another.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn hit(reader: &Reader, key: &str) -> PinnedBlock {
    match reader.get(NAMESPACE, key.as_bytes()) {
        Lookup::Hit(block) => block,
        other => panic!("{key}: {other:?}"),
    }
}

fn assert_asks(reader: &Reader, key: &str) {
    let found = reader.get(NAMESPACE, key.as_bytes());
    assert!(matches!(found, Lookup::AskAgent), "{key}: {found:?}");
}

fn many(reader: &Reader, keys: &[&str]) -> Vec<Option<Vec<u8>>> {
    let mut found = Vec::new();
    reader.get_many(NAMESPACE, keys.iter().map(|key| key.as_bytes()), |lookup| {
        found.push(match lookup {
            Lookup::Hit(block) => Some(block.as_slice().to_vec()),
            Lookup::AskAgent => None,
            other => panic!("{other:?}"),
        });
    });
    found
}

#[test]
fn a_block_is_read_in_place_and_pinned_while_it_is_held() {
    let _alone = alone();
    let mut region = Region::new();
    let small = region.put("a/small", b"small");
    let payload: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
    let large = region.put("large", &payload);
    let empty = region.put("empty", b"");
    let reader = region.reader();
    for (entry, key, payload) in [(small, "a/small", &b"small"[..]), (large, "large", &payload), (empty, "empty", b"")]
    {
        let block = hit(&reader, key);
        assert_eq!((block.key(), block.as_slice()), (key.as_bytes(), payload));
        assert!(block.verify());
        assert_eq!(block.created_ms(), 1_700_000_000_000);
        assert_eq!(region.pinned(), [entry.block]);
        drop(block);
        assert_eq!(region.pinned(), []);
    }
    assert_eq!(region.counted(stripe::HITS), 3);
    assert_eq!(region.counted(stripe::HIT_BYTES), 200_005);
    assert_eq!(region.counted(stripe::TOUCH_HEAD), 3);
    assert_asks(&reader, "absent");
    assert_eq!(region.counted(stripe::ASKED_ABSENT), 1);
}

/// Two keys with one hash of 128 bits do not occur by chance; a reader that took one for the other would return wrong
/// bytes all the same.
#[test]
fn a_key_with_the_hash_of_another_is_told_apart() {
    let _alone = alone();
    let mut region = Region::new();
    region.put_under_hash_of("asked", "stored");
    let reader = region.reader();
    assert_asks(&reader, "asked");
    assert_eq!(many(&reader, &["asked"]), [None]);
    assert_eq!(region.pinned(), [], "nothing stays pinned");
}

#[test]
fn a_block_of_another_incarnation_is_not_a_hit() {
    let _alone = alone();
    let mut region = Region::new();
    let entry = region.write("key", b"old");
    region.table.insert(&Entry { namespace: NAMESPACE + 1, ..entry }).unwrap();
    assert_asks(&region.reader(), "key");
    assert_eq!(region.pinned(), []);
}

#[test]
fn an_expired_entry_is_not_a_hit() {
    let _alone = alone();
    let mut region = Region::new();
    let entry = region.put("key", b"bytes");
    let reader = region.reader();
    let set = |expiry_ns| assert!(region.table.set_expiry(entry.hash, entry.generation, expiry_ns));
    set(coarse_ns() + 3_600_000_000_000);
    drop(hit(&reader, "key"));
    set(coarse_ns());
    assert_asks(&reader, "key");
    assert_eq!(region.counted(stripe::ASKED_EXPIRED), 1);
    assert_eq!(region.pinned(), []);
}

#[test]
fn an_entry_that_names_bytes_outside_its_segment_is_not_followed() {
    let _alone = alone();
    let mut region = Region::new();
    let reader = region.reader();
    let good = region.write("key", b"bytes");
    for bad in [
        Entry { len: 1 << 20, ..good },
        Entry { len: u64::MAX, ..good },
        Entry { payload_offset: u32::MAX, ..good },
        Entry { payload_offset: 0, ..good },
        Entry { key_len: 1 << 20, ..good },
        Entry { block: BlockId::new(SEGMENT, 1 << 30), ..good },
    ] {
        region.table.insert(&bad).unwrap();
        assert_asks(&reader, "key");
        assert_eq!(region.pinned(), []);
        assert!(region.table.remove(bad.hash, bad.generation));
    }
}

#[test]
fn many_keys_are_answered_in_order() {
    let _alone = alone();
    let mut region = Region::new();
    let keys: Vec<String> = (0..150).map(|n| format!("key/{n}")).collect();
    keys.iter().step_by(2).for_each(|key| {
        region.put(key, key.as_bytes());
    });
    let reader = region.reader();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let found = many(&reader, &keys);
    for (n, (key, found)) in keys.iter().zip(found).enumerate() {
        assert_eq!(found, (n % 2 == 0).then(|| key.as_bytes().to_vec()), "{key}");
    }
    assert_eq!(region.pinned(), []);
}

#[test]
fn clones_share_one_pin_and_the_last_ends_it() {
    let _alone = alone();
    let mut region = Region::new();
    let entry = region.put("key", b"bytes");
    let reader = region.reader();
    let block = hit(&reader, "key");
    let clone = block.clone();
    assert_eq!((region.pinned(), reader.slots().0), (vec![entry.block], 1));
    std::thread::spawn(move || drop(block)).join().unwrap();
    assert_eq!(region.pinned(), [entry.block]);
    assert_eq!(clone.as_slice(), b"bytes");
    drop(clone);
    assert_eq!(region.pinned(), []);
}

#[test]
fn a_block_outlives_its_session_and_the_agent() {
    let _alone = alone();
    let mut region = Region::new();
    let entry = region.put("key", b"bytes");
    let reader = region.reader();
    let block = hit(&reader, "key");
    drop(reader);
    assert_eq!(region.pinned(), [entry.block]);
    region.beacon = None;
    assert_eq!(block.as_slice(), b"bytes");
    drop(block);
    assert_eq!(region.pinned(), []);
}

#[test]
fn what_is_missing_is_asked_for_by_name() {
    let _alone = alone();
    let mut region = Region::new();
    region.put("key", b"bytes");
    let reader = Reader::attach(&region.attachment()).unwrap();
    let get = || reader.get(NAMESPACE, b"key");
    assert!(matches!(get(), Lookup::NeedTable));
    region.give_table(&reader);
    assert!(matches!(get(), Lookup::NeedSegment(SEGMENT)));
    assert_eq!(region.pinned(), []);
    region.give_segment(&reader);
    assert!(matches!(get(), Lookup::Hit(_)));
    region.grow();
    assert!(matches!(get(), Lookup::NeedTable), "the old table is not looked at any more");
    region.give_table(&reader);
    assert!(matches!(get(), Lookup::Hit(_)));
    region.beacon = None;
    let end = Instant::now() + Duration::from_secs(10);
    while !matches!(get(), Lookup::AgentDied) {
        assert!(Instant::now() < end, "the agent's death is not seen");
        std::thread::yield_now();
    }
}

#[test]
fn when_all_slots_are_taken_more_are_asked_for() {
    let _alone = alone();
    let mut region = Region::new();
    region.put("key", b"bytes");
    let reader = region.reader();
    let slots = STRIPES * stripe::SLOTS_LEN;
    let blocks: Vec<PinnedBlock> = (0..slots).map(|_| hit(&reader, "key")).collect();
    assert_eq!(reader.slots(), (slots, slots));
    assert_eq!(region.pinned().len(), slots);
    assert!(matches!(reader.get(NAMESPACE, b"key"), Lookup::NeedSlots));
    region.give_more_slots(&reader);
    drop(hit(&reader, "key"));
    drop(blocks);
    assert_eq!(region.pinned(), []);
}

#[test]
fn a_retired_segment_is_unmapped_at_the_next_look_up() {
    let _alone = alone();
    let mut region = Region::new();
    let entry = region.put("key", b"bytes");
    let reader = region.reader();
    drop(hit(&reader, "key"));
    if region.platform.lease_probe {
        assert_eq!(region.segment.others(&region.platform), Others::Some);
    }
    assert!(region.table.remove(entry.hash, entry.generation));
    region.control.store(control::DIRECTORY, 0, Ordering::Relaxed);
    slot::bump_epoch(&region.control);
    assert_asks(&reader, "key");
    if region.platform.lease_probe {
        assert_eq!(region.segment.others(&region.platform), Others::None);
    }
}

/// After a fork both processes hold the block, and the agent can see only one slot: it must stay until neither has it.
#[test]
fn a_block_inherited_by_a_child_stays_pinned_whatever_the_parent_does() {
    let _alone = alone();
    let mut region = Region::new();
    let entry = region.put("key", b"bytes");
    let reader = region.reader();
    let block = hit(&reader, "key");
    // SAFETY: the child looks at memory and exits.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let frozen = matches!(reader.get(NAMESPACE, b"key"), Lookup::Forked);
            let whole = block.as_slice() == b"bytes";
            drop(block);
            let kept = region.pinned() == [entry.block];
            // SAFETY: ends this process at once, which runs nothing that the fork left half done.
            unsafe { libc::_exit(i32::from(!(frozen && whole && kept))) }
        }
        ForkResult::Parent { child } => {
            assert!(matches!(reader.get(NAMESPACE, b"key"), Lookup::Forked), "the parent's session is frozen too");
            drop(block);
            assert_eq!(region.pinned(), [entry.block]);
            assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
        }
    }
    let fresh = Region::new();
    assert_asks(&fresh.reader(), "key");
}

#[test]
fn threads_read_at_once_each_in_its_own_stripe() {
    let _alone = alone();
    let mut region = Region::new();
    for n in 0..8 {
        region.put(&format!("key/{n}"), &[n; 100]);
    }
    let reader = Arc::new(region.reader());
    let threads: Vec<_> = (0..STRIPES)
        .map(|_| {
            let reader = Arc::clone(&reader);
            std::thread::spawn(move || {
                for round in 0..2_000_u32 {
                    let n = (round % 8) as u8;
                    assert_eq!(hit(&reader, &format!("key/{n}")).as_slice(), [n; 100]);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(region.counted(stripe::HITS), STRIPES as u64 * 2_000);
    assert_eq!(region.pinned(), []);
}

#[test]
fn reads_are_noted_for_the_agent_as_far_as_the_ring_reaches() {
    let _alone = alone();
    let mut region = Region::new();
    let (first, second) = (region.put("first", b"1"), region.put("second", b"2"));
    let reader = region.reader();
    ["first", "second", "first"].into_iter().for_each(|key| drop(hit(&reader, key)));
    let (drained, touched) = region.drain(0);
    assert_eq!(touched, [first.block, second.block, first.block]);
    assert!(!drained.overflowed);
    (0..stripe::TOUCH_LEN + 5).for_each(|_| drop(hit(&reader, "second")));
    let (drained, touched) = region.drain(drained.head);
    assert_eq!(touched, [second.block; stripe::TOUCH_LEN]);
    assert!(drained.overflowed);
    assert_eq!(region.drain(drained.head).1, []);
}
