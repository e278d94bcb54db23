//! Whatever is in a key, the store keeps its block apart from all others, and lists it.

use larder::{Namespace, PutOutcome};

use crate::conformance::Subject;
use crate::pattern::{bytes, get_whole, put};

fn odd_keys() -> Vec<String> {
    let short = [
        "a",
        "a.block",
        "a.block/b",
        "a.ns/b",
        " ",
        "two  spaces ",
        "100%",
        "%2F%41",
        "%~",
        "1+1=2",
        "?a=b&c#d",
        ".hidden",
        ".hidden/.deeper",
        "...",
        "a\\b",
        "\"'`$(x)<>",
        "é",
        "e\u{301}",
        "漢字/かな",
        "🦀/🦀",
        "LARDER/larder",
        "larder/LARDER",
        "options",
        "-",
        "a:b,c;d@e",
    ];
    let mut keys: Vec<String> = short.map(str::to_owned).into();
    keys.push("x".repeat(1024));
    keys.push("é".repeat(512));
    keys.push("x".repeat(300) + "/short");
    keys.push(vec!["deep"; 200].join("/"));
    keys.sort_unstable();
    keys
}

pub(crate) fn odd_keys_are_kept_apart(subject: &mut Subject<'_>) {
    let keys = odd_keys();
    let names = ["odd", "odd/a b%é", ".odd"];
    for name in names {
        let cache = subject.agent.namespace(name);
        for (len, key) in keys.iter().enumerate() {
            assert_eq!(put(&cache, key, len).unwrap(), PutOutcome::Stored, "{key:?}");
        }
        assert_eq!(cache.list("").unwrap(), keys);
    }
    subject.lasts_over_a_kill();
    for name in names {
        let cache = subject.agent.namespace(name);
        assert_eq!(cache.list("").unwrap(), keys, "after a kill");
        assert_eq!(cache.list(".hidden/").unwrap(), [".hidden/.deeper"]);
        for (len, key) in keys.iter().enumerate() {
            get_whole(&cache, key, len);
        }
    }
    let told: Vec<String> = subject.agent.client().namespaces().unwrap().into_iter().map(|info| info.name).collect();
    assert!(names.iter().all(|name| told.iter().any(|known| known == name)), "{told:?}");
}

/// More than any store tells in one page.
const MANY: usize = 2100;

pub(crate) fn a_list_names_two_thousand_keys(subject: &mut Subject<'_>) {
    let cache = subject.agent.namespace("many");
    // Half of them in one group, half in many.
    let mut keys: Vec<String> =
        (0..MANY).map(|n| if n % 2 == 0 { format!("one/{n}") } else { format!("each/{n}/k") }).collect();
    keys.sort_unstable();
    std::thread::scope(|scope| {
        for part in keys.chunks(MANY.div_ceil(8)) {
            let cache = cache.clone();
            scope.spawn(move || put_all(&cache, part));
        }
    });
    let listed = |prefix: &str| keys.iter().filter(|key| key.starts_with(prefix)).cloned().collect::<Vec<_>>();
    subject.lasts_over_a_kill();
    for prefix in ["", "one/1", "each/", "none/"] {
        assert_eq!(cache.list(prefix).unwrap(), listed(prefix), "{prefix:?}");
    }
    assert_eq!(cache.children("one").unwrap().len(), MANY / 2);
    assert_eq!(cache.children("each/7").unwrap(), ["k"]);
    assert!(cache.delete("one/1000").unwrap());
    keys.retain(|key| key != "one/1000");
    assert_eq!(cache.list("").unwrap(), keys);
}

fn put_all(cache: &Namespace, keys: &[String]) {
    let blocks: Vec<Vec<u8>> = keys.iter().map(|key| bytes(key, 100)).collect();
    let items: Vec<(&str, &[u8])> = keys.iter().zip(&blocks).map(|(key, bytes)| (key.as_str(), &bytes[..])).collect();
    for outcome in cache.put_many(&items) {
        assert_eq!(outcome.unwrap(), PutOutcome::Stored);
    }
}
