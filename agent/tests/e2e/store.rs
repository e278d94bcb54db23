//! Durable namespaces over a store in a directory: what was acknowledged is there, whatever ends.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use larder::{Durability, Error, Eviction, NamespaceOptions, PutOutcome};
use tempfile::TempDir;

use crate::full_store::SmallStore;
use crate::harness::{Agent, SetOnDrop, eventually, is_root, skip};
use crate::pattern::{Random, assert_whole, bytes, get_whole, put};

/// A directory for a store, and an agent that uses it.
fn start(arguments: &str) -> (TempDir, Agent) {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let agent = Agent::start(&format!("{arguments} --store file://{}", directory.path().display()));
    (directory, agent)
}

const SMALL: &str = "--capacity 64MiB --segment-size 4MiB --staging 1MiB";

/// All files under a directory, by their path.
fn files(under: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(under).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// The files that hold blocks.
fn block_files(under: &Path) -> Vec<PathBuf> {
    files(under).into_iter().filter(|path| path.extension().is_some_and(|end| end == "block")).collect()
}

#[test]
fn what_was_put_is_there_after_the_agent_was_killed() {
    let (_directory, mut agent) = start(SMALL);
    let client = agent.client();
    let cache = client.namespace("job/7").unwrap();
    let lengths = [0, 1, 4096, 65_535, 65_536, 65_537, 1_000_000, 5_000_000];
    for len in lengths {
        assert_eq!(put(&cache, &format!("one/{len}"), len).unwrap(), PutOutcome::Stored);
    }
    let many: Vec<(String, Vec<u8>)> =
        (0..100).map(|n| format!("many/{n}")).map(|k| (k.clone(), bytes(&k, 500))).collect();
    let items: Vec<(&str, &[u8])> = many.iter().map(|(key, bytes)| (key.as_str(), &bytes[..])).collect();
    assert!(cache.put_many(&items).iter().all(|outcome| matches!(outcome, Ok(PutOutcome::Stored))));
    for len in [10, 3_000_000] {
        let key = format!("written/{len}");
        let mut writer = cache.create(&key, len).unwrap();
        writer.as_mut_slice().copy_from_slice(&bytes(&key, len));
        assert_eq!(writer.commit().unwrap(), PutOutcome::Stored);
    }
    let names = cache.list("").unwrap();
    assert_eq!(names.len(), lengths.len() + 102);
    let stat = agent.stat();
    assert_eq!((stat.tenant.stored, stat.tenant.loads, stat.store_under_way), (110, 0, 0));

    agent.kill();
    agent.restart();
    assert_eq!(cache.list("").unwrap(), names);
    assert_eq!(cache.children("many").unwrap().len(), 100);
    for len in lengths {
        let key = format!("one/{len}");
        let block = get_whole(&cache, &key, len);
        assert!(block.verify());
        assert_eq!(put(&cache, &key, len).unwrap(), PutOutcome::AlreadyHeld);
    }
    for key in &names {
        assert_whole(key, &cache.get(key).unwrap());
    }
    assert!(matches!(cache.get("many/100"), Err(Error::NotFound)));
    assert!(!cache.contains("many/100").unwrap());
    let stat = agent.stat();
    assert_eq!((stat.tenant.loads, stat.tenant.stored, stat.tenant.store_damaged), (110, 0, 0));
    assert_eq!((stat.tenant.blocks, stat.tenant.store_failures), (110, 0));
}

#[test]
fn figures_tell_puts_from_what_came_back() {
    let (_directory, mut agent) = start(SMALL);
    let cache = agent.namespace("t");
    for n in 0..10 {
        put(&cache, &format!("k/{n}"), 1000).unwrap();
    }
    assert!(matches!(cache.get("absent"), Err(Error::NotFound)));
    let stat = agent.stat();
    assert_eq!((stat.tenant.puts, stat.tenant.stored, stat.tenant.loads, stat.tenant.misses), (10, 10, 0, 1));
    agent.kill();
    agent.restart();
    for n in 0..10 {
        get_whole(&cache, &format!("k/{n}"), 1000);
    }
    assert!(matches!(cache.get("absent"), Err(Error::NotFound)));
    let stat = agent.stat();
    assert_eq!((stat.tenant.puts, stat.tenant.loads, stat.tenant.load_bytes, stat.tenant.misses), (0, 10, 10_000, 1));
}

#[test]
fn a_quota_on_what_is_kept_does_not_hide_what_the_store_has() {
    let (_directory, mut agent) = start(SMALL);
    let keep =
        NamespaceOptions { eviction: Eviction::Keep, quota_bytes: Some(1_000_000), ..NamespaceOptions::default() };
    let cache = agent.client().create_namespace("t", &keep).unwrap();
    for n in 0..10 {
        put(&cache, &format!("k/{n}"), 100_000).unwrap();
    }
    assert!(matches!(put(&cache, "k/10", 100_000), Err(Error::Quota { .. })));
    agent.kill();
    agent.restart();
    // Others may have been put meanwhile: what comes back is not refused for them.
    for n in 20..25 {
        put(&cache, &format!("k/{n}"), 100_000).unwrap();
    }
    for n in 0..10 {
        get_whole(&cache, &format!("k/{n}"), 100_000);
    }
    assert!(matches!(put(&cache, "k/11", 100_000), Err(Error::Quota { .. })));
}

#[test]
fn puts_of_one_key_in_one_call_follow_one_another() {
    let (_directory, agent) = start(SMALL);
    let cache = agent.namespace("t");
    let items: Vec<(&str, &[u8])> = vec![("a", b"1"), ("b", b"1"), ("a", b"2"), ("a", b"1"), ("b", b"1")];
    for _ in 0..20 {
        let outcomes = cache.put_many(&items);
        assert!(matches!(
            outcomes[..],
            [
                Ok(PutOutcome::Stored),
                Ok(PutOutcome::Stored),
                Err(Error::AlreadyExists { .. }),
                Ok(PutOutcome::AlreadyHeld),
                Ok(PutOutcome::AlreadyHeld)
            ]
        ));
        cache.clear().unwrap();
    }
}

#[test]
fn namespaces_are_found_whatever_they_are_called() {
    let (_directory, mut agent) = start(SMALL);
    let names = ["a", "a.ns", "a.ns/b", "a/b", "a/b/c.block", "job/1", "job/10", &"x".repeat(250), &"yz/".repeat(60)];
    let mut names = names.map(|name| name.trim_end_matches('/').to_owned());
    names.sort_unstable();
    for name in &names {
        put(&agent.namespace(name), "k.ns/options", 10).unwrap();
    }
    agent.kill();
    agent.restart();
    let listed = agent.monitor().namespaces().unwrap();
    assert_eq!(listed.iter().map(|info| info.name.clone()).collect::<Vec<_>>(), names);
    agent.monitor().remove_namespace("a").unwrap();
    agent.kill();
    agent.restart();
    assert_eq!(agent.monitor().namespaces().unwrap().len(), names.len() - 1);
    get_whole(&agent.namespace("a.ns/b"), "k.ns/options", 10);
}

#[test]
fn what_was_evicted_comes_back() {
    let (_directory, agent) = start(SMALL);
    let cache = agent.namespace("t");
    for n in 0..300 {
        put(&cache, &format!("k/{n}"), 500_000).unwrap();
    }
    assert!(agent.stat().tenant.evictions > 100);
    assert_eq!(cache.list("").unwrap().len(), 300);
    std::thread::scope(|scope| {
        for reader in 0..4 {
            let cache = &cache;
            scope.spawn(move || {
                for n in 0..300 {
                    let n = (n * 7 + reader * 75) % 300;
                    drop(get_whole(cache, &format!("k/{n}"), 500_000));
                }
            });
        }
    });
    assert!(agent.stat().tenant.loads >= 200);
    // Held again under the same key, other bytes are still refused.
    for n in 0..300 {
        let key = format!("k/{n}");
        assert_eq!(put(&cache, &key, 500_000).unwrap(), PutOutcome::AlreadyHeld);
        assert!(matches!(put(&cache, &key, 10), Err(Error::AlreadyExists { held_bytes: 500_000, .. })));
    }
    agent.await_no_pins();
}

#[test]
fn a_cold_block_is_loaded_once_for_all_who_ask() {
    let (_directory, mut agent) = start(SMALL);
    let cache = agent.namespace("t");
    put(&cache, "k", 8_000_000).unwrap();
    agent.kill();
    agent.restart();
    std::thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| drop(get_whole(&agent.namespace("t"), "k", 8_000_000)));
        }
    });
    assert_eq!(agent.stat().tenant.loads, 1);
}

