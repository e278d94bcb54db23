//! Namespaces of durability `back`: a put returns when memory has the block, the store has it soon after, and a sync
//! waits for that.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use larder::{Durability, Error, Namespace, NamespaceOptions, PutOutcome};

use crate::full_store::SmallStore;
use crate::harness::{Agent, SetOnDrop, eventually, is_root, skip};
use crate::pattern::{Random, assert_whole, bytes, get_whole, put};

const SMALL: &str = "--capacity 64MiB --segment-size 4MiB --staging 1MiB";

fn options() -> NamespaceOptions {
    NamespaceOptions { durability: Some(Durability::Back), ..NamespaceOptions::default() }
}

fn back(agent: &Agent, name: &str) -> Namespace {
    agent.client().create_namespace(name, &options()).expect("the agent has a store")
}

fn start(directory: &Path) -> Agent {
    start_with(directory, 30)
}

/// With another time that a request may take.
fn start_with(directory: &Path, store_timeout_s: u32) -> Agent {
    Agent::start(&format!("{SMALL} --store-timeout {store_timeout_s} --store file://{}", directory.display()))
}

/// A store that can be filled up, or a skip.
macro_rules! small_store {
    ($mib:expr) => {{
        if !is_root() {
            skip!("needs root to mount a small file system");
        }
        let Some(store) = SmallStore::mount($mib) else { skip!("this machine mounts no tmpfs") };
        store
    }};
}

#[test]
fn what_was_synced_is_there_after_the_agent_was_killed() {
    let directory = tempfile::tempdir().unwrap();
    let mut agent = start(directory.path());
    let cache = back(&agent, "job/7");
    let lengths = [0, 1, 4096, 65_535, 65_536, 65_537, 1_000_000, 5_000_000];
    for len in lengths {
        assert_eq!(put(&cache, &format!("one/{len}"), len).unwrap(), PutOutcome::Stored);
        assert_eq!(put(&cache, &format!("one/{len}"), len).unwrap(), PutOutcome::AlreadyHeld);
    }
    let many: Vec<(String, Vec<u8>)> =
        (0..500).map(|n| format!("many/{n}")).map(|k| (k.clone(), bytes(&k, 500))).collect();
    let items: Vec<(&str, &[u8])> = many.iter().map(|(key, bytes)| (key.as_str(), &bytes[..])).collect();
    assert!(cache.put_many(&items).iter().all(|outcome| matches!(outcome, Ok(PutOutcome::Stored))));
    let mut writer = cache.create("written", 3_000_000).unwrap();
    writer.as_mut_slice().copy_from_slice(&bytes("written", 3_000_000));
    assert_eq!(writer.commit().unwrap(), PutOutcome::Stored);
    let names = cache.list("").unwrap();
    assert_eq!(names.len(), lengths.len() + 501);
    cache.sync().unwrap();
    cache.sync().unwrap();
    let stat = agent.stat();
    assert_eq!((stat.tenant.stored, stat.tenant.dirty_blocks, stat.tenant.dirty_bytes), (509, 0, 0));

    agent.kill();
    agent.restart();
    let again = back(&agent, "job/7");
    assert_eq!(again.list("").unwrap(), names);
    for key in &names {
        let block = again.get(key).unwrap();
        assert_whole(key, &block);
        assert!(block.verify());
    }
    // A binding holds although nothing of it is in memory of this agent's own making.
    assert!(matches!(put(&again, "one/4096", 10), Err(Error::AlreadyExists { held_bytes: 4096, .. })));
    assert_eq!(agent.stat().tenant.loads, 509);
}

#[test]
fn an_evicted_block_comes_back_and_keeps_its_key() {
    let directory = tempfile::tempdir().unwrap();
    let agent = start(directory.path());
    let cache = back(&agent, "t");
    for n in 0..300 {
        assert_eq!(put(&cache, &format!("k/{n}"), 500_000).unwrap(), PutOutcome::Stored);
    }
    cache.sync().unwrap();
    let stat = agent.stat();
    assert!(stat.tenant.evictions > 100);
    assert_eq!(stat.tenant.stored, 300, "each was written before it went, and once");
    for n in 0..300 {
        let key = format!("k/{n}");
        assert!(matches!(put(&cache, &key, 10), Err(Error::AlreadyExists { held_bytes: 500_000, .. })), "{key}");
        assert_eq!(put(&cache, &key, 500_000).unwrap(), PutOutcome::AlreadyHeld);
        get_whole(&cache, &key, 500_000);
    }
    agent.await_no_pins();
}

