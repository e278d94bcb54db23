//! Making the agent's own memory and work grow without end.

use std::time::{Duration, Instant};

use larder_protocol::key;
use larder_protocol::message::{MANY_MAX, PutItem, Refusal, Reply, Request, Staged};
use larder_protocol::namespace::NamespaceOptions;

use crate::guests::Guest;
use crate::harness::{Agent, poll};
use crate::raw::Raw;
use crate::scribble::Ender;
use crate::session::Session;

/// Puts a block of `len` bytes under each key, many a message. Returns how many were stored.
fn put_all(raw: &mut Raw, namespace: u64, keys: impl Iterator<Item = String>, len: u64) -> usize {
    let staged = Staged { offset: 0, len };
    let keys: Vec<String> = keys.collect();
    let mut stored = 0;
    // Long keys fill a message before there are many.
    let each = if keys.iter().any(|key| key.len() > 200) { 40 } else { MANY_MAX };
    for some in keys.chunks(each) {
        let items = some.iter().map(|key| PutItem { key: key.clone(), staged }).collect();
        match raw.ask(Request::PutMany { namespace, items }) {
            Reply::PutMany(outcomes) => stored += outcomes.iter().filter(|outcome| outcome.is_ok()).count(),
            other => panic!("PutMany was answered by {other:?}"),
        }
    }
    stored
}

fn list(namespace: u64) -> Request {
    Request::List { namespace, prefix: String::new(), children: false, cursor: 0 }
}

#[test]
fn heavy_snapshots_of_lists_are_bounded() {
    let agent = Agent::start();
    let mut baseline = agent.baseline();
    let mut raw = Raw::bare(agent.socket());
    raw.staging();
    let namespace = raw.namespace("listed");
    let keys = (0..20_000).map(|n| format!("{n}/{}", "k".repeat(1000)));
    assert_eq!(put_all(&mut raw, namespace, keys, 0), 20_000);
    let before = baseline.monitor().stat().heap_bytes;
    let mut readers = Vec::new();
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..30 {
        let (mut reader, greeting) = Raw::greeted(agent.socket());
        for _ in 0..4 {
            match reader.ask(list(namespace)) {
                Reply::Names { .. } => taken += 1,
                Reply::Refused(Refusal::TooMany(_)) => refused += 1,
                other => panic!("List was answered by {other:?}"),
            }
        }
        readers.push((reader, greeting));
    }
    let grown = baseline.monitor().stat().heap_bytes.saturating_sub(before);
    eprintln!("{taken} snapshots of 20 MB taken and {refused} refused: {} MiB more heap", grown >> 20);
    assert!(grown < 256 << 20, "{taken} snapshots cost {} MiB", grown >> 20);
    drop(readers);
    poll("lists to be served again", || matches!(raw.ask(list(namespace)), Reply::Names { .. }).then_some(()));
    raw.ask(Request::RemoveNamespace { name: "listed".into() });
    drop(raw);
    // What one user's lists may take, and an allocator keeps.
    baseline.allow_heap(160 << 20);
    baseline.holds();
}

#[test]
fn namespaces_without_end() {
    let agent = Agent::start();
    let mut baseline = agent.baseline();
    let mut raw = Raw::bare(agent.socket());
    let before = baseline.monitor().stat().heap_bytes;
    let options = NamespaceOptions { quota_bytes: Some(1 << 20), ..NamespaceOptions::default() };
    let mut made = 0;
    let refusal = loop {
        let name = format!("{made}/{}", "n".repeat(240));
        match raw.ask(Request::OpenNamespace { name, options: Some(options.clone()) }) {
            Reply::Namespace(_) => made += 1,
            Reply::Refused(refusal) => break refusal,
            other => panic!("OpenNamespace was answered by {other:?}"),
        }
        assert!(made < 100_000, "a hundred thousand namespaces and no end");
    };
    eprintln!("{made} namespaces: {refusal}");
    assert!(matches!(refusal, Refusal::TooMany(_)), "{refusal:?}");
    assert!(made >= 1000, "{made} are too few for honest use");
    let grown = baseline.monitor().stat().heap_bytes.saturating_sub(before);
    assert!(grown < 64 << 20, "{made} namespaces cost {} MiB", grown >> 20);
    for n in 0..made {
        let name = format!("{n}/{}", "n".repeat(240));
        assert!(matches!(raw.ask(Request::RemoveNamespace { name }), Reply::Count(0)));
    }
    drop(raw);
    baseline.holds();
}

