//! larder ns.

use serde_json::json;

use crate::harness::{Agent, check_fields};

const FIELDS: &str = "name blocks bytes durability eviction validate overwrite quota_bytes ttl_ms";

#[test]
fn options_are_given_changed_and_shown() {
    let Some(agent) = Agent::start("64MiB") else { return };
    let made = agent
        .run(["--json", "ns", "create", "job/1", "--eviction", "keep", "--quota", "8MiB", "--durability", "scratch"])
        .json();
    check_fields(&made, FIELDS);
    let mut expected = json!({
        "name": "job/1", "blocks": 0, "bytes": 0, "durability": "scratch",
        "eviction": "keep", "validate": "namespace", "overwrite": false, "quota_bytes": 8 << 20, "ttl_ms": null,
    });
    assert_eq!(made, expected);
    let changed =
        agent.run(["--json", "ns", "set", "job/1", "--quota", "none", "--ttl", "1h30m", "--overwrite"]).json();
    expected["quota_bytes"] = json!(null);
    expected["ttl_ms"] = json!(5_400_000);
    expected["overwrite"] = json!(true);
    assert_eq!(changed, expected);
    let back = agent.run(["--json", "ns", "set", "job/1", "--overwrite=false", "--eviction", "evict"]).json();
    expected["overwrite"] = json!(false);
    expected["eviction"] = json!("evict");
    assert_eq!(back, expected);
    assert_eq!(agent.run(["--json", "ns", "show", "job/1"]).json(), expected);
    let text = agent.run(["ns", "show", "job/1"]).text();
    assert!(text.contains("ttl         1h30m\n") && text.contains("quota       none\n"), "{text}");
}

#[test]
fn namespaces_are_listed_and_removed() {
    let Some(agent) = Agent::start("64MiB") else { return };
    for name in ["b", "a/1", "a"] {
        agent.run(["-q", "ns", "create", name]).text();
    }
    assert_eq!(agent.run(["ns", "ls"]).text(), "a\na/1\nb\n");
    agent.put("x", b"bytes");
    let list = agent.run(["--json", "ns", "ls"]).json();
    let last = list["namespaces"].as_array().and_then(|list| list.last()).expect("there are namespaces");
    check_fields(last, FIELDS);
    assert_eq!((&last["name"], &last["blocks"], &last["bytes"]), (&json!("t"), &json!(1), &json!(5)));
    assert_eq!(agent.run(["--json", "ns", "rm", "t"]).json(), json!({ "name": "t" }));
    agent.run(["ns", "show", "t"]).fails(3, "there is no namespace \"t\"");
    agent.run(["ns", "set", "t", "--overwrite"]).fails(3, "there is no namespace \"t\"");
    assert_eq!(agent.run(["ns", "ls"]).text(), "a\na/1\nb\n");
}

#[test]
fn contradictions_are_refused() {
    let Some(agent) = Agent::start("64MiB") else { return };
    agent.run(["ns", "create", "a", "--durability", "through"]).fails(1, "start larderd with --store");
    agent.run(["ns", "set", "a"]).fails(2, "needs something to set");
    agent.run(["ns", "create", "a", "--ttl", "10us"]).fails(2, "--ttl must be at least 1ms");
    assert_eq!(agent.run(["ns", "ls"]).text(), "");
    agent.run(["-q", "ns", "create", "a", "--overwrite"]).text();
    agent.run(["-q", "ns", "create", "a", "--overwrite"]).text();
    agent.run(["ns", "create", "a"]).fails(1, "exists with other options");
    agent.run(["ns", "set", "a", "--durability", "through"]).fails(1, "cannot be changed");
}
