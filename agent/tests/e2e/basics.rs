//! One key at a time: put, get, contains, delete, list, children, clear, wait, overwrite.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use larder::{Error, NamespaceOptions, PutOutcome};

use crate::harness::Agent;
use crate::pattern::{assert_whole, bytes, get_whole, put};
use crate::puppet::Puppet;

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(since.as_millis()).expect("before the year 500,000,000")
}

#[test]
fn a_block_is_there_from_its_put_to_its_delete() {
    let agent = Agent::small();
    let (cache, other) = (agent.namespace("t"), agent.namespace("t"));
    let mut puppet = Puppet::start(&agent);
    assert!(matches!(cache.get("a/b"), Err(Error::NotFound)));
    assert!(!cache.contains("a/b").unwrap());
    assert!(!cache.delete("a/b").unwrap());
    puppet.does("get t a/b", "NotFound");
    let before_ms = now_ms();
    assert_eq!(put(&cache, "a/b", 1000).unwrap(), PutOutcome::Stored);
    let block = get_whole(&cache, "a/b", 1000);
    assert!((before_ms..=now_ms()).contains(&block.created_ms()));
    assert!(cache.contains("a/b").unwrap() && other.contains("a/b").unwrap());
    get_whole(&other, "a/b", 1000);
    puppet.does("look t a/b", "whole");
    assert!(other.delete("a/b").unwrap());
    assert!(!cache.delete("a/b").unwrap());
    assert!(!cache.contains("a/b").unwrap());
    assert!(matches!(cache.get("a/b"), Err(Error::NotFound)));
    puppet.does("look t a/b", "NotFound");
    // Whoever holds it keeps it, and the key is free for other bytes.
    assert_whole("a/b", &block);
    assert_eq!(put(&cache, "a/b", 77).unwrap(), PutOutcome::Stored);
    puppet.does("get t a/b", "77");
    assert_whole("a/b", &block);
}

#[test]
fn namespaces_do_not_see_each_other() {
    let agent = Agent::small();
    let client = agent.client();
    let (one, two) = (client.namespace("proj/one").unwrap(), client.namespace("proj/one/k").unwrap());
    put(&one, "k", 10).unwrap();
    assert!(matches!(two.get("k"), Err(Error::NotFound)));
    assert_eq!(put(&two, "k", 20).unwrap(), PutOutcome::Stored);
    get_whole(&one, "k", 10);
    get_whole(&two, "k", 20);
    assert_eq!(one.clear().unwrap(), 1);
    assert!(matches!(one.get("k"), Err(Error::NotFound)));
    get_whole(&two, "k", 20);
}

#[test]
fn equal_bytes_are_held_already_and_other_bytes_are_refused() {
    let agent = Agent::small();
    let (cache, other) = (agent.namespace("t"), agent.namespace("t"));
    // In one message, in chunks, and with several checksums.
    for len in [0, 1, 100_000, 700_001, 3_000_000] {
        let key = format!("k/{len}");
        let same = bytes(&key, len);
        assert_eq!(cache.put(&key, &same).unwrap(), PutOutcome::Stored);
        let before = agent.stat();
        assert_eq!(other.put(&key, &same).unwrap(), PutOutcome::AlreadyHeld);
        let refused = |bytes: &[u8]| match other.put(&key, bytes) {
            Err(Error::AlreadyExists { held_bytes, offered_bytes }) => {
                assert_eq!((held_bytes, offered_bytes), (len as u64, bytes.len() as u64))
            }
            outcome => panic!("{key}: {outcome:?}"),
        };
        refused(&bytes("another", len + 1));
        if len > 0 {
            refused(&bytes("another", len));
            let mut last = same.clone();
            last[len - 1] ^= 1;
            refused(&last);
            refused(&[]);
        }
        get_whole(&cache, &key, len);
        get_whole(&other, &key, len);
        let after = agent.stat();
        assert_eq!(after.tenant.puts, before.tenant.puts, "only what is stored counts");
        assert_eq!(after.tenant.payload_bytes, before.tenant.payload_bytes);
    }
    let error = other.put("k/1", b"xy").unwrap_err().to_string();
    assert!(error.contains('1') && error.contains('2'), "{error}");
}

