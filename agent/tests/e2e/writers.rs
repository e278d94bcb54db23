//! Blocks that are written in place.

use larder::{Error, NamespaceOptions, PutOutcome};

use crate::harness::{Agent, needs};
use crate::pattern::{self, assert_whole, bytes, get_whole, put};
use crate::puppet::Puppet;

/// In staging; in private memory, since staging has no room for it; in memory that becomes the block.
const LENGTHS: [usize; 4] = [1, 100_000, 262_144, 5_000_000];

#[test]
fn nothing_is_there_before_the_commit_and_all_of_it_after() {
    let agent = Agent::small();
    let cache = agent.namespace("t");
    let mut puppet = Puppet::start(&agent);
    for len in LENGTHS {
        let key = format!("k/{len}");
        let mut writer = cache.create(&key, len).unwrap();
        pattern::fill(&key, writer.as_mut_slice());
        puppet.does(&format!("get t {key}"), "NotFound");
        assert!(!cache.contains(&key).unwrap());
        assert_eq!(writer.commit().unwrap(), PutOutcome::Stored);
        get_whole(&cache, &key, len);
        puppet.does(&format!("get t {key}"), &len.to_string());
        puppet.does("check", "1 whole");
        puppet.does(&format!("drop {key}"), "true");
    }
}

#[test]
fn a_dropped_writer_leaves_no_trace() {
    needs!(LEASES_FOR_MEMORY);
    let agent = Agent::small();
    let cache = agent.namespace("t");
    put(&cache, "first", 1).unwrap();
    let before = agent.stat_until("a spare is there", |stat| stat.spare_bytes > 0);
    for len in LENGTHS {
        for _ in 0..40 {
            let mut writer = cache.create("k", len).unwrap();
            writer.as_mut_slice().fill(7);
        }
        assert!(matches!(cache.get("k"), Err(Error::NotFound)));
        assert_eq!(put(&cache, "k", len).unwrap(), PutOutcome::Stored, "the key is free");
        assert!(cache.delete("k").unwrap());
    }
    let after = agent.await_no_pins();
    assert_eq!((after.tenant.blocks, after.tenant.puts - before.tenant.puts), (1, 4));
    agent.stat_until("the writers' memory is given back", |stat| {
        stat.memory_bytes - stat.tenant.segment_bytes - stat.spare_bytes - stat.index_bytes
            == before.memory_bytes - before.tenant.segment_bytes - before.spare_bytes - before.index_bytes
    });
}

#[test]
fn a_writer_that_a_clear_overtook_stores_nothing() {
    let agent = Agent::small();
    let (cache, other) = (agent.namespace("t"), agent.namespace("t"));
    for len in LENGTHS {
        let mut writer = cache.create("k", len).unwrap();
        pattern::fill("k", writer.as_mut_slice());
        other.clear().unwrap();
        let outcome = writer.commit();
        assert!(matches!(outcome, Err(Error::Cleared)), "{len}: {outcome:?}");
        assert!(matches!(cache.get("k"), Err(Error::NotFound)));
        let mut writer = cache.create("k", len).unwrap();
        pattern::fill("k", writer.as_mut_slice());
        assert_eq!(writer.commit().unwrap(), PutOutcome::Stored);
        get_whole(&other, "k", len);
        assert!(other.delete("k").unwrap());
    }
}

#[test]
fn a_commit_meets_what_the_key_holds_by_then() {
    let agent = Agent::small();
    let options = NamespaceOptions { overwrite: true, ..NamespaceOptions::default() };
    let client = agent.client();
    let strict = client.namespace("strict").unwrap();
    let loose = client.create_namespace("loose", &options).unwrap();
    for len in LENGTHS {
        let key = format!("k/{len}");
        let [mut equal, mut other, mut longer, mut loser] =
            [(&strict, len), (&strict, len), (&strict, len + 1), (&loose, len)]
                .map(|(cache, len)| cache.create(&key, len).unwrap());
        pattern::fill(&key, equal.as_mut_slice());
        pattern::fill("another", other.as_mut_slice());
        pattern::fill(&key, longer.as_mut_slice());
        pattern::fill(&key, loser.as_mut_slice());
        put(&strict, &key, len).unwrap();
        put(&loose, &key, len + 9).unwrap();
        let held = get_whole(&loose, &key, len + 9);
        assert_eq!(equal.commit().unwrap(), PutOutcome::AlreadyHeld);
        for writer in [other, longer] {
            let outcome = writer.commit();
            assert!(matches!(outcome, Err(Error::AlreadyExists { .. })), "{len}: {outcome:?}");
        }
        assert_eq!(loser.commit().unwrap(), PutOutcome::Replaced);
        get_whole(&strict, &key, len);
        get_whole(&loose, &key, len);
        assert_whole(&key, &held);
    }
    agent.await_no_pins();
}

#[test]
fn writers_of_a_session_are_bounded_and_do_not_stop_its_puts() {
    let agent = Agent::small();
    let cache = agent.namespace("t");
    // More than staging has room for: what does not fit there is private until the commit.
    let mut short: Vec<_> = (0..200).map(|n| cache.create(&format!("s/{n}"), 20_000).unwrap()).collect();
    let mut long = Vec::new();
    let refused = loop {
        match cache.create(&format!("l/{}", long.len()), 1_000_000) {
            Ok(writer) => long.push(writer),
            Err(error) => break error,
        }
    };
    assert!(matches!(&refused, Error::TooMany(sentence) if sentence.contains("16")), "{refused:?}");
    assert_eq!(long.len(), 16);
    put(&cache, "meanwhile", 3_000_000).unwrap();
    put(&cache, "meanwhile too", 10).unwrap();
    for (n, writer) in short.iter_mut().enumerate() {
        pattern::fill(&format!("s/{n}"), writer.as_mut_slice());
    }
    for (n, writer) in long.iter_mut().enumerate() {
        pattern::fill(&format!("l/{n}"), writer.as_mut_slice());
    }
    for writer in short.into_iter().chain(long) {
        assert_eq!(writer.commit().unwrap(), PutOutcome::Stored);
    }
    (0..200).for_each(|n| drop(get_whole(&cache, &format!("s/{n}"), 20_000)));
    (0..16).for_each(|n| drop(get_whole(&cache, &format!("l/{n}"), 1_000_000)));
    get_whole(&cache, "meanwhile", 3_000_000);
}

#[test]
fn written_blocks_make_room_like_others() {
    needs!(LEASES_FOR_MEMORY);
    let agent = Agent::small();
    let cache = agent.namespace("t");
    let mut held = Vec::new();
    for n in 0..60 {
        let key = format!("k/{n}");
        let mut writer = cache.create(&key, 5_000_000).unwrap();
        writer.as_mut_slice().copy_from_slice(&bytes(&key, 5_000_000));
        assert_eq!(writer.commit().unwrap(), PutOutcome::Stored, "{key}");
        let block = get_whole(&cache, &key, 5_000_000);
        if n < 3 {
            held.push((key, block));
        }
        assert!(agent.stat().memory_bytes <= 64 << 20);
    }
    held.iter().for_each(|(key, block)| assert_whole(key, block));
    assert!(agent.stat().tenant.evictions >= 45);
    drop(held);
    agent.await_no_pins();
}
