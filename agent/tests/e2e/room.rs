//! What happens when there is not room for everything.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use larder::{Error, Eviction, Namespace, NamespaceOptions, PutOutcome};

use crate::harness::{Agent, SEGMENT_BYTES, SetOnDrop};
use crate::pattern::{self, Random, assert_whole, get_whole, put};
use crate::proc;

const CAPACITY: u64 = 64 << 20;

fn keeping(agent: &Agent, name: &str, quota_bytes: Option<u64>) -> Namespace {
    let options = NamespaceOptions { eviction: Eviction::Keep, quota_bytes, ..NamespaceOptions::default() };
    agent.client().create_namespace(name, &options).expect("a new namespace")
}

/// What the agent says it uses, and what the kernel says: neither may be over the capacity.
#[track_caller]
fn assert_within_capacity(agent: &Agent) {
    let told = agent.stat().memory_bytes;
    assert!(told <= CAPACITY, "{told} bytes of memory");
    // One page tells clients that the agent lives; it is nobody's memory.
    let seen = proc::shared_bytes(agent.pid());
    assert!(seen <= CAPACITY + 4096, "{seen} bytes of shared memory are resident");
}

/// Whether all memory is in use by blocks: none is left, and none is just being made ahead of need.
fn is_full(agent: &Agent) -> bool {
    let stat = agent.stat();
    stat.memory_bytes - stat.tenant.segment_bytes < SEGMENT_BYTES as u64
}

#[test]
fn what_is_put_three_times_over_stays_within_the_capacity() {
    let agent = Agent::small();
    let cache = agent.namespace("t");
    let mut random = Random::new(1);
    let mut len = || {
        let most = 1 << random.below(18);
        random.below(most) + most / 2
    };
    let lens: Vec<usize> = (0..4_000).map(|_| len()).collect();
    let done = AtomicBool::new(false);
    let total: usize = lens.iter().sum();
    let rounds = (3 * usize::try_from(CAPACITY).unwrap()).div_ceil(total);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let cache = agent.namespace("t");
            let mut random = Random::new(2);
            let mut found = 0;
            while !done.load(Ordering::Relaxed) {
                let (round, n) = (random.below(rounds), random.below(lens.len()));
                match cache.get(&format!("{round}/{n}")) {
                    Ok(block) => {
                        assert_eq!(block.len(), lens[n]);
                        assert_whole(&format!("{round}/{n}"), &block);
                        found += 1;
                    }
                    Err(Error::NotFound) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
            found
        });
        let _done = SetOnDrop(&done);
        for round in 0..rounds {
            for (n, len) in lens.iter().enumerate() {
                assert_eq!(put(&cache, &format!("{round}/{n}"), *len).unwrap(), PutOutcome::Stored);
                if n % 100 == 0 {
                    assert_within_capacity(&agent);
                }
            }
        }
        done.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 100);
    });
    let stat = agent.stat();
    assert_eq!(stat.tenant.puts, (rounds * lens.len()) as u64);
    assert_eq!(stat.tenant.puts - stat.tenant.evictions, stat.tenant.blocks, "each block is here or was evicted");
    assert!(stat.tenant.payload_bytes > CAPACITY / 2, "{stat:#?}");
    // What the list says is what there is.
    let keys = cache.list("").unwrap();
    assert_eq!(keys.len() as u64, agent.stat().tenant.blocks);
    for key in &keys {
        assert_whole(key, &cache.get(key).unwrap());
    }
}