/// What was put with a time to live and is gone again must not be remembered until that time.
#[test]
fn heavy_expiries_of_what_is_gone() {
    let agent = Agent::start();
    let mut baseline = agent.baseline();
    let mut raw = Raw::bare(agent.socket());
    raw.staging();
    let options = NamespaceOptions { ttl_ms: Some(u64::MAX), ..NamespaceOptions::default() };
    let open = Request::OpenNamespace { name: "ttl".into(), options: Some(options) };
    let mut before = 0;
    for round in 0..4000 {
        let Reply::Namespace(info) = raw.ask(open.clone()) else { panic!("no namespace") };
        assert_eq!(put_all(&mut raw, info.namespace, (0..MANY_MAX).map(|n| n.to_string()), 0), MANY_MAX);
        raw.ask(Request::Clear { name: "ttl".into() });
        if round == 400 {
            before = baseline.monitor().stat().heap_bytes;
        }
    }
    let grown = baseline.monitor().stat().heap_bytes.saturating_sub(before);
    assert!(grown < 4 << 20, "460,000 blocks that are gone cost {} KiB", grown >> 10);
    drop(raw);
    baseline.holds();
}

/// Every client can read the seed of its own tenant's index, so it can choose keys that all want the same place.
#[test]
fn keys_chosen_to_collide() {
    let agent = Agent::start();
    let mut baseline = agent.baseline();
    let mut guest = Guest::invite(&agent);
    let (mut raw, greeting) = Raw::greeted(agent.socket());
    raw.staging();
    let namespace = raw.namespace("collide");
    let seed = greeting.seed();
    let mut keys = Vec::new();
    let mut n = 0_u64;
    while keys.len() < 1300 {
        let key = format!("{n:x}");
        if key::hash(seed, namespace, key.as_bytes())[0] & 0x1fff == 7 {
            keys.push(key);
        }
        n += 1;
    }
    let began = Instant::now();
    let (mut stored, mut refused) = (0, 0);
    for key in &keys {
        let item = PutItem { key: key.clone(), staged: Staged { offset: 0, len: 10 } };
        match raw.ask(Request::Put { namespace, item }) {
            Reply::Put(_) => stored += 1,
            Reply::Refused(Refusal::TooMany(_) | Refusal::NoSpace { .. }) => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    let stat = baseline.monitor().stat();
    eprintln!("{stored} stored, {refused} refused in {:?}, index of {} bytes", began.elapsed(), stat.index_bytes);
    assert!(stat.memory_bytes <= stat.capacity_bytes);
    let took = guest.hundred();
    assert!(took < Duration::from_secs(10), "a hundred puts took {took:?}");
    // Whatever is there is found.
    let mut session = Session::open(agent.socket());
    let present = keys.iter().filter(|key| session.get(namespace, key).is_ok()).count();
    assert_eq!(present, stored);
    raw.ask(Request::RemoveNamespace { name: "collide".into() });
    drop((raw, greeting, session));
    guest.finish();
    baseline.allow_others(2);
    baseline.holds();
}

/// Requests that look at every block of a large tenant, from several sessions at once.
#[test]
fn heavy_lists_of_everything_without_a_pause() {
    let agent = Agent::start();
    let mut baseline = agent.baseline();
    let mut guest = Guest::invite(&agent);
    let mut raw = Raw::bare(agent.socket());
    raw.staging();
    let namespace = raw.namespace("large");
    let stored = put_all(&mut raw, namespace, (0..200_000).map(|n| format!("key/number/{n}")), 0);
    assert_eq!(stored, 200_000);
    for (what, request) in
        [("lists", list(namespace)), ("clears", Request::Clear { name: "none".into() }), ("figures", Request::Stat)]
    {
        raw.namespace("none");
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut other = Raw::bare(agent.socket());
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        // A list is given up by giving up its session.
                        match other.ask(request.clone()) {
                            Reply::Names { .. } | Reply::Refused(_) => other = Raw::bare(agent.socket()),
                            _ => {}
                        }
                    }
                });
            }
            let _end = Ender(&done);
            let took = guest.hundred();
            eprintln!("a hundred puts and gets beside {what} of 200,000 blocks: {took:?}");
            assert!(took < Duration::from_secs(10), "a hundred puts took {took:?} beside {what}");
        });
    }
    raw.ask(Request::RemoveNamespace { name: "large".into() });
    drop(raw);
    guest.finish();
    baseline.allow_others(2);
    // An allocator keeps what a burst of lists took.
    baseline.allow_heap(160 << 20);
    baseline.holds();
}
