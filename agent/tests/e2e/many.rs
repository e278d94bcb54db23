//! Vectored calls, and many blocks held at once.

use std::time::Duration;

use larder::{Error, PutOutcome};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};

use crate::harness::Agent;
use crate::pattern::{assert_whole, bytes, get_whole, put};

#[test]
fn many_puts_and_gets_keep_their_order() {
    let agent = Agent::small();
    let (cache, other) = (agent.namespace("t"), agent.namespace("t"));
    put(&cache, "taken", 11).unwrap();
    // Short ones share messages, long ones go alone, and some cannot go at all.
    let keys: Vec<String> = (0..1_000)
        .map(|n| match n % 100 {
            97 => "taken".to_owned(),
            98 => "not//legal".to_owned(),
            99 => "twice".to_owned(),
            _ => format!("k/{n}"),
        })
        .collect();
    let len = |n: usize| match n % 100 {
        50 => 300_000,
        51 => 0,
        97 => 12,
        99 => 99,
        _ => n,
    };
    let payloads: Vec<Vec<u8>> = keys.iter().enumerate().map(|(n, key)| bytes(key, len(n))).collect();
    let items: Vec<(&str, &[u8])> = keys.iter().zip(&payloads).map(|(key, bytes)| (key.as_str(), &bytes[..])).collect();
    for (n, outcome) in cache.put_many(&items).into_iter().enumerate() {
        match n % 100 {
            97 => assert!(matches!(outcome, Err(Error::AlreadyExists { held_bytes: 11, .. })), "{n}: {outcome:?}"),
            98 => assert!(matches!(outcome, Err(Error::InvalidKey(_))), "{n}: {outcome:?}"),
            99 if n > 99 => assert_eq!(outcome.unwrap(), PutOutcome::AlreadyHeld, "{n}"),
            _ => assert_eq!(outcome.unwrap(), PutOutcome::Stored, "{n}"),
        }
    }
    let mut asked: Vec<&str> = keys.iter().map(String::as_str).collect();
    for n in (0..1_000).step_by(10) {
        asked[n] = "missing";
    }
    // Twice: once with nothing mapped, once with everything.
    for _ in 0..2 {
        let blocks = other.get_many(&asked);
        assert_eq!(blocks.len(), asked.len());
        for (n, block) in blocks.into_iter().enumerate() {
            match (n % 10, n % 100) {
                (0, _) => assert!(matches!(block, Err(Error::NotFound)), "{n}: {block:?}"),
                (_, 98) => assert!(matches!(block, Err(Error::InvalidKey(_))), "{n}: {block:?}"),
                (_, 97) => assert_eq!(block.unwrap().len(), 11),
                _ => {
                    let block = block.unwrap_or_else(|error| panic!("{n}: {error}"));
                    assert_eq!(block.len(), len(n), "{n}");
                    assert_whole(&keys[n], &block);
                }
            }
        }
    }
    assert!(cache.get_many(&[]).is_empty());
    assert!(cache.put_many(&[]).is_empty());
}

#[test]
fn more_blocks_can_be_held_than_a_session_begins_with() {
    let agent = Agent::small();
    let cache = agent.namespace("t");
    let keys: Vec<String> = (0..5_000).map(|n| format!("k/{n}")).collect();
    let payloads: Vec<Vec<u8>> = keys.iter().map(|key| bytes(key, 40)).collect();
    let items: Vec<(&str, &[u8])> = keys.iter().zip(&payloads).map(|(key, bytes)| (key.as_str(), &bytes[..])).collect();
    assert!(cache.put_many(&items).iter().all(Result::is_ok));
    let asked: Vec<&str> = keys.iter().map(String::as_str).collect();
    let mut held = cache.get_many(&asked);
    held.extend(keys.iter().map(|key| cache.get(key)));
    let holders = agent.monitor().pins().unwrap();
    // In several pages of slots, which are all one process's.
    assert!(matches!(&holders[..], [holder] if (holder.slots, holder.bytes) == (10_000, 10_000 * 40)), "{holders:?}");
    assert!(holders[0].pid == nix::unistd::getpid().as_raw() && !holders[0].orphan);
    for (key, block) in keys.iter().chain(&keys).zip(&held) {
        assert_whole(key, block.as_ref().unwrap());
    }
    drop(held);
    agent.await_no_pins();
    assert!(agent.monitor().pins().unwrap().is_empty());
}

