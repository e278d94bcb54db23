//! Blocks come back from the store as they were put, and are never lost once they were acknowledged.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use larder::{Error, NamespaceOptions, PutOutcome};

use crate::backend::SMALL;
use crate::conformance::Subject;
use crate::harness::{Agent, SetOnDrop, eventually};
use crate::pattern::{assert_whole, bytes, get_whole, put};

/// Around what is special: nothing, one chunk of a checksum, one request to an object store, many.
const SIZES: [usize; 9] = [0, 1, 4095, 4096, 65_536, 65_537, 1 << 20, 9 << 20, 40 << 20];

pub(crate) fn blocks_of_every_size_are_found_again(subject: &mut Subject<'_>) {
    let cache = subject.agent.namespace("sizes");
    let held = |len: usize| format!("held/{len}");
    // Each twice: what is put again after a kill is not read.
    for key in SIZES.iter().flat_map(|len| [(*len, format!("read/{len}")), (*len, held(*len))]) {
        let (len, key) = key;
        assert!(matches!(cache.get(&key), Err(Error::NotFound)), "{key}");
        assert_eq!(put(&cache, &key, len).unwrap(), PutOutcome::Stored, "{key}");
        assert!(get_whole(&cache, &key, len).verify());
    }
    let again = |when: &str| {
        for len in SIZES {
            let key = held(len);
            let other = cache.put(&key, b"others");
            let expected = len as u64;
            assert!(
                matches!(other, Err(Error::AlreadyExists { held_bytes, offered_bytes: 6 }) if held_bytes == expected),
                "{key} {when}: {other:?}"
            );
            assert_eq!(put(&cache, &key, len).unwrap(), PutOutcome::AlreadyHeld, "{key} {when}");
        }
    };
    again("in memory");
    if !subject.lasts_over_a_kill() {
        return;
    }
    for len in SIZES {
        assert!(get_whole(&cache, &format!("read/{len}"), len).verify());
    }
    let stat = subject.agent.stat();
    assert_eq!((stat.tenant.loads, stat.tenant.store_damaged, stat.tenant.store_failures), (9, 0, 0));
    again("in the store");
    assert_eq!(subject.agent.stat().tenant.store_failures, 0);
}

pub(crate) fn writers_and_vectors_of_puts_are_stored_too(subject: &mut Subject<'_>) {
    let cache = subject.agent.namespace("ways");
    let many: Vec<(String, Vec<u8>)> =
        (0..100).map(|n| format!("many/{n}")).map(|key| (key.clone(), bytes(&key, 500))).collect();
    let items: Vec<(&str, &[u8])> = many.iter().map(|(key, bytes)| (key.as_str(), &bytes[..])).collect();
    assert!(cache.put_many(&items).iter().all(|outcome| matches!(outcome, Ok(PutOutcome::Stored))));
    for len in [10, 12_000_000] {
        let key = format!("written/{len}");
        let mut writer = cache.create(&key, len).unwrap();
        writer.as_mut_slice().copy_from_slice(&bytes(&key, len));
        assert_eq!(writer.commit().unwrap(), PutOutcome::Stored);
    }
    let names = cache.list("").unwrap();
    assert_eq!(names.len(), 102);
    if !subject.lasts_over_a_kill() {
        return;
    }
    assert_eq!(cache.list("").unwrap(), names);
    let asked: Vec<&str> = names.iter().map(String::as_str).collect();
    for (key, block) in asked.iter().zip(cache.get_many(&asked)) {
        assert_whole(key, &block.unwrap_or_else(|error| panic!("{key}: {error}")));
    }
}

pub(crate) fn a_replaced_block_is_the_one_that_comes_back(subject: &mut Subject<'_>) {
    let options = NamespaceOptions { overwrite: true, ..NamespaceOptions::default() };
    let cache = subject.agent.client().create_namespace("overwrite", &options).unwrap();
    assert_eq!(put(&cache, "k", 100).unwrap(), PutOutcome::Stored);
    let held = get_whole(&cache, "k", 100);
    // One request, many, one again: what an object store does differently.
    for len in [200, 10_000_000, 9_000_000, 300] {
        assert_eq!(put(&cache, "k", len).unwrap(), PutOutcome::Replaced, "{len}");
        assert_eq!(put(&cache, "k", len).unwrap(), PutOutcome::AlreadyHeld, "{len}");
        if [10_000_000, 300].contains(&len) && subject.lasts_over_a_kill() {
            get_whole(&cache, "k", len);
        }
    }
    assert_whole("k", &held);
}