#[test]
fn deletes_clears_and_removals_last() {
    let (directory, mut agent) = start(SMALL);
    let client = agent.client();
    let (cleared, removed, kept) =
        (client.namespace("cleared").unwrap(), client.namespace("removed").unwrap(), client.namespace("kept").unwrap());
    for cache in [&cleared, &removed, &kept] {
        for n in 0..20 {
            put(cache, &format!("k/{n}"), 1000).unwrap();
        }
    }
    assert!(kept.delete("k/3").unwrap());
    assert!(!kept.delete("k/3").unwrap());
    assert_eq!(cleared.clear().unwrap(), 20);
    client.remove_namespace("removed").unwrap();
    put(&cleared, "new", 10).unwrap();

    agent.kill();
    agent.restart();
    assert_eq!(cleared.list("").unwrap(), ["new"]);
    assert_eq!(kept.list("").unwrap().len(), 19);
    assert!(matches!(kept.get("k/3"), Err(Error::NotFound)));
    assert!(matches!(agent.client().namespace_info("removed"), Err(Error::NoNamespace(_))));
    let names: Vec<String> = agent.client().namespaces().unwrap().into_iter().map(|info| info.name).collect();
    assert_eq!(names, ["cleared", "kept"]);
    // One that is evicted, as it were: only the store has it.
    assert!(kept.delete("k/4").unwrap());
    assert!(matches!(kept.get("k/4"), Err(Error::NotFound)));
    // What was cleared or removed goes from the store as well, some time later: what the killed agent did not get to, when
    // the namespace is opened again.
    assert!(agent.namespace("removed").list("").unwrap().is_empty());
    eventually("old incarnations are swept", || (block_files(directory.path()).len() == 1 + 18).then_some(()));
}