#[test]
fn a_replaced_block_stays_whole_for_its_holder() {
    let agent = Agent::small();
    let options = NamespaceOptions { overwrite: true, ..NamespaceOptions::default() };
    let client = agent.client();
    let cache = client.create_namespace("t", &options).unwrap();
    let mut puppet = Puppet::start(&agent);
    assert_eq!(put(&cache, "k", 100_000).unwrap(), PutOutcome::Stored);
    puppet.does("get t k", "100000");
    let mut held = vec![get_whole(&cache, "k", 100_000)];
    // Each size once in place of another; then more than fits, so that room is made all the while.
    for round in 0..100 {
        let len = 300_000 + round * 4096;
        assert_eq!(put(&cache, "k", len).unwrap(), PutOutcome::Replaced);
        let block = get_whole(&cache, "k", len);
        if round < 8 {
            held.push(block);
        }
    }
    assert_eq!(put(&cache, "k", 1).unwrap(), PutOutcome::Replaced);
    assert_eq!(put(&cache, "k", 1).unwrap(), PutOutcome::AlreadyHeld);
    for block in &held {
        assert_whole("k", block);
    }
    puppet.does("check", "1 whole");
    puppet.does("get t k", "1");
    assert_eq!(cache.list("").unwrap(), ["k"]);
    let stat = agent.stat();
    assert_eq!((stat.tenant.blocks, stat.tenant.payload_bytes), (1, 1));
    drop(held);
    puppet.end();
    agent.await_no_pins();
}

#[test]
fn lists_are_sorted_and_whole() {
    let agent = Agent::small();
    let cache = agent.namespace("t");
    assert!(cache.list("").unwrap().is_empty());
    for key in ["b", "a/y", "a/x/1", "a/x/2", "a", "ab", "a/x", "é/z"] {
        cache.put(key, key.as_bytes()).unwrap();
    }
    assert_eq!(cache.list("").unwrap(), ["a", "a/x", "a/x/1", "a/x/2", "a/y", "ab", "b", "é/z"]);
    assert_eq!(cache.list("a").unwrap(), ["a", "a/x", "a/x/1", "a/x/2", "a/y", "ab"]);
    assert_eq!(cache.list("a/").unwrap(), ["a/x", "a/x/1", "a/x/2", "a/y"]);
    assert!(cache.list("zzz").unwrap().is_empty());
    // Longer than any key, and than any message.
    assert!(cache.list(&"x".repeat(1025)).unwrap().is_empty());
    assert!(cache.list(&"x".repeat(100_000)).unwrap().is_empty());
    assert_eq!(cache.children("").unwrap(), ["a", "ab", "b"]);
    assert_eq!(cache.children("a").unwrap(), ["x", "y"]);
    assert_eq!(cache.children("a/x").unwrap(), ["1", "2"]);
    assert!(cache.children("b").unwrap().is_empty());
    assert!(cache.children("none").unwrap().is_empty());
    assert!(cache.delete("a/x").unwrap());
    assert_eq!(cache.children("a").unwrap(), ["y"]);
    assert_eq!(cache.children("a/x").unwrap(), ["1", "2"]);
}

#[test]
fn a_list_longer_than_a_message_is_whole() {
    let agent = Agent::small();
    let cache = agent.namespace("t");
    let keys: Vec<String> = (0..2_000).map(|n| format!("group/{n:06}/{}", "x".repeat(100))).collect();
    let items: Vec<(&str, &[u8])> = keys.iter().map(|key| (key.as_str(), b"1".as_slice())).collect();
    assert!(cache.put_many(&items).into_iter().all(|outcome| outcome.unwrap() == PutOutcome::Stored));
    assert_eq!(cache.list("").unwrap(), keys);
    assert_eq!(cache.list("group/0000").unwrap(), keys[..100]);
    // More at once than the agent keeps snapshots for.
    std::thread::scope(|scope| {
        let lists: Vec<_> = (0..8).map(|_| scope.spawn(|| cache.list("").unwrap())).collect();
        lists.into_iter().for_each(|list| assert_eq!(list.join().unwrap(), keys));
    });
}

