//! The disk between memory and store: what is on it is not asked of the store or an origin again, and is never older than
//! they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use larder::{Durability, Error, NamespaceOptions};
use tempfile::TempDir;

use crate::harness::{Agent, SetOnDrop};
use crate::pattern::{Random, assert_whole, bytes, get_whole, put};

/// A store and a disk, each in a directory.
struct Places {
    store: TempDir,
    disk: TempDir,
}

impl Places {
    fn new() -> Places {
        let directory = || tempfile::tempdir().expect("there is room for a directory");
        Places { store: directory(), disk: directory() }
    }

    fn start(&self) -> Agent {
        let disk = self.disk.path().join("tier");
        Agent::start(&format!("{} --disk {} --disk-capacity 1GiB", self.without_disk(), disk.display()))
    }

    fn without_disk(&self) -> String {
        format!("--capacity 64MiB --segment-size 4MiB --staging 1MiB --store file://{}", self.store.path().display())
    }

    /// The files of blocks on the disk.
    fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        collect(&self.disk.path().join("tier"), &mut found);
        found
    }
}

fn collect(under: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(under).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.file_name().is_some_and(|name| name.to_string_lossy().contains('.')) {
            found.push(path);
        }
    }
}

/// Puts blocks one by one, each when the one before is on the disk, so that all of them are.
fn put_all(agent: &Agent, name: &str, blocks: usize, len: usize) {
    let cache = agent.namespace(name);
    let kept = agent.stat().disk.writes;
    for n in 0..blocks {
        put(&cache, &format!("k/{n}"), len).unwrap();
        agent.stat_until("it is kept", |stat| stat.disk.writes > kept + n as u64);
    }
}

fn get_all(agent: &Agent, name: &str, blocks: usize, len: usize) {
    let cache = agent.namespace(name);
    for n in 0..blocks {
        get_whole(&cache, &format!("k/{n}"), len);
    }
}

#[test]
fn what_left_memory_comes_back_from_the_disk() {
    let places = Places::new();
    let mut agent = places.start();
    put_all(&agent, "t", 300, 500_000);
    assert!(agent.stat().tenant.evictions > 100);
    for _ in 0..2 {
        get_all(&agent, "t", 300, 500_000);
    }
    let stat = agent.stat();
    assert_eq!(
        (stat.tenant.loads, stat.disk.blocks, stat.disk.damaged, stat.disk.failures),
        (0, 300, 0, 0),
        "{stat:#?}"
    );
    assert!(stat.tenant.disk_loads > 200 && stat.disk.used_bytes <= stat.disk.capacity_bytes);
    agent.await_no_pins();
    // The next agent finds them there, told to end or killed: compared with the store's heads, and not read from it.
    for killed in [false, true] {
        if killed {
            agent.kill();
        } else {
            assert!(agent.terminate().success());
        }
        agent.restart();
        get_all(&agent, "t", 300, 500_000);
        let stat = agent.stat();
        assert_eq!((stat.tenant.loads, stat.disk.blocks), (0, 300), "{stat:#?}");
    }
}

#[test]
fn what_is_written_later_reaches_the_disk_too() {
    let places = Places::new();
    let agent = places.start();
    let back = NamespaceOptions { durability: Some(Durability::Back), ..NamespaceOptions::default() };
    let cache = agent.client().create_namespace("t", &back).unwrap();
    for n in 0..200 {
        put(&cache, &format!("k/{n}"), 500_000).unwrap();
    }
    cache.sync().unwrap();
    for n in 0..200 {
        get_whole(&cache, &format!("k/{n}"), 500_000);
    }
    let stat = agent.stat();
    assert!(stat.disk.blocks > 50 && stat.tenant.disk_loads > 20, "{stat:#?}");
    agent.await_no_pins();
}

#[test]
fn what_changed_while_the_disk_was_away_is_not_taken_from_it() {
    let places = Places::new();
    let mut agent = places.start();
    let replacing = NamespaceOptions { overwrite: true, ..NamespaceOptions::default() };
    agent.client().create_namespace("t", &replacing).unwrap();
    put_all(&agent, "t", 20, 10_000);
    assert!(agent.terminate().success());
    {
        let other = Agent::start(&places.without_disk());
        let cache = other.namespace("t");
        for n in 0..10 {
            let key = format!("k/{n}");
            cache.put(&key, &bytes("other", 10_000)).unwrap();
        }
        for n in 10..15 {
            assert!(cache.delete(&format!("k/{n}")).unwrap());
        }
    }
    agent.restart();
    let cache = agent.namespace("t");
    for n in 0..20 {
        let found = cache.get(&format!("k/{n}"));
        match n {
            0..10 => assert_eq!(*found.unwrap(), bytes("other", 10_000)),
            10..15 => assert!(matches!(found, Err(Error::NotFound)), "{n}"),
            _ => assert_whole(&format!("k/{n}"), &found.unwrap()),
        }
    }
    assert_eq!(agent.stat().tenant.disk_loads, 5);
}