#[test]
fn a_replaced_block_is_the_one_that_comes_back() {
    let (_directory, mut agent) = start(SMALL);
    let options = NamespaceOptions { overwrite: true, ..NamespaceOptions::default() };
    let client = agent.client();
    let cache = client.create_namespace("t", &options).unwrap();
    assert_eq!(put(&cache, "k", 100).unwrap(), PutOutcome::Stored);
    assert_eq!(put(&cache, "k", 200).unwrap(), PutOutcome::Replaced);
    assert_eq!(put(&cache, "k", 200).unwrap(), PutOutcome::AlreadyHeld);
    let held = get_whole(&cache, "k", 200);
    agent.kill();
    agent.restart();
    get_whole(&cache, "k", 200);
    put(&cache, "k", 300).unwrap();
    agent.kill();
    agent.restart();
    get_whole(&cache, "k", 300);
    assert_whole("k", &held);
}

#[test]
fn options_outlive_the_agent() {
    let (_directory, mut agent) = start(SMALL);
    let given = NamespaceOptions {
        eviction: Eviction::Keep,
        overwrite: true,
        quota_bytes: Some(1 << 20),
        ttl_ms: Some(3_600_000),
        durability: None,
        validate: larder::Validate::Always,
    };
    let told = NamespaceOptions { durability: Some(Durability::Through), ..given.clone() };
    let client = agent.client();
    client.create_namespace("t", &given).unwrap();
    assert_eq!(client.namespace_info("t").unwrap().options, told);
    let scratch = NamespaceOptions { durability: Some(Durability::Scratch), ..NamespaceOptions::default() };
    let passing = client.create_namespace("scratch", &scratch).unwrap();
    put(&passing, "k", 10).unwrap();
    agent.kill();
    agent.restart();
    let client = agent.client();
    assert_eq!(client.namespace_info("t").unwrap().options, told);
    client.create_namespace("t", &given).unwrap();
    let error = client.create_namespace("t", &NamespaceOptions::default()).unwrap_err();
    assert!(matches!(&error, Error::Invalid(why) if why.contains("other options")), "{error}");
    let changed = NamespaceOptions { quota_bytes: None, ttl_ms: None, ..told.clone() };
    client.set_namespace("t", &changed).unwrap();
    let error = client.set_namespace("t", &scratch).unwrap_err();
    assert!(matches!(&error, Error::Invalid(why) if why.contains("durability")), "{error}");
    // A scratch namespace went with the agent, and its name is free for one of another kind.
    assert!(matches!(client.namespace_info("scratch"), Err(Error::NoNamespace(_))));
    agent.kill();
    agent.restart();
    assert_eq!(agent.client().namespace_info("t").unwrap().options, changed);
}

#[test]
fn a_scratch_namespace_leaves_nothing_in_the_store() {
    let (directory, agent) = start(SMALL);
    let before = files(directory.path());
    let scratch = NamespaceOptions { durability: Some(Durability::Scratch), ..NamespaceOptions::default() };
    let cache = agent.client().create_namespace("t", &scratch).unwrap();
    put(&cache, "k", 100_000).unwrap();
    get_whole(&cache, "k", 100_000);
    assert!(cache.delete("k").unwrap());
    assert_eq!(files(directory.path()), before);
    assert_eq!(agent.stat().tenant.stored, 0);
}

