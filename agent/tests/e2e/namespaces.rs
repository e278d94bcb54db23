//! Options of namespaces, and namespaces that come and go.

use larder::{Durability, Error, Eviction, NamespaceOptions, PutOutcome};

use crate::harness::Agent;
use crate::pattern::{get_whole, put};

#[test]
fn options_are_told_and_changed() {
    let agent = Agent::small();
    let (client, other) = (agent.client(), agent.client());
    let options = NamespaceOptions {
        eviction: Eviction::Keep,
        overwrite: true,
        quota_bytes: Some(1 << 20),
        ttl_ms: Some(3_600_000),
        durability: Some(Durability::Scratch),
        validate: larder::Validate::Always,
    };
    let cache = client.create_namespace("t", &options).unwrap();
    put(&cache, "k", 1000).unwrap();
    let info = other.namespace_info("t").unwrap();
    assert_eq!((info.name.as_str(), &info.options, info.blocks, info.bytes), ("t", &options, 1, 1000));
    // Opened by its name, or with the same options again; other options contradict.
    other.namespace("t").unwrap();
    other.create_namespace("t", &options).unwrap();
    let error = other.create_namespace("t", &NamespaceOptions::default()).unwrap_err();
    assert!(matches!(&error, Error::Invalid(sentence) if sentence.contains("\"t\"")), "{error:?}");
    let changed = NamespaceOptions { overwrite: false, ..options.clone() };
    assert_eq!(other.set_namespace("t", &changed).unwrap().options, changed);
    assert!(matches!(put(&cache, "k", 5), Err(Error::AlreadyExists { .. })));
    other.set_namespace("t", &options).unwrap();
    assert_eq!(put(&cache, "k", 5).unwrap(), PutOutcome::Replaced);
    // A clear keeps them.
    cache.clear().unwrap();
    let info = other.namespace_info("t").unwrap();
    assert_eq!((info.options, info.blocks, info.bytes), (options, 0, 0));
}

#[test]
fn a_namespace_that_is_not_there_is_an_error_of_its_own() {
    let agent = Agent::small();
    let client = agent.client();
    let errors = [
        client.namespace_info("none").map(drop),
        client.remove_namespace("none").map(drop),
        client.set_namespace("none", &NamespaceOptions::default()).map(drop),
    ];
    for error in errors {
        assert!(matches!(&error, Err(Error::NoNamespace(name)) if name == "none"), "{error:?}");
    }
    assert!(client.namespaces().unwrap().is_empty());
}

#[test]
fn a_removed_namespace_is_made_anew_by_its_handles() {
    let agent = Agent::small();
    let (client, other) = (agent.client(), agent.client());
    let (cache, handle) = (client.namespace("t").unwrap(), other.namespace("t").unwrap());
    for n in 0..50 {
        put(&cache, &format!("k/{n}"), 1000).unwrap();
    }
    let block = get_whole(&handle, "k/7", 1000);
    assert_eq!(client.remove_namespace("t").unwrap(), 50);
    assert!(matches!(client.namespace_info("t"), Err(Error::NoNamespace(_))));
    assert!(matches!(handle.get("k/7"), Err(Error::NotFound)));
    assert_eq!(put(&handle, "k/7", 7).unwrap(), PutOutcome::Stored);
    get_whole(&cache, "k/7", 7);
    assert_eq!(client.namespace_info("t").unwrap().blocks, 1);
    crate::pattern::assert_whole("k/7", &block);
}

#[test]
fn a_handle_makes_a_removed_namespace_with_the_options_it_was_given() {
    let agent = Agent::small();
    let client = agent.client();
    let options = NamespaceOptions { overwrite: true, ..NamespaceOptions::default() };
    let cache = client.create_namespace("t", &options).unwrap();
    put(&cache, "k", 1).unwrap();
    client.remove_namespace("t").unwrap();
    assert_eq!(put(&cache, "k", 2).unwrap(), PutOutcome::Stored);
    assert_eq!(put(&cache, "k", 3).unwrap(), PutOutcome::Replaced);
    let told = NamespaceOptions { durability: Some(Durability::Scratch), ..options };
    assert_eq!(client.namespace_info("t").unwrap().options, told);
}

#[test]
fn all_namespaces_are_listed_however_many() {
    let agent = Agent::small();
    let client = agent.client();
    let mut names: Vec<String> = (0..150).map(|n| format!("{n:03}/{}", "n".repeat(200))).collect();
    for name in &names {
        client.namespace(name).unwrap();
    }
    let listed: Vec<String> = client.namespaces().unwrap().into_iter().map(|info| info.name).collect();
    assert_eq!(listed, names);
    for name in names.drain(..100) {
        assert_eq!(client.remove_namespace(&name).unwrap(), 0);
    }
    assert_eq!(client.namespaces().unwrap().len(), 50);
}