pub(crate) fn what_was_evicted_comes_back(subject: &mut Subject<'_>) {
    let agent = subject.backend.agent("evicted", SMALL);
    let cache = agent.namespace("t");
    for n in 0..60 {
        put(&cache, &format!("k/{n}"), 900_000).unwrap();
    }
    assert!(agent.stat().tenant.evictions > 20);
    assert_eq!(cache.list("").unwrap().len(), 60);
    std::thread::scope(|scope| {
        for reader in 0..4 {
            let cache = &cache;
            scope.spawn(move || {
                for n in 0..60 {
                    let n = (n * 7 + reader * 15) % 60;
                    drop(get_whole(cache, &format!("k/{n}"), 900_000));
                }
            });
        }
    });
    assert!(agent.stat().tenant.loads >= 40);
    for n in 0..60 {
        let key = format!("k/{n}");
        assert_eq!(put(&cache, &key, 900_000).unwrap(), PutOutcome::AlreadyHeld);
    }
    let stat = agent.await_no_pins();
    assert_eq!((stat.tenant.store_damaged, stat.tenant.store_failures), (0, 0));
    // A session that has blocks of a segment mapped keeps it from being used for others until its next call.
    drop(cache);
    sessions_that_end_leave_nothing_behind(&agent);
}

/// Sessions whose callers do not wait, in an agent that needs all its room again.
fn sessions_that_end_leave_nothing_behind(agent: &Agent) {
    agent.namespace("passing");
    for round in 0..10 {
        let client = agent.client();
        let cache = client.namespace("passing").unwrap().with_timeout(Duration::from_millis(1));
        for n in 0..10 {
            let _ = put(&cache, &format!("{round}/{n}"), 400_000);
        }
    }
    let cache = agent.namespace("passing");
    // What was given up goes on; when it has ended the room that it had is free, and a block of half the capacity finds it.
    eventually("there is room again", || put(&cache, "large", 15_000_000).ok());
    get_whole(&cache, "large", 15_000_000);
    for key in cache.list("").unwrap() {
        assert_whole(&key, &cache.get(&key).unwrap());
    }
    agent.await_no_pins();
}

pub(crate) fn a_cold_block_is_loaded_once_for_all_who_ask(subject: &mut Subject<'_>) {
    let cache = subject.agent.namespace("cold");
    put(&cache, "k", 20_000_000).unwrap();
    if !subject.lasts_over_a_kill() {
        return;
    }
    let agent = &subject.agent;
    std::thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| drop(get_whole(&agent.namespace("cold"), "k", 20_000_000)));
        }
    });
    assert_eq!(agent.stat().tenant.loads, 1);
}

pub(crate) fn nothing_acknowledged_is_lost_with_the_agent(subject: &mut Subject<'_>) {
    if !subject.backend.lasts() {
        return;
    }
    let mut acknowledged = Vec::new();
    for round in 0..2 {
        let (done, count) = (AtomicBool::new(false), AtomicUsize::new(0));
        let put_now = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..3)
                .map(|thread| {
                    let (done, count) = (&done, &count);
                    let cache = subject.agent.namespace("killed");
                    scope.spawn(move || {
                        let mut kept = Vec::new();
                        for n in 0.. {
                            // Every eighth is more than one request.
                            let len = if n % 8 == 7 { 9_000_000 + n } else { 1000 + n * 4001 };
                            let key = format!("{round}/{thread}/{n}");
                            match put(&cache, &key, len) {
                                Ok(_) => kept.push((key, len)),
                                Err(_) if done.load(Ordering::Relaxed) => break,
                                Err(error) => panic!("{error}"),
                            }
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                        kept
                    })
                })
                .collect();
            let _end = SetOnDrop(&done);
            eventually("puts go on", || (count.load(Ordering::Relaxed) >= 15 + 13 * round).then_some(()));
            done.store(true, Ordering::Relaxed);
            nix::sys::signal::kill(subject.agent.pid(), nix::sys::signal::Signal::SIGKILL).unwrap();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        acknowledged.extend(put_now);
        subject.agent.kill();
        subject.agent.restart();
        let cache = subject.agent.namespace("killed");
        for (key, len) in &acknowledged {
            drop(get_whole(&cache, key, *len));
        }
        // What was not acknowledged is whole or absent.
        for key in cache.list("").unwrap() {
            assert_whole(&key, &cache.get(&key).unwrap());
        }
        assert_eq!(subject.agent.stat().tenant.store_damaged, 0);
    }
    assert!(acknowledged.len() > 40);
}