#[test]
fn a_time_to_live_goes_on_over_a_restart() {
    let (_directory, mut agent) = start(SMALL);
    let short = NamespaceOptions { ttl_ms: Some(1500), ..NamespaceOptions::default() };
    let long = NamespaceOptions { ttl_ms: Some(3_600_000), ..NamespaceOptions::default() };
    let client = agent.client();
    let (short, long) =
        (client.create_namespace("short", &short).unwrap(), client.create_namespace("long", &long).unwrap());
    put(&short, "k", 10).unwrap();
    put(&long, "k", 10).unwrap();
    agent.kill();
    agent.restart();
    get_whole(&long, "k", 10);
    eventually("the block expires", || matches!(short.get("k"), Err(Error::NotFound)).then_some(()));
    // Its place is free for other bytes.
    assert_eq!(put(&short, "k", 20).unwrap(), PutOutcome::Stored);
    get_whole(&short, "k", 20);
}

/// Something that happens to the bytes of a file.
type Damage = fn(&mut Vec<u8>);

#[test]
fn a_damaged_object_is_a_miss_and_heals() {
    let (directory, mut agent) = start(SMALL);
    let cache = agent.namespace("t");
    for n in 0..6 {
        put(&cache, &format!("k{n}"), 100_000).unwrap();
    }
    agent.terminate();
    let damage: [(&str, Damage); 5] = [
        ("k0", |bytes| bytes[70_000] ^= 1),
        ("k1", |bytes| bytes[20] ^= 0x80),
        ("k2", |bytes| bytes.truncate(50_000)),
        ("k3", Vec::clear),
        ("k4", |bytes| bytes[8] = 9),
    ];
    for (key, change) in damage {
        let path =
            block_files(directory.path()).into_iter().find(|path| path.ends_with(format!("{key}.block"))).unwrap();
        let mut content = fs::read(&path).unwrap();
        change(&mut content);
        fs::write(&path, content).unwrap();
    }
    agent.restart();
    get_whole(&cache, "k5", 100_000);
    for (key, _) in damage {
        assert!(matches!(cache.get(key), Err(Error::NotFound)), "{key}");
    }
    assert_eq!(agent.stat().tenant.store_damaged, 5);
    // Whether the object or the way to it is damaged cannot be told: other bytes do not take its place, the same do.
    assert!(matches!(put(&cache, "k0", 200_000), Err(Error::AlreadyExists { held_bytes: 100_000, .. })));
    let len = |key| if key == "k0" { 100_000 } else { 200_000 };
    for (key, _) in damage {
        assert_eq!(put(&cache, key, len(key)).unwrap(), PutOutcome::Stored, "{key}");
    }
    agent.kill();
    agent.restart();
    for (key, _) in damage {
        get_whole(&cache, key, len(key));
    }
}

