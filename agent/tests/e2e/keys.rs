//! Which keys and names are legal, and that each illegal one is told why.

use std::time::Duration;

use larder::{Client, Error, KeyError, Namespace, PutOutcome};

use crate::harness::Agent;
use crate::pattern::{get_whole, put};

fn legal() -> Vec<String> {
    let mut keys: Vec<String> = [
        "a",
        "0",
        " ",
        "  a  b ",
        "-",
        "--help",
        "...",
        ".a",
        "a.",
        "a.b/..c",
        "a/b/c",
        "a\\b",
        "*",
        "%2F%00",
        "\"'`$(x)",
        "é",
        "漢字/かな",
        "🦀/🦀",
        "e\u{301}",
        "\u{a0}",
        "\u{2028}",
        "\u{feff}",
        "\u{202e}abc",
        "\u{10ffff}",
        "LARDER/larder",
        "larder/LARDER",
    ]
    .map(str::to_owned)
    .into();
    keys.push("x".repeat(1024));
    keys.push("é".repeat(512));
    keys.push(vec!["a"; 512].join("/") + "b");
    keys
}

#[test]
fn keys_of_every_legal_form_are_kept_apart() {
    let agent = Agent::small();
    let (cache, other) = (agent.namespace("t"), agent.namespace("t"));
    let keys = legal();
    for (len, key) in keys.iter().enumerate() {
        assert_eq!(put(&cache, key, len).unwrap(), PutOutcome::Stored, "{key:?}");
    }
    for (len, key) in keys.iter().enumerate() {
        get_whole(&other, key, len);
        assert!(other.contains(key).unwrap());
    }
    let many: Vec<&str> = keys.iter().map(String::as_str).collect();
    for (len, block) in cache.get_many(&many).into_iter().enumerate() {
        assert_eq!(block.unwrap().len(), len);
    }
    let mut sorted = keys.clone();
    sorted.sort_unstable();
    assert_eq!(other.list("").unwrap(), sorted);
    for key in &keys {
        assert!(cache.delete(key).unwrap(), "{key:?}");
    }
    assert!(other.list("").unwrap().is_empty());
}

/// Whether a refusal is of the kind expected.
type IsKind = fn(&KeyError) -> bool;

fn illegal() -> Vec<(String, IsKind)> {
    let is_empty: IsKind = |error| matches!(error, KeyError::Empty);
    let is_long: IsKind = |error| matches!(error, KeyError::TooLong { max: 1024, .. });
    let has_empty_segment: IsKind = |error| matches!(error, KeyError::EmptySegment { .. });
    let has_dots: IsKind = |error| matches!(error, KeyError::DotSegment { .. });
    let has_control: fn(&KeyError) -> bool = |error| matches!(error, KeyError::Control { .. });
    let mut keys = vec![(String::new(), is_empty)];
    keys.extend(["x".repeat(1025), "é".repeat(513), "x".repeat(1 << 20)].map(|key| (key, is_long)));
    keys.extend(["/", "/a", "a/", "a//b", "//"].map(|key| (key.to_owned(), has_empty_segment)));
    keys.extend([".", "..", "a/.", "./a", "a/../b"].map(|key| (key.to_owned(), has_dots)));
    keys.extend(["\0", "a\0b", "a\nb", "\t", "\u{7f}", "\u{85}"].map(|key| (key.to_owned(), has_control)));
    keys
}

#[test]
fn each_illegal_key_is_refused_by_every_call_with_its_own_kind() {
    let agent = Agent::small();
    let cache = agent.namespace("t");
    for (key, is_right) in illegal() {
        let outcomes = [
            cache.get(&key).map(drop),
            cache.wait(&key, Duration::from_secs(60)).map(drop),
            cache.contains(&key).map(drop),
            cache.delete(&key).map(drop),
            cache.put(&key, b"x").map(drop),
            cache.put(&key, &vec![0; 3 << 20]).map(drop),
            cache.create(&key, 1).map(drop),
            cache.create(&key, 3 << 20).map(drop),
        ];
        for outcome in outcomes {
            match outcome {
                Err(Error::InvalidKey(error)) if is_right(&error) => {
                    let sentence = error.to_string();
                    assert!(sentence.starts_with("the key ") && !sentence.contains('\n') && !sentence.contains('\0'));
                }
                other => panic!("{:?}: {other:?}", key.get(..20).unwrap_or(&key)),
            }
        }
        // Among others only the illegal one fails.
        let outcomes = cache.put_many(&[("good/1", b"1"), (&key, b"x"), ("good/2", b"2")]);
        assert!(matches!(outcomes[..], [Ok(_), Err(Error::InvalidKey(_)), Ok(_)]), "{outcomes:?}");
        let blocks = cache.get_many(&["good/1", &key, "good/2"]);
        assert!(matches!(blocks[..], [Ok(_), Err(Error::InvalidKey(_)), Ok(_)]), "{blocks:?}");
    }
    assert_eq!(cache.list("").unwrap(), ["good/1", "good/2"]);
}

#[test]
fn names_of_namespaces_follow_the_same_rules() {
    let agent = Agent::small();
    let client = agent.client();
    for name in ["a", "proj/climate/prod", " ", "é", &"x".repeat(255)] {
        let cache = client.namespace(name).unwrap();
        put(&cache, "k", 3).unwrap();
        assert_eq!((cache.name(), client.namespace_info(name).unwrap().blocks), (name, 1));
    }
    type Call = fn(&Client, &str) -> Result<(), Error>;
    let calls: [Call; 4] = [
        |client, name| client.namespace(name).map(drop),
        |client, name| client.namespace_info(name).map(drop),
        |client, name| client.remove_namespace(name).map(drop),
        |client, name| client.set_namespace(name, &larder::NamespaceOptions::default()).map(drop),
    ];
    for (name, _) in illegal().into_iter().chain([("x".repeat(256), (|_| true) as fn(&KeyError) -> bool)]) {
        for call in calls {
            let outcome = call(&client, &name);
            assert!(matches!(outcome, Err(Error::InvalidKey(_))), "{name:?}: {outcome:?}");
        }
    }
    assert_eq!(client.namespaces().unwrap().len(), 5);
}

#[test]
fn keys_that_differ_only_a_little_are_different() {
    let agent = Agent::small();
    let cache: Namespace = agent.namespace("t");
    let keys = ["a", "A", "a ", " a", "a/a", "a.a", "é", "e\u{301}", "ａ"];
    for (len, key) in keys.iter().enumerate() {
        assert_eq!(put(&cache, key, len).unwrap(), PutOutcome::Stored);
    }
    for (len, key) in keys.iter().enumerate() {
        get_whole(&cache, key, len);
    }
}