#[test]
fn what_is_read_often_survives_a_scan() {
    let agent = Agent::small();
    let len = 20_000;
    let scanned = 4 * usize::try_from(CAPACITY).unwrap() / len;
    let hot: Vec<String> = (0..200).map(|n| format!("hot/{n}")).collect();
    let (done, misses) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        // Another program: it reads its blocks over and over, and puts what it does not find.
        scope.spawn(|| {
            let cache = agent.namespace("t");
            let mut random = Random::new(3);
            while !done.load(Ordering::Relaxed) {
                let key = &hot[random.below(hot.len())];
                match cache.get(key) {
                    Ok(block) => assert_eq!(block.len(), len),
                    Err(Error::NotFound) => {
                        misses.fetch_add(1, Ordering::Relaxed);
                        put(&cache, key, len).unwrap();
                    }
                    Err(error) => panic!("{error:?}"),
                }
            }
        });
        let _done = SetOnDrop(&done);
        let cache = agent.namespace("t");
        let mut early = 0;
        for n in 0..scanned {
            let key = format!("scan/{n}");
            put(&cache, &key, len).unwrap();
            if let Ok(block) = cache.get(&key) {
                assert_whole(&key, &block);
            }
            if n == scanned / 2 {
                early = misses.load(Ordering::Relaxed);
            }
        }
        // Twice the capacity went through since. First in, first out would have lost each hot block twice.
        let late = misses.load(Ordering::Relaxed) - early;
        assert!(late <= hot.len() as u64 / 2, "{late} misses in the second half, {early} in the first");
    });
    assert!(agent.stat().tenant.evictions > 5_000);
}

#[test]
fn a_namespace_that_keeps_refuses_with_the_numbers() {
    let agent = Agent::small();
    let cache = keeping(&agent, "kept", None);
    let len = 400_000;
    let mut stored = 0;
    let error = loop {
        match put(&cache, &format!("k/{stored}"), len) {
            Ok(_) => stored += 1,
            Err(error) if is_full(&agent) => break error,
            Err(_) => {}
        }
        assert_within_capacity(&agent);
    };
    let Error::NoSpace { needed_bytes, quota_bytes, used_bytes, pinned_bytes, kept_bytes } = error else {
        panic!("{error:?}")
    };
    assert!(needed_bytes >= len as u64 && needed_bytes < len as u64 + 8192);
    assert_eq!((quota_bytes, pinned_bytes), (CAPACITY, 0));
    assert!(used_bytes <= CAPACITY && used_bytes >= kept_bytes);
    assert_eq!(kept_bytes, (stored * len) as u64);
    assert!(kept_bytes > CAPACITY * 3 / 4, "{stored} blocks are too few");
    let sentence = error.to_string();
    let numbers = [needed_bytes, quota_bytes, used_bytes, pinned_bytes, kept_bytes];
    assert!(numbers.iter().all(|number| sentence.contains(&number.to_string())), "{sentence}");
    // Others are refused as well, whichever way they put; nothing that is kept is lost.
    let other = agent.namespace("other");
    assert!(matches!(put(&other, "k", len), Err(Error::NoSpace { .. })));
    assert!(matches!(put(&other, "k", 3_000_000), Err(Error::NoSpace { .. })));
    assert!(matches!(other.create("k", 30_000_000).map(drop), Err(Error::NoSpace { .. })));
    (0..stored).for_each(|n| drop(get_whole(&cache, &format!("k/{n}"), len)));
    assert_eq!(agent.stat().tenant.evictions, 0);
    // A delete makes room, here for another namespace.
    (0..10).for_each(|n| assert!(cache.delete(&format!("k/{n}")).unwrap()));
    assert_eq!(put(&other, "k", len).unwrap(), PutOutcome::Stored);
    // Told to let go, it makes room by itself.
    agent.client().set_namespace("kept", &NamespaceOptions::default()).unwrap();
    for n in 0..stored {
        assert_eq!(put(&other, &format!("k/{n}"), len).unwrap(), PutOutcome::Stored);
    }
    assert_within_capacity(&agent);
}