#[test]
fn nothing_acknowledged_is_lost_when_the_agent_is_killed_at_any_moment() {
    let (directory, mut agent) = start(SMALL);
    let mut random = Random::new(11);
    let mut acknowledged = Vec::new();
    for round in 0..12 {
        let done = AtomicBool::new(false);
        let count = AtomicUsize::new(0);
        let put_now = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..3)
                .map(|thread| {
                    let (agent, done, count) = (&agent, &done, &count);
                    let cache = agent.namespace("t");
                    scope.spawn(move || {
                        let mut kept = Vec::new();
                        for n in 0.. {
                            let (key, len) = (format!("{round}/{thread}/{n}"), 1000 + n * 4001);
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
            let enough = 3 + random.below(60);
            eventually("puts go on", || (count.load(Ordering::Relaxed) >= enough).then_some(()));
            done.store(true, Ordering::Relaxed);
            nix::sys::signal::kill(agent.pid(), nix::sys::signal::Signal::SIGKILL).unwrap();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        acknowledged.extend(put_now);
        agent.kill();
        agent.restart();
        let cache = agent.namespace("t");
        for (key, len) in &acknowledged {
            drop(get_whole(&cache, key, *len));
        }
        // What was not acknowledged is whole or absent.
        for key in cache.list("").unwrap() {
            assert_whole(&key, &cache.get(&key).unwrap());
        }
        assert_eq!(agent.stat().tenant.store_damaged, 0);
        let left: Vec<PathBuf> =
            files(directory.path()).into_iter().filter(|path| path.to_string_lossy().contains("/.tmp/")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    assert!(acknowledged.len() > 100);
}

#[test]
fn a_store_without_room_refuses_and_loses_nothing() {
    if !is_root() {
        skip!("needs root to mount a small file system");
    }
    let Some(store) = SmallStore::mount(4) else { skip!("this machine mounts no tmpfs") };
    let agent = Agent::start(&format!("{SMALL} --store file://{}", store.path().display()));
    let cache = agent.namespace("t");
    let mut held = 0;
    let error = loop {
        match put(&cache, &format!("k/{held}"), 500_000) {
            Ok(_) => held += 1,
            Err(error) => break error,
        }
        assert!(held < 9);
    };
    assert!(matches!(&error, Error::Store(why) if why.contains("k/") || why.contains("full")), "{error}");
    assert!(held >= 5);
    assert!(matches!(cache.get(&format!("k/{held}")), Err(Error::NotFound)), "what was refused is not there");
    for n in 0..held {
        get_whole(&cache, &format!("k/{n}"), 500_000);
    }
    assert!(cache.delete("k/0").unwrap());
    assert_eq!(put(&cache, "again", 400_000).unwrap(), PutOutcome::Stored);
    let stat = agent.stat();
    assert!(stat.tenant.store_failures >= 1);
    assert_eq!(stat.tenant.blocks, held);
}

#[test]
fn a_store_that_cannot_be_used_is_named_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let absent = directory.path().join("absent");
    let file = directory.path().join("file");
    fs::write(&file, b"x").unwrap();
    let open = directory.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    for (path, why) in [(&absent, "absent"), (&file, "directory"), (&open, "777")] {
        for check in [None, Some("--check-config")] {
            let output = Command::new(env!("CARGO_BIN_EXE_larderd"))
                .args(["--capacity", "64MiB", "--socket"])
                .arg(directory.path().join("larder.sock"))
                .arg(format!("--store=file://{}", path.display()))
                .args(check)
                .output()
                .unwrap();
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success(), "{told}");
            let last = told.lines().last().unwrap_or_default();
            assert!(last.starts_with("larderd: the store file://") && last.contains(why), "{told}");
        }
    }
}

#[test]
fn a_session_that_ends_while_the_store_works_leaves_nothing_behind() {
    let (_directory, agent) = start(SMALL);
    agent.namespace("t");
    for round in 0..20 {
        let client = agent.client();
        let cache = client.namespace("t").unwrap().with_timeout(Duration::from_millis(1));
        for n in 0..10 {
            let _ = put(&cache, &format!("{round}/{n}"), 400_000);
        }
    }
    let cache = agent.namespace("t");
    eventually("the store has done all", || (agent.stat().store_under_way == 0).then_some(()));
    for key in cache.list("").unwrap() {
        assert_whole(&key, &cache.get(&key).unwrap());
    }
    // Room that was reserved and not used is free again: a block of half the capacity finds it.
    put(&cache, "large", 30_000_000).unwrap();
    get_whole(&cache, "large", 30_000_000);
    agent.await_no_pins();
}

/// What the agent keeps for itself does not grow with what goes through it.
#[test]
fn heavy_the_agents_own_memory_stays_small_while_much_goes_through() {
    const BLOCKS: usize = 16;
    const LEN: usize = 128 << 20;
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("store");
    fs::create_dir(&store).unwrap();
    fs::set_permissions(&store, fs::Permissions::from_mode(0o700)).unwrap();
    let agent = Agent::start(&format!("--capacity 768MiB --store file://{}", store.display()));
    let (done, most) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                most.fetch_max(usize::try_from(agent.stat().heap_bytes).unwrap(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let _end = SetOnDrop(&done);
        let cache = agent.namespace("t");
        let file = directory.path().join("file");
        for n in 0..BLOCKS {
            put(&cache, &format!("k/{n}"), LEN).unwrap();
        }
        for n in 0..BLOCKS {
            drop(get_whole(&cache, &format!("k/{n}"), LEN));
        }
        // And from a file, as a whole and chunk by chunk.
        fs::write(&file, bytes("file", 4 * LEN)).unwrap();
        let url = file.to_string_lossy().into_owned();
        assert_whole("file", &cache.get_or_fetch("file", &url).unwrap());
        let object = agent.namespace("u").open(&url).unwrap();
        let mut at = 0;
        while let Some(chunk) = object.chunk_at(at).unwrap() {
            at += chunk.len() as u64;
        }
        assert_eq!(at, 4 * LEN as u64);
    });
    let most = most.into_inner();
    println!("at most {} MiB of its own", most >> 20);
    assert!(most < 64 << 20, "{most}");
}