#[test]
fn what_changes_here_is_not_on_the_disk_any_more() {
    let places = Places::new();
    let mut agent = places.start();
    let replacing = NamespaceOptions { overwrite: true, ..NamespaceOptions::default() };
    for name in ["replaced", "deleted", "cleared", "removed"] {
        agent.client().create_namespace(name, &replacing).unwrap();
        put_all(&agent, name, 10, 10_000);
    }
    for n in 0..10 {
        let key = format!("k/{n}");
        agent.namespace("replaced").put(&key, &bytes("other", 500)).unwrap();
        assert!(agent.namespace("deleted").delete(&key).unwrap());
    }
    agent.namespace("cleared").clear().unwrap();
    agent.monitor().remove_namespace("removed").unwrap();
    agent.stat_until("files go", |stat| stat.disk.blocks <= 10);
    agent.kill();
    agent.restart();
    for name in ["deleted", "cleared", "removed"] {
        for n in 0..10 {
            assert!(matches!(agent.namespace(name).get(&format!("k/{n}")), Err(Error::NotFound)), "{name} {n}");
        }
    }
    for n in 0..10 {
        assert_eq!(*agent.namespace("replaced").get(&format!("k/{n}")).unwrap(), bytes("other", 500));
    }
}

#[test]
fn damage_on_the_disk_costs_a_look_into_the_store() {
    let places = Places::new();
    let mut agent = places.start();
    put_all(&agent, "t", 40, 200_000);
    agent.kill();
    for (n, path) in places.files().into_iter().enumerate() {
        let mut file = fs::read(&path).unwrap();
        let len = file.len();
        match n % 4 {
            0 => file[len / 2] ^= 1,
            1 => file.truncate(len / 2),
            2 => file[10] ^= 0xff,
            _ => continue,
        }
        fs::write(&path, file).unwrap();
    }
    agent.restart();
    get_all(&agent, "t", 40, 200_000);
    let stat = agent.stat();
    assert!(stat.tenant.loads >= 30 && stat.tenant.disk_loads <= 10, "{stat:#?}");
    assert_eq!(stat.tenant.store_damaged, 0);
}

#[test]
fn what_was_fetched_is_fetched_once_however_often_it_leaves_memory() {
    let places = Places::new();
    let mut agent = places.start();
    let files = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..200).map(|n| format!("f{n}")).collect();
    for name in &names {
        fs::write(files.path().join(name), bytes(name, 1_000_000)).unwrap();
    }
    let epoch = |agent: &Agent, kept: u64| {
        let cache = agent.namespace("t");
        for (n, name) in names.iter().enumerate() {
            let url = files.path().join(name).to_string_lossy().into_owned();
            assert_whole(name, &cache.get_or_fetch(name, &url).unwrap());
            agent.stat_until("it is kept", |stat| stat.disk.writes > (kept + n as u64).min(199));
        }
    };
    epoch(&agent, 0);
    let first = agent.stat();
    assert_eq!((first.tenant.fetches, first.tenant.fetch_bytes), (200, 200_000_000));
    epoch(&agent, 200);
    let second = agent.stat();
    assert_eq!(second.tenant.fetches, 200, "three times the memory, and nothing was fetched twice");
    assert!(second.tenant.disk_loads > 100);
    // Nor by the next agent, or for another namespace.
    agent.kill();
    agent.restart();
    let cache = agent.namespace("u");
    for name in &names {
        let url = files.path().join(name).to_string_lossy().into_owned();
        assert_whole(name, &cache.get_or_fetch(name, &url).unwrap());
    }
    let stat = agent.stat();
    assert_eq!((stat.tenant.fetches, stat.tenant.disk_loads), (0, 200));
}

#[test]
fn nothing_stale_comes_back_after_a_kill_at_any_moment() {
    let places = Places::new();
    let mut agent = places.start();
    let replacing = NamespaceOptions { overwrite: true, ..NamespaceOptions::default() };
    agent.client().create_namespace("t", &replacing).unwrap();
    let mut random = Random::new(5);
    // What was acknowledged last for each key, and what may have taken effect.
    let mut last: Vec<(Option<usize>, Option<Option<usize>>)> = vec![(None, None); 30];
    for _round in 0..10 {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (agent, done, last, random) = (&agent, &done, &mut last, Random::new(random.next()));
            let changing = scope.spawn(move || {
                let (cache, mut random) = (agent.namespace("t"), random);
                while !done.load(Ordering::Relaxed) {
                    let n = random.below(30);
                    let key = format!("k/{n}");
                    let wanted = (!random.once_in(4)).then(|| 1 + random.below(300_000));
                    last[n].1 = Some(wanted);
                    let outcome = match wanted {
                        Some(len) => put(&cache, &key, len).map(drop),
                        None => cache.delete(&key).map(drop),
                    };
                    if outcome.is_ok() {
                        last[n] = (wanted, None);
                    }
                }
            });
            let _end = SetOnDrop(done);
            std::thread::sleep(Duration::from_millis(100));
            nix::sys::signal::kill(agent.pid(), nix::sys::signal::Signal::SIGKILL).unwrap();
            done.store(true, Ordering::Relaxed);
            changing.join().unwrap();
        });
        agent.kill();
        agent.restart();
        let cache = agent.namespace("t");
        for (n, (acknowledged, maybe)) in last.iter_mut().enumerate() {
            let key = format!("k/{n}");
            let found = cache.get(&key).ok();
            if let Some(block) = &found {
                assert_whole(&key, block);
            }
            let len = found.map(|block| block.len());
            assert!(
                len == *acknowledged || Some(len) == *maybe,
                "{key}: {len:?}, was {acknowledged:?}, maybe {maybe:?}"
            );
            (*acknowledged, *maybe) = (len, None);
        }
    }
}