#[test]
fn a_clear_empties_the_namespace_for_everybody() {
    let agent = Agent::small();
    let (cache, other) = (agent.namespace("t"), agent.namespace("t"));
    let mut puppet = Puppet::start(&agent);
    for n in 0..300 {
        put(&cache, &format!("k/{n}"), n * 10).unwrap();
    }
    let block = get_whole(&other, "k/299", 2990);
    puppet.does("get t k/298", "2980");
    assert_eq!(cache.clear().unwrap(), 300);
    for cache in [&cache, &other] {
        assert!(matches!(cache.get("k/1"), Err(Error::NotFound)));
        assert!(cache.list("").unwrap().is_empty());
    }
    puppet.does("look t k/298", "NotFound");
    assert_eq!(other.clear().unwrap(), 0);
    assert_whole("k/299", &block);
    puppet.does("check", "1 whole");
    // Handles go on with the new incarnation, and what is put anew may be anything.
    assert_eq!(put(&other, "k/299", 5).unwrap(), PutOutcome::Stored);
    get_whole(&cache, "k/299", 5);
    puppet.does("get t k/299", "5");
    drop((block, puppet));
    agent.await_no_pins();
}

#[test]
fn who_waits_is_woken_by_another_process() {
    let agent = Agent::small();
    let cache = agent.namespace("t");
    let mut puppet = Puppet::start(&agent);
    puppet.does("put t ready 1", "Stored");
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (1..=8)
            .map(|n| {
                let cache = cache.clone();
                scope.spawn(move || {
                    let key = format!("k/{n}");
                    let block = cache.wait(&key, Duration::from_secs(60)).unwrap();
                    assert_whole(&key, &block);
                    block.len()
                })
            })
            .collect();
        // Short and long, and once more after everything was cleared away.
        for n in [1_usize, 2, 3, 4] {
            puppet.does(&format!("put t k/{n} {}", n * 150_000), "Stored");
        }
        assert!(puppet.ask("clear t").parse::<u64>().is_ok());
        for n in [5_usize, 6, 7, 8] {
            puppet.does(&format!("put t k/{n} {}", n * 150_000), "Stored");
        }
        // Those who did not see theirs before it was cleared wait on.
        for n in [1_usize, 2, 3, 4] {
            puppet.does(&format!("put t k/{n} {}", n * 150_000), "Stored");
        }
        for (n, waiting) in (1..).zip(waiting) {
            assert_eq!(waiting.join().unwrap(), n * 150_000);
        }
    });
    puppet.does("wait t k/3 60000", "450000");
}

#[test]
fn a_wait_ends_at_its_deadline() {
    let agent = Agent::small();
    let cache = agent.namespace("t");
    let began = Instant::now();
    let patience = Duration::from_millis(80);
    assert!(matches!(cache.wait("k", patience), Err(Error::Deadline)));
    assert!(began.elapsed() >= patience);
    assert!(matches!(cache.wait("k", Duration::ZERO), Err(Error::NotResident)));
    put(&cache, "k", 10).unwrap();
    get_whole(&cache, "k", 10);
    assert_whole("k", &cache.wait("k", Duration::ZERO).unwrap());
    // The deadline of other calls is another matter.
    let strict = cache.with_timeout(Duration::from_nanos(1));
    assert!(matches!(strict.get("other"), Err(Error::Deadline)));
    assert!(matches!(strict.wait("other", patience), Err(Error::Deadline)));
}

#[test]
fn a_timeout_of_zero_asks_nobody() {
    let agent = Agent::small();
    let cache = agent.namespace("t");
    put(&cache, "k", 10).unwrap();
    let strict = cache.with_timeout(Duration::ZERO);
    assert!(matches!(strict.get("k"), Err(Error::NotResident)), "nothing is mapped yet");
    get_whole(&cache, "k", 10);
    get_whole(&strict, "k", 10);
    assert!(strict.contains("k").unwrap());
    for error in [
        strict.get("other").map(drop),
        strict.contains("other").map(drop),
        strict.put("other", b"").map(drop),
        strict.delete("k").map(drop),
        strict.list("").map(drop),
        strict.clear().map(drop),
        strict.create("other", 1).map(drop),
    ] {
        assert!(matches!(error, Err(Error::NotResident)), "{error:?}");
    }
    assert!(strict.put_many(&[("other", b"")]).iter().all(|outcome| matches!(outcome, Err(Error::NotResident))));
    get_whole(&cache, "k", 10);
}