#[test]
fn what_the_store_does_not_take_stays_and_a_sync_says_so() {
    let store = small_store!(64);
    let mut agent = start(store.path());
    let (cache, other) = (back(&agent, "t"), back(&agent, "other"));
    put(&other, "k", 1000).unwrap();
    other.sync().unwrap();
    store.fill();
    for n in 0..20 {
        assert_eq!(put(&cache, &format!("k/{n}"), 500_000).unwrap(), PutOutcome::Stored);
    }
    let error = cache.sync().unwrap_err();
    assert!(matches!(&error, Error::Store(why) if why.contains("not all that was put")), "{error}");
    other.sync().unwrap();
    // A flood of what may go takes all the room there is, and none of this.
    let scratch = NamespaceOptions { durability: Some(Durability::Scratch), ..NamespaceOptions::default() };
    let flood = agent.client().create_namespace("flood", &scratch).unwrap();
    for n in 0..300 {
        put(&flood, &format!("f/{n}"), 500_000).unwrap();
    }
    assert!(matches!(flood.sync(), Err(Error::Invalid(why)) if why.contains("scratch")));
    for n in 0..20 {
        get_whole(&cache, &format!("k/{n}"), 500_000);
    }
    let stat = agent.stat();
    assert!(stat.tenant.dirty_blocks >= 19 && stat.tenant.store_failures > 0, "{stat:#?}");
    store.make_room();
    eventually("the store takes it", || cache.sync().ok());
    agent.kill();
    agent.restart();
    let again = back(&agent, "t");
    for n in 0..20 {
        get_whole(&again, &format!("k/{n}"), 500_000);
    }
    assert_eq!(agent.stat().tenant.loads, 20);
}

#[test]
fn puts_wait_when_the_store_is_far_behind() {
    let store = small_store!(128);
    let agent = start(store.path());
    let cache = back(&agent, "t");
    put(&cache, "first", 1000).unwrap();
    cache.sync().unwrap();
    store.fill();
    // Half of the quota may be owed.
    for n in 0..30 {
        put(&cache, &format!("k/{n}"), 1_000_000).unwrap();
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            for n in 30..40 {
                put(&cache, &format!("k/{n}"), 1_000_000).unwrap();
            }
            over.store(true, Ordering::Relaxed);
        });
        let stat = agent.stat_until("a put waits", |stat| stat.tenant.put_waits > 0);
        assert!(stat.tenant.dirty_bytes <= stat.tenant.quota_bytes / 2 + 1_100_000);
        // Readers are not held back.
        get_whole(&cache, "k/3", 1_000_000);
        assert!(!over.load(Ordering::Relaxed));
        store.make_room();
        waiting.join().unwrap();
    });
    cache.sync().unwrap();
    assert_eq!(agent.stat().tenant.dirty_blocks, 0);
}

#[test]
fn a_put_is_refused_with_the_reason_when_the_store_stays_behind() {
    let store = small_store!(128);
    let agent = start_with(store.path(), 2);
    let cache = back(&agent, "t");
    put(&cache, "first", 1000).unwrap();
    cache.sync().unwrap();
    store.fill();
    let refused = (0..60).find_map(|n| put(&cache, &format!("more/{n}"), 1_000_000).err().map(|error| (n, error)));
    let Some((n, Error::Store(why))) = refused else { panic!("{refused:?}") };
    assert!(why.contains("slower than the puts"), "{why}");
    assert!(matches!(cache.get(&format!("more/{n}")), Err(Error::NotFound)));
    store.make_room();
}

#[test]
fn what_changes_before_it_was_written_is_written_as_it_ended() {
    let store = small_store!(64);
    let mut agent = start(store.path());
    let replacing = NamespaceOptions { overwrite: true, ..options() };
    let (deleted, cleared, removed) = (back(&agent, "deleted"), back(&agent, "cleared"), back(&agent, "removed"));
    let replaced = agent.client().create_namespace("replaced", &replacing).unwrap();
    let brief = NamespaceOptions { ttl_ms: Some(300), ..options() };
    let brief = agent.client().create_namespace("brief", &brief).unwrap();
    store.fill();
    for cache in [&deleted, &cleared, &removed, &replaced, &brief] {
        for n in 0..10 {
            put(cache, &format!("k/{n}"), 100_000).unwrap();
        }
    }
    for n in 0..5 {
        assert!(deleted.delete(&format!("k/{n}")).unwrap());
        let key = format!("k/{n}");
        assert_eq!(replaced.put(&key, &bytes(&key, 50)).unwrap(), PutOutcome::Replaced);
    }
    agent.stat_until("their time is over", |stat| stat.tenant.expirations >= 10);
    store.make_room();
    assert_eq!(cleared.clear().unwrap(), 10);
    agent.monitor().remove_namespace("removed").unwrap();
    for cache in [&deleted, &cleared, &replaced, &brief] {
        eventually("the store takes it", || cache.sync().ok());
    }
    let stat = agent.stat();
    assert_eq!((stat.tenant.dirty_blocks, stat.tenant.blocks), (0, 15));
    agent.kill();
    agent.restart();
    let there = |name: &str| agent.namespace(name).list("").unwrap();
    assert_eq!(there("deleted"), ["k/5", "k/6", "k/7", "k/8", "k/9"]);
    assert_eq!((there("cleared").len(), there("removed").len(), there("brief").len()), (0, 0, 0));
    let replaced = agent.client().namespace("replaced").unwrap();
    for n in 0..10 {
        get_whole(&replaced, &format!("k/{n}"), if n < 5 { 50 } else { 100_000 });
    }
}