#[test]
fn a_full_namespace_that_keeps_leaves_room_for_new_clients() {
    let agent = Agent::small();
    let cache = keeping(&agent, "kept", None);
    let mut stored = 0;
    while put(&cache, &format!("k/{stored}"), 100_000).is_ok() {
        stored += 1;
    }
    let clients: Vec<_> = (0..20).map(|_| agent.namespace("kept")).collect();
    for (n, cache) in clients.iter().enumerate() {
        get_whole(cache, &format!("k/{n}"), 100_000);
    }
    assert_within_capacity(&agent);
}

#[test]
fn a_quota_is_kept_by_refusing() {
    let agent = Agent::small();
    let cache = keeping(&agent, "t", Some(1_000_000));
    for n in 0..10 {
        assert_eq!(put(&cache, &format!("k/{n}"), 100_000).unwrap(), PutOutcome::Stored);
    }
    for len in [1, 100_000, 400_000, 2_000_000] {
        match put(&cache, "more", len) {
            Err(error @ Error::Quota { .. }) => {
                let sentence = error.to_string();
                assert!(sentence.contains("\"t\"") || sentence.contains(" t "), "{sentence}");
                let Error::Quota { name, needed_bytes, used_bytes, quota_bytes } = error else {
                    unreachable!("matched above")
                };
                assert_eq!((name.as_str(), needed_bytes), ("t", len as u64));
                assert_eq!((used_bytes, quota_bytes), (1_000_000, 1_000_000));
            }
            other => panic!("{len}: {other:?}"),
        }
        assert!(matches!(cache.create("more", len).and_then(larder::Writer::commit), Err(Error::Quota { .. })));
    }
    // What is held already costs nothing more; what is deleted makes room.
    assert_eq!(put(&cache, "k/3", 100_000).unwrap(), PutOutcome::AlreadyHeld);
    assert_eq!(put(&cache, "none", 0).unwrap(), PutOutcome::Stored);
    assert!(cache.delete("k/0").unwrap());
    assert_eq!(put(&cache, "more", 100_000).unwrap(), PutOutcome::Stored);
    assert!(matches!(put(&cache, "one byte", 1), Err(Error::Quota { .. })));
    (1..10).for_each(|n| drop(get_whole(&cache, &format!("k/{n}"), 100_000)));
}

#[test]
fn a_quota_is_kept_by_evicting_one_s_own() {
    let agent = Agent::small();
    let options = NamespaceOptions { quota_bytes: Some(1_000_000), ..NamespaceOptions::default() };
    let cache = agent.client().create_namespace("t", &options).unwrap();
    let other = agent.namespace("other");
    put(&other, "k", 1_000_000).unwrap();
    for n in 0..300 {
        let key = format!("k/{n}");
        assert_eq!(put(&cache, &key, 30_000).unwrap(), PutOutcome::Stored);
        get_whole(&cache, &key, 30_000);
        let info = agent.monitor().namespace_info("t").unwrap();
        assert!(info.bytes <= 1_000_000 && info.bytes == info.blocks * 30_000, "{info:?}");
    }
    let info = agent.monitor().namespace_info("t").unwrap();
    assert!(info.bytes >= 900_000, "{info:?}");
    assert_eq!(cache.list("").unwrap().len() as u64, info.blocks);
    get_whole(&other, "k", 1_000_000);
    assert!(matches!(put(&cache, "large", 1_000_001), Err(Error::Quota { .. })));
    assert_eq!(put(&cache, "just", 1_000_000).unwrap(), PutOutcome::Stored);
    assert_eq!(cache.list("").unwrap(), ["just"]);
    // A lowered quota holds from the next put on.
    let options = NamespaceOptions { quota_bytes: Some(100_000), ..options };
    agent.client().set_namespace("t", &options).unwrap();
    assert_eq!(put(&cache, "small", 60_000).unwrap(), PutOutcome::Stored);
    assert_eq!(cache.list("").unwrap(), ["small"]);
}

