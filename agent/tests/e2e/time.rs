//! Blocks that expire.

use std::time::{Duration, Instant};

use larder::{Error, NamespaceOptions, PutOutcome};

use crate::harness::{Agent, eventually};
use crate::pattern::{assert_whole, bytes, get_whole, put};
use crate::puppet::Puppet;

fn for_ms(ttl_ms: u64) -> NamespaceOptions {
    NamespaceOptions { ttl_ms: Some(ttl_ms), ..NamespaceOptions::default() }
}

#[test]
fn an_expired_block_is_found_no_more() {
    let agent = Agent::small();
    let ttl = Duration::from_millis(400);
    let cache = agent.client().create_namespace("t", &for_ms(400)).unwrap();
    let mut puppet = Puppet::start(&agent);
    let began = Instant::now();
    put(&cache, "k", 10_000).unwrap();
    let held = get_whole(&cache, "k", 10_000);
    puppet.does("get t k", "10000");
    // The map alone must tell, so nobody is asked here.
    let mapped = cache.with_timeout(Duration::ZERO);
    let lasted = eventually("the block expires", || mapped.get("k").is_err().then(|| began.elapsed()));
    assert!(lasted >= ttl.checked_sub(Duration::from_millis(10)).unwrap(), "gone after {lasted:?}");
    assert!(matches!(cache.get("k"), Err(Error::NotFound)));
    assert!(!cache.contains("k").unwrap());
    assert!(!cache.delete("k").unwrap());
    assert!(cache.list("").unwrap().is_empty() && cache.children("").unwrap().is_empty());
    puppet.does("look t k", "NotFound");
    let stat = agent.stat();
    assert_eq!((stat.tenant.expirations, stat.tenant.evictions), (1, 0));
    assert_eq!((stat.tenant.blocks, stat.tenant.payload_bytes), (0, 0));
    // Held blocks stay, and the key takes other bytes.
    assert_eq!(put(&cache, "k", 7).unwrap(), PutOutcome::Stored);
    assert_whole("k", &held);
    puppet.does("check", "1 whole");
    drop((held, puppet));
    agent.await_no_pins();
}

#[test]
fn expired_blocks_go_by_themselves() {
    let agent = Agent::small();
    let cache = agent.client().create_namespace("t", &for_ms(150)).unwrap();
    let lasting = agent.namespace("lasting");
    put(&lasting, "k", 100).unwrap();
    let keys: Vec<String> = (0..500).map(|n| format!("k/{n}")).collect();
    let payloads: Vec<Vec<u8>> = keys.iter().map(|key| bytes(key, 5_000)).collect();
    let items: Vec<(&str, &[u8])> = keys.iter().zip(&payloads).map(|(key, bytes)| (key.as_str(), &bytes[..])).collect();
    assert!(cache.put_many(&items).iter().all(Result::is_ok));
    // Nobody reads, puts or asks for any of them.
    let stat = agent.stat_until("all expire", |stat| stat.tenant.expirations == 500);
    assert_eq!((stat.tenant.blocks, stat.tenant.payload_bytes), (1, 100));
    get_whole(&lasting, "k", 100);
}

#[test]
fn who_waits_past_an_expiry_gets_what_is_put_next() {
    let agent = Agent::small();
    let cache = agent.client().create_namespace("t", &for_ms(100)).unwrap();
    put(&cache, "k", 10).unwrap();
    eventually("the block expires", || cache.get("k").is_err().then_some(()));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| cache.wait("k", Duration::from_secs(60)).unwrap().len());
        put(&cache.clone(), "k", 20).unwrap();
        assert_eq!(waiting.join().unwrap(), 20);
    });
}

#[test]
fn a_long_life_is_not_cut_short() {
    let agent = Agent::small();
    let client = agent.client();
    // The longest that can be asked for must not overflow into the past.
    for (name, ttl_ms) in [("hour", 3_600_000), ("ever", u64::MAX)] {
        let cache = client.create_namespace(name, &for_ms(ttl_ms)).unwrap();
        put(&cache, "k", 10).unwrap();
        get_whole(&cache, "k", 10);
    }
    assert_eq!(agent.stat().tenant.expirations, 0);
}
