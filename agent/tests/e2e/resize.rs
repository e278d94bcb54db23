//! A capacity that changes while readers hold blocks.

use larder::Error;

use crate::harness::{Agent, needs};
use crate::pattern::{assert_whole, get_whole, put};
use crate::proc;
use crate::puppet::Puppet;

const MIB: u64 = 1 << 20;

/// Puts so many blocks of 200,000 bytes.
#[track_caller]
fn fill(agent: &Agent, name: &str, blocks: usize) {
    let cache = agent.namespace("t");
    for n in 0..blocks {
        match put(&cache, &format!("{name}/{n}"), 200_000) {
            Ok(_) => {}
            Err(error) => panic!("{name}/{n}: {error}"),
        }
    }
}

#[test]
fn a_raised_capacity_is_used() {
    needs!(LEASES_FOR_MEMORY);
    let agent = Agent::small();
    fill(&agent, "first", 1_000);
    let before = agent.stat();
    assert!(before.memory_bytes <= 64 * MIB && before.tenant.evictions > 0);
    agent.monitor().resize(192 * MIB).unwrap();
    assert_eq!(agent.stat().capacity_bytes, 192 * MIB);
    fill(&agent, "second", 500);
    let after = agent.stat();
    assert_eq!(after.tenant.evictions, before.tenant.evictions, "there was room for all of it");
    assert!(after.memory_bytes > 100 * MIB && after.memory_bytes <= 192 * MIB);
    // A block that would not have fit before.
    put(&agent.namespace("t"), "large", 100_000_000).unwrap();
    get_whole(&agent.namespace("t"), "large", 100_000_000);
}

#[test]
fn a_lowered_capacity_is_reached_as_soon_as_readers_let_go() {
    needs!(LEASES_FOR_MEMORY);
    let agent = Agent::start("--capacity 192MiB --segment-size 4MiB --staging 1MiB --pinned-quota 192MiB");
    let mut puppet = Puppet::start(&agent);
    fill(&agent, "k", 700);
    let cache = agent.namespace("t");
    // Every third block is held: no segment is without one.
    let held: Vec<_> = (0..700).step_by(3).map(|n| get_whole(&cache, &format!("k/{n}"), 200_000)).collect();
    puppet.does("get t k/1", "200000");
    let full = agent.stat().memory_bytes;
    assert!(full > 140 * MIB);
    agent.monitor().resize(64 * MIB).unwrap();
    let lowered = agent.stat();
    assert_eq!((lowered.capacity_bytes, lowered.tenant.quota_bytes), (64 * MIB, 64 * MIB));
    assert!(lowered.memory_bytes > 64 * MIB, "what is held is not taken away");
    for (n, block) in (0..700).step_by(3).zip(&held) {
        assert_whole(&format!("k/{n}"), block);
    }
    // Whoever comes to look who holds it all is let in.
    let visitor = agent.client();
    assert_eq!(visitor.pins().unwrap().len(), 2);
    assert_eq!(visitor.stat().unwrap().sessions, 4);
    drop(visitor);
    // Puts are refused or take the place of what nobody holds; nothing grows.
    match put(&cache, "more", 200_000) {
        Ok(_) | Err(Error::NoSpace { .. }) => {}
        Err(error) => panic!("{error:?}"),
    }
    assert!(agent.stat().memory_bytes <= full);
    drop(held);
    let after = agent.stat_until("the memory goes", |stat| {
        // A client unmaps what was retired at its next call.
        drop(cache.get("k/1"));
        stat.memory_bytes <= 64 * MIB
    });
    assert!(after.tenant.blocks > 0, "what fits is kept");
    puppet.does("check", "1 whole");
    puppet.does("look t k/1", "whole");
    assert!(proc::shared_bytes(agent.pid()) <= 64 * MIB + 4096);
    fill(&agent, "after", 600);
    assert!(agent.stat().memory_bytes <= 64 * MIB);
    puppet.does("check", "1 whole");
    puppet.end();
    drop(cache);
    agent.await_no_pins();
}

#[test]
fn up_and_down_and_up_again() {
    needs!(LEASES_FOR_MEMORY);
    let agent = Agent::start("--capacity 96MiB --segment-size 2MiB --staging 1MiB --pinned-quota 96MiB");
    let mut puppet = Puppet::start(&agent);
    puppet.does("put t held 3000000", "Stored");
    puppet.does("get t held", "3000000");
    for (round, capacity_mib) in [32, 96, 40, 160, 33, 64].into_iter().enumerate() {
        agent.monitor().resize(capacity_mib * MIB).unwrap();
        fill(&agent, &round.to_string(), 300);
        let stat = agent.stat_until("the capacity holds", |stat| stat.memory_bytes <= capacity_mib * MIB);
        assert_eq!(stat.capacity_bytes, capacity_mib * MIB);
        puppet.does("check", "1 whole");
        let cache = agent.namespace("t");
        get_whole(&cache, &format!("{round}/299"), 200_000);
    }
    puppet.end();
    agent.await_no_pins();
}

#[test]
fn nonsense_is_refused() {
    let agent = Agent::small();
    for bytes in [0, 1, 31 * MIB] {
        match agent.monitor().resize(bytes) {
            Err(Error::Invalid(sentence)) => assert!(sentence.contains("too small"), "{sentence}"),
            other => panic!("{bytes}: {other:?}"),
        }
    }
    match agent.monitor().resize(u64::MAX) {
        Err(Error::Invalid(sentence)) => assert!(sentence.contains("more than this machine can give"), "{sentence}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(agent.stat().capacity_bytes, 64 * MIB);
}

#[test]
fn an_index_becomes_small_again_while_nobody_asks_for_anything() {
    needs!(LEASES_FOR_MEMORY);
    let agent = Agent::start("--capacity 192MiB --segment-size 4MiB --staging 1MiB");
    let smallest = agent.stat().tenant.index_capacity;
    let keys: Vec<String> = (0..50_000).map(|n| format!("k/{n}")).collect();
    let items: Vec<(&str, &[u8])> = keys.iter().map(|key| (key.as_str(), key.as_bytes())).collect();
    let results = agent.namespace("t").put_many(&items);
    assert!(results.into_iter().all(|result| result.is_ok()));
    assert!(agent.stat().tenant.index_capacity >= 65_536);
    agent.monitor().remove_namespace("t").unwrap();
    // Four smaller tables, each filled from 50,000 places that blocks had.
    let after = agent.stat_until("the index shrinks", |stat| stat.tenant.index_capacity == smallest);
    assert_eq!(after.tenant.blocks, 0);
}
