//! A hit is no system call and no message, and the agent's figures say so.

use std::fs;
use std::process::Command;

use larder::{Client, Error, OnAbsent};

use crate::harness::{Agent, skip};
use crate::pattern::{self, get_whole, put};
use crate::roles;

const KEYS: usize = 64;
const HITS: &str = "LARDER_E2E_HITS";

fn key(n: usize) -> String {
    format!("k/{}", n % KEYS)
}

/// Plays a reader that makes so many hits in each of two namespaces, of whose blocks one kind expires some day.
pub(crate) fn reader() {
    let hits: usize = std::env::var(HITS).expect("how many").parse().expect("a number");
    let client = Client::builder().socket(roles::socket()).on_absent(OnAbsent::Error).connect().expect("an agent");
    let keys: Vec<String> = (0..KEYS).map(key).collect();
    for name in ["plain", "expiring"] {
        let cache = client.namespace(name).expect("a namespace");
        let mut held = Vec::new();
        let mut bytes = 0;
        for n in 0..hits {
            let block = cache.get(&keys[n % KEYS]).expect("a block");
            bytes += block.len() + usize::from(block[n % block.len()]);
            // Sometimes held for a while, sometimes shared.
            if n % 5 == 0 {
                held.push(block.clone());
                held.truncate(20);
            }
        }
        let refs: Vec<&str> = keys.iter().map(String::as_str).collect();
        for _ in 0..hits / KEYS / 4 {
            bytes += cache.get_many(&refs).into_iter().map(|block| block.expect("a block").len()).sum::<usize>();
        }
        assert!(bytes > 0);
    }
}

/// System calls of a reader of so many hits, by strace's count.
fn system_calls(agent: &Agent, hits: usize) -> (u64, String) {
    let counts = agent.directory().join(format!("strace.{hits}"));
    // In strace, `/proc/self/exe` would be strace.
    let program = fs::read_link("/proc/self/exe").unwrap();
    let reader = roles::command("reader", &agent.socket());
    let mut command = Command::new("strace");
    command.args(["-f", "-c", "-o"]).arg(&counts).arg(program).args(reader.get_args());
    for (name, value) in reader.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env(HITS, hits.to_string());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let table = fs::read_to_string(&counts).unwrap();
    let total = table.lines().find(|line| line.trim_end().ends_with(" total"));
    let calls = total.and_then(|line| line.split_whitespace().nth(3)?.parse().ok());
    (calls.unwrap_or_else(|| panic!("no total in:\n{table}")), table)
}

fn filled() -> Agent {
    let agent = Agent::small();
    let client = agent.client();
    let expiring = larder::NamespaceOptions { ttl_ms: Some(3_600_000), ..larder::NamespaceOptions::default() };
    for cache in [client.namespace("plain").unwrap(), client.create_namespace("expiring", &expiring).unwrap()] {
        for n in 0..KEYS {
            put(&cache, &key(n), 1 + n * 1000).unwrap();
        }
    }
    agent
}

#[test]
fn hits_make_no_system_calls() {
    if let Err(error) = Command::new("strace").arg("--version").output() {
        skip!("strace does not run: {error}");
    }
    let agent = filled();
    let (few, few_table) = system_calls(&agent, 1_000);
    let (many, many_table) = system_calls(&agent, 100_000);
    // A wait for a lock of the test runner or the allocator may come or go.
    assert!(many <= few + 30, "{few} system calls for 1,000 hits:\n{few_table}\n{many} for 100,000:\n{many_table}");
}

#[test]
fn nearly_all_hits_are_mapped_and_the_figures_agree() {
    let agent = filled();
    let before = agent.stat().tenant;
    for _ in 0..2 {
        let status = roles::command("reader", &agent.socket()).env(HITS, "20000").status().unwrap();
        assert!(status.success());
    }
    let after = agent.stat().tenant;
    let hits = 2 * 2 * (20_000 + 20_000 / KEYS / 4 * KEYS) as u64;
    let mapped = after.hits_mapped - before.hits_mapped;
    let asked = after.hits_asked - before.hits_asked;
    // A block that get_many could not map at first is looked up once more.
    assert!(mapped >= hits && mapped <= hits + 4 * KEYS as u64, "{mapped} mapped of {hits}");
    assert!(asked * 99 <= mapped, "{asked} of {hits} hits needed a message");
    assert_eq!(after.misses, before.misses);
    assert_eq!(after.asked_raced + after.asked_expired + after.asked_no_slot, 0, "{after:#?}");
    let unmapped = after.asked_unmapped - before.asked_unmapped;
    // A table and each segment are asked for once a session, after a second look when it is the thread's turn to ask.
    assert!(unmapped <= 2 * 2 * (1 + after.segments), "{unmapped} look-ups met something unmapped");
}

#[test]
fn every_reason_to_ask_is_counted_once() {
    let agent = Agent::small();
    let client = agent.client();
    let cache = client.namespace("t").unwrap();
    let before = agent.stat().tenant;
    for n in 0..50 {
        put(&cache, &format!("k/{n}"), n * 100).unwrap();
    }
    let mut bytes = 0;
    for n in 0..100 {
        match cache.get(&format!("k/{n}")) {
            Ok(block) => bytes += block.len() as u64,
            Err(Error::NotFound) => assert!(n >= 50),
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(cache.contains("k/7").unwrap() && !cache.contains("k/77").unwrap());
    bytes += 700;
    let after = agent.stat().tenant;
    assert_eq!((after.puts - before.puts, after.put_bytes - before.put_bytes), (50, bytes - 700));
    assert_eq!((after.hits_mapped, after.hit_bytes), (before.hits_mapped + 51, before.hit_bytes + bytes));
    assert_eq!(after.misses - before.misses, 51);
    let reasons = |stat: &larder::TenantStat| stat.asked_absent + stat.asked_raced + stat.asked_expired;
    assert_eq!(
        reasons(&after) - reasons(&before),
        (after.misses + after.hits_asked) - (before.misses + before.hits_asked),
        "whoever asked had a reason: {after:#?}"
    );
    // The figures outlive the session that they came from.
    drop((cache, client));
    agent.stat_until("the session ends", |stat| stat.sessions == 1);
    let last = agent.stat().tenant;
    assert_eq!(
        (last.hits_mapped, last.hit_bytes, reasons(&last)),
        (after.hits_mapped, after.hit_bytes, reasons(&after))
    );
}

#[test]
fn a_hit_is_the_same_memory_each_time_and_for_all_threads() {
    let agent = Agent::small();
    let cache = agent.namespace("t");
    put(&cache, "k", 10_000).unwrap();
    let first = get_whole(&cache, "k", 10_000);
    let again = get_whole(&cache, "k", 10_000);
    assert_eq!(first.as_ptr(), again.as_ptr());
    std::thread::scope(|scope| {
        let elsewhere = scope.spawn(|| get_whole(&cache, "k", 10_000).as_ptr().addr());
        assert_eq!(elsewhere.join().unwrap(), first.as_ptr().addr());
    });
    let moved = std::thread::scope(|scope| scope.spawn(move || pattern::fault("k", &first).is_none()).join().unwrap());
    assert!(moved, "a block may be read and let go by another thread");
}