#[test]
fn slots_that_run_out_are_an_error_that_says_so() {
    let agent = Agent::start("--capacity 64MiB --staging 1MiB --max-slots-per-session 1024");
    let cache = agent.namespace("t");
    put(&cache, "k", 100).unwrap();
    put(&cache, "other", 100).unwrap();
    let held: Vec<_> = (0..1024).map(|_| cache.get("k").unwrap()).collect();
    match cache.get("k") {
        Err(error @ Error::Pins { in_use, total, .. }) => {
            assert_eq!((in_use, total), (1024, 1024));
            assert!(error.to_string().contains("1024"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    // A clone needs no slot of its own, and everything else goes on.
    let clone = held[0].clone();
    let many = cache.get_many(&["k", "other"]);
    assert!(many.iter().all(|block| matches!(block, Err(Error::Pins { .. }))), "{many:?}");
    assert!(cache.put("more", b"x").is_ok() && cache.contains("more").unwrap());
    drop(held);
    assert_whole("k", &clone);
    get_whole(&cache, "other", 100);
    assert!(cache.get_many(&["k", "other"]).iter().all(Result::is_ok));
}

#[test]
fn many_threads_share_a_handle() {
    let agent = Agent::small();
    let cache = agent.namespace("t");
    std::thread::scope(|scope| {
        for thread in 0..12 {
            let cache = &cache;
            scope.spawn(move || {
                for n in 0..60 {
                    let key = format!("{thread}/{n}");
                    assert_eq!(put(cache, &key, n * 1500).unwrap(), PutOutcome::Stored);
                    get_whole(cache, &key, n * 1500);
                    assert_eq!(put(cache, &format!("all/{n}"), n).map(drop).map_err(|e| e.to_string()), Ok(()));
                    get_whole(cache, &format!("all/{n}"), n);
                }
            });
        }
    });
    assert_eq!(cache.list("all/").unwrap().len(), 60);
    assert_eq!(cache.list("").unwrap().len(), 13 * 60);
}

#[test]
fn calls_that_gave_up_do_not_hurt_later_ones() {
    let agent = Agent::small();
    for n in 0..4 {
        put(&agent.namespace("t"), &format!("k/{n}"), 1_000).unwrap();
    }
    // In a session that has nothing mapped yet, each call asks for memory that comes with descriptors.
    let cache = agent.namespace("t");
    let hurried = cache.with_timeout(Duration::from_millis(2));
    kill(agent.pid(), Signal::SIGSTOP).unwrap();
    waitid(Id::Pid(agent.pid()), WaitPidFlag::WSTOPPED | WaitPidFlag::WNOWAIT).unwrap();
    for _ in 0..6 {
        let outcome = hurried.get("k/1");
        assert!(matches!(outcome, Err(Error::Deadline)), "{outcome:?}");
    }
    kill(agent.pid(), Signal::SIGCONT).unwrap();
    get_whole(&cache, "k/1", 1_000);
    assert_eq!(put(&cache, "after", 3_000_000).unwrap(), PutOutcome::Stored);
    let mut writer = cache.create("written", 3_000_000).unwrap();
    crate::pattern::fill("written", writer.as_mut_slice());
    assert_eq!(writer.commit().unwrap(), PutOutcome::Stored);
    get_whole(&cache, "written", 3_000_000);
    drop(cache);
    agent.await_no_pins();
}