#[test]
fn what_readers_hold_is_neither_evicted_nor_waited_for() {
    let agent = Agent::start("--capacity 64MiB --segment-size 4MiB --staging 1MiB --pinned-quota 64MiB");
    let cache = agent.namespace("t");
    let len = 200_000;
    let mut held = Vec::new();
    let error = loop {
        let key = format!("k/{}", held.len());
        match put(&cache, &key, len) {
            Ok(_) => held.push((get_whole(&cache, &key, len), key)),
            Err(error) if is_full(&agent) => break error,
            Err(_) => {}
        }
    };
    match error {
        Error::NoSpace { pinned_bytes, kept_bytes, used_bytes, .. } => {
            assert!(pinned_bytes >= (held.len() * len) as u64 && pinned_bytes <= used_bytes);
            assert_eq!(kept_bytes, 0);
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(put(&cache, "large", 5_000_000), Err(Error::NoSpace { .. })));
    assert!(matches!(cache.create("large", 20_000_000).map(drop), Err(Error::NoSpace { .. })));
    assert_within_capacity(&agent);
    held.iter().for_each(|(block, key)| assert_whole(key, block));
    // One let go is room for one.
    held.truncate(held.len() / 2);
    let mut puts = 0;
    while puts < held.len() && put(&cache, &format!("new/{puts}"), len).is_ok() {
        puts += 1;
    }
    assert!(puts + 10 >= held.len(), "{puts} puts after {} blocks were let go", held.len());
    held.iter().for_each(|(block, key)| assert_whole(key, block));
    drop(held);
    agent.await_no_pins();
}

#[test]
fn who_pins_more_than_allowed_may_not_put() {
    let agent = Agent::start("--capacity 64MiB --segment-size 4MiB --staging 1MiB --pinned-quota 2MiB");
    let cache = agent.namespace("t");
    let mut held = Vec::new();
    for n in 0..30 {
        put(&cache, &format!("k/{n}"), 100_000).unwrap();
    }
    for n in 0..30 {
        held.push(get_whole(&cache, &format!("k/{n}"), 100_000));
    }
    agent.stat();
    match put(&cache, "more", 10) {
        Err(Error::PinnedQuota { pinned_bytes, limit_bytes }) => {
            assert_eq!(limit_bytes, 2 << 20);
            assert!(pinned_bytes >= 3_000_000);
        }
        other => panic!("{other:?}"),
    }
    get_whole(&cache, "k/3", 100_000);
    drop(held);
    assert_eq!(put(&cache, "more", 10).unwrap(), PutOutcome::Stored);
}

#[test]
fn an_evicted_block_that_is_held_is_taken_back() {
    let agent = Agent::small();
    let (cache, other) = (agent.namespace("t"), agent.namespace("t"));
    put(&cache, "k", 100_000).unwrap();
    let clean: Vec<String> = (0..600).map(|n| format!("flood/{n}")).collect();
    for round in 0..3 {
        // A block is no victim while it is held, so it is let go and held again until it was one.
        for key in &clean {
            put(&cache, &format!("{round}/{key}"), 200_000).unwrap();
            if let Ok(block) = cache.get("k") {
                assert_whole("k", &block);
            } else {
                put(&cache, "k", 100_000).unwrap();
            }
        }
    }
    get_whole(&other, "k", 100_000);
    agent.await_no_pins();
}

#[test]
fn small_and_large_blocks_make_room_for_each_other() {
    let agent = Agent::small();
    let cache = agent.namespace("t");
    for round in 0..4 {
        for n in 0..2_000 {
            put(&cache, &format!("{round}/small/{n}"), 10_000).unwrap();
        }
        for n in 0..12 {
            let key = format!("{round}/large/{n}");
            put(&cache, &key, 6_000_000).unwrap();
            get_whole(&cache, &key, 6_000_000);
        }
        assert_within_capacity(&agent);
    }
    for key in cache.list("").unwrap() {
        let fault = cache.get(&key).map(|block| pattern::fault(&key, &block));
        assert!(matches!(fault, Ok(None) | Err(Error::NotFound)), "{fault:?}");
    }
}