#[test]
fn an_agent_that_is_told_to_end_writes_what_it_owes_first() {
    let directory = tempfile::tempdir().unwrap();
    let mut agent = start(directory.path());
    let cache = back(&agent, "t");
    for n in 0..400 {
        put(&cache, &format!("k/{n}"), 20_000).unwrap();
    }
    assert!(agent.terminate().success());
    agent.restart();
    let again = back(&agent, "t");
    for n in 0..400 {
        get_whole(&again, &format!("k/{n}"), 20_000);
    }
}

#[test]
fn a_sync_does_not_speak_for_an_agent_that_was_killed() {
    let directory = tempfile::tempdir().unwrap();
    let mut agent = start(directory.path());
    let cache = back(&agent, "t");
    put(&cache, "k", 1000).unwrap();
    agent.kill();
    agent.restart();
    assert!(matches!(cache.sync(), Err(Error::AgentLost)));
    // Said once; what is put from now on is another matter.
    put(&cache, "k", 1000).unwrap();
    cache.sync().unwrap();
}

#[test]
fn of_two_agents_one_wins_a_key_and_the_other_says_that_it_lost() {
    let store = small_store!(64);
    let agents = [start(store.path()), start(store.path())];
    let caches = [back(&agents[0], "t"), back(&agents[1], "t")];
    store.fill();
    for (cache, text) in caches.iter().zip([b"one", b"two"]) {
        assert_eq!(cache.put("k", text).unwrap(), PutOutcome::Stored);
        assert_eq!(&*cache.get("k").unwrap(), text);
        put(cache, "same", 1000).unwrap();
    }
    store.make_room();
    let lost = eventually("both are written", || {
        let ends = caches.each_ref().map(Namespace::sync);
        let stats = [0, 1].map(|n| agents[n].stat().tenant.dirty_blocks);
        let lost = ends.iter().position(|end| matches!(end, Err(Error::Store(why)) if why.contains("another block")));
        lost.or((stats == [0, 0]).then_some(2))
    });
    eventually("both are written", || caches.iter().all(|cache| cache.sync().is_ok()).then_some(()));
    let read = caches.each_ref().map(|cache| cache.get("k").unwrap().to_vec());
    assert_eq!(read[0], read[1], "all read the winner's ({lost} lost)");
    for cache in &caches {
        get_whole(cache, "same", 1000);
    }
}

#[test]
fn nothing_synced_is_lost_when_the_agent_is_killed_at_any_moment() {
    let directory = tempfile::tempdir().unwrap();
    let mut agent = start(directory.path());
    let mut random = Random::new(12);
    let mut synced: Vec<(String, usize)> = Vec::new();
    for round in 0..6 {
        let done = AtomicBool::new(false);
        let now = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..3)
                .map(|thread| {
                    let (done, cache) = (&done, back(&agent, "t"));
                    scope.spawn(move || {
                        let (mut kept, mut put_since) = (Vec::new(), Vec::new());
                        for n in 0.. {
                            let (key, len) = (format!("{round}/{thread}/{n}"), 1000 + n % 40 * 4001);
                            let outcome = put(&cache, &key, len).map(drop).and_then(|()| {
                                put_since.push((key, len));
                                if n % 5 == 4 { cache.sync() } else { Ok(()) }
                            });
                            match outcome {
                                Ok(()) if n % 5 == 4 => kept.append(&mut put_since),
                                Ok(()) => {}
                                Err(_) if done.load(Ordering::Relaxed) => break,
                                Err(error) => panic!("{error}"),
                            }
                        }
                        kept
                    })
                })
                .collect();
            let _end = SetOnDrop(&done);
            std::thread::sleep(Duration::from_millis(50 + random.below(300) as u64));
            done.store(true, Ordering::Relaxed);
            nix::sys::signal::kill(agent.pid(), nix::sys::signal::Signal::SIGKILL).unwrap();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        synced.extend(now);
        agent.kill();
        agent.restart();
        let cache = back(&agent, "t");
        for (key, len) in &synced {
            drop(get_whole(&cache, key, *len));
        }
        // What was not synced is whole or absent.
        for key in cache.list("").unwrap() {
            assert_whole(&key, &cache.get(&key).unwrap());
        }
        assert_eq!(agent.stat().tenant.store_damaged, 0);
    }
    assert!(synced.len() > 50, "{}", synced.len());
}
