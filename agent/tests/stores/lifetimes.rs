//! What ends a block or a namespace ends it in the store too, and nothing else does.

use larder::{Durability, Error, Eviction, NamespaceOptions, PutOutcome};

use crate::conformance::Subject;
use crate::harness::eventually;
use crate::pattern::{get_whole, put};

pub(crate) fn deletes_clears_and_removals_last(subject: &mut Subject<'_>) {
    let client = subject.agent.client();
    let (cleared, removed, kept) =
        (client.namespace("cleared").unwrap(), client.namespace("removed").unwrap(), client.namespace("kept").unwrap());
    for cache in [&cleared, &removed, &kept] {
        for n in 0..10 {
            put(cache, &format!("k/{n}"), 1000).unwrap();
        }
        put(cache, "large", 9_000_000).unwrap();
    }
    assert!(kept.delete("k/3").unwrap() && kept.delete("large").unwrap());
    assert!(!kept.delete("k/3").unwrap() && !kept.delete("large").unwrap());
    // It counts what is in memory, from where some may have been evicted.
    assert!(cleared.clear().unwrap() <= 11);
    client.remove_namespace("removed").unwrap();
    put(&cleared, "new", 10).unwrap();
    subject.lasts_over_a_kill();
    assert_eq!(cleared.list("").unwrap(), ["new"]);
    assert!(matches!(cleared.get("k/1"), Err(Error::NotFound)));
    assert_eq!(kept.list("").unwrap().len(), 9);
    assert!(matches!(kept.get("k/3"), Err(Error::NotFound)));
    let client = subject.agent.client();
    assert!(matches!(client.namespace_info("removed"), Err(Error::NoNamespace(_))));
    let names: Vec<String> = client.namespaces().unwrap().into_iter().map(|info| info.name).collect();
    assert!(names.contains(&"cleared".to_owned()) && !names.contains(&"removed".to_owned()), "{names:?}");
    // Of this one only the store has it.
    assert!(kept.delete("k/4").unwrap());
    assert!(matches!(kept.get("k/4"), Err(Error::NotFound)));
    assert!(subject.agent.namespace("removed").list("").unwrap().is_empty());
    // Its place is free for other bytes.
    for (key, len) in [("k/3", 9_500_000), ("large", 2000)] {
        assert_eq!(put(&kept, key, len).unwrap(), PutOutcome::Stored);
        get_whole(&kept, key, len);
    }
}

pub(crate) fn a_time_to_live_goes_on(subject: &mut Subject<'_>) {
    let short = NamespaceOptions { ttl_ms: Some(1500), ..NamespaceOptions::default() };
    let long = NamespaceOptions { ttl_ms: Some(3_600_000), ..NamespaceOptions::default() };
    let client = subject.agent.client();
    let (short, long) =
        (client.create_namespace("short", &short).unwrap(), client.create_namespace("long", &long).unwrap());
    let sizes = [10, 9_000_000];
    for len in sizes {
        put(&short, &format!("k/{len}"), len).unwrap();
        put(&long, &format!("k/{len}"), len).unwrap();
    }
    subject.lasts_over_a_kill();
    for len in sizes {
        let key = format!("k/{len}");
        get_whole(&long, &key, len);
        eventually("the block expires", || matches!(short.get(&key), Err(Error::NotFound)).then_some(()));
        // Its place is free for other bytes.
        assert_eq!(put(&short, &key, 20).unwrap(), PutOutcome::Stored);
        get_whole(&long, &key, len);
    }
}

pub(crate) fn options_outlive_the_agent(subject: &mut Subject<'_>) {
    let given = NamespaceOptions {
        eviction: Eviction::Keep,
        overwrite: true,
        quota_bytes: Some(1 << 20),
        ttl_ms: Some(3_600_000),
        durability: None,
        validate: larder::Validate::Namespace,
    };
    let told = NamespaceOptions { durability: Some(Durability::Through), ..given.clone() };
    let client = subject.agent.client();
    client.create_namespace("options", &given).unwrap();
    let changed = NamespaceOptions { quota_bytes: None, ttl_ms: None, ..told.clone() };
    client.create_namespace("changed", &given).unwrap();
    client.set_namespace("changed", &changed).unwrap();
    let scratch = NamespaceOptions { durability: Some(Durability::Scratch), ..NamespaceOptions::default() };
    let before = subject.agent.stat().tenant.stored;
    let cache = client.create_namespace("scratch", &scratch).unwrap();
    put(&cache, "k", 100_000).unwrap();
    get_whole(&cache, "k", 100_000);
    assert_eq!(subject.agent.stat().tenant.stored, before, "it is not in the store");
    let lasts = subject.lasts_over_a_kill();
    let client = subject.agent.client();
    assert_eq!(client.namespace_info("options").unwrap().options, told);
    assert_eq!(client.namespace_info("changed").unwrap().options, changed);
    // It goes with the agent, and its name is free for one of another kind.
    assert_eq!(matches!(client.namespace_info("scratch"), Err(Error::NoNamespace(_))), lasts);
}
